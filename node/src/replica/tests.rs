use super::*;
use crate::engine::Entry;
use crate::replay::ReplaySet;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shoal_protocol::X25519Secret;
use shoal_protocol::boxes::{ChainSecret, WriteKey};
use shoal_protocol::geometry::{ENVELOPE_SIZE, SHORT_ANSWER_SIZE};
use shoal_protocol::inbox::{InboxKey, find_nonce, inbox_id};
use shoal_protocol::request::{AnswerOpener, pack_reply, seal_envelope};
use zeroize::Zeroizing;

const ANSWER: Duration = Duration::from_millis(20);
const NOW: Duration = Duration::from_secs(5);
const EPOCH: Epoch = Epoch(40);
const COURIER: StoreIndex = StoreIndex(3);
const STORES: [StoreIndex; 3] = [StoreIndex(1), StoreIndex(2), COURIER];
const BITS: u8 = 6;
const NO_RECEIPT: [u8; RECEIPT_SIZE] = [0x55; RECEIPT_SIZE];

/// Three stores, each with its keys, that share one generation.
struct Stores {
    replicas: BTreeMap<StoreIndex, (Replica, Vec<Arc<EpochKeys>>)>,
    seen: BTreeMap<(StoreIndex, Epoch), ReplaySet>,
    /// Room in each of them.
    seen_max: usize,
    generation: Generation,
    drops: Arc<Drops>,
    rng: StdRng,
}

impl Stores {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let drops = Arc::new(Drops::default());
        let generation =
            Generation { number: 4, since: Epoch(1), retired: None, seed: [8; 32], stores: STORES.to_vec() };
        let identities: BTreeMap<StoreIndex, Arc<IdentityKey>> =
            STORES.into_iter().map(|index| (index, Arc::new(IdentityKey::generate(&mut rng)))).collect();
        let replicas = STORES
            .into_iter()
            .map(|me| {
                let network = Network {
                    me,
                    stores: identities.iter().map(|(index, key)| (*index, key.identity())).collect(),
                    generations: vec![generation.clone()],
                    answer: ANSWER,
                    append_bits: BITS,
                };
                let identity = Arc::clone(&identities[&me]);
                (me, (Replica::new(identity, network, Arc::clone(&drops)), vec![keys(EPOCH, &mut rng)]))
            })
            .collect();
        Self { replicas, seen: BTreeMap::new(), seen_max: 100, generation, drops, rng }
    }

    fn seal(&mut self, operation: &Operation, replicas: [StoreIndex; 2]) -> (Envelope, AnswerOpener) {
        let named = replicas.map(|index| (index, envelope_key(&self.replicas[&index].1[0])));
        seal_envelope(operation, named, &mut self.rng)
    }

    fn ask(&mut self, store: StoreIndex, envelope: &Envelope, receipt: &[u8; RECEIPT_SIZE]) -> Option<(Job, Task)> {
        let (replica, keys) = self.replicas.get_mut(&store).expect("one of three");
        let question = Question { courier: COURIER, ticket: 7, envelope, receipt };
        replica.on_request(NOW, EPOCH, question, keys, |epoch, ephemeral| {
            let fresh = || ReplaySet::new(Zeroizing::new([4; 32]), self.seen_max);
            let seen = self.seen.entry((store, epoch)).or_insert_with(fresh);
            seen.insert(seen.tag(ephemeral))
        })
    }

    fn outcome(&mut self, store: StoreIndex, job: Job, outcome: Outcome) {
        self.replicas.get_mut(&store).expect("one of three").0.on_outcome(job, outcome);
    }

    /// The one answer that is due, after checking that it is not early.
    fn answer(&mut self, store: StoreIndex) -> SealedAnswer {
        let replica = &mut self.replicas.get_mut(&store).expect("one of three").0;
        assert_eq!(replica.next_timeout(), Some(NOW + ANSWER));
        assert!(replica.on_time(NOW + ANSWER - Duration::from_nanos(1), &mut self.rng).is_empty());
        let mut replies = replica.on_time(NOW + ANSWER, &mut self.rng);
        assert_eq!((replies.len(), replica.next_timeout()), (1, None));
        let reply = replies.remove(0);
        assert_eq!((reply.to, reply.ticket), (COURIER, 7));
        reply.answer
    }

    /// Asks a store for an operation that its engine answers with `outcome`; says what the client reads.
    fn whole(
        &mut self,
        store: StoreIndex,
        operation: &Operation,
        replicas: [StoreIndex; 2],
        outcome: Outcome,
    ) -> Answer {
        let (envelope, opener) = self.seal(operation, replicas);
        if let Some((job, _)) = self.ask(store, &envelope, &NO_RECEIPT) {
            self.outcome(store, job, outcome);
        }
        let sealed = self.answer(store);
        let position = usize::from(replicas[0] != store);
        read(&opener, &sealed)[position].clone().expect("a sealed answer")
    }
}

