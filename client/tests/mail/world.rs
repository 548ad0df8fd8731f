//! The model: stores with the semantics of PUT, GET, APPEND and READ, a courier that loses answers, a clock that jumps
//! from event to event, and the people.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_client::mail::{Event, InviteInfo, Mail, MessageId, MessageState, RateClass, ReceivedMessage};
use shoal_client::want::{Rank, Ticket, Want};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::boxes::{self, BoxBody, BoxId};
use shoal_protocol::consensus::{Consensus, Generation, UnverifiedConsensus, VerifiedConsensus, certify};
use shoal_protocol::inbox::{append_work, verify_read};
use shoal_protocol::network::{Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::poisson::exponential;
use shoal_protocol::request::{Answer, Answers, Operation, Status};
use shoal_protocol::{Epoch, Hash, StoreIndex, UnixMillis};
use tempfile::TempDir;

pub(crate) const GENERATION: u32 = 1;
/// The branch that leaves heights out, and how many.
pub(crate) const JUMPS: u8 = 2;
pub(crate) const JUMP: u64 = 500;
const START: UnixMillis = UnixMillis(1_750_000_000_000);

/// One store as a replica.
#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) boxes: BTreeMap<BoxId, (BoxBody, UnixMillis)>,
    inboxes: BTreeMap<BoxId, Vec<BoxBody>>,
    /// Answers nothing.
    pub(crate) down: bool,
    /// Answers reads with other bodies and writes with `taken`.
    pub(crate) lies: bool,
    /// Hashcash bits this store asks for.
    pub(crate) bits: u8,
}

impl Replica {
    /// `allowed`: whether an ordered write may be taken that is not there yet; `generations`: those of the consensus.
    fn handle(
        &mut self,
        operation: &Operation,
        allowed: bool,
        (now, epoch, generations): (UnixMillis, Epoch, &[u32]),
        rng: &mut StdRng,
    ) -> Option<Answer> {
        if self.down {
            return None;
        }
        if self.lies {
            return Some(match operation {
                Operation::Put { .. } | Operation::PutOrdered { .. } => Answer::plain(Status::Taken),
                Operation::Append { .. } => Answer::plain(Status::Stored),
                Operation::Get { .. } | Operation::Read { .. } => {
                    Answer { status: Status::Found, number: u64::MAX, body: Some(BoxBody::random(rng)) }
                }
            });
        }
        Some(match operation {
            Operation::Put { id, signature, body } | Operation::PutOrdered { id, signature, body } => {
                if !boxes::verify(id, body, signature) {
                    Answer::plain(Status::Refused)
                } else if !allowed && !self.boxes.contains_key(id) {
                    Answer::plain(Status::Unavailable)
                } else if self.boxes.entry(*id).or_insert_with(|| (body.clone(), now)).0 == *body {
                    Answer::plain(Status::Stored)
                } else {
                    Answer::plain(Status::Taken)
                }
            }
            Operation::Get { id } => self.boxes.get(id).map_or(Answer::plain(Status::Empty), |(body, _)| Answer {
                status: Status::Found,
                number: 0,
                body: Some(body.clone()),
            }),
            Operation::Append { id, nonce, body } => {
                if generations.iter().any(|number| append_work(id, *number, epoch, body, self.bits, nonce)) {
                    self.inboxes.entry(*id).or_default().push(body.clone());
                    Answer::plain(Status::Stored)
                } else {
                    Answer { number: self.bits.into(), ..Answer::plain(Status::Refused) }
                }
            }
            Operation::Read { id, signature, after, epoch: asked } => {
                let entries = self.inboxes.get(id).map_or(&[][..], Vec::as_slice);
                let index = usize::try_from(*after).unwrap_or(usize::MAX);
                if *asked != epoch || !verify_read(id, *after, *asked, signature) {
                    Answer::plain(Status::Refused)
                } else {
                    entries.get(index).map_or(Answer::plain(Status::Empty), |body| Answer {
                        status: Status::Found,
                        number: after + 1,
                        body: Some(body.clone()),
                    })
                }
            }
        })
    }

    pub(crate) fn put_letter(&mut self, inbox: BoxId, body: BoxBody) {
        self.inboxes.entry(inbox).or_default().push(body);
    }
}

