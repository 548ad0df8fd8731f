//! What is out and what waits: the part of the state that lives in memory and is rebuilt from the profile.

use super::committing::PendingCommit;
use super::letters::Letter;
use super::parts::{BlobIn, BlobOut};
use super::slots::SlotReader;
use crate::card::{CardChain, CardPlace};
use crate::chains::Chain;
use crate::conversations::Conversation;
use crate::invites::Used;
use crate::marks::Marks;
use crate::marks_heard::Heard;
use crate::polls::{PollClock, class, mean_gap};
use crate::proofs_owed::Owed;
use crate::want::{Rank, Ticket};
use rand::CryptoRng;
use shoal_protocol::boxes::{ChainSecret, WritePublic};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::poisson::exponential;
use shoal_protocol::{StoreIndex, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};

/// Wants that may be out at a time. At 2 ticks a second and 8 s from request to reply 16 are; at 10 a second in a test
/// network about as many. A lost one is out until its deadline.
pub(super) const WINDOW: usize = 64;
/// Retries slow down by doubling up to this power.
const BACKOFF_MAX: u32 = 9;
/// Next boxes of one chain that may be asked for at a time while it yields messages.
pub(super) const AHEAD_MAX: u64 = 4;
/// Requests of one chain that may be out at a time.
pub(super) const READS_MAX: u32 = 4;

/// What a want that is out was for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    PutBox {
        row: i64,
    },
    /// A replica said that an own box is taken: what lies there?
    Contested {
        row: i64,
    },
    PutPart {
        blob: i64,
        j: u64,
    },
    Append {
        letter: i64,
    },
    GetBox {
        chain: i64,
        j: u64,
    },
    GetPart {
        blob: i64,
        j: u64,
    },
    GetCard {
        contact: i64,
        place: CardPlace,
        j: u64,
    },
    /// Was an own invite claimed, or (`welcome`) where is the Welcome of who claimed it?
    GetClaim {
        invite: i64,
        welcome: bool,
    },
    ReadInbox {
        own_key: i64,
        generation: u32,
        after: u64,
    },
    PutCommit {
        row: i64,
    },
    GetSlot {
        conversation: i64,
        epoch: u64,
        slot: u64,
    },
}

/// A want that is out.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) purpose: Purpose,
    pub(super) placement: [StoreIndex; 2],
    pub(super) since: UnixMillis,
}

/// When something may be tried (again).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempt {
    pub(super) due: UnixMillis,
    pub(super) out: bool,
    tries: u32,
}

impl Attempt {
    /// One that failed so often before.
    pub(super) fn after(tries: u32) -> Self {
        Self { tries, ..Self::default() }
    }
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }
    pub(super) fn ready(&self, now: UnixMillis) -> bool {
        !self.out && self.due <= now
    }

    /// It failed: again later, jittered, slower each time, at most at the pace of `slowest`. A retry never leaves the
    /// schedule: it waits for a tick like everything else.
    pub(super) fn later(&mut self, slowest: Rank, now: UnixMillis, parameters: &Parameters, rng: &mut impl CryptoRng) {
        let gap = mean_gap(Rank::Send, parameters).saturating_mul(1 << self.tries.min(BACKOFF_MAX));
        let mean = gap.min(mean_gap(slowest, parameters));
        self.tries = self.tries.saturating_add(1);
        self.due = now.plus(exponential(mean, rng));
        self.out = false;
    }
}

/// The slowest pace at which a write is repeated. What one replica has waits for the other at the pace of an idle chain:
/// a dead replica must not take the ticks of new messages.
pub(super) fn slowest(held: bool) -> Rank {
    if held { Rank::Idle } else { Rank::Warm }
}

/// A sealed box that not both replicas have.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingBox {
    pub(super) chain: i64,
    pub(super) attempt: Attempt,
    /// One replica has it: its reader can find it, the second copy is not urgent.
    pub(super) held: bool,
    /// A replica says that another body is there.
    pub(super) contested: bool,
}

impl PendingBox {
    pub(super) fn new(chain: i64, held: bool) -> Self {
        Self { chain, attempt: Attempt::default(), held, contested: false }
    }
    /// It failed: again later.
    pub(super) fn later(&mut self, now: UnixMillis, parameters: &Parameters, rng: &mut impl CryptoRng) {
        self.attempt.later(slowest(self.held), now, parameters, rng);
    }
}

