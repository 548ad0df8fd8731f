//! `authorities.toml`: the set of authorities that the operator wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use shoal_protocol::Identity;
use shoal_protocol::authority::{AuthorityKey, ML_DSA_PUBLIC_SIZE, hex_public, quorum};
use shoal_protocol::certificate::MAX_AUTHORITIES;
use shoal_protocol::consensus::codec::is_reachable;
use shoal_protocol::toml_problem;
use thiserror::Error;
use toml::Spanned;

/// The layout: as in the network file, and of a new one its address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    authorities: Vec<Spanned<Block>>,
}

/// An [`AuthorityKey`], and where it is reached.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    identity: Identity,
    #[serde(with = "hex_public")]
    ml_dsa: [u8; ML_DSA_PUBLIC_SIZE],
    address: Option<SocketAddr>,
}

/// What the file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedSet {
    /// Strictly increasing by identity, as documents have it.
    pub keys: Vec<AuthorityKey>,
    /// Where those are reached of which the file says it.
    pub addresses: BTreeMap<Identity, SocketAddr>,
}

/// Why a set of authorities is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetError {
    /// Not TOML, a key unknown or missing, a value of the wrong kind.
    #[error("{0}")]
    Toml(String),
    /// Nobody, or more than a certificate has room for.
    #[error("it names {0} authorities; there must be 1 to {MAX_AUTHORITIES}")]
    Count(usize),
    /// One authority could vote twice.
    #[error(
        "line {line}: the {half} of {identity} is there already, in line {first}: each authority once, with keys of its own"
    )]
    Twice {
        /// Where it is again.
        line: usize,
        /// Where it is first.
        first: usize,
        /// Whose block is the second one.
        identity: Identity,
        /// Which key.
        half: &'static str,
    },
    /// Documents would name an address that is none.
    #[error("line {line}: nobody can be reached at {address}: name the public address of {identity}, or leave it out")]
    Nowhere {
        /// Where its block begins.
        line: usize,
        /// Whose.
        identity: Identity,
        /// The address.
        address: SocketAddr,
    },
}

/// Reads `authorities.toml`.
///
/// # Errors
/// What is wrong with it, and in which line.
pub fn parse(text: &str) -> Result<WantedSet, SetError> {
    let layout: Layout = toml::from_str(text).map_err(|error| SetError::Toml(toml_problem(text, &error)))?;
    let keys = layout.authorities;
    if keys.is_empty() || keys.len() > MAX_AUTHORITIES {
        return Err(SetError::Count(keys.len()));
    }
    let line = |key: &Spanned<Block>| 1 + text.get(..key.span().start).unwrap_or_default().matches('\n').count();
    for (at, key) in keys.iter().enumerate() {
        let Block { identity, address, .. } = key.get_ref();
        if let Some(address) = address.filter(|address| !is_reachable(address)) {
            return Err(SetError::Nowhere { line: line(key), identity: *identity, address });
        }
        // quadratic in at most 64
        for before in keys.iter().take(at) {
            let (one, other) = (before.get_ref(), key.get_ref());
            let half = if one.identity == other.identity {
                "identity"
            } else if one.ml_dsa == other.ml_dsa {
                "ml_dsa key"
            } else {
                continue;
            };
            return Err(SetError::Twice { line: line(key), first: line(before), identity: other.identity, half });
        }
    }
    let blocks: Vec<Block> = keys.into_iter().map(Spanned::into_inner).collect();
    let addresses = blocks.iter().filter_map(|block| Some((block.identity, block.address?))).collect();
    let keys = blocks.into_iter().map(|Block { identity, ml_dsa, .. }| AuthorityKey { identity, ml_dsa });
    let mut keys: Vec<AuthorityKey> = keys.collect();
    keys.sort_by_key(|key| key.identity);
    Ok(WantedSet { keys, addresses })
}

/// What a number of authorities wastes; `None` for 3f+1. The protocol holds any number, but only 3f+1 get all that they
/// pay for: with 3f+2 and 3f+3 as few may fail, and more must run.
#[must_use]
pub fn waste(n: usize) -> Option<String> {
    let f = n.saturating_sub(1) / 3;
    let (down, up) = (3 * f + 1, 3 * f + 4);
    (n != down).then(|| {
        format!(
            "of {n} authorities {} must run and {f} may fail; with {down} as many may fail and {} must run, with {up} one more \
             may fail",
            quorum(n),
            quorum(down),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::authority::AuthoritySecret;

    fn key(seed: u64) -> AuthorityKey {
        AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed)).public().clone()
    }

    fn block(key: &AuthorityKey) -> String {
        format!("[[authorities]]\nidentity = \"{}\"\nml_dsa = \"{}\"\n", key.identity, hex::encode(key.ml_dsa))
    }

    #[test]
    fn a_set_is_sorted_and_each_key_is_there_once() {
        let keys: Vec<_> = (1..=4).map(key).collect();
        let text: String = keys.iter().map(block).collect();
        let mut sorted = keys.clone();
        sorted.sort_by_key(|key| key.identity);
        assert_eq!(parse(&text), Ok(WantedSet { keys: sorted, addresses: BTreeMap::new() }));
        let twice = parse(&format!("{text}{}", block(&keys[1]))).expect_err("twice");
        assert_eq!(twice, SetError::Twice { line: 13, first: 4, identity: keys[1].identity, half: "identity" });
        let mixed = AuthorityKey { identity: key(9).identity, ml_dsa: keys[2].ml_dsa };
        let said = parse(&format!("{text}{}", block(&mixed))).expect_err("its second half is another's").to_string();
        assert!(said.contains("line 13") && said.contains("line 7") && said.contains("ml_dsa"), "{said}");
    }

    #[test]
    fn what_is_no_set_is_refused_with_its_line() {
        assert_eq!(parse("authorities = []"), Err(SetError::Count(0)));
        assert!(parse("").is_err_and(|error| error.to_string().contains("authorities")));
        let cut = block(&key(1)).replace("\"\n", "\"\n\n").replacen("identity = \"", "identity = \"x", 1);
        assert!(parse(&cut).is_err_and(|error| error.to_string().contains("line 2")), "{:?}", parse(&cut));
        let at = |address: &str| parse(&format!("{}address = \"{address}\"\n", block(&key(1))));
        let known = at("203.0.113.9:9001").expect("an address").addresses;
        assert_eq!(known.get(&key(1).identity).map(ToString::to_string).as_deref(), Some("203.0.113.9:9001"));
        for nowhere in ["0.0.0.0:9001", "203.0.113.9:0"] {
            assert!(matches!(at(nowhere), Err(SetError::Nowhere { line: 1, .. })), "{:?}", at(nowhere));
        }
        let many: String = (0..65).map(|seed| block(&key(seed))).collect();
        assert_eq!(parse(&many), Err(SetError::Count(65)));
    }

    #[test]
    fn what_a_number_wastes_is_said() {
        for n in [1, 4, 7, 10, 64] {
            assert_eq!(waste(n), None, "{n}");
        }
        let said = |n| waste(n).expect("wasteful");
        assert!(said(2).contains("of 2 authorities 2 must run and 0 may fail; with 1 as many"), "{}", said(2));
        assert!(said(3).contains("3 must run and 0 may fail"), "{}", said(3));
        assert!(said(5).contains("of 5 authorities 4 must run and 1 may fail; with 4 as many"), "{}", said(5));
        assert!(
            said(6).contains("5 must run and 1 may fail; with 4 as many may fail and 3 must run, with 7"),
            "{}",
            said(6)
        );
    }
}
