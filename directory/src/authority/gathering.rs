//! Lists of this and the other authorities for the next document.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_protocol::{Epoch, Hash, UnixMillis};

use crate::list_message::ListMessage;

/// Pause between two lists of one authority, for each authority there is. A list of 2,048 new descriptors costs about
/// 0.2 s: f of n = 3f+1 that send nothing else take less than half of a core, however many there are.
const PAUSE: Duration = Duration::from_millis(150);

/// One list an authority: 64 × 6 MiB at worst, 4 × 1 MB in a network of 1,000 nodes and four authorities.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    lists: BTreeMap<u16, ListMessage>,
    /// When the last one of each came, good or bad.
    came: BTreeMap<u16, UnixMillis>,
    /// Since when a quorum is there, for an epoch.
    quorum_since: Option<(Epoch, UnixMillis)>,
}

impl Gathering {
    /// Whether a list of `authority` may be looked at now; counts it.
    pub(super) fn may_come(&mut self, authority: u16, count: usize, now: UnixMillis) -> bool {
        let pause = PAUSE.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let last = self.came.get(&authority).copied();
        let may = last.is_none_or(|last| now < last || now.since(last) >= pause);
        if may {
            self.came.insert(authority, now);
        }
        may
    }

    /// Keeps the own list, also when the own clock was set back.
    pub(super) fn keep_own(&mut self, message: ListMessage) {
        self.lists.insert(message.list().authority, message);
    }

    /// Keeps a list, unless a newer one of its authority is here.
    pub(super) fn keep(&mut self, message: ListMessage) {
        let newness = |message: &ListMessage| (message.list().epoch, message.list().made_at);
        let authority = message.list().authority;
        if self.lists.get(&authority).is_none_or(|held| newness(held) < newness(&message)) {
            self.lists.insert(authority, message);
        }
    }

    /// Forgets all: the document they were for exists.
    pub(super) fn clear(&mut self) {
        self.lists.clear();
        self.quorum_since = None;
    }

    /// The own list, or another's.
    pub(super) fn of(&self, authority: u16) -> Option<&ListMessage> {
        self.lists.get(&authority)
    }

    /// Lists for `epoch`.
    pub(super) fn for_epoch(&self, epoch: Epoch) -> Vec<&ListMessage> {
        self.lists.values().filter(|message| message.list().epoch == epoch).collect()
    }

    /// Hash of what is there for `epoch`: another one when a list came or was replaced.
    pub(super) fn state(&self, epoch: Epoch) -> Hash {
        let hashes: Vec<u8> =
            self.for_epoch(epoch).iter().flat_map(|message| *message.list().hash().as_bytes()).collect();
        Hash::of("shoal directory gathering", &[epoch.0.to_be_bytes().as_slice(), &hashes].concat())
    }

    /// Whether it is time to propose: all lists are there, or a quorum is and the others had `patience` to come.
    pub(super) fn is_ripe(
        &mut self,
        epoch: Epoch,
        needed: usize,
        all: usize,
        patience: Duration,
        now: UnixMillis,
    ) -> Result<(), Option<UnixMillis>> {
        let there = self.for_epoch(epoch).len();
        if there >= all {
            return Ok(());
        }
        if there < needed {
            self.quorum_since = None;
            return Err(None);
        }
        let since = match self.quorum_since {
            Some((of, since)) if of == epoch && since <= now => since,
            Some(_) | None => {
                self.quorum_since = Some((epoch, now));
                now
            }
        };
        let ripe_at = since.plus(patience);
        if now >= ripe_at { Ok(()) } else { Err(Some(ripe_at)) }
    }
}