fn keys(epoch: Epoch, rng: &mut StdRng) -> Arc<EpochKeys> {
    Arc::new(EpochKeys { epoch, mix: X25519Secret::generate(rng), envelope: Some(X25519Secret::generate(rng)) })
}

fn envelope_key(keys: &EpochKeys) -> shoal_protocol::X25519Public {
    keys.envelope.as_ref().expect("a store's keys").public()
}

fn read(opener: &AnswerOpener, sealed: &SealedAnswer) -> [Option<Answer>; 2] {
    opener.open(&pack_reply(&sealed.full, &[0; SHORT_ANSWER_SIZE])).by_replica
}

/// A box with its writer.
struct Written {
    id: BoxId,
    body: BoxBody,
    signature: [u8; 64],
}

fn write(rng: &mut StdRng) -> Written {
    let (key, chain) = (WriteKey::generate(rng), ChainSecret::from_bytes([3; 32]));
    let (id, body) = (boxes::id(&key.public(), &chain, 0), BoxBody::random(rng));
    let signature = boxes::sign(&key, &chain, 0, &body);
    Written { id, body, signature }
}

const STORED: Outcome = Outcome::Written(crate::engine::Written::Stored);

#[test]
fn every_operation_and_garbage_are_answered_at_the_same_time_and_size() {
    let mut stores = Stores::new(1);
    let (a, b) = (StoreIndex(1), StoreIndex(2));
    let Written { id, body, signature } = write(&mut stores.rng);
    let operations = [
        Operation::Put { id, signature, body: body.clone() },
        Operation::Put { id, signature: [0; 64], body: body.clone() },
        Operation::PutOrdered { id, signature, body: body.clone() },
        Operation::Get { id },
        Operation::Append { id, nonce: [0; 64], body },
        Operation::Read { id, signature, after: 0, epoch: EPOCH },
    ];
    for operation in operations {
        let (envelope, _) = stores.seal(&operation, [a, b]);
        // the engine does not answer at all: time and size do not show it
        stores.ask(a, &envelope, &NO_RECEIPT);
        stores.answer(a);
    }
    let mut bytes = [0; ENVELOPE_SIZE];
    stores.rng.fill_bytes(&mut bytes);
    let garbage = Envelope::from_slice(&bytes).expect("the right length");
    assert!(stores.ask(a, &garbage, &NO_RECEIPT).is_none());
    stores.answer(a);
    assert_eq!(stores.drops.of(DropReason::BadEnvelope), 1);
}

#[test]
fn outcomes_become_answers() {
    use crate::engine::Written as W;
    let mut stores = Stores::new(2);
    let replicas = [StoreIndex(1), StoreIndex(2)];
    let Written { id, body, signature } = write(&mut stores.rng);
    let put = Operation::Put { id, signature, body: body.clone() };
    for (outcome, status) in [
        (W::Stored, Status::Stored),
        (W::Taken, Status::Taken),
        (W::Full, Status::Full),
        (W::Absent, Status::Unavailable),
    ] {
        for store in replicas {
            let answer = stores.whole(store, &put, replicas, Outcome::Written(outcome));
            assert_eq!(answer, Answer::plain(status));
        }
    }
    let get = Operation::Get { id };
    let found = stores.whole(replicas[0], &get, replicas, Outcome::Got(Some(body.clone())));
    assert_eq!(found, Answer { status: Status::Found, number: 0, body: Some(body.clone()) });
    assert_eq!(stores.whole(replicas[0], &get, replicas, Outcome::Got(None)), Answer::plain(Status::Empty));
    assert_eq!(stores.whole(replicas[0], &get, replicas, Outcome::Failed), Answer::plain(Status::Unavailable));
    let owner = InboxKey::generate(&mut stores.rng);
    let inbox = inbox_id(&owner.public(), 4);
    let read = Operation::Read { id: inbox, signature: owner.sign_read(4, 9, EPOCH), after: 9, epoch: EPOCH };
    let entry = Outcome::Entry(Some(Entry { number: 10, body: body.clone() }));
    let found = stores.whole(replicas[0], &read, replicas, entry);
    assert_eq!(found, Answer { status: Status::Found, number: 10, body: Some(body) });
}

