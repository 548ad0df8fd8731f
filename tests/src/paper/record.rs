//! Who received what, over a whole run and every restart of the node under test in it.

use super::{Neighbour, PATIENCE};
use shoal_protocol::sphinx::{Unwrapped, open_header};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The identifier of a numbered packet.
pub(super) fn identifier(number: u64) -> [u8; 16] {
    let mut identifier = [0xff; 16];
    identifier[..8].copy_from_slice(&number.to_be_bytes());
    identifier
}

#[derive(Debug, Default)]
struct Taken {
    /// How often each number came: 40 bytes and the tree's own for each.
    numbers: BTreeMap<u64, u32>,
    /// Packets that go on from here: the node's own loops.
    passing: u64,
    /// Packets that are not for this neighbour, or damaged.
    unreadable: u64,
}

/// The packets that ended at one neighbour, by number. Takes them as they come, from its making on.
pub struct Record {
    taken: Arc<Mutex<Taken>>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Record(…)")
    }
}

impl Record {
    /// Begins to take the packets of `neighbour`.
    #[must_use]
    pub fn of(neighbour: &Arc<Neighbour>) -> Self {
        let (neighbour, taken) = (Arc::clone(neighbour), Arc::<Mutex<Taken>>::default());
        let kept = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            loop {
                let (packet, _) = neighbour.packet().await;
                let opened = open_header(&packet, &neighbour.mix).ok().and_then(|header| header.finish().ok());
                let mut taken = kept.lock().expect("whole");
                match opened {
                    Some(Unwrapped::Final { identifier, .. }) => {
                        *taken.numbers.entry(Self::number(&identifier)).or_default() += 1;
                    }
                    Some(Unwrapped::Forward { .. }) => taken.passing += 1,
                    None => taken.unreadable += 1,
                }
            }
        });
        Self { taken, task }
    }

    /// The number in a packet's identifier.
    #[must_use]
    pub fn number(identifier: &[u8; 16]) -> u64 {
        identifier[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// How many packets have come, each number as often as it came.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.taken.lock().expect("whole").numbers.values().map(|count| u64::from(*count)).sum()
    }

    /// Which of these numbers have not come.
    #[must_use]
    pub fn missing(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let taken = self.taken.lock().expect("whole");
        numbers.into_iter().filter(|number| !taken.numbers.contains_key(number)).collect()
    }

    /// Which numbers have come more than once.
    #[must_use]
    pub fn twice(&self) -> Vec<u64> {
        let taken = self.taken.lock().expect("whole");
        taken.numbers.iter().filter_map(|(number, count)| (*count > 1).then_some(*number)).collect()
    }

    /// Packets that could not be read.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.taken.lock().expect("whole").unreadable
    }

    /// Waits until `count` packets have come, or no more come for a second.
    pub async fn reaches(&self, count: u64) {
        const STEP: Duration = Duration::from_millis(10);
        const QUIET: u32 = 100;
        let waiting = async {
            let (mut last, mut quiet) = (self.total(), 0);
            while last < count && quiet < QUIET {
                tokio::time::sleep(STEP).await;
                let now = self.total();
                quiet = if now == last { quiet + 1 } else { 0 };
                last = now;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("packets come or do not come");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}