/// Another member's chain that is followed.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) chain: Chain,
    pub(super) conversation: i64,
    /// Whose it is.
    pub(super) contact: i64,
    pub(super) request: bool,
    pub(super) active_at: UnixMillis,
    pub(super) clock: PollClock,
    /// Requests that are out, by box.
    pub(super) out: BTreeMap<u64, u32>,
    /// Opened boxes that came before their turn; at most [`AHEAD_MAX`].
    pub(super) early: BTreeMap<u64, Vec<u8>>,
    /// How many boxes are asked for at a time.
    pub(super) ahead: u64,
    /// The replica to ask first: the other one did not have, or spoilt, the box.
    pub(super) first: Option<StoreIndex>,
    /// How often the next box opened without holding a message.
    pub(super) unreadable: u32,
    /// Too much is held back: nothing is read until some of it is whole.
    pub(super) paused: bool,
    /// When a replica last said in this life of the client that the next box is not there.
    pub(super) dry_at: Option<UnixMillis>,
    /// When both last said so; or what both have was found not to open, twice.
    pub(super) heard_at: Option<UnixMillis>,
    /// How often both answered for the next box, and what they have did not open.
    pub(super) fruitless: u32,
}

impl Reader {
    pub(super) fn new(chain: Chain, contact: i64, conversation: &Conversation) -> Self {
        Self {
            chain,
            conversation: conversation.row,
            contact,
            request: conversation.request,
            active_at: conversation.active_at,
            clock: PollClock::default(),
            out: BTreeMap::new(),
            early: BTreeMap::new(),
            ahead: 1,
            first: None,
            unreadable: 0,
            paused: false,
            dry_at: None,
            heard_at: None,
            fruitless: 0,
        }
    }
    /// The class in which it is polled. A stranger's activity must not buy our ticks: before acceptance a chain is
    /// idle, but for its first message, which is waited for at the warm pace while the conversation is new.
    pub(super) fn class(&self, now: UnixMillis, parameters: &Parameters) -> Rank {
        let class = class(self.active_at, now, parameters);
        if !self.request {
            class
        } else if class == Rank::Hot && self.chain.next == 0 {
            Rank::Warm
        } else {
            Rank::Idle
        }
    }
    fn requests(&self) -> u32 {
        self.out.values().sum()
    }
    /// The box to ask for next, if one may be.
    pub(super) fn next(&self) -> Option<u64> {
        if self.paused || self.requests() >= READS_MAX {
            return None;
        }
        let next = self.chain.next;
        let fresh =
            (next..next.saturating_add(self.ahead)).find(|j| !self.out.contains_key(j) && !self.early.contains_key(j));
        // all that may be asked for is out: ask for the next one again, it may have been written since
        Some(fresh.unwrap_or(next))
    }
    pub(super) fn asked(&mut self, j: u64) {
        *self.out.entry(j).or_default() += 1;
    }
    pub(super) fn returned(&mut self, j: u64) {
        if let Some(count) = self.out.get_mut(&j) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.out.remove(&j);
            }
        }
    }
}

/// Somebody's card that is wanted, to write to them or to add them to a group.
pub(super) struct CardFetch {
    /// Since when.
    pub(super) wanted_at: UnixMillis,
    pub(super) clock: PollClock,
    /// The place that is tried now, and its chain.
    pub(super) trying: Option<(CardPlace, CardChain)>,
    /// How many places were tried.
    pub(super) tried: usize,
    /// Boxes that came.
    pub(super) parts: BTreeMap<u64, Vec<u8>>,
    /// How many there are, once the first is here.
    pub(super) boxes: Option<u64>,
    pub(super) out: BTreeSet<u64>,
    /// Answers from this place that brought no box.
    pub(super) missed: u32,
    /// It is another person's invite that is being used: the only place, and its chain.
    pub(super) invite: Option<(CardPlace, CardChain)>,
}