#[test]
fn a_late_engine_means_unavailable_and_its_outcome_is_forgotten() {
    let mut stores = Stores::new(3);
    let replicas = [StoreIndex(1), StoreIndex(2)];
    let Written { id, body, signature } = write(&mut stores.rng);
    let (envelope, opener) = stores.seal(&Operation::Put { id, signature, body }, replicas);
    let (job, _) = stores.ask(replicas[0], &envelope, &NO_RECEIPT).expect("a task");
    let sealed = stores.answer(replicas[0]);
    assert_eq!(read(&opener, &sealed)[0], Some(Answer::plain(Status::Unavailable)));
    stores.outcome(replicas[0], job, STORED);
    assert!(stores.replicas[&replicas[0]].0.is_idle());
}

#[test]
fn only_the_writer_and_the_owner_are_served() {
    let mut stores = Stores::new(4);
    let replicas = [StoreIndex(1), StoreIndex(2)];
    let Written { id, body, signature } = write(&mut stores.rng);
    let other = BoxBody::random(&mut stores.rng);
    let owner = InboxKey::generate(&mut stores.rng);
    let stranger = InboxKey::generate(&mut stores.rng);
    let inbox = inbox_id(&owner.public(), 4);
    let read = |signature, epoch| Operation::Read { id: inbox, signature, after: 1, epoch };
    for operation in [
        Operation::Put { id, signature, body: other.clone() },
        Operation::PutOrdered { id, signature, body: other },
        Operation::Put { id: BoxId::from_bytes([1; 32]), signature, body },
        read(stranger.sign_read(4, 1, EPOCH), EPOCH),
        read(owner.sign_read(4, 2, EPOCH), EPOCH),
        read(owner.sign_read(4, 1, EPOCH.minus(2)), EPOCH.minus(2)),
        read(owner.sign_read(4, 1, EPOCH.plus(2)), EPOCH.plus(2)),
    ] {
        // an engine that would say yes is not asked
        assert_eq!(stores.whole(replicas[0], &operation, replicas, STORED), Answer::plain(Status::Refused));
    }
    for epoch in [EPOCH.minus(1), EPOCH, EPOCH.plus(1)] {
        let operation = read(owner.sign_read(4, 1, epoch), epoch);
        assert_eq!(stores.whole(replicas[0], &operation, replicas, Outcome::Entry(None)), Answer::plain(Status::Empty));
    }
}

#[test]
fn work_is_measured_for_any_living_generation_and_near_epoch() {
    let mut stores = Stores::new(5);
    let replicas = [StoreIndex(1), StoreIndex(2)];
    let inbox = inbox_id(&InboxKey::generate(&mut stores.rng).public(), 4);
    let body = BoxBody::random(&mut stores.rng);
    let mut submit = |nonce| {
        let (envelope, opener) = stores.seal(&Operation::Append { id: inbox, nonce, body: body.clone() }, replicas);
        let task = stores.ask(replicas[0], &envelope, &NO_RECEIPT);
        let sealed = stores.answer(replicas[0]);
        match task {
            Some((_, Task::Write(Write::Append { work_bits, .. }))) => Ok(work_bits),
            Some(_) => panic!("not an append"),
            None => Err(read(&opener, &sealed)[0].clone().expect("sealed")),
        }
    };
    let mut rng = StdRng::seed_from_u64(6);
    for (epoch, bits) in [(EPOCH, BITS), (EPOCH.minus(1), BITS + 3), (EPOCH.plus(1), BITS + GROWTH_MAX)] {
        let nonce = find_nonce(&inbox, 4, epoch, &body, bits, &mut rng).expect("found");
        let shown = submit(nonce).expect("enough");
        assert!((bits..=BITS + GROWTH_MAX).contains(&shown), "{shown}");
    }
    // too old, or for a generation that does not live; 6 bits come by chance in one of 64 × 3 tries, not with this seed
    for (generation, epoch) in [(4, EPOCH.minus(2)), (9, EPOCH)] {
        let nonce = find_nonce(&inbox, generation, epoch, &body, BITS + 8, &mut rng).expect("found");
        let refusal = submit(nonce).expect_err("no work");
        assert_eq!(refusal, Answer { status: Status::Refused, number: BITS.into(), body: None });
    }
}

