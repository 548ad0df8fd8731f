//! Nodes and clients as readers of documents: the rooms by which they judge, with clocks of their own.

use std::sync::Arc;

use rand::RngExt as _;
use shoal_client::view::{self, Offer, View};
use shoal_node::freshness;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::{DocumentError, Follower, Offered, TrustAnchor, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;

use crate::world::{Event, World};

/// How a reader finds its newest document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    Nothing,
    Fresh,
    Stale,
    Expired,
}

pub(crate) enum Room {
    /// A node: the follower, and the document that it goes by.
    Node { follower: Box<Follower>, held: Option<Arc<VerifiedConsensus>> },
    /// A client's view.
    Client(Box<View>),
}

/// A reader with a clock and what it keeps on its disk.
pub(crate) struct Reader {
    pub(crate) room: Room,
    /// Ahead of true time, in ms.
    pub(crate) clock_ahead: i64,
    schedule: Schedule,
    pub(crate) kept: Option<Vec<u8>>,
    /// Documents are kept from it from this height on.
    pub(crate) frozen_at: Option<u64>,
    pub(crate) taken: u64,
    /// The last refusal.
    pub(crate) refused: Option<DocumentError>,
    /// When it first looked stale or worse since it was fresh, by true time.
    pub(crate) alarmed_at: Option<u64>,
}

impl Reader {
    pub(crate) fn node(anchor: TrustAnchor, schedule: Schedule) -> Self {
        Self::of(Room::Node { follower: Box::new(Follower::new(anchor)), held: None }, schedule)
    }

    pub(crate) fn client(anchor: TrustAnchor, schedule: Schedule) -> Self {
        Self::of(Room::Client(Box::new(View::new(anchor))), schedule)
    }

    fn of(room: Room, schedule: Schedule) -> Self {
        Self { room, clock_ahead: 0, schedule, kept: None, frozen_at: None, taken: 0, refused: None, alarmed_at: None }
    }

    /// Takes up what was kept in an earlier run.
    pub(crate) fn resume(&mut self, kept: &[u8]) {
        match &mut self.room {
            Room::Node { follower, held } => *held = Some(Arc::new(follower.resume(kept).expect("its own copy"))),
            Room::Client(view) => view.resume(kept),
        }
    }

    pub(crate) fn height(&self) -> u64 {
        match &self.room {
            Room::Node { follower, .. } => follower.height(),
            Room::Client(view) => view.held().map_or(0, |held| held.height),
        }
    }

    /// Offers a document; whether it was taken as newer.
    pub(crate) fn offer(&mut self, bytes: &[u8], now: UnixMillis) -> Result<bool, DocumentError> {
        match &mut self.room {
            Room::Node { follower, held } => match follower.offer(bytes, now)? {
                Offered::Newer(document) => {
                    *held = Some(Arc::new(*document));
                    Ok(true)
                }
                Offered::Known => Ok(false),
            },
            Room::Client(view) => match view.offer(bytes.to_vec(), now)? {
                Offer::Newer(_) => Ok(true),
                Offer::Known | Offer::Early { .. } => Ok(false),
            },
        }
    }

    pub(crate) fn advance(&mut self, changes: &[&[u8]]) -> Result<usize, DocumentError> {
        match &mut self.room {
            Room::Node { follower, .. } => follower.advance(changes),
            Room::Client(view) => {
                changes.iter().try_fold(0, |led, change| Ok(led + usize::from(view.advance(change)?)))
            }
        }
    }

    /// The document that it goes by at `now`, its own time.
    pub(crate) fn in_force(&self, now: UnixMillis) -> Option<Arc<VerifiedConsensus>> {
        match &self.room {
            // the rule of the node's consensus task
            Room::Node { held, .. } => held.clone().filter(|held| {
                let skew = held.parameters.skew();
                now <= held.valid_until.plus(skew) && now.plus(skew) >= held.valid_from
            }),
            Room::Client(view) => view.in_force(now).map(|(held, _)| Arc::clone(held)),
        }
    }

