//! A directory in virtual time: members, nodes that publish, readers, and the network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_directory::admission::AdmittedList;
use shoal_directory::authority::Genesis;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{AuthorityAddress, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Hash, Identity, UnixMillis};

use crate::members::{Member, Seat};
use crate::nodes::{Node, admit, cast};
use crate::readers::Reader;

/// Genesis hash of the simulated network.
pub(crate) const NETWORK: Hash = Hash::from_bytes([42; 32]);
/// Start of epoch 0.
pub(crate) const GENESIS: UnixMillis = UnixMillis(1_750_000_000_000);
/// Stores and gateways that the first document waits for.
const STORES: usize = 3;
const GATEWAYS: usize = 1;

/// Short epochs: 20 seconds, a draw every third.
pub(crate) fn short() -> Parameters {
    let epoch_ms = 20_000;
    Parameters {
        epoch_ms,
        draw_epochs: 3,
        retention_ms: 4 * epoch_ms,
        mixes_per_layer: 2,
        ..Parameters::test_network()
    }
}

/// What authorities send each other.
pub(crate) enum Message {
    Agree(Vec<u8>),
    List(Vec<u8>),
    /// The answer to a question for the newest document.
    Newest(Arc<VerifiedConsensus>),
}

pub(crate) enum Event {
    Deliver {
        from: Seat,
        to: Seat,
        message: Arc<Message>,
    },
    Wake(Seat),
    Publish(usize),
    Poll(usize),
    Mischief(usize),
    Restart(usize),
    /// An honest authority loses its vote log, or all it has but its key.
    Wipe(usize, bool),
    /// The hostile node publishes anew.
    Versions,
}

/// What may go wrong on the way, now.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    /// Time a message takes, in ms.
    pub(crate) delay: Range<u64>,
    /// In percent.
    pub(crate) loss: u32,
    /// In percent.
    pub(crate) duplication: u32,
    /// Per ten thousand steps of an honest authority.
    pub(crate) crashes: u32,
    /// From, to, and who is on which side.
    pub(crate) cuts: Vec<(u64, u64, u64)>,
}

impl Net {
    pub(crate) fn calm() -> Self {
        Self { delay: 5..60, loss: 0, duplication: 0, crashes: 0, cuts: Vec::new() }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    pub(crate) documents: u64,
    pub(crate) crashes: u64,
    pub(crate) convictions: u64,
    pub(crate) lies: u64,
    /// Longest time from healing until everybody honest was up to date, in ms.
    pub(crate) recovery_ms: u64,
}

pub(crate) struct World {
    /// Named in every failure.
    pub(crate) title: String,
    /// True time.
    pub(crate) now: u64,
    pub(crate) rng: StdRng,
    pub(crate) genesis: Genesis,
    pub(crate) members: Vec<Member>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) admitted: AdmittedList,
    /// An admitted node that says something else to everybody.
    pub(crate) versions: Option<Node>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) net: Net,
    /// Who cannot be reached and reaches nobody.
    pub(crate) cut_off: BTreeSet<usize>,
    /// What anybody was ever shown a certificate for, by height.
    pub(crate) documents: BTreeMap<u64, Arc<VerifiedConsensus>>,
    /// When the document of a height was first certified.
    pub(crate) certified_at: BTreeMap<u64, u64>,
    /// Nodes that no document may leave out.
    pub(crate) expected: BTreeSet<Identity>,
    pub(crate) tally: Tally,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
}

impl World {
    /// `n` authorities of genesis, and `spare` that are ready to follow.
    pub(crate) fn new(n: usize, spare: usize, parameters: Parameters, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut secrets: Vec<_> = (0..n).map(|_| AuthoritySecret::generate(&mut rng)).collect();
        secrets.sort_by_key(|secret| secret.public().identity);
        let genesis = Genesis {
            network: NETWORK,
            schedule: Schedule::new(GENESIS, &parameters),
            parameters,
            authorities: secrets.iter().map(|secret| secret.public().clone()).collect(),
            stores: STORES,
            gateways: GATEWAYS,
        };
        secrets.extend((0..spare).map(|_| AuthoritySecret::generate(&mut rng)));
        let nodes = cast();
        let mut world = Self {
            title: format!("n = {n}, seed {seed}"),
            now: GENESIS.0 + 1_000,
            rng,
            genesis,
            members: secrets.into_iter().map(Member::new).collect(),
            admitted: admit(&nodes),
            expected: nodes.iter().map(Node::identity).collect(),
            nodes,
            versions: None,
            readers: Vec::new(),
            net: Net::calm(),
            cut_off: BTreeSet::new(),
            documents: BTreeMap::new(),
            certified_at: BTreeMap::new(),
            tally: Tally::default(),
            queue: BTreeMap::new(),
            sequence: 0,
        };
        for index in 0..world.nodes.len() {
            world.after(1, Event::Publish(index));
        }
        world
    }

    pub(crate) fn epoch_ms(&self) -> u64 {
        self.genesis.schedule.epoch_ms
    }

