//! A whole network of authorities in virtual time: one seed is one schedule.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_directory::agreement::scheme::{DocumentId, Headline, VoteKind};
use shoal_directory::agreement::{Action, Agreement, Judge, Memory, Setup, Value, Verdict, log};
use shoal_protocol::certificate::Certificate;
use shoal_protocol::{Epoch, Hash, UnixMillis};

use crate::byzantine::{Byzantine, Style};
use crate::keys::{Keys, NETWORK, Ring};
use crate::wire::Wire;

pub(crate) const EPOCH: Duration = Duration::from_secs(20);
/// Virtual time after healing in which everything must be decided, in milliseconds.
const PATIENCE_MS: u64 = 240_000;
/// Rounds after healing within which a height must be decided.
const ROUNDS_MAX: u32 = 24;

/// What may go wrong in a schedule.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) count: u16,
    pub(crate) real: bool,
    pub(crate) heights: u64,
    pub(crate) byzantine: Vec<Style>,
    /// Of those that are honest, how many lose their disk.
    pub(crate) wiped: usize,
    /// In percent, before healing.
    pub(crate) loss: u32,
    pub(crate) duplication: u32,
    /// Per ten thousand actions, before healing.
    pub(crate) crashes: u32,
    pub(crate) partitions: u32,
    pub(crate) heals_at: u64,
}

impl Plan {
    /// Everything at random.
    pub(crate) fn of(count: u16, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x005c_4ed0_1e00);
        let f = usize::from((count - 1) / 3);
        let byzantine = (0..rng.random_range(0..=f))
            .map(|_| match rng.random_range(0..5) {
                0 => Style::Silent,
                1 | 2 => Style::Twins,
                _ => Style::Inventive,
            })
            .collect::<Vec<_>>();
        let wiped = if rng.random_range(0..4) == 0 { f - byzantine.len() } else { 0 };
        Self {
            seed,
            count,
            real: false,
            heights: rng.random_range(1..=3),
            byzantine,
            wiped,
            loss: [0, 5, 30, 60][rng.random_range(0..4)],
            duplication: [0, 20][rng.random_range(0..2)],
            crashes: [0, 0, 100, 400][rng.random_range(0..4)],
            partitions: rng.random_range(0..4),
            heals_at: rng.random_range(0..15_000),
        }
    }
}

/// What a schedule came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) messages: u64,
    pub(crate) rounds_max: u32,
    pub(crate) rounds_after_healing: u32,
    pub(crate) crashes: u32,
    pub(crate) convicted: usize,
    pub(crate) fetched: u32,
    pub(crate) log_bytes: usize,
    pub(crate) done_ms: u64,
}

/// Valid documents follow from bytes that start with `ok`; `late` ones are refused by half unless a quorum voted.
pub(crate) fn document_of(bytes: &[u8]) -> DocumentId {
    let hash = Hash::of("document of a test", bytes);
    DocumentId { epoch: Epoch(u64::from(hash.as_bytes()[0] % 4)), hash }
}

struct Sees {
    me: u16,
    now: u64,
    height_began: u64,
    asked: Cell<u32>,
}

impl Judge for Sees {
    fn judge(&self, _height: u64, value: &Value, locked: bool) -> Verdict {
        self.asked.set(self.asked.get() + 1);
        let bytes = &value.proposal;
        if document_of(bytes) != value.document || !bytes.starts_with(b"ok") {
            return Verdict::Invalid;
        }
        if locked {
            return Verdict::Valid;
        }
        if bytes.starts_with(b"ok late") && self.me % 2 == 1 {
            return Verdict::Invalid;
        }
        // Lists that this authority does not have yet.
        let ready = self.height_began + u64::from(bytes[bytes.len() - 1]) * u64::from(self.me % 3);
        if bytes.starts_with(b"ok soon") && self.now < ready { Verdict::Later } else { Verdict::Valid }
    }
}

#[derive(Default)]
struct Disk {
    durable: Vec<u8>,
    volatile: Vec<u8>,
    decided: BTreeMap<u64, (Certificate, DocumentId)>,
}

struct Node {
    agreement: Agreement<Keys>,
    disk: Disk,
    height: u64,
    began: u64,
    up: bool,
    lost: bool,
    wake_at: Option<u64>,
}

