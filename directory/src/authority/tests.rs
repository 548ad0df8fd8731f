//! Whole directories in virtual time: real rooms, real signatures, a network that delays, loses and separates.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::lists::Judge as ListJudge;
use crate::testing::{EPOCH_MS, GENESIS, NETWORK, Node, parameters, schedule};
use shoal_protocol::Role;

/// The shell on paper: what is on the disk survives a crash, what is in memory does not.
struct Member {
    secret: Arc<AuthoritySecret>,
    core: Option<Authority>,
    listing: Listing,
    chain: Vec<Arc<VerifiedConsensus>>,
    /// The vote log; `None` when the disk is gone.
    votes: Option<Vec<u8>>,
    /// Ahead of true time, in ms.
    clock_ahead: i64,
    wishes: Wishes,
    wants_to_ask: bool,
}

enum Message {
    Agree(Vec<u8>),
    List(Vec<u8>),
    Newest(Vec<u8>),
}

struct World {
    now: u64,
    rng: StdRng,
    nodes: Vec<Node>,
    published_epoch: Option<u64>,
    members: Vec<Member>,
    genesis: Genesis,
    /// What is under way: arrival, order, from, to, what.
    wire: BTreeMap<(u64, u64), (usize, usize, Arc<Message>)>,
    sent: u64,
    delay: std::ops::Range<u64>,
    loss: f64,
    /// Who cannot be reached and reaches nobody.
    cut_off: BTreeSet<usize>,
    certificates: BTreeMap<u64, BTreeSet<Hash>>,
}

impl World {
    fn new(n: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut secrets: Vec<_> = (0..n).map(|_| AuthoritySecret::generate(&mut rng)).collect();
        secrets.sort_by_key(|secret| secret.public().identity);
        let genesis = Genesis {
            network: NETWORK,
            schedule: schedule(),
            parameters: parameters(3),
            authorities: secrets.iter().map(|secret| secret.public().clone()).collect(),
            stores: 3,
            gateways: 1,
        };
        let nodes = [(Role::Gateway, 2), (Role::Mix, 6), (Role::Store, 3)];
        let nodes = nodes.iter().flat_map(|(role, count)| (1..=*count).map(|number| Node::new(*role, number)));
        let member = |secret| Member {
            secret: Arc::new(secret),
            core: None,
            listing: Listing::default(),
            chain: Vec::new(),
            votes: Some(Vec::new()),
            clock_ahead: 0,
            wishes: Wishes::default(),
            wants_to_ask: false,
        };
        Self {
            now: GENESIS.0 + 1_000,
            rng,
            nodes: nodes.collect(),
            published_epoch: None,
            members: secrets.into_iter().map(member).collect(),
            genesis,
            wire: BTreeMap::new(),
            sent: 0,
            delay: 5..60,
            loss: 0.0,
            cut_off: BTreeSet::new(),
            certificates: BTreeMap::new(),
        }
    }

    fn clock(&self, who: usize) -> UnixMillis {
        UnixMillis(self.now.saturating_add_signed(self.members[who].clock_ahead))
    }

    fn start(&mut self, who: usize) {
        let now = self.clock(who);
        let member = &mut self.members[who];
        let mut core = Authority::new(Beginning {
            genesis: self.genesis.clone(),
            secret: Arc::clone(&member.secret),
            wishes: member.wishes.clone(),
            newest: member.chain.last().cloned(),
        });
        let me = core.index().expect("in the set");
        let height = core.height();
        let entries = match &mut member.votes {
            None => None,
            Some(bytes) => match log::read(bytes, &NETWORK, me, height) {
                Ok(recovered) => {
                    bytes.truncate(recovered.length);
                    Some(recovered.entries)
                }
                Err(_) if log::read(bytes, &NETWORK, me, height - 1).is_ok() => {
                    bytes.clear();
                    Some(Vec::new())
                }
                Err(_) => None,
            },
        };
        let acts = core.resume(entries.as_deref(), now);
        member.core = Some(core);
        self.carry_out(who, acts);
    }

    fn start_all(&mut self) {
        for who in 0..self.members.len() {
            self.start(who);
        }
    }

    fn crash(&mut self, who: usize) {
        self.members[who].core = None;
        self.members[who].wants_to_ask = false;
    }

