//! What became of the packets that a node has received.

use serde_json::Value;
use std::collections::BTreeMap;

/// The counters of a node's `status`, since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Packets that came on links.
    pub received: u64,
    /// Packets that left for another node.
    pub forwarded: u64,
    /// Drops by reason, without zeros.
    pub dropped: BTreeMap<String, u64>,
    /// Packets that wait for their delay.
    pub queue: u64,
    /// Loops of the node's own among the drops, which never arrived on a link: it sends them before its links are up.
    pub own: u64,
}

impl Accounts {
    /// Reads `status --json`.
    #[must_use]
    pub fn of(status: &Value) -> Self {
        let number = |name: &str| status[name].as_u64().unwrap_or(0);
        let dropped = status["dropped"].as_object().into_iter().flatten();
        Self {
            received: number("received"),
            forwarded: number("forwarded"),
            dropped: dropped
                .filter_map(|(reason, count)| Some((reason.clone(), count.as_u64().filter(|count| *count > 0)?)))
                .collect(),
            queue: number("queue"),
            own: 0,
        }
    }

    /// Drops for one reason.
    #[must_use]
    pub fn of_reason(&self, reason: &str) -> u64 {
        self.dropped.get(reason).copied().unwrap_or(0)
    }

    /// All drops of packets that were received.
    #[must_use]
    pub fn drops(&self) -> u64 {
        self.dropped.values().sum::<u64>() - self.own
    }

    /// The same, with what a node that waits for nothing has dropped or forwarded beyond what it received.
    #[must_use]
    pub(super) fn counted(mut self, own: u64) -> Self {
        self.own = own;
        self
    }

    /// Drops of a node that waits for nothing, beyond what it received.
    #[must_use]
    pub(super) fn own_now(&self) -> u64 {
        (self.forwarded + self.dropped.values().sum::<u64>() + self.queue).saturating_sub(self.received)
    }

    /// Whether every packet that was received has been forwarded or dropped. At a mix that gets none of its loops back.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.queue == 0 && self.received <= self.forwarded + self.drops()
    }
}