enum Event {
    Deliver { from: u16, to: u16, bytes: Arc<[u8]> },
    Wake(u16),
    Propose { node: u16, height: u64, round: u32 },
    Next(u16),
    Restart(u16),
    Wipe(u16),
    Fetch(u16),
    Mischief(u16),
    Heal,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: StdRng,
    pub(crate) now: u64,
    pub(crate) ring: Ring,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    nodes: BTreeMap<u16, Node>,
    byzantine: BTreeMap<u16, Byzantine>,
    cuts: Vec<(u64, u64, u64)>,
    /// (authority, height, round, place) → what the honest authority signed.
    signed: BTreeMap<(u16, u64, u32, u8), Option<DocumentId>>,
    proposed: BTreeMap<(u16, u64, u32), Headline>,
    certified: BTreeMap<u64, DocumentId>,
    round_at_healing: u32,
    pub(crate) outcome: Outcome,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let ring = Ring::new(plan.count, plan.real);
        let mut seats: Vec<u16> = (0..plan.count).collect();
        for i in (1..seats.len()).rev() {
            seats.swap(i, rng.random_range(0..=i));
        }
        let mut world = Self {
            now: 1_000_000,
            ring,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes: BTreeMap::new(),
            byzantine: BTreeMap::new(),
            cuts: Vec::new(),
            signed: BTreeMap::new(),
            proposed: BTreeMap::new(),
            certified: BTreeMap::new(),
            round_at_healing: 0,
            outcome: Outcome::default(),
            rng,
            plan,
        };
        let styles = world.plan.byzantine.clone();
        let (bad, good) = seats.split_at(styles.len());
        for (seat, style) in bad.iter().zip(styles) {
            let keys = world.ring.keys[usize::from(*seat)].clone();
            let byzantine = Byzantine::new(*seat, style, keys, world.plan.count, &mut world.rng);
            world.byzantine.insert(*seat, byzantine);
            world.at(50, Event::Mischief(*seat));
        }
        for seat in good {
            let node = world.fresh_node(*seat);
            world.nodes.insert(*seat, node);
            let delay = world.rng.random_range(0..400);
            world.at(delay, Event::Next(*seat));
            let first = world.rng.random_range(4_000..8_000);
            world.at(first, Event::Fetch(*seat));
        }
        for seat in &good[..world.plan.wiped] {
            let when = world.rng.random_range(0..world.plan.heals_at.max(1));
            world.at(when, Event::Wipe(*seat));
        }
        for _ in 0..world.plan.partitions {
            let from = world.rng.random_range(0..world.plan.heals_at.max(1));
            let to = from + world.rng.random_range(500..6_000);
            let side = world.rng.random::<u64>();
            world.cuts.push((world.now + from, world.now + to, side));
        }
        let heals = world.plan.heals_at;
        world.at(heals, Event::Heal);
        world.plan.heals_at += world.now;
        world
    }

    pub(crate) fn setup(keys: Keys, me: u16) -> Agreement<Keys> {
        Agreement::new(Setup { network: NETWORK, scheme: keys, me, epoch: EPOCH }).unwrap()
    }

    fn fresh_node(&self, seat: u16) -> Node {
        Node {
            agreement: Self::setup(self.ring.keys[usize::from(seat)].clone(), seat),
            disk: Disk::default(),
            height: 0,
            began: 0,
            up: true,
            lost: false,
            wake_at: None,
        }
    }

    pub(crate) fn fail(&self, why: &str) -> ! {
        panic!("seed {} of n = {} at {} ms: {why}\n{:?}", self.plan.seed, self.plan.count, self.now, self.plan)
    }

    fn at(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), event);
    }

    fn healed(&self) -> bool {
        self.now >= self.plan.heals_at
    }

    /// Runs until everybody honest decided every height.
    pub(crate) fn run(mut self) -> Outcome {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            if self.now > self.plan.heals_at + PATIENCE_MS {
                self.fail("no agreement long after the network healed");
            }
            self.step(event);
            if self.nodes.values().all(|node| node.height > self.plan.heights) {
                break;
            }
        }
        self.outcome.done_ms = self.now.saturating_sub(self.plan.heals_at);
        if self.outcome.rounds_after_healing > ROUNDS_MAX {
            self.fail("too many rounds after the network healed");
        }
        self.outcome
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, bytes } => {
                if self.byzantine.contains_key(&to) {
                    self.with_byzantine(to, |byzantine, world| byzantine.receive(from, &bytes, world));
                } else {
                    self.with(to, |agreement, now, judge| agreement.receive(from, &bytes, now, judge));
                }
            }
            Event::Wake(seat) => {
                let due =
                    self.nodes.get_mut(&seat).is_some_and(|node| node.wake_at.take_if(|at| *at <= self.now).is_some());
                if due {
                    self.with(seat, |agreement, now, judge| agreement.wake(now, judge));
                }
            }
            Event::Propose { node, height, round } => {
                let value = self.value(node, height, round);
                self.with(node, |agreement, now, judge| agreement.propose(height, round, value, now, judge));
            }
            Event::Next(seat) => self.next_height(seat),
            Event::Restart(seat) => self.restart(seat),
            Event::Wipe(seat) => {
                if let Some(node) = self.nodes.get_mut(&seat) {
                    node.disk.durable.clear();
                    node.disk.volatile.clear();
                    node.lost = true;
                }
                self.crash(seat);
            }
            Event::Fetch(seat) => self.fetch(seat),
            Event::Mischief(seat) => {
                self.with_byzantine(seat, Byzantine::mischief);
                let next = self.rng.random_range(30..200);
                self.at(next, Event::Mischief(seat));
            }
            Event::Heal => {
                let rounds = self.nodes.values().filter_map(|node| node.agreement.round());
                self.round_at_healing = rounds.max().unwrap_or(0);
                for seat in self.nodes.keys().copied().collect::<Vec<_>>() {
                    if !self.nodes[&seat].up {
                        self.restart(seat);
                    }
                }
            }
        }
    }

    /// Calls one honest authority and carries out what it wants.
    fn with(&mut self, seat: u16, call: impl FnOnce(&mut Agreement<Keys>, UnixMillis, &Sees) -> Vec<Action>) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&seat).filter(|node| node.up) else {
            return;
        };
        let judge = Sees { me: seat, now, height_began: node.began, asked: Cell::new(0) };
        let actions = call(&mut node.agreement, UnixMillis(now), &judge);
        let height = node.agreement.height();
        if let Some(round) = node.agreement.round() {
            self.outcome.rounds_max = self.outcome.rounds_max.max(round);
            if now >= self.plan.heals_at && height.is_some_and(|(_, decided)| !decided) {
                let since = round.saturating_sub(self.round_at_healing);
                self.outcome.rounds_after_healing = self.outcome.rounds_after_healing.max(since);
            }
        }
        self.perform(seat, actions);
        self.schedule_wake(seat);
    }

    fn schedule_wake(&mut self, seat: u16) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&seat).filter(|node| node.up) else {
            return;
        };
        let Some(next) = node.agreement.next_wake().map(|at| at.0.max(now + 1)) else {
            return;
        };
        if node.wake_at.is_none_or(|at| next < at) {
            node.wake_at = Some(next);
            self.at(next - now, Event::Wake(seat));
        }
    }

    fn perform(&mut self, seat: u16, actions: Vec<Action>) {
        for action in actions {
            if !self.healed() && self.plan.crashes > 0 && self.rng.random_range(0..10_000) < self.plan.crashes {
                self.crash(seat);
                return;
            }
            match action {
                Action::Log(bytes) => self.disk(seat).volatile.extend_from_slice(&bytes),
                Action::Broadcast(bytes) => {
                    self.flush(seat);
                    self.watch(seat, &bytes);
                    let bytes: Arc<[u8]> = bytes.into();
                    for to in 0..self.plan.count {
                        self.send(seat, to, bytes.clone());
                    }
                }
                Action::Propose { height, round } => {
                    if self.rng.random_range(0..20) > 0 {
                        let delay = self.rng.random_range(0..120);
                        self.at(delay, Event::Propose { node: seat, height, round });
                    }
                }
                Action::Decided { certificate, value } => {
                    self.flush(seat);
                    if document_of(&value.proposal) != value.document
                        || DocumentId::from(certificate.mark()) != value.document
                    {
                        self.fail("decided bytes that are not the document's");
                    }
                    self.decided(seat, certificate);
                }
                Action::Completed(certificate) => {
                    let decided = self.certified.get(&certificate.height).copied();
                    if !self.ring.verify(&certificate) || decided != Some(certificate.mark().into()) {
                        self.fail("a decision is completed to something else");
                    }
                }
                Action::Misbehaviour(evidence) => {
                    let keys = &self.ring.keys[usize::from(seat)];
                    if !evidence.verify(&NETWORK, keys) || !self.byzantine.contains_key(&evidence.authority()) {
                        self.fail("evidence against somebody honest, or none at all");
                    }
                    self.outcome.convicted += 1;
                }
                Action::Muted { reason } => self.fail(reason),
            }
        }
    }

    fn disk(&mut self, seat: u16) -> &mut Disk {
        &mut self.nodes.get_mut(&seat).expect("an honest authority").disk
    }

    fn flush(&mut self, seat: u16) {
        let disk = self.disk(seat);
        disk.durable.append(&mut disk.volatile);
        let length = disk.durable.len();
        self.outcome.log_bytes = self.outcome.log_bytes.max(length);
    }

    fn decided(&mut self, seat: u16, certificate: Certificate) {
        if !self.ring.verify(&certificate) {
            self.fail("a certificate that does not verify");
        }
        let document = DocumentId::from(certificate.mark());
        if *self.certified.entry(certificate.height).or_insert(document) != document {
            self.fail("two documents are certified for one height");
        }
        let node = self.nodes.get_mut(&seat).expect("an honest authority");
        if certificate.height < node.height && node.disk.decided.contains_key(&certificate.height) {
            // It had fetched the last document, and now comes to the same by itself.
            return;
        }
        if certificate.height != node.height {
            self.fail("a decision of another height");
        }
        node.disk.decided.insert(certificate.height, (certificate, document));
        let delay = self.rng.random_range(100..600);
        self.at(delay, Event::Next(seat));
    }

    fn next_height(&mut self, seat: u16) {
        let now = self.now;
        let heights = self.plan.heights;
        let node = self.nodes.get_mut(&seat).expect("an honest authority");
        let next = node.disk.decided.keys().next_back().map_or(1, |last| last + 1);
        if !node.up || next <= node.height {
            return;
        }
        node.height = next;
        node.began = now;
        node.lost = false;
        node.disk.durable.clear();
        node.disk.volatile.clear();
        if next <= heights {
            self.with(seat, |agreement, now, judge| agreement.start(next, Memory::Fresh, now, judge));
        }
    }

    fn crash(&mut self, seat: u16) {
        let keep = self.rng.random_range(0..4);
        let cut = self.rng.random::<u32>() as usize;
        let restart = self.rng.random_range(50..4_000);
        let node = self.nodes.get_mut(&seat).expect("an honest authority");
        if !node.up {
            return;
        }
        node.up = false;
        node.wake_at = None;
        let disk = &mut node.disk;
        let tail = std::mem::take(&mut disk.volatile);
        if keep > 0 && !tail.is_empty() && !node.lost {
            // A part of what was not flushed is there, maybe with rubbish at its end.
            let cut = cut % (tail.len() + 1);
            disk.durable.extend_from_slice(&tail[..cut]);
            if keep == 1 && cut > 0 {
                let last = disk.durable.len() - 1;
                disk.durable[last] ^= 0x55;
            }
        }
        self.outcome.crashes += 1;
        self.at(restart, Event::Restart(seat));
    }

    fn restart(&mut self, seat: u16) {
        let agreement = Self::setup(self.ring.keys[usize::from(seat)].clone(), seat);
        let now = self.now;
        let heights = self.plan.heights;
        let node = self.nodes.get_mut(&seat).expect("an honest authority");
        if node.up {
            return;
        }
        node.up = true;
        node.agreement = agreement;
        let (height, lost) = (node.height, node.lost);
        if height == 0 || height > heights || node.disk.decided.contains_key(&height) {
            self.at(10, Event::Next(seat));
            return;
        }
        node.began = now;
        let read = log::read(&node.disk.durable, &NETWORK, seat, height);
        let Ok(recovered) = read else {
            self.fail("a log with a torn tail was taken for damaged");
        };
        self.disk(seat).durable.truncate(recovered.length);
        self.with(seat, |agreement, now, judge| {
            let memory = if lost { Memory::Lost } else { Memory::Log(&recovered.entries) };
            agreement.start(height, memory, now, judge)
        });
    }

    /// The certified document by other means, as authorities fetch it from each other.
    fn fetch(&mut self, seat: u16) {
        let again = self.rng.random_range(4_000..8_000);
        self.at(again, Event::Fetch(seat));
        let peer = self.rng.random_range(0..self.plan.count);
        let node = &self.nodes[&seat];
        let height = node.height;
        if !node.up || node.disk.decided.contains_key(&height) || self.is_cut(seat, peer) {
            return;
        }
        let Some((certificate, _)) = self.nodes.get(&peer).and_then(|peer| peer.disk.decided.get(&height)).cloned()
        else {
            return;
        };
        self.outcome.fetched += 1;
        self.decided(seat, certificate);
    }

    fn is_cut(&self, one: u16, two: u16) -> bool {
        let side = |mask: u64, seat: u16| mask >> (seat % 64) & 1;
        !self.healed()
            && self
                .cuts
                .iter()
                .any(|(from, to, mask)| (*from..*to).contains(&self.now) && side(*mask, one) != side(*mask, two))
    }

    /// Puts one message on its way, or loses it.
    pub(crate) fn send(&mut self, from: u16, to: u16, bytes: Arc<[u8]>) {
        let healed = self.healed();
        if from == to || self.is_cut(from, to) {
            return;
        }
        let chance = |world: &mut Self, percent: u32| world.rng.random_range(0..100) < percent;
        if !healed && chance(self, self.plan.loss) {
            return;
        }
        self.outcome.messages += 1;
        let copies = if chance(self, self.plan.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            let longest = if healed { 50 } else { 600 };
            let delay = self.rng.random_range(1..=longest);
            self.at(delay, Event::Deliver { from, to, bytes: bytes.clone() });
        }
    }

    /// Nobody honest ever says two things.
    fn watch(&mut self, seat: u16, bytes: &[u8]) {
        let Some(wire) = Wire::read(bytes, u64::from(self.plan.count)) else {
            self.fail("an honest authority sent what nobody can read");
        };
        if wire.write() != bytes {
            self.fail("an honest authority sent what the specification writes differently");
        }
        match wire {
            Wire::Vote(ballot, _) if ballot.authority == seat => {
                let place = (seat, ballot.height, ballot.round, u8::from(ballot.kind == VoteKind::Precommit));
                if *self.signed.entry(place).or_insert(ballot.document) != ballot.document {
                    self.fail("an honest authority signed two contradictory votes");
                }
            }
            Wire::Proposal { headline, .. } if headline.authority == seat => {
                let place = (seat, headline.height, headline.round);
                if *self.proposed.entry(place).or_insert(headline) != headline {
                    self.fail("an honest authority signed two proposals");
                }
            }
            Wire::Vote(..) => self.fail("an honest authority sent a vote that is not its own"),
            Wire::Proposal { .. } | Wire::Quorum { .. } | Wire::Round { .. } => {}
        }
    }

    fn value(&mut self, seat: u16, height: u64, round: u32) -> Value {
        let kind = ["ok", "ok", "ok", "ok soon", "ok soon", "ok late"][self.rng.random_range(0..6)];
        let bytes = format!("{kind} {height} {round} by {seat} {}", self.rng.random::<u8>());
        Value { document: document_of(bytes.as_bytes()), proposal: bytes.into_bytes().into() }
    }

    fn with_byzantine(&mut self, seat: u16, call: impl FnOnce(&mut Byzantine, &mut Self)) {
        if let Some(mut byzantine) = self.byzantine.remove(&seat) {
            call(&mut byzantine, self);
            self.byzantine.insert(seat, byzantine);
        }
    }

    /// Judge of an authority that believes everything that is well-formed.
    pub(crate) fn credulous(&self) -> impl Judge + use<> {
        Sees { me: 0, now: self.now, height_began: 0, asked: Cell::new(0) }
    }

    /// Everybody honest, for those who are not.
    pub(crate) fn honest(&self) -> BTreeSet<u16> {
        self.nodes.keys().copied().collect()
    }
}