/// A person: a profile on disk, the state while the client runs, and what was heard of it.
pub(crate) struct Person {
    pub(crate) dir: PathBuf,
    pub(crate) mail: Option<Mail>,
    pub(crate) address: String,
    /// Everything announced, over all lives of the client.
    pub(crate) heard: Vec<Event>,
    /// Kinds of what was asked, with rank.
    pub(crate) asked: Vec<(Rank, &'static str)>,
    life: u32,
}

enum Step {
    Arrive { who: usize, life: u32, want: Box<Want> },
    Answer { who: usize, life: u32, ticket: Ticket, answers: Option<Answers> },
    Tick { who: usize },
}

pub(crate) struct World {
    pub(crate) now: UnixMillis,
    pub(crate) consensus: Consensus,
    pub(crate) stores: BTreeMap<StoreIndex, Replica>,
    pub(crate) people: Vec<Person>,
    pub(crate) rng: StdRng,
    /// Probability that a request or its answer is lost.
    pub(crate) loss: f64,
    /// Probability that one replica's answer is missing.
    pub(crate) half_loss: f64,
    steps: BTreeMap<(UnixMillis, u64), Step>,
    counter: u64,
    pub(crate) network: NetworkFile,
    /// Three of the four authorities: a quorum, whose keys somebody has stolen.
    stolen: Vec<AuthoritySecret>,
    folder: TempDir,
}

impl World {
    pub(crate) fn new(seed: u64, people: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let parameters = Parameters::test_network();
        let mut authorities: Vec<_> = (0..4).map(|_| AuthoritySecret::generate(&mut rng)).collect();
        authorities.sort_by_key(|authority| authority.public().identity);
        let network = NetworkFile {
            name: "model".to_owned(),
            genesis_time: START,
            authorities: authorities.iter().map(|authority| authority.public().clone()).collect(),
            parameters,
            founding: shoal_protocol::network::Founding::default(),
            hints: Hints::default(),
        };
        let stores: Vec<StoreIndex> = (0..5).map(StoreIndex).collect();
        let generation =
            Generation { number: GENERATION, since: Epoch(0), retired: None, seed: [7; 32], stores: stores.clone() };
        let consensus = Consensus {
            height: 1,
            previous: Hash::from_bytes([0; 32]),
            valid_until: UnixMillis(u64::MAX),
            authorities: network.authorities.clone(),
            next_store_index: 5,
            generations: vec![generation],
            randomness: [7; 32],
            ..Consensus::blank(network.genesis_hash(), Epoch(0), START, parameters)
        };
        let replica = || Replica { bits: parameters.append_bits, ..Replica::default() };
        let mut world = Self {
            now: START.plus(Duration::from_secs(3_600)),
            consensus,
            stores: stores.into_iter().map(|index| (index, replica())).collect(),
            people: Vec::new(),
            rng,
            loss: 0.0,
            half_loss: 0.0,
            steps: BTreeMap::new(),
            counter: 0,
            network,
            stolen: authorities.into_iter().take(3).collect(),
            folder: TempDir::new().expect("a temporary folder"),
        };
        for who in 0..people {
            world.join(who);
        }
        world
    }

    fn join(&mut self, who: usize) {
        let dir = self.folder.path().join(format!("person-{who}"));
        let mail = Mail::create(&dir, &self.network, RateClass::Normal, &mut self.rng).expect("a fresh profile");
        let address = mail.address();
        let (heard, asked) = (Vec::new(), Vec::new());
        self.people.push(Person { dir, mail: Some(mail), address, heard, asked, life: 0 });
        self.later(Duration::ZERO, Step::Tick { who });
    }

    pub(crate) fn mail(&mut self, who: usize) -> &mut Mail {
        self.people[who].mail.as_mut().expect("the client runs")
    }

    pub(crate) fn address(&self, who: usize) -> String {
        self.people[who].address.clone()
    }

    pub(crate) fn add(&mut self, who: usize, name: &str, introduction: &str) {
        let (now, mut rng) = (self.now, self.fork());
        self.mail(who).add(name, introduction, now, &mut rng).expect("it can be added");
    }

    pub(crate) fn invite(&mut self, who: usize, name: &str) -> InviteInfo {
        let (now, mut rng) = (self.now, self.fork());
        self.mail(who).invite(Some(name), now, &mut rng).expect("an invite can be made")
    }

