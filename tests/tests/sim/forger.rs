//! An authority that makes its own messages: two voters with one key that find everything good, lists and proposals that
//! no honest authority would send, old messages again, bent ones, rubbish.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt as _;
use shoal_directory::agreement::{Action, Agreement, DocumentId, Judge, Keyring, Memory, Setup, Value, Verdict};
use shoal_directory::document::next_document;
use shoal_directory::list_message::{DescriptorCache, ListMessage};
use shoal_directory::proposal::VerifiedProposal;
use shoal_directory::signed_list::Place;
use shoal_protocol::consensus::VerifiedConsensus;
use shoal_protocol::{Epoch, Hash, UnixMillis};

use crate::members::Seat;
use crate::wire::Parts;
use crate::world::{Event, Message, NETWORK, World};

/// Messages of others kept for later use.
const POOL: usize = 100;

/// Finds everything good.
struct Credulous;

impl Judge for Credulous {
    fn judge(&self, _height: u64, _value: &Value, _locked: bool) -> Verdict {
        Verdict::Valid
    }
}

pub(crate) struct Forger {
    pub(crate) me: u16,
    twins: Vec<Agreement<Keyring>>,
    /// Which twin talks to whom; 2 is both.
    side: Vec<u8>,
    height: u64,
    /// Twin, height and round that wait for a proposal.
    proposing: Vec<(usize, u64, u32)>,
    /// What others sent for this height.
    lists: BTreeMap<usize, Vec<u8>>,
    pool: Vec<Arc<Message>>,
    pub(crate) cache: DescriptorCache,
}

impl Forger {
    pub(crate) fn new(who: usize, world: &mut World) -> Self {
        let count = world.members.len();
        let twin = || {
            let secret = Arc::clone(&world.members[who].secret);
            let scheme = Keyring::new(world.genesis.authorities.clone().into(), secret);
            let epoch = std::time::Duration::from_millis(world.epoch_ms());
            let me = u16::try_from(who).unwrap();
            Agreement::new(Setup { network: NETWORK, scheme, me, epoch }).unwrap()
        };
        Self {
            me: u16::try_from(who).unwrap(),
            twins: vec![twin(), twin()],
            side: (0..count).map(|_| world.rng.random_range(0..3)).collect(),
            height: 0,
            proposing: Vec::new(),
            lists: BTreeMap::new(),
            pool: Vec::new(),
            cache: DescriptorCache::new(NETWORK),
        }
    }

    fn talks_to(&self, twin: usize, to: usize) -> bool {
        usize::from(self.side[to]) != 1 - twin
    }

    pub(crate) fn hear(&mut self, from: usize, message: &Arc<Message>, world: &mut World) {
        self.follow(world);
        match &**message {
            Message::Agree(bytes) => {
                let index = u16::try_from(from).unwrap();
                for twin in 0..self.twins.len() {
                    if self.talks_to(twin, from) {
                        let actions = self.twins[twin].receive(index, bytes, UnixMillis(world.now), &Credulous);
                        self.carry_out(twin, actions, world);
                    }
                }
            }
            Message::List(bytes) => {
                self.lists.insert(from, bytes.clone());
            }
            Message::Newest(_) => {}
        }
        if self.pool.len() >= POOL {
            self.pool.swap_remove(world.rng.random_range(0..POOL));
        }
        self.pool.push(Arc::clone(message));
    }

    /// Goes where the others are.
    fn follow(&mut self, world: &mut World) {
        let next = world.documents.keys().next_back().map_or(1, |height| height + 1);
        if next > self.height {
            self.height = next;
            self.proposing.clear();
            self.lists.clear();
            for twin in 0..self.twins.len() {
                let actions = self.twins[twin].start(next, Memory::Fresh, UnixMillis(world.now), &Credulous);
                self.carry_out(twin, actions, world);
            }
        }
    }

    fn carry_out(&mut self, twin: usize, actions: Vec<Action>, world: &mut World) {
        for action in actions {
            match action {
                Action::Broadcast(bytes) => self.tell(twin, &Arc::new(Message::Agree(bytes)), world),
                Action::Propose { height, round } => self.proposing.push((twin, height, round)),
                Action::Log(_)
                | Action::Decided { .. }
                | Action::Completed(_)
                | Action::Misbehaviour(_)
                | Action::Muted { .. } => {}
            }
        }
    }

    fn tell(&self, twin: usize, message: &Arc<Message>, world: &mut World) {
        let me = usize::from(self.me);
        for to in (0..world.members.len()).filter(|to| *to != me && self.talks_to(twin, *to)) {
            world.send(Seat { who: me, face: 0 }, to, message);
        }
    }

