//! Where authorities are reached, as a document says it: their own word, as far as it is known.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use shoal_protocol::Identity;
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::consensus::{AuthorityAddress, Consensus};

use crate::signed_list::{SignedList, witnesses};

/// The addresses of `named`, who certify the next document, when `makers` make this one of `lists`.
///
/// - Of one of the makers counts what its own list says, also that it says none. When its list is not there, what the
///   document before says.
/// - Of one that is new, what its own list will say, is not there yet: what [`witnesses`] of the lists say, so that somebody
///   honest does; of several such addresses the one that most say, then the lowest.
///
/// So a liar can only move himself. At most 64 entries of 26 bytes.
pub(super) fn addresses(
    before: Option<&Consensus>,
    lists: &[SignedList],
    makers: &[AuthorityKey],
    named: &[AuthorityKey],
) -> Vec<AuthorityAddress> {
    let address = |identity: &Identity| match makers.iter().position(|key| key.identity == *identity) {
        Some(maker) => match lists.iter().find(|list| usize::from(list.authority) == maker) {
            Some(list) => list.addresses.get(identity).copied(),
            None => before.and_then(|before| before.address_of(identity)),
        },
        None => witnessed(identity, lists, witnesses(makers.len())),
    };
    let entries = (0_u16..).zip(named);
    entries
        .filter_map(|(authority, key)| address(&key.identity).map(|address| AuthorityAddress { authority, address }))
        .collect()
}

fn witnessed(identity: &Identity, lists: &[SignedList], needed: usize) -> Option<SocketAddr> {
    let mut said: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for address in lists.iter().filter_map(|list| list.addresses.get(identity)) {
        *said.entry(*address).or_default() += 1;
    }
    let enough = said.into_iter().filter(|(_, count)| *count >= needed);
    enough.min_by_key(|(address, count)| (std::cmp::Reverse(*count), *address)).map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use crate::document::next_document;
    use crate::list_message::ListMessage;
    use crate::testing::{Cast, Council, Descriptors, parameters, published};
    use shoal_protocol::Identity;
    use shoal_protocol::consensus::Consensus;
    use std::net::SocketAddr;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 7], port))
    }

    /// Four authorities, a fifth who may come, and a first document without addresses.
    fn begun() -> (Council, Cast) {
        let cast = Cast::new(2, 6, 3);
        let mut council = Council::new(4, 1, parameters(500));
        council.calm(5, &cast.all());
        (council, cast)
    }

    /// The list of one that says these addresses, by identity.
    fn saying(council: &Council, who: usize, cast: &Cast, said: &[(Identity, u16)]) -> ListMessage {
        let last = council.chain.last().expect("begun").epoch.0;
        council.message_with(who, last + 1, &published(&cast.all(), last), |list| {
            list.addresses = said.iter().map(|(identity, port)| (*identity, at(*port))).collect();
        })
    }

    /// Takes the document of these lists; the ports it says, by index.
    fn take(council: &mut Council, messages: &[&ListMessage]) -> Vec<(u16, u16)> {
        let epoch = council.chain.last().expect("begun").epoch.0 + 1;
        let proposal = council.propose(epoch, messages);
        let draft = next_document(&council.rules(), council.chain.last(), &proposal).expect("possible");
        let said = |document: &Consensus| -> Vec<(u16, u16)> {
            document.addresses.iter().map(|entry| (entry.authority, entry.address.port())).collect()
        };
        said(council.take(&draft))
    }

    #[test]
    fn an_authority_says_its_own_address_and_nobody_elses() {
        let (mut council, cast) = begun();
        let who: Vec<Identity> = council.current().iter().map(|key| key.identity).collect();
        let own: Vec<_> = (0..4).map(|n| saying(&council, n, &cast, &[(who[n], 100 + n as u16)])).collect();
        assert_eq!(take(&mut council, &[&own[0], &own[1], &own[2]]), [(0, 100), (1, 101), (2, 102)]);
        // the third moves and the first is not heard; the fourth lies about all, the second says nothing any more
        let third = saying(&council, 2, &cast, &[(who[2], 202)]);
        let lies = saying(&council, 3, &cast, &[(who[0], 9), (who[1], 9), (who[2], 9), (who[3], 203)]);
        let second = saying(&council, 1, &cast, &[]);
        assert_eq!(take(&mut council, &[&second, &third, &lies]), [(0, 100), (2, 202), (3, 203)]);
        // whatever one says of itself counts only while it says it
        let again = [saying(&council, 0, &cast, &[(who[1], 5)]), saying(&council, 1, &cast, &[(who[1], 6)])];
        let nothing = saying(&council, 3, &cast, &[]);
        assert_eq!(take(&mut council, &[&again[0], &again[1], &nothing]), [(1, 6), (2, 202)]);
    }

    #[test]
    fn a_new_ones_address_needs_an_honest_witness() {
        let (council, cast) = begun();
        let nodes: Descriptors = published(&cast.all(), 5);
        let mut set = council.current().to_vec();
        let new =
            (0..5).map(|at| council.secrets[at].public().clone()).find(|key| !set.contains(key)).expect("a fifth");
        set.remove(0);
        set.push(new.clone());
        set.sort_by_key(|key| key.identity);
        let index = u16::try_from(set.iter().position(|key| *key == new).expect("there")).expect("few");
        let ports = |said: [Option<u16>; 4]| {
            let messages: Vec<_> = (0..4)
                .map(|who| {
                    council.message_with(who, 6, &nodes, |list| {
                        list.authorities = Some(set.clone());
                        list.addresses = said[who].iter().map(|port| (new.identity, at(*port))).collect();
                    })
                })
                .collect();
            let proposal = council.propose(6, &messages.iter().collect::<Vec<_>>());
            let draft = next_document(&council.rules(), council.chain.last(), &proposal).expect("possible");
            assert_eq!(draft.document.authorities, set);
            let entries = draft.document.addresses.into_iter();
            entries.map(|entry| (entry.authority, entry.address.port())).collect::<Vec<_>>()
        };
        assert_eq!(ports([Some(9), None, None, None]), [], "one may lie");
        assert_eq!(ports([Some(9), Some(7), None, None]), []);
        assert_eq!(ports([Some(9), Some(7), Some(7), None]), [(index, 7)]);
        assert_eq!(ports([Some(9), Some(9), Some(7), Some(7)]), [(index, 7)], "both have an honest witness");
        assert_eq!(ports([Some(7), Some(9), Some(9), Some(9)]), [(index, 9)]);
    }
}