    /// The epoch by true time.
    pub(crate) fn epoch(&self) -> u64 {
        self.genesis.schedule.epoch_at(UnixMillis(self.now)).0
    }

    pub(crate) fn fail(&self, why: &str) -> ! {
        let since = self.now - GENESIS.0;
        panic!("{}, {since} ms after genesis (epoch {}): {why}", self.title, self.epoch())
    }

    pub(crate) fn check(&self, holds: bool, why: impl FnOnce() -> String) {
        if !holds {
            self.fail(&why());
        }
    }

    pub(crate) fn after(&mut self, ms: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + ms, self.sequence), event);
    }

    /// Runs for so long.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.step(end) {}
    }

    /// Runs until `done`, at most so long; whether it was reached.
    pub(crate) fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ms;
        while !done(self) {
            if !self.step(end) {
                return done(self);
            }
        }
        true
    }

    fn step(&mut self, end: u64) -> bool {
        let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(entry.key().0);
        match entry.remove() {
            Event::Deliver { from, to, message } => self.deliver(from, to, &message),
            Event::Wake(seat) => self.wake(seat),
            Event::Publish(index) => self.publish(index),
            Event::Poll(index) => self.poll(index),
            Event::Mischief(who) => self.mischief(who),
            Event::Restart(who) => self.restart(who),
            Event::Wipe(who, all) => self.wipe(who, all),
            Event::Versions => self.tell_versions(),
        }
        true
    }

    /// Whether messages between two members get through now.
    pub(crate) fn is_cut(&self, one: usize, two: usize) -> bool {
        let side = |mask: u64, who: usize| mask >> (who % 64) & 1;
        self.cut_off.contains(&one)
            || self.cut_off.contains(&two)
            || self
                .net
                .cuts
                .iter()
                .any(|(from, to, mask)| (*from..*to).contains(&self.now) && side(*mask, one) != side(*mask, two))
    }

    /// Puts a message on its way to every face that hears the sender, or loses it.
    pub(crate) fn send(&mut self, from: Seat, to: usize, message: &Arc<Message>) {
        if self.is_cut(from.who, to) || !self.members[from.who].talks_to(from.face, to) {
            return;
        }
        for face in 0..self.members[to].count_faces() {
            if self.members[to].is_deaf(face, from.who) || self.chance(self.net.loss) {
                continue;
            }
            let copies = if self.chance(self.net.duplication) { 2 } else { 1 };
            for _ in 0..copies {
                self.tally.messages += 1;
                let delay = self.rng.random_range(self.net.delay.clone());
                let to = Seat { who: to, face };
                self.after(delay, Event::Deliver { from, to, message: Arc::clone(message) });
            }
        }
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }

    /// Takes note of a document that verified somewhere.
    pub(crate) fn saw(&mut self, document: &Arc<VerifiedConsensus>) {
        let height = document.height;
        if let Some(seen) = self.documents.get(&height) {
            self.check(seen.hash() == document.hash(), || format!("two documents are certified for height {height}"));
            return;
        }
        let same_epoch = self.documents.values().any(|seen| seen.epoch == document.epoch);
        self.check(!same_epoch, || format!("two documents are certified for epoch {}", document.epoch));
        let listed: BTreeSet<_> = document.nodes.iter().map(|node| node.identity).collect();
        let missing = self.expected.difference(&listed).count();
        self.check(missing == 0, || format!("document {height} leaves out {missing} nodes"));
        let invented = listed.iter().filter(|identity| self.admitted.get(identity).is_none()).count();
        self.check(invented == 0, || format!("document {height} names {invented} nodes that nobody admitted"));
        // nobody honest says where it is
        let is_liar = |identity: &Identity| {
            self.members.iter().any(|member| member.identity() == *identity && member.forger.is_some())
        };
        let at = |entry: &AuthorityAddress| document.authorities[usize::from(entry.authority)].identity;
        let moved = document.addresses.iter().filter(|entry| !is_liar(&at(entry))).count();
        self.check(moved == 0, || format!("document {height} says where {moved} authorities are that did not"));
        self.documents.insert(height, Arc::clone(document));
        self.certified_at.insert(height, self.now);
        self.tally.documents += 1;
    }

    /// Epochs of the documents that somebody honest keeps.
    pub(crate) fn epochs_of(&self, who: usize) -> Vec<u64> {
        self.members[who].chain().iter().map(|document| document.epoch.0).collect()
    }

    /// Exact bytes of the documents of somebody honest, with their certificates, by height.
    pub(crate) fn certified_by(&self, who: usize) -> BTreeMap<u64, Vec<u8>> {
        self.members[who].chain().iter().map(|document| (document.height, document.bytes().to_vec())).collect()
    }

    /// Epoch of the newest document of somebody honest.
    pub(crate) fn newest_epoch(&self, who: usize) -> Option<u64> {
        self.members[who].chain().last().map(|document| document.epoch.0)
    }

    /// Everybody who does not lie.
    pub(crate) fn honest(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|who| !self.members[*who].lies()).collect()
    }
}