#[test]
fn a_repeated_ephemeral_key_is_garbage_until_its_envelope_key_is_erased() {
    let mut stores = Stores::new(7);
    let replicas = [StoreIndex(1), StoreIndex(2)];
    let get = Operation::Get { id: BoxId::from_bytes([9; 32]) };
    let (envelope, opener) = stores.seal(&get, replicas);
    let ask = |stores: &mut Stores| {
        let task = stores.ask(replicas[0], &envelope, &NO_RECEIPT);
        let sealed = stores.answer(replicas[0]);
        (task.is_some(), read(&opener, &sealed)[0].is_some())
    };
    assert_eq!(ask(&mut stores), (true, true));
    assert_eq!(ask(&mut stores), (false, false));
    assert_eq!(stores.drops.of(DropReason::RepeatedEnvelope), 1);
    // what was seen goes with its key only
    stores.seen.clear();
    assert_eq!(ask(&mut stores), (true, true));
}

#[test]
fn a_full_memory_refuses_and_forgets_nothing() {
    let mut stores = Stores::new(13);
    stores.seen_max = 1;
    let store = StoreIndex(1);
    let get = Operation::Get { id: BoxId::from_bytes([9; 32]) };
    let [first, second] = [0, 1].map(|_| stores.seal(&get, [store, StoreIndex(2)]).0);
    assert!(stores.ask(store, &first, &NO_RECEIPT).is_some());
    assert!(stores.ask(store, &second, &NO_RECEIPT).is_none());
    assert!(stores.ask(store, &first, &NO_RECEIPT).is_none());
    assert_eq!(stores.drops.of(DropReason::ReplaySetFull), 1);
    assert_eq!(stores.drops.of(DropReason::RepeatedEnvelope), 1);
}

#[test]
fn grace_and_next_keys_open_too() {
    let mut stores = Stores::new(8);
    let replicas = [StoreIndex(1), StoreIndex(2)];
    let others = [keys(EPOCH.minus(1), &mut stores.rng), keys(EPOCH.plus(1), &mut stores.rng)];
    let stranger = keys(EPOCH.plus(2), &mut stores.rng);
    stores.replicas.get_mut(&replicas[0]).expect("there").1.extend(others.iter().cloned());
    let get = Operation::Get { id: BoxId::from_bytes([9; 32]) };
    let second = (replicas[1], envelope_key(&stores.replicas[&replicas[1]].1[0]));
    for (used, opens) in [(&others[0], true), (&others[1], true), (&stranger, false)] {
        let (envelope, _) = seal_envelope(&get, [(replicas[0], envelope_key(used)), second], &mut stores.rng);
        assert_eq!(stores.ask(replicas[0], &envelope, &NO_RECEIPT).is_some(), opens);
        stores.answer(replicas[0]);
    }
}

#[test]
fn the_second_replica_takes_an_ordered_write_only_with_the_first_ones_receipt() {
    let mut stores = Stores::new(9);
    let Written { id, body, signature } = write(&mut stores.rng);
    let operation = Operation::PutOrdered { id, signature, body: body.clone() };
    let replicas = boxes::placement(&stores.generation, &id).expect("three stores");
    let [first, second] = replicas;
    let put = Task::Write(Write::Put { id, body: body.clone() });

    // the first decides; its receipt makes the second follow
    let (envelope, _) = stores.seal(&operation, replicas);
    let (job, task) = stores.ask(first, &envelope, &NO_RECEIPT).expect("a task");
    assert_eq!(task, put);
    stores.outcome(first, job, STORED);
    let receipt = stores.answer(first).receipt;
    let (_, task) = stores.ask(second, &envelope, &receipt).expect("a task");
    assert_eq!(task, put);
    stores.answer(second);

    // without one the second only says what it holds
    let confirm = Some(Task::Write(Write::Confirm { id, body }));
    for outcome in [Outcome::Written(crate::engine::Written::Taken), Outcome::Failed] {
        let (envelope, _) = stores.seal(&operation, replicas);
        let (job, _) = stores.ask(first, &envelope, &NO_RECEIPT).expect("a task");
        stores.outcome(first, job, outcome);
        let receipt = stores.answer(first).receipt;
        assert_eq!(stores.ask(second, &envelope, &receipt).map(|(_, task)| task), confirm);
        stores.answer(second);
    }
    let (envelope, _) = stores.seal(&operation, replicas);
    assert_eq!(stores.ask(second, &envelope, &NO_RECEIPT).map(|(_, task)| task), confirm);
    stores.answer(second);

    // a receipt of another envelope does not open, so it is none
    let (other, _) = stores.seal(&operation, replicas);
    assert_eq!(stores.ask(second, &other, &receipt).map(|(_, task)| task), confirm);
    stores.answer(second);
}