    /// What it says about its newest document at `now`, its own time.
    pub(crate) fn looks(&self, now: UnixMillis) -> Looks {
        match &self.room {
            Room::Node { held: None, .. } => Looks::Nothing,
            Room::Node { held: Some(held), .. } => match freshness::judge(&self.schedule, held.epoch, now) {
                _ if self.in_force(now).is_none() => Looks::Expired,
                freshness::Freshness::Fresh => Looks::Fresh,
                freshness::Freshness::Stale { .. } => Looks::Stale,
            },
            Room::Client(view) => match view::Freshness::of(view.held().map(|held| &**held), now) {
                view::Freshness::None => Looks::Nothing,
                view::Freshness::Current => Looks::Fresh,
                view::Freshness::Stale => Looks::Stale,
                view::Freshness::Expired => Looks::Expired,
            },
        }
    }
}

impl World {
    /// A node and a client, whose clocks are `ahead`; returns the index of the first.
    pub(crate) fn add_readers(&mut self, ahead: i64) -> usize {
        let anchor = TrustAnchor { network: self.genesis.network, authorities: self.genesis.authorities.clone() };
        let schedule = self.genesis.schedule;
        let first = self.readers.len();
        for reader in [Reader::node(anchor.clone(), schedule), Reader::client(anchor, schedule)] {
            let index = self.readers.len();
            self.readers.push(Reader { clock_ahead: ahead, ..reader });
            self.after(1, Event::Poll(index));
        }
        first
    }

    pub(crate) fn reader_clock(&self, index: usize) -> UnixMillis {
        UnixMillis(self.now.saturating_add_signed(self.readers[index].clock_ahead))
    }

    /// A reader asks everybody in turn until it has the document of the current epoch, about twenty times an epoch.
    pub(crate) fn poll(&mut self, index: usize) {
        let now = self.reader_clock(index);
        let first = self.rng.random_range(0..self.members.len());
        for turn in 0..self.members.len() {
            let who = (first + turn) % self.members.len();
            let Some(shown) = self.shown_by(who).cloned() else { continue };
            if self.readers[index].frozen_at.is_some_and(|height| shown.height >= height) {
                continue;
            }
            let changes = self.changes_after(who, self.readers[index].height());
            let reader = &mut self.readers[index];
            let mut taken = reader.offer(shown.bytes(), now);
            if taken.as_ref().is_err_and(DocumentError::may_be_another_set) {
                let changes: Vec<_> = changes.iter().map(|change| change.bytes()).collect();
                taken = reader.advance(&changes).and_then(|_| reader.offer(shown.bytes(), now));
            }
            match taken {
                Ok(true) => {
                    reader.taken += 1;
                    reader.kept = Some(shown.bytes().to_vec());
                    reader.refused = None;
                    let expired = now > shown.valid_until.plus(shown.parameters.skew());
                    self.check(!expired, || format!("reader {index} takes an expired document"));
                }
                Ok(false) => {}
                Err(error) => {
                    let conflict = matches!(error, DocumentError::Conflict { .. });
                    reader.refused = Some(error);
                    self.check(!conflict, || format!("reader {index} sees a conflict"));
                }
            }
        }
        let looks = self.readers[index].looks(now);
        let used = self.readers[index].in_force(now);
        let expired = used.is_some_and(|used| now > used.valid_until.plus(used.parameters.skew()));
        self.check(!expired, || format!("reader {index} goes by an expired document"));
        let reader = &mut self.readers[index];
        match looks {
            Looks::Fresh => reader.alarmed_at = None,
            Looks::Nothing | Looks::Stale | Looks::Expired => {
                reader.alarmed_at.get_or_insert(self.now);
            }
        }
        let wait = (self.epoch_ms() / 20).max(500) * self.rng.random_range(80..120) / 100;
        self.after(wait, Event::Poll(index));
    }
}
