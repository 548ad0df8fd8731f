//! The network file of a profile: what a client needs of it, and how a newer one of the same network is taken up.
//!
//! All that the genesis hash covers stays what it was when the profile was made. Where to begin is not covered by it: of that
//! a newer file is the better word.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shoal_protocol::network::{Hint, Hints, NetworkFile};
use shoal_protocol::{Hash, Identity};

use super::failure::{Exit, Failure};

/// Reads the text of a network file.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<NetworkFile, Failure> {
    NetworkFile::parse(text).map_err(|error| refused(error.to_string()))
}

fn refused(message: String) -> Failure {
    Failure::new(Exit::Configuration, "bad_network_file", message, "ask whoever gave it to you for the right one")
}

/// A client finds a network through a gateway, and gateways are in the network file or nowhere.
///
/// # Errors
/// It names none.
pub fn usable(file: &NetworkFile) -> Result<(), Failure> {
    if file.hints.gateways.is_empty() {
        let message = "the network file names no gateway (no [[hints.gateways]]): a client could reach nobody with it";
        let next = "ask whoever runs the network for the file for users; founders write the first gateways into it";
        return Err(Failure::new(Exit::Configuration, "no_gateway", message, next));
    }
    Ok(())
}

/// What a newer file says of where to begin.
///
/// # Errors
/// It is of another network, or of no use to a client.
pub fn newer_hints(own: &NetworkFile, newer: NetworkFile) -> Result<Hints, Failure> {
    if newer.genesis_hash() != own.genesis_hash() {
        let message = format!(
            "the file is of another network: {} ({}); the profile belongs to {} ({})",
            newer.name,
            newer.fingerprint_words(),
            own.name,
            own.fingerprint_words()
        );
        let next = "to use that network, make another profile: shoal --profile OTHER_DIR init --network FILE";
        return Err(Failure::new(Exit::Configuration, "other_network", message, next));
    }
    usable(&newer)?;
    Ok(newer.hints)
}

/// What is printed of a profile's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLine {
    /// Its name.
    pub network: String,
    /// Its fingerprint words.
    pub fingerprint: String,
    /// Its genesis hash.
    pub genesis: Hash,
    /// How many authorities it was founded with.
    pub authorities: usize,
    /// Where a client begins.
    pub gateways: Vec<GatewayLine>,
    /// After an update: whether the file named others than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
}

/// A gateway that the network file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayLine {
    /// Its identity key.
    pub identity: Identity,
    /// Its address.
    pub address: SocketAddr,
}

impl From<&NetworkFile> for NetworkLine {
    fn from(file: &NetworkFile) -> Self {
        let gateway = |Hint { identity, address }: &Hint| GatewayLine { identity: *identity, address: *address };
        Self {
            network: file.name.clone(),
            fingerprint: file.fingerprint_words(),
            genesis: file.genesis_hash(),
            authorities: file.authorities.len(),
            gateways: file.hints.gateways.iter().map(gateway).collect(),
            changed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::UnixMillis;
    use shoal_protocol::authority::AuthoritySecret;
    use shoal_protocol::network::Founding;
    use shoal_protocol::parameters::Parameters;

    fn file(seed: u64, gateways: &[u16]) -> NetworkFile {
        let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed));
        let identity = authority.public().identity;
        let hint = |port: &u16| Hint { identity, address: ([127, 0, 0, 1], *port).into() };
        NetworkFile {
            name: "reef".to_owned(),
            genesis_time: UnixMillis(1_750_000_000_000),
            authorities: vec![authority.public().clone()],
            parameters: Parameters::test_network(),
            founding: Founding::default(),
            hints: Hints { authorities: Vec::new(), gateways: gateways.iter().map(hint).collect() },
        }
    }

    #[test]
    fn only_hints_of_the_same_network_are_taken() {
        let own = file(1, &[]);
        let newer = file(1, &[4_000, 4_001]);
        assert_eq!(newer_hints(&own, newer.clone()), Ok(newer.hints.clone()));
        let code = |newer| newer_hints(&own, newer).unwrap_err().code;
        assert_eq!(code(file(2, &[4_000])), "other_network");
        assert_eq!(code(file(1, &[])), "no_gateway");
        assert_eq!(code(NetworkFile { genesis_time: UnixMillis(1), ..newer }), "other_network");
        assert_eq!(parse("name = 1").unwrap_err().code, "bad_network_file");
    }
}