#[test]
fn a_receipt_signed_by_anybody_else_is_refused() {
    let mut stores = Stores::new(10);
    let Written { id, body, signature } = write(&mut stores.rng);
    let operation = Operation::PutOrdered { id, signature, body };
    let replicas = boxes::placement(&stores.generation, &id).expect("three stores");
    let [first, second] = replicas;
    let (envelope, opener) = stores.seal(&operation, replicas);
    // a first replica that has lost its identity key to nobody signs with a key of its own making
    let forger = Arc::new(IdentityKey::generate(&mut stores.rng));
    stores.replicas.get_mut(&first).expect("there").0.identity = forger;
    let (job, _) = stores.ask(first, &envelope, &NO_RECEIPT).expect("a task");
    stores.outcome(first, job, STORED);
    let receipt = stores.answer(first).receipt;
    assert!(stores.ask(second, &envelope, &receipt).is_none());
    let sealed = stores.answer(second);
    assert_eq!(read(&opener, &sealed)[1], Some(Answer::plain(Status::Refused)));
}

#[test]
fn an_ordered_write_in_the_wrong_order_is_refused() {
    let mut stores = Stores::new(11);
    let Written { id, body, signature } = write(&mut stores.rng);
    let operation = Operation::PutOrdered { id, signature, body };
    let [first, second] = boxes::placement(&stores.generation, &id).expect("three stores");
    let answer = stores.whole(second, &operation, [second, first], STORED);
    assert_eq!(answer, Answer::plain(Status::Refused), "the second would decide, against the first");
}

#[test]
fn two_writers_race_and_both_replicas_end_with_one_body() {
    // two bodies, every order in which the four writes can arrive
    for order in 0..16u32 {
        let mut stores = Stores::new(100 + u64::from(order));
        let (key, chain) = (WriteKey::generate(&mut stores.rng), ChainSecret::from_bytes([3; 32]));
        let id = boxes::id(&key.public(), &chain, 0);
        let replicas = boxes::placement(&stores.generation, &id).expect("three stores");
        let mut held: [Option<BoxBody>; 2] = [None, None];
        let mut writers: Vec<(Envelope, [u8; RECEIPT_SIZE], usize)> = (0..2)
            .map(|_| {
                let body = BoxBody::random(&mut stores.rng);
                let signature = boxes::sign(&key, &chain, 0, &body);
                let (envelope, _) = stores.seal(&Operation::PutOrdered { id, signature, body }, replicas);
                (envelope, NO_RECEIPT, 0)
            })
            .collect();
        // which of the two writers goes next, four times; each asks the first replica, then the second
        for step in 0..4 {
            let preferred = usize::from(order >> step & 1 == 1);
            let turn = if writers[preferred].2 < 2 { preferred } else { 1 - preferred };
            let (envelope, receipt, position) = writers[turn].clone();
            let store = replicas[position];
            let (job, task) = stores.ask(store, &envelope, &receipt).expect("a task");
            let slot = &mut held[position];
            let outcome =
                match (&task, &slot) {
                    (Task::Write(Write::Put { body, .. }), None) => {
                        *slot = Some(body.clone());
                        crate::engine::Written::Stored
                    }
                    (Task::Write(Write::Put { body, .. } | Write::Confirm { body, .. }), Some(held)) => {
                        if held == body { crate::engine::Written::Stored } else { crate::engine::Written::Taken }
                    }
                    (Task::Write(Write::Confirm { .. }), None) => crate::engine::Written::Absent,
                    _ => panic!("an unexpected task"),
                };
            stores.outcome(store, job, Outcome::Written(outcome));
            writers[turn] = (envelope, stores.answer(store).receipt, position + 1);
        }
        assert!(held[0].is_some());
        assert_eq!(held[0], held[1], "order {order}");
    }
}

#[test]
fn the_table_is_bounded() {
    let mut stores = Stores::new(12);
    let mut bytes = [0; ENVELOPE_SIZE];
    stores.rng.fill_bytes(&mut bytes);
    let garbage = Envelope::from_slice(&bytes).expect("the right length");
    let store = StoreIndex(1);
    for _ in 0..=WAITING_MAX {
        stores.ask(store, &garbage, &NO_RECEIPT);
    }
    assert_eq!(stores.drops.of(DropReason::StoreQueueFull), 1);
    let replica = &mut stores.replicas.get_mut(&store).expect("there").0;
    assert_eq!(replica.on_time(NOW + ANSWER, &mut stores.rng).len(), WAITING_MAX);
}