    pub(crate) fn send(&mut self, who: usize, to: &str, text: &str) -> MessageId {
        let (now, mut rng) = (self.now, self.fork());
        self.mail(who).send(to, text, now, &mut rng).expect("sending is allowed")
    }

    pub(crate) fn send_file(&mut self, who: usize, to: &str, name: &str, bytes: &[u8]) -> MessageId {
        let (now, mut rng) = (self.now, self.fork());
        self.mail(who).send_file(to, name, "image/png", bytes, now, &mut rng).expect("sending is allowed")
    }

    pub(crate) fn accept(&mut self, who: usize, whom: &str) {
        let (now, mut rng) = (self.now, self.fork());
        self.mail(who).accept(whom, now, &mut rng).expect("there is somebody to accept");
    }

    /// Whoever of these is asked whether they want the group, wants it.
    pub(crate) fn accept_group(&mut self, group: &str, who: &[usize]) {
        for who in who {
            let Some(mail) = self.people[*who].mail.as_mut() else { continue };
            let asked = mail.conversations().expect("the profile works");
            if asked.iter().any(|asked| asked.request && asked.id.to_string() == group) {
                self.accept(*who, group);
            }
        }
    }

    /// Runs until it is so, looking once a second: for what is asked of the profiles.
    pub(crate) fn eventually(&mut self, at_most: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now.plus(at_most);
        while self.now < end {
            if done(self) {
                return true;
            }
            self.run(Duration::from_secs(1));
        }
        false
    }

    pub(crate) fn fork(&mut self) -> StdRng {
        StdRng::seed_from_u64(self.rng.random())
    }

    /// The client is gone from one instruction to the next; what was on its way to it finds nobody.
    pub(crate) fn crash(&mut self, who: usize) {
        self.listen(who);
        self.people[who].mail = None;
        self.people[who].life += 1;
    }

    pub(crate) fn restart(&mut self, who: usize) {
        let dir = self.people[who].dir.clone();
        self.people[who].mail = Some(Mail::open(&dir).expect("the profile opens again"));
    }

    pub(crate) fn replace_profile(&mut self, who: usize, with: &Path) {
        self.crash(who);
        self.people[who].dir = with.to_path_buf();
        self.restart(who);
    }

    /// A certified document of a height, on the chain that `branch` names: documents of one branch follow each other,
    /// those of branch 0 are the trunk that all share up to height 10. Those of branch 2 have other heights from there on.
    pub(crate) fn document(&self, height: u64, branch: u8) -> VerifiedConsensus {
        let mut document = self.consensus.clone();
        document.height = height;
        document.epoch = Epoch(height + 5);
        if branch == JUMPS && height > 10 {
            document.height += JUMP;
        }
        document.randomness = [if height > 10 { branch } else { 0 }; 32];
        document.previous = Hash::from_bytes([0; 32]);
        if height > 9 {
            document.previous = self.document(height - 1, branch).hash();
        }
        document.valid_from = self.consensus.schedule().start(document.epoch);
        document.valid_until = self.consensus.schedule().start(document.epoch.plus(3));
        let signers: Vec<_> = (0..).zip(&self.stolen).collect();
        let bytes = certify(&document, 0, &signers);
        let unverified = UnverifiedConsensus::parse(&bytes).expect("well-formed");
        unverified.verify_any_time(&self.network.trust_anchor()).expect("certified")
    }

    /// A client is handed a document.
    pub(crate) fn hold(&mut self, who: usize, document: &VerifiedConsensus) {
        let now = self.now;
        self.mail(who).held(document, now).expect("the profile works");
        self.listen(who);
    }

    fn listen(&mut self, who: usize) {
        let person = &mut self.people[who];
        if let Some(mail) = person.mail.as_mut() {
            person.heard.extend(mail.take_events());
        }
    }

    fn later(&mut self, after: Duration, step: Step) {
        self.counter += 1;
        self.steps.insert((self.now.plus(after), self.counter), step);
    }

    /// The system's clock is set back; what is on its way comes as it would have.
    pub(crate) fn step_back(&mut self, by: Duration) {
        self.now = self.now.minus(by);
        let steps = std::mem::take(&mut self.steps);
        self.steps = steps.into_iter().map(|((at, n), step)| ((at.minus(by), n), step)).collect();
    }

