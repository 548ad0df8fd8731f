//! Until when a node that leaves the network has to serve.
//!
//! Its last descriptor has no key for the next epoch, so the next document made from it does not list the node. Who may
//! still use it then?
//!
//! - Packets built under the last document that lists it are under way until the grace time of their key is over: that
//!   is what the grace time is. A client builds with the keys of the epoch it is in; one that has the new document does
//!   not choose this node any more. So the node serves until the first document without it has been in force for a grace
//!   time.
//! - While no such document comes (one was already made when the node asked to leave, or the authorities are down), it
//!   serves whoever reads the document that lists it, until the last key in there is over, with its grace time.
//! - Without any document in force nobody can use it, and it forwards nothing.
//!
//! A client that missed the new documents may choose this node for up to two epochs more. The nodes around it did not miss
//! them and after the grace time pass on nothing for a node that is not listed, so serving it longer would not help: its
//! packets are lost, which it notices and repairs like any loss.

use crate::keys::EPOCHS_AHEAD;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::epoch::Schedule;
use shoal_protocol::types::{Epoch, Identity, UnixMillis};
use std::time::Duration;

/// What a node that leaves knows of documents that list it.
#[derive(Debug, Clone)]
pub struct Leaving {
    me: Identity,
    schedule: Schedule,
    grace: Duration,
    /// The epoch in which it asked to leave: no document of a later one need list it.
    began: Epoch,
    /// When the last key that a document lists for it, or may still list, is over.
    keys_end: UnixMillis,
}

impl Leaving {
    /// A node that asks to leave at `now`. What it published before has keys for some epochs to come, so even a node that
    /// is not listed now may be in a document that was already made.
    pub fn new(me: Identity, schedule: Schedule, grace: Duration, now: UnixMillis) -> Self {
        let began = schedule.epoch_at(now);
        Self { me, schedule, grace, began, keys_end: schedule.end(began.plus(EPOCHS_AHEAD)).plus(grace) }
    }

    /// Takes the newest document in force; says from when on the node may go.
    pub fn serve_until(&mut self, newest: Option<&Consensus>) -> UnixMillis {
        let Some(document) = newest else { return UnixMillis(0) };
        match document.node(&self.me) {
            Some(entry) => {
                let last = entry.mix_keys.last().map_or(document.epoch, |(epoch, _)| *epoch);
                self.keys_end = self.schedule.end(last).plus(self.grace);
                self.keys_end
            }
            None if document.epoch > self.began => document.valid_from.plus(self.grace).min(self.keys_end),
            None => self.keys_end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::X25519Secret;
    use shoal_protocol::consensus::NodeEntry;
    use shoal_protocol::parameters::Parameters;
    use shoal_protocol::types::{Hash, Role};

    const ME: Identity = Identity::from_bytes([3; 32]);
    const GRACE: Duration = Duration::from_secs(3);
    const SCHEDULE: Schedule = Schedule { genesis: UnixMillis(1_000_000), epoch_ms: 20_000 };

    /// Some time in epoch 5.
    const NOW: UnixMillis = UnixMillis(1_000_000 + 5 * 20_000 + 7_000);

    /// The document of an epoch, which lists this node with keys of that many epochs.
    fn document(epoch: u64, keys: u64) -> Consensus {
        let key = X25519Secret::from_bytes(&[9; 32]).public();
        let entry = NodeEntry {
            identity: ME,
            role: Role::Mix,
            layer: None,
            family: [0; 32],
            addresses: vec!["127.0.0.1:1".parse().expect("an address")],
            store_index: None,
            mix_keys: (epoch..epoch + keys).map(|epoch| (Epoch(epoch), key)).collect(),
            envelope_keys: Vec::new(),
            since: Epoch(0),
            standby: false,
        };
        Consensus {
            height: epoch,
            previous: Hash::from_bytes([1; 32]),
            nodes: (keys > 0).then_some(entry).into_iter().collect(),
            ..Consensus::blank(
                Hash::from_bytes([1; 32]),
                Epoch(epoch),
                SCHEDULE.start(Epoch(epoch)),
                Parameters::test_network(),
            )
        }
    }

    #[test]
    fn it_serves_for_the_grace_time_of_the_first_document_without_it() {
        let mut leaving = Leaving::new(ME, SCHEDULE, GRACE, NOW);
        assert_eq!(leaving.serve_until(Some(&document(5, 3))), SCHEDULE.start(Epoch(8)).plus(GRACE));
        assert_eq!(leaving.serve_until(Some(&document(6, 0))), SCHEDULE.start(Epoch(6)).plus(GRACE));
    }

    #[test]
    fn without_a_next_document_it_serves_until_its_keys_end() {
        let mut leaving = Leaving::new(ME, SCHEDULE, GRACE, NOW);
        leaving.serve_until(Some(&document(5, 3)));
        // the next one was made before this node asked to leave, or the authority refused its last descriptor
        assert_eq!(leaving.serve_until(Some(&document(6, 1))), SCHEDULE.start(Epoch(7)).plus(GRACE));
        // two were missed
        assert_eq!(leaving.serve_until(Some(&document(9, 0))), SCHEDULE.start(Epoch(7)).plus(GRACE));
    }

    #[test]
    fn one_that_is_not_listed_waits_for_the_first_document_made_after_it_asked() {
        let mut leaving = Leaving::new(ME, SCHEDULE, GRACE, NOW);
        assert_eq!(leaving.serve_until(Some(&document(5, 0))), SCHEDULE.end(Epoch(8)).plus(GRACE));
        // it was already made, and lists the node
        assert_eq!(leaving.clone().serve_until(Some(&document(6, 3))), SCHEDULE.end(Epoch(8)).plus(GRACE));
        assert_eq!(leaving.serve_until(Some(&document(6, 0))), SCHEDULE.start(Epoch(6)).plus(GRACE));
    }

    #[test]
    fn without_a_document_in_force_it_goes_at_once() {
        let mut leaving = Leaving::new(ME, SCHEDULE, GRACE, NOW);
        leaving.serve_until(Some(&document(5, 3)));
        assert_eq!(leaving.serve_until(None), UnixMillis(0));
    }
}