    /// Called every now and then.
    fn act(&mut self, world: &mut World) {
        self.follow(world);
        for twin in 0..self.twins.len() {
            let actions = self.twins[twin].wake(UnixMillis(world.now), &Credulous);
            self.carry_out(twin, actions, world);
        }
        for (twin, height, round) in std::mem::take(&mut self.proposing) {
            if height != self.height {
                continue;
            }
            let Some(value) = self.forge_proposal(world) else {
                self.proposing.push((twin, height, round));
                continue;
            };
            world.tally.lies += 1;
            let actions = self.twins[twin].propose(height, round, value, UnixMillis(world.now), &Credulous);
            self.carry_out(twin, actions, world);
        }
        if world.chance(60) {
            self.lie(world);
        }
    }

    fn lie(&mut self, world: &mut World) {
        world.tally.lies += 1;
        match world.rng.random_range(0..8) {
            // two lists for one height, one for each half
            0..5 => {
                for twin in 0..2 {
                    if let Some(bytes) = self.forge_list(world) {
                        self.tell(twin, &Arc::new(Message::List(bytes)), world);
                    }
                }
            }
            // a message of somebody, again, maybe bent
            5 | 6 if !self.pool.is_empty() => {
                let message = Arc::clone(&self.pool[world.rng.random_range(0..self.pool.len())]);
                let bent = world.chance(50);
                let message = match &*message {
                    Message::Agree(bytes) if bent => Arc::new(Message::Agree(bend(bytes, world))),
                    Message::List(bytes) if bent => Arc::new(Message::List(bend(bytes, world))),
                    Message::Agree(_) | Message::List(_) | Message::Newest(_) => message,
                };
                self.tell(usize::from(bent), &message, world);
            }
            _ => {
                let length = world.rng.random_range(0..300);
                let bytes: Vec<u8> = (0..length).map(|_| world.rng.random()).collect();
                let message = if world.chance(50) { Message::Agree(bytes) } else { Message::List(bytes) };
                self.tell(0, &Arc::new(message), world);
            }
        }
    }

    /// Lists of others for this height that verify.
    pub(crate) fn heard(&mut self, place: &Place<'_>) -> Vec<ListMessage> {
        let Self { lists, cache, .. } = self;
        lists.values().filter_map(|bytes| ListMessage::open(bytes, place, cache).ok()).collect()
    }

    /// A proposal that is false, or true and made of the lists that suit the liar.
    fn forge_proposal(&mut self, world: &mut World) -> Option<Value> {
        let before = newest(world);
        let genesis = world.genesis.clone();
        let rules = genesis.rules();
        let place = Place::after(&rules, before.as_deref());
        let mut messages = self.heard(&place);
        let epoch = messages.iter().map(|message| message.list().epoch).max()?;
        if let Some(own) = self.forge_list(world) {
            messages.extend(ListMessage::open(&own, &place, &mut self.cache).ok());
        }
        // which of the others' lists are in it
        while messages.len() > world.members.len() - world.members.len() / 3 && world.chance(70) {
            messages.swap_remove(world.rng.random_range(0..messages.len()));
        }
        let chosen: Vec<_> = messages.iter().collect();
        let proposal = VerifiedProposal::compose(&place, epoch, &chosen).ok()?;
        let document =
            next_document(&rules, before.as_deref(), &proposal).ok().map(|draft| draft.document.mark().into());
        let mut document: DocumentId = document.unwrap_or(DocumentId { epoch, hash: Hash::from_bytes([9; 32]) });
        let mut parts = Parts::of(&proposal);
        match world.rng.random_range(0..10) {
            // nothing wrong with it
            0..3 => {}
            3 => {
                let keep = world.rng.random_range(0..parts.lists.len());
                parts.lists.truncate(keep.max(1));
            }
            4 => parts.height += 1,
            5 => parts.epoch = Epoch(parts.epoch.0 + 1),
            6 => parts.lists.push(parts.lists[0].clone()),
            7 => {
                parts.descriptors.pop();
            }
            // the right document, said to be of another epoch
            8 => document.epoch = document.epoch.plus(1),
            _ => document.hash = Hash::from_bytes([7; 32]),
        }
        let bytes = if world.chance(10) { bend(&parts.encode(), world) } else { parts.encode() };
        Some(Value { document, proposal: bytes.into() })
    }
}

/// The newest document of all.
pub(crate) fn newest(world: &World) -> Option<Arc<VerifiedConsensus>> {
    world.documents.values().next_back().cloned()
}

fn bend(bytes: &[u8], world: &mut World) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if !bytes.is_empty() {
        let at = world.rng.random_range(0..bytes.len());
        bytes[at] ^= world.rng.random_range(1..=255_u8);
    }
    bytes
}

impl World {
    pub(crate) fn with_forger(&mut self, who: usize, call: impl FnOnce(&mut Forger, &mut Self)) {
        if let Some(mut forger) = self.members[who].forger.take() {
            // the member counts as a forger meanwhile: it has no face
            call(&mut forger, self);
            self.members[who].forger = Some(forger);
        }
    }

    pub(crate) fn mischief(&mut self, who: usize) {
        self.with_forger(who, Forger::act);
        let next = self.rng.random_range(100..600);
        self.after(next, Event::Mischief(who));
    }
}