    fn carry_out(&mut self, who: usize, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Log(entry) => {
                    if let Some(votes) = &mut self.members[who].votes {
                        votes.extend_from_slice(&entry);
                    }
                }
                Act::Agree(bytes) => self.broadcast(who, Message::Agree(bytes)),
                Act::List(bytes) => self.broadcast(who, Message::List(bytes)),
                Act::Certified(document) => {
                    self.certificates.entry(document.height).or_default().insert(document.hash());
                    self.members[who].chain.push(document);
                    self.members[who].votes = Some(Vec::new());
                }
                Act::Ask => self.members[who].wants_to_ask = true,
                Act::Misbehaviour(evidence) => panic!("nobody here contradicts himself: {evidence:?}"),
            }
        }
        let member = &self.members[who];
        if let (Some(core), Some(votes)) = (&member.core, &member.votes)
            && let Some(me) = core.index()
        {
            let read = log::read(votes, &NETWORK, me, core.height());
            assert!(read.is_ok(), "the log of {who} is of another height than the next document: {read:?}");
        }
    }

    fn broadcast(&mut self, from: usize, message: Message) {
        let message = Arc::new(message);
        for to in 0..self.members.len() {
            if to != from {
                self.send(from, to, Arc::clone(&message));
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Arc<Message>) {
        let lost = self.rng.random_bool(self.loss) || self.cut_off.contains(&from) || self.cut_off.contains(&to);
        if !lost {
            let at = self.now + self.rng.random_range(self.delay.clone());
            self.sent += 1;
            self.wire.insert((at, self.sent), (from, to, message));
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: &Message) {
        let now = self.clock(to);
        let Some(core) = &mut self.members[to].core else { return };
        let from = u16::try_from(from).expect("few");
        let acts = match message {
            Message::Agree(bytes) => core.receive(from, bytes, now),
            Message::List(bytes) => core.take_list(from, bytes, now).unwrap_or_default(),
            Message::Newest(bytes) => core.adopt(bytes, now).unwrap_or_default(),
        };
        self.carry_out(to, acts);
    }

    /// Nodes publish once an epoch, to everybody who runs.
    fn publish(&mut self) {
        let now = UnixMillis(self.now);
        let epoch = schedule().epoch_at(now).0;
        let first = self.published_epoch.is_none();
        let half = self.now >= GENESIS.0 + epoch * EPOCH_MS + EPOCH_MS / 2;
        if !(first || half && self.published_epoch != Some(epoch)) {
            return;
        }
        self.published_epoch = Some(epoch);
        let descriptors: Vec<_> = self.nodes.iter().map(|node| node.descriptor(now)).collect();
        let judge = ListJudge { network: NETWORK, schedule: schedule(), skew: Duration::from_secs(2), admitted: None };
        for member in self.members.iter_mut().filter(|member| member.core.is_some()) {
            for bytes in &descriptors {
                // with a wrong clock it refuses them: that is its own loss
                let theirs = UnixMillis(now.0.saturating_add_signed(member.clock_ahead));
                let _ = member.listing.offer(bytes, theirs, &judge, |_| None);
            }
        }
    }

    /// Runs for so long.
    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.publish();
            for who in 0..self.members.len() {
                let now = self.clock(who);
                let listing = std::mem::take(&mut self.members[who].listing);
                let acts = self.members[who].core.as_mut().map(|core| core.wake(&listing, now)).unwrap_or_default();
                self.members[who].listing = listing;
                self.carry_out(who, acts);
                if std::mem::take(&mut self.members[who].wants_to_ask) {
                    for other in (0..self.members.len()).filter(|other| *other != who) {
                        let running = self.members[other].core.is_some();
                        if let Some(newest) = self.members[other].chain.last().filter(|_| running) {
                            let newest = Arc::new(Message::Newest(newest.bytes().to_vec()));
                            self.send(other, who, newest);
                        }
                    }
                }
            }
            self.now += 20;
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (from, to, message) = entry.remove();
                self.deliver(from, to, &message);
            }
        }
        for (height, hashes) in &self.certificates {
            assert_eq!(hashes.len(), 1, "two documents of height {height}");
        }
    }

    fn epochs_of(&self, who: usize) -> Vec<u64> {
        self.members[who].chain.iter().map(|document| document.epoch.0).collect()
    }
}

