//! Where authorities are reached: as the newest document says, else as the network file hints.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::Consensus;
use super::codec::{self, Parsed, Put, Reader, Writer};
use crate::certificate::MAX_AUTHORITIES;
use crate::network::Hint;
use crate::types::Identity;

/// Where an authority is reached, by its own word, or for a new one by that of `f + 1` others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorityAddress {
    /// Index in the authority list.
    pub authority: u16,
    /// Its address.
    pub address: SocketAddr,
}

impl AuthorityAddress {
    pub(super) fn put(&self, writer: &mut Writer) {
        writer.put_array(2);
        writer.put_uint(self.authority.into());
        codec::put_address(writer, &self.address);
    }

    /// `[[authority, address], …]`, strictly increasing by authority.
    pub(super) fn read_all(reader: &mut Reader<'_>) -> Parsed<Vec<Self>> {
        const FIELD: &str = "addresses of authorities";
        let addresses = reader.list(0, MAX_AUTHORITIES, FIELD, |reader| {
            reader.array(2, FIELD)?;
            Ok(Self { authority: reader.u16(FIELD)?, address: codec::read_address(reader)? })
        })?;
        if codec::strictly_sorted(&addresses, |entry| entry.authority) { Ok(addresses) } else { Err(FIELD) }
    }
}

impl Consensus {
    /// Where the nodes of this document and the authorities are, one or more each: whoever comes from there may be one of them.
    pub fn listed_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let nodes = self.nodes.iter().flat_map(|node| &node.addresses);
        nodes.chain(self.addresses.iter().map(|entry| &entry.address)).map(SocketAddr::ip)
    }

    /// Where an authority that certifies the next document is reached, if this one says.
    #[must_use]
    pub fn address_of(&self, authority: &Identity) -> Option<SocketAddr> {
        let at = self.authorities.iter().position(|key| key.identity == *authority)?;
        let entry = self.addresses.iter().find(|entry| usize::from(entry.authority) == at)?;
        Some(entry.address)
    }
}

/// The authorities that certify the next document, each where `newest` says that it is reached, else where a hint says; one
/// of which neither says it is left out. While there is no document, the hints.
#[must_use]
pub fn authorities_reached(newest: Option<&Consensus>, hints: &[Hint]) -> Vec<Hint> {
    let Some(newest) = newest else { return hints.to_vec() };
    let hinted = |identity: &Identity| hints.iter().find(|hint| hint.identity == *identity).map(|hint| hint.address);
    let reached = newest.authorities.iter().filter_map(|key| {
        let address = newest.address_of(&key.identity).or_else(|| hinted(&key.identity))?;
        Some(Hint { identity: key.identity, address })
    });
    reached.collect()
}

/// All who may have documents: [`authorities_reached`], and whoever else is hinted at. Of these nobody is needed, and one
/// who was away for long may know nobody else any more.
#[must_use]
pub fn documents_reached(newest: Option<&Consensus>, hints: &[Hint]) -> Vec<Hint> {
    let mut reached = authorities_reached(newest, hints);
    let named: BTreeSet<Identity> = reached.iter().map(|hint| hint.identity).collect();
    reached.extend(hints.iter().filter(|hint| !named.contains(&hint.identity)));
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::AuthoritySecret;
    use crate::consensus::testing;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_documents_word_goes_before_a_hint() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut document = testing::consensus(1, 1, 3);
        let mut keys: Vec<_> = (0..3).map(|_| AuthoritySecret::generate(&mut rng).public().clone()).collect();
        keys.sort_by_key(|key| key.identity);
        let hint = |identity, port| Hint { identity, address: address(port) };
        let [said, hinted, unknown] = [0, 1, 2].map(|at: usize| keys[at].identity);
        document.authorities = keys;
        document.addresses = vec![AuthorityAddress { authority: 0, address: address(1) }];
        let gone = Identity::from_bytes([9; 32]);
        let hints = [hint(said, 20), hint(hinted, 21), hint(gone, 22)];
        assert_eq!(document.address_of(&said), Some(address(1)));
        assert_eq!((document.address_of(&hinted), document.address_of(&gone)), (None, None));
        let reached = [hint(said, 1), hint(hinted, 21)];
        assert_eq!(authorities_reached(Some(&document), &hints), reached);
        assert!(reached.iter().all(|hint| hint.identity != unknown), "nobody says where it is");
        assert_eq!(documents_reached(Some(&document), &hints), [hint(said, 1), hint(hinted, 21), hint(gone, 22)]);
        assert_eq!(authorities_reached(None, &hints), hints);
    }
}