    /// Runs until `done` or for so long; says whether it was done.
    pub(crate) fn run_until(&mut self, at_most: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now.plus(at_most);
        loop {
            if done(self) {
                return true;
            }
            let Some((&(at, counter), _)) = self.steps.first_key_value() else { return false };
            if at > end {
                self.now = end;
                return false;
            }
            self.now = at;
            let step = self.steps.remove(&(at, counter)).expect("it was the first");
            self.step(step);
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn step(&mut self, step: Step) {
        let half_way = |world: &mut Self| {
            // gateway and three layers, and the links between them
            let mean = Duration::from_millis(world.consensus.parameters.mean_delay_ms);
            (0..4).map(|_| exponential(mean, &mut world.rng)).sum::<Duration>() + Duration::from_millis(5)
        };
        match step {
            Step::Tick { who } => {
                let gap = exponential(self.consensus.parameters.lambda_p.mean_gap(), &mut self.rng);
                self.later(gap, Step::Tick { who });
                let (now, mut rng) = (self.now, self.fork());
                let Some(mail) = self.people[who].mail.as_mut() else { return };
                let want = mail.next_want(now, &self.consensus, &mut rng).expect("the profile works");
                if let Some(want) = &want {
                    mail.departed(want.ticket).expect("the profile works");
                }
                self.listen(who);
                if let Some(want) = want {
                    self.people[who].asked.push((want.rank, kind(&want.operation)));
                    assert!(self.consensus.generation(want.generation).is_some());
                    let (delay, life) = (half_way(self), self.people[who].life);
                    self.later(delay, Step::Arrive { who, life, want: Box::new(want) });
                }
            }
            Step::Arrive { who, life, want } => {
                let lost_before = self.rng.random_bool(self.loss / 2.0);
                let answers = (!lost_before).then(|| self.serve(&want));
                let lost_after = self.rng.random_bool(self.loss / 2.0);
                let answers = answers.filter(|_| !lost_after);
                let service = Duration::from_millis(self.consensus.parameters.service_ms);
                let delay = if answers.is_none() { service * 8 } else { service + half_way(self) };
                self.later(delay, Step::Answer { who, life, ticket: want.ticket, answers });
            }
            Step::Answer { who, life, ticket, answers } => {
                let (now, mut rng) = (self.now, self.fork());
                let person = &mut self.people[who];
                let Some(mail) = person.mail.as_mut().filter(|_| person.life == life) else { return };
                let events =
                    mail.answered(ticket, answers.as_ref(), now, &self.consensus, &mut rng).expect("the profile works");
                person.heard.extend(events);
            }
        }
    }

    /// What a courier does: first replica, second replica, full answer of the first that answered, short of the other.
    fn serve(&mut self, want: &Want) -> Answers {
        let epoch = self.consensus.schedule().epoch_at(self.now);
        let Some(generation) = self.consensus.generation(want.generation) else {
            // drawn away while the request was on its way
            return Answers { replicas: want.replicas, by_replica: [None, None] };
        };
        let placed = boxes::placement(generation, want.operation.id()).expect("five stores");
        let ordered = matches!(want.operation, Operation::PutOrdered { .. });
        assert!(!ordered || placed == want.replicas, "an ordered write names the replicas in the order of placement");
        let numbers: Vec<u32> = self.consensus.generations.iter().map(|generation| generation.number).collect();
        assert_eq!(BTreeSet::from(placed), BTreeSet::from(want.replicas), "the box's own replicas are asked");
        let missing = self.rng.random_bool(self.half_loss).then(|| self.rng.random_range(0..2usize));
        let mut by_replica = [None, None];
        for (position, store) in want.replicas.iter().enumerate() {
            if missing == Some(position) {
                continue;
            }
            let replica = self.stores.get_mut(store).expect("listed");
            // the second replica takes an ordered write only with the first one's receipt
            let allowed = !ordered
                || position == 0
                || by_replica[0].as_ref().is_some_and(|answer: &Answer| answer.status == Status::Stored);
            let around = (self.now, epoch, numbers.as_slice());
            by_replica[position] = replica.handle(&want.operation, allowed, around, &mut self.rng);
        }
        let full = usize::from(by_replica[0].is_none());
        if let Some(Some(short)) = by_replica.get_mut(1 - full) {
            short.body = None;
        }
        Answers { replicas: want.replicas, by_replica }
    }

    /// The consensus draws a generation of fresh stores; the one before is retired, and gone with its stores once its
    /// retention is over.
    pub(crate) fn draw(&mut self) {
        self.draw_since(Duration::ZERO);
    }

    /// The same, so long ago as its members see it: less time is left in which to commit to it.
    pub(crate) fn draw_since(&mut self, ago: Duration) {
        let since = self.consensus.schedule().epoch_at(self.now.minus(ago));
        let epoch = self.consensus.schedule().epoch_at(self.now);
        let number = self.consensus.generations.last().expect("there is always one").number + 1;
        let first = self.consensus.next_store_index;
        let stores: Vec<StoreIndex> = (first..first + 5).map(StoreIndex).collect();
        self.consensus.next_store_index = first + 5;
        if let Some(last) = self.consensus.generations.last_mut() {
            last.retired = Some(epoch);
        }
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        let drawn = Generation { number, since, retired: None, seed, stores: stores.clone() };
        self.consensus.generations.push(drawn);
        let bits = self.consensus.parameters.append_bits;
        self.stores.extend(stores.into_iter().map(|index| (index, Replica { bits, ..Replica::default() })));
        self.retire();
    }

    /// Generations are drawn until all stores of today are gone, with what they hold.
    pub(crate) fn forget_all(&mut self) {
        let retention = self.consensus.parameters.retention();
        for _ in 0..3 {
            self.draw();
            self.run(retention);
            self.retire();
        }
    }

    /// Boxes older than the retention are gone, and so are generations that were replaced that long ago.
    pub(crate) fn retire(&mut self) {
        let retention = self.consensus.parameters.retention();
        let (now, schedule) = (self.now, self.consensus.schedule());
        let gone = |generation: &Generation| {
            generation.retired.is_some_and(|retired| schedule.start(retired).plus(retention) <= now)
        };
        for generation in self.consensus.generations.iter().filter(|generation| gone(generation)) {
            for store in &generation.stores {
                self.stores.remove(store);
            }
        }
        self.consensus.generations.retain(|generation| !gone(generation));
        for store in self.stores.values_mut() {
            store.boxes.retain(|_, (_, at)| at.plus(retention) > now);
        }
    }

    // ---- what people saw ----

    pub(crate) fn shown(&mut self, who: usize) -> Vec<ReceivedMessage> {
        self.mail(who).messages(0, 10_000).expect("the profile works")
    }

    pub(crate) fn texts(&mut self, who: usize) -> Vec<String> {
        self.shown(who).into_iter().map(|message| message.text).collect()
    }

    pub(crate) fn state(&mut self, who: usize, id: MessageId) -> MessageState {
        self.mail(who).state(id).expect("an own message").state
    }

    pub(crate) fn all_delivered(&mut self, who: usize, ids: &[MessageId]) -> bool {
        self.people[who].mail.is_some() && ids.iter().all(|id| self.state(who, *id) == MessageState::Delivered)
    }

    /// Messages announced, in order, over all lives.
    pub(crate) fn announced(&self, who: usize) -> Vec<&ReceivedMessage> {
        self.people[who]
            .heard
            .iter()
            .filter_map(|event| match event {
                Event::Received(message) => Some(message),
                Event::State { .. } | Event::Contact(_) | Event::Group(_) | Event::Warning { .. } => None,
            })
            .collect()
    }

    pub(crate) fn warnings(&self, who: usize) -> Vec<&'static str> {
        self.people[who]
            .heard
            .iter()
            .filter_map(|event| match event {
                Event::Warning { code, .. } => Some(*code),
                Event::State { .. } | Event::Contact(_) | Event::Group(_) | Event::Received(_) => None,
            })
            .collect()
    }

    /// States that were announced of an own message, in order.
    pub(crate) fn states(&self, who: usize, id: MessageId) -> Vec<MessageState> {
        self.people[who]
            .heard
            .iter()
            .filter_map(|event| match event {
                Event::State { id: of, state } => (*of == id).then_some(*state),
                Event::Received(_) | Event::Contact(_) | Event::Group(_) | Event::Warning { .. } => None,
            })
            .collect()
    }
}

fn kind(operation: &Operation) -> &'static str {
    match operation {
        Operation::Put { .. } => "put",
        Operation::PutOrdered { .. } => "put ordered",
        Operation::Get { .. } => "get",
        Operation::Append { .. } => "append",
        Operation::Read { .. } => "read",
    }
}