#[test]
fn four_authorities_make_a_document_an_epoch() {
    let mut world = World::new(4, 1);
    world.start_all();
    world.run(8 * EPOCH_MS);
    for who in 0..4 {
        let epochs = world.epochs_of(who);
        assert_eq!(epochs.first(), Some(&0));
        assert_eq!(epochs.last(), Some(&8));
        assert!(epochs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{epochs:?}");
    }
    let last = world.members[0].chain.last().expect("made");
    assert_eq!(last.nodes.len(), 11);
    assert!(last.generations.len() > 1, "stores were drawn anew");
}

#[test]
fn one_alone_needs_nobody() {
    let mut world = World::new(1, 2);
    world.start_all();
    world.run(3 * EPOCH_MS);
    assert_eq!(world.epochs_of(0), [0, 1, 2, 3]);
}

#[test]
fn one_of_four_is_not_missed_and_catches_up() {
    let mut world = World::new(4, 3);
    world.start_all();
    world.run(2 * EPOCH_MS);
    world.crash(2);
    world.run(4 * EPOCH_MS);
    for who in [0, 1, 3] {
        assert_eq!(world.epochs_of(who), [0, 1, 2, 3, 4, 5, 6]);
    }
    world.start(2);
    world.run(EPOCH_MS);
    assert_eq!(world.epochs_of(2).last(), Some(&7));
}

#[test]
fn without_a_quorum_nothing_is_made_and_afterwards_it_is_made_at_once() {
    let mut world = World::new(4, 4);
    world.start_all();
    world.run(2 * EPOCH_MS);
    world.cut_off = BTreeSet::from([0, 1]);
    world.run(15 * EPOCH_MS);
    assert_eq!(world.epochs_of(3).last(), Some(&2));
    world.cut_off.clear();
    world.run(2 * EPOCH_MS);
    for who in 0..4 {
        assert!(world.epochs_of(who).last() >= Some(&18), "{who}: {:?}", world.epochs_of(who));
    }
}

#[test]
fn a_clock_wrong_by_an_hour_stops_nothing_and_is_named() {
    for ahead in [3_600_000, -3_600_000] {
        let mut world = World::new(4, 5);
        world.now += 4_000_000;
        world.members[1].clock_ahead = ahead;
        world.start_all();
        world.run(3 * EPOCH_MS);
        for who in [0, 2, 3] {
            let epochs = world.epochs_of(who);
            assert!(epochs.len() >= 3 && epochs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{epochs:?}");
        }
        for who in [0, 2, 3] {
            let said = world.members[who].core.as_ref().expect("runs").peers()[&1].clock_ahead_ms;
            assert!(said.is_some_and(|said| (said - ahead).unsigned_abs() < EPOCH_MS), "{ahead}: {said:?}");
            assert_eq!(world.members[who].core.as_ref().expect("runs").clock_wrong(), None, "not with them");
        }
        let wrong = world.members[1].core.as_ref().expect("runs");
        assert!(
            wrong.clock_wrong().is_some_and(|said| said.contains("3600 s ") || said.contains("3599 s ")),
            "{ahead}"
        );
        assert_eq!(wrong.waiting_for(), wrong.clock_wrong());
        assert!(wrong.newest().is_none_or(|newest| world.members[0].chain.contains(newest)));
    }
}

#[test]
fn other_parameters_of_one_change_nothing_and_are_named() {
    let mut world = World::new(4, 6);
    let wanted = Parameters { service_ms: 777, ..world.genesis.parameters };
    world.members[2].wishes.parameters = Some(wanted);
    world.start_all();
    world.run(3 * EPOCH_MS);
    let core = world.members[0].core.as_ref().expect("runs");
    assert_eq!(core.peers()[&2].wants_other, ["service_ms"]);
    assert_eq!(core.newest().expect("made").parameters, world.genesis.parameters);
    // and when a quorum wants it, it is so
    for who in 0..3 {
        world.members[who].core.as_mut().expect("runs").wish(Wishes { parameters: Some(wanted), authorities: None });
    }
    world.run(4 * EPOCH_MS);
    assert_eq!(world.members[3].chain.last().expect("made").parameters.service_ms, 777);
}

#[test]
fn who_lost_its_votes_watches_one_document_and_takes_part_again() {
    let mut world = World::new(4, 7);
    world.start_all();
    world.run(2 * EPOCH_MS + EPOCH_MS / 2);
    world.crash(0);
    world.members[0].votes = None;
    world.start(0);
    world.run(2 * EPOCH_MS);
    assert!(world.members[0].votes.is_some(), "a new log began with the next document");
    // now three are needed, and it is one of them
    world.crash(1);
    world.run(2 * EPOCH_MS);
    assert!(world.epochs_of(0).last() >= Some(&6), "{:?}", world.epochs_of(0));
}

#[test]
fn crashes_and_losses_at_random_never_make_two_documents() {
    let schedules: u64 = std::env::var("SHOAL_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    for seed in 100..100 + schedules {
        let mut world = World::new(4, seed);
        world.loss = 0.1;
        world.delay = 5..400;
        world.start_all();
        for _ in 0..40 {
            let who = world.rng.random_range(0..4);
            match world.rng.random_range(0..6) {
                0 => world.crash(who),
                1 if world.members[who].core.is_none() => world.start(who),
                2 => {
                    world.crash(who);
                    world.start(who);
                }
                3 => world.cut_off = BTreeSet::from([who]),
                _ => world.cut_off.clear(),
            }
            let ms = world.rng.random_range(500..5_000);
            world.run(ms);
        }
        // healed: all come back
        world.cut_off.clear();
        for who in 0..4 {
            if world.members[who].core.is_none() {
                world.start(who);
            }
        }
        world.run(3 * EPOCH_MS);
        let now = schedule().epoch_at(UnixMillis(world.now)).0;
        for who in 0..4 {
            assert!(world.epochs_of(who).last() >= Some(&(now - 1)), "seed {seed}: {:?}", world.epochs_of(who));
        }
    }
}

#[test]
fn a_new_set_of_authorities_takes_over() {
    let mut world = World::new(4, 8);
    world.start_all();
    world.run(2 * EPOCH_MS);
    let new = AuthoritySecret::generate(&mut world.rng);
    let mut set = world.genesis.authorities[1..].to_vec();
    set.push(new.public().clone());
    set.sort_by_key(|key| key.identity);
    for who in 0..4 {
        let wishes = Wishes { parameters: None, authorities: Some(set.clone()) };
        world.members[who].core.as_mut().expect("runs").wish(wishes);
    }
    world.run(2 * EPOCH_MS);
    let last = world.members[1].chain.last().expect("made");
    assert_eq!(last.authorities, set);
    assert_eq!(world.members[0].core.as_ref().expect("runs").index(), None, "the old one has left");
}