impl CardFetch {
    pub(super) fn new(wanted_at: UnixMillis) -> Self {
        Self {
            wanted_at,
            clock: PollClock::default(),
            trying: None,
            tried: 0,
            parts: BTreeMap::new(),
            boxes: None,
            out: BTreeSet::new(),
            missed: 0,
            invite: None,
        }
    }
    /// By an invite that is being used.
    pub(super) fn by_invite(wanted_at: UnixMillis, used: &Used) -> Self {
        let (key, secret) = used.keys();
        let place = CardPlace { generation: used.generation, period: 0 };
        Self { invite: Some((place, CardChain::of_invite(&key, secret))), ..Self::new(wanted_at) }
    }
    /// The box to ask for next: the first until it says how many there are.
    pub(super) fn next(&self) -> Option<u64> {
        (0..self.boxes.unwrap_or(1)).find(|j| !self.parts.contains_key(j) && !self.out.contains(j))
    }
    /// Whether the next box may be asked for at once: the first is here, and none was missing so far. Else the clock
    /// says when.
    pub(super) fn flows(&self) -> bool {
        self.boxes.is_some() && self.missed == 0
    }
    /// Begins again at the next place.
    pub(super) fn turn(&mut self) {
        self.trying = None;
        self.tried = self.tried.wrapping_add(1);
        self.parts.clear();
        self.boxes = None;
        self.out.clear();
        self.missed = 0;
    }
}

/// An own invite that somebody may use.
pub(super) struct InviteReader {
    pub(super) secret: ChainSecret,
    /// The invite's own write key.
    pub(super) writer: WritePublic,
    pub(super) generation: u32,
    /// When it was made, or claimed.
    pub(super) active_at: UnixMillis,
    pub(super) ends_at: UnixMillis,
    /// The write key that whoever uses it has named.
    pub(super) claim: Option<WritePublic>,
    pub(super) clock: PollClock,
}

/// All of it.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) flights: BTreeMap<Ticket, Flight>,
    pub(super) boxes: BTreeMap<i64, PendingBox>,
    pub(super) blobs_out: BTreeMap<i64, BlobOut>,
    pub(super) letters: BTreeMap<i64, Letter>,
    pub(super) readers: BTreeMap<i64, Reader>,
    pub(super) blobs_in: BTreeMap<i64, BlobIn>,
    /// Blob reads that were handed out.
    pub(super) blob_reads: u64,
    /// Parts of blobs that were handed out to be written.
    pub(super) blob_writes: u64,
    /// Second copies that were handed out.
    pub(super) copies: u64,
    pub(super) cards: BTreeMap<i64, CardFetch>,
    /// Own invites whose claim, or whose Welcome, is waited for.
    pub(super) invites: BTreeMap<i64, InviteReader>,
    /// Boxes that point to a Welcome for another person's invite, with its blob.
    pub(super) pointers: BTreeMap<i64, i64>,
    /// Own inboxes, by key and generation.
    pub(super) inboxes: BTreeMap<(i64, u32), PollClock>,
    /// Own commits whose slot not both replicas have.
    pub(super) commits: BTreeMap<i64, PendingCommit>,
    /// The commit slots of conversations, by conversation.
    pub(super) slots: BTreeMap<i64, SlotReader>,
    /// When an own commit is due, by conversation.
    pub(super) commits_due: BTreeMap<i64, UnixMillis>,
    /// It may have changed which commits are due.
    pub(super) plan: bool,
    /// Conversations whose members were not told of a message that was shown, and when they will be; not drawn yet: `None`.
    pub(super) owing: BTreeMap<i64, Option<UnixMillis>>,
    /// Messages may wait to be sealed.
    pub(super) unsealed: bool,
    /// Own cards that are on their way or stored, by key.
    pub(super) published: Vec<(i64, CardPlace)>,
    /// Documents that were held, and what contacts say of theirs.
    pub(super) marks: Marks,
    pub(super) heard: BTreeMap<i64, Heard>,
    /// Conversations whose other members are owed a certificate.
    pub(super) owed: BTreeMap<i64, Owed>,
    /// The newest generation of stores that is known.
    pub(super) generation: Option<u32>,
    /// The latest time that was given.
    pub(super) latest: UnixMillis,
    /// When the upkeep is due.
    pub(super) upkeep_at: UnixMillis,
}

impl Memory {
    /// Whether an own commit to a conversation waits for its slot.
    pub(super) fn commit_waits(&self, conversation: i64) -> bool {
        self.commits.values().any(|commit| commit.conversation == conversation)
    }
}
