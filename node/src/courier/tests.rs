use super::*;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::X25519Secret;
use shoal_protocol::boxes::{BoxBody, BoxId};
use shoal_protocol::geometry::{ENVELOPE_SIZE, FULL_ANSWER_SIZE, PLAINTEXT_SIZE, REPLY_SIZE};
use shoal_protocol::request::{Operation, pack_request, seal_envelope};
use shoal_protocol::sphinx::{Hop, Unwrapped, open_header};
use shoal_protocol::surb::{self, Recovery};
use shoal_protocol::types::Epoch;

const SERVICE: Duration = Duration::from_millis(250);
const HALF: Duration = Duration::from_millis(125);
const ME: StoreIndex = StoreIndex(9);
const A: StoreIndex = StoreIndex(1);
const B: StoreIndex = StoreIndex(2);
const START: Duration = Duration::from_secs(77);

fn courier() -> Courier {
    let mut courier = Courier::new(ME, SERVICE, Arc::new(Drops::default()));
    courier.set_network(ME, [A, B, ME, StoreIndex(3)].into(), SERVICE);
    courier
}

/// A client's SURB and what it takes to read the reply.
fn client(rng: &mut StdRng) -> (Surb, Recovery, Vec<X25519Secret>) {
    let keys: Vec<X25519Secret> = (0..5).map(|_| X25519Secret::generate(rng)).collect();
    let hops: Vec<Hop> = keys
        .iter()
        .zip(1u8..)
        .map(|(key, i)| Hop { address: [i; 32], key: key.public(), delay: Duration::from_millis(1) })
        .collect();
    let (surb, recovery) = surb::build(&hops, [7; 16], rng).expect("a route of five");
    (surb, recovery, keys)
}

fn envelope(replicas: [StoreIndex; 2], operation: &Operation, rng: &mut StdRng) -> Envelope {
    let keys = replicas.map(|index| (index, X25519Secret::generate(rng).public()));
    seal_envelope(operation, keys, rng).0
}

fn garbage(replicas: [StoreIndex; 2], rng: &mut StdRng) -> Envelope {
    let mut bytes = [0; ENVELOPE_SIZE];
    rng.fill_bytes(&mut bytes);
    for (to, index) in bytes.chunks_mut(2).zip(replicas) {
        to.copy_from_slice(&index.0.to_be_bytes());
    }
    Envelope::from_slice(&bytes).expect("the right length")
}

fn request(surb: &Surb, envelope: &Envelope) -> Vec<u8> {
    let mut plaintext = pack_request(surb, envelope);
    plaintext.resize(PLAINTEXT_SIZE, 0);
    plaintext
}

fn operations(rng: &mut StdRng) -> Vec<Operation> {
    let (id, body) = (BoxId::from_bytes([3; 32]), BoxBody::random(rng));
    vec![
        Operation::Put { id, signature: [1; 64], body: body.clone() },
        Operation::PutOrdered { id, signature: [1; 64], body: body.clone() },
        Operation::Get { id },
        Operation::Append { id, nonce: [2; 64], body },
        Operation::Read { id, signature: [1; 64], after: 5, epoch: Epoch(3) },
    ]
}

/// What an observer of the courier's links could time.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Asked(StoreIndex),
    Replied { first_hop: [u8; 32], packet: Packet },
}

/// Sends one request and lets the replicas answer after the given times; `None`: never.
fn play(
    courier: &mut Courier,
    plaintext: &[u8],
    delays: [(StoreIndex, Option<Duration>); 2],
    rng: &mut StdRng,
) -> Vec<(Duration, Seen)> {
    let mut seen = Vec::new();
    let mut answers: BTreeMap<(Duration, u64), StoreIndex> = BTreeMap::new();
    let mut now = START;
    let mut actions: Vec<Action> = courier.on_request(now, plaintext, rng).into_iter().collect();
    loop {
        for action in actions.drain(..) {
            match action {
                Action::Ask { store, ticket, .. } => {
                    seen.push((now - START, Seen::Asked(store)));
                    let delay = delays.iter().find_map(|(index, delay)| (*index == store).then_some(*delay)).flatten();
                    if let Some(delay) = delay {
                        answers.insert((now + delay, ticket), store);
                    }
                }
                Action::Reply { first_hop, packet } => {
                    seen.push((now - START, Seen::Replied { first_hop, packet }));
                }
            }
        }
        let answer = answers.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = [answer, courier.next_timeout()].into_iter().flatten().min() else { return seen };
        now = next;
        if answer == Some(now)
            && let Some(((_, ticket), store)) = answers.pop_first()
        {
            actions.extend(courier.on_answer(store, ticket, SealedAnswer::random(rng), rng));
        } else {
            actions.extend(courier.on_time(now, rng));
        }
    }
}

/// Times and addressees without the bytes.
fn shape(seen: &[(Duration, Seen)]) -> Vec<(Duration, Option<StoreIndex>)> {
    seen.iter()
        .map(|(at, what)| match what {
            Seen::Asked(store) => (*at, Some(*store)),
            Seen::Replied { .. } => (*at, None),
        })
        .collect()
}

const ANSWER: Duration = Duration::from_millis(23);

#[test]
fn every_operation_and_garbage_leave_the_same_trace() {
    let mut rng = StdRng::seed_from_u64(1);
    let (surb, _, _) = client(&mut rng);
    let mut envelopes: Vec<Envelope> =
        operations(&mut rng).iter().map(|operation| envelope([A, B], operation, &mut rng)).collect();
    envelopes.push(garbage([A, B], &mut rng));
    for envelope in envelopes {
        let delays = [(A, Some(ANSWER)), (B, Some(ANSWER))];
        let seen = play(&mut courier(), &request(&surb, &envelope), delays, &mut rng);
        assert_eq!(
            shape(&seen),
            [(Duration::ZERO, Some(A)), (ANSWER, Some(B)), (SERVICE, None)],
            "asked, asked on the answer, replied after the service time"
        );
    }
}

#[test]
fn absent_replicas_change_nothing_but_when_the_second_is_asked() {
    let mut rng = StdRng::seed_from_u64(2);
    let (surb, _, _) = client(&mut rng);
    let envelope = garbage([A, B], &mut rng);
    let plaintext = request(&surb, &envelope);
    let mut shapes = |first, second| shape(&play(&mut courier(), &plaintext, [(A, first), (B, second)], &mut rng));
    let on_timeout = [(Duration::ZERO, Some(A)), (HALF, Some(B)), (SERVICE, None)];
    assert_eq!(shapes(None, Some(ANSWER)), on_timeout);
    assert_eq!(shapes(None, None), on_timeout);
    assert_eq!(shapes(Some(HALF + ANSWER), None), on_timeout, "an answer after its time does not ask again");
    assert_eq!(shapes(Some(ANSWER), None), [(Duration::ZERO, Some(A)), (ANSWER, Some(B)), (SERVICE, None)]);
}

#[test]
fn replicas_that_cannot_be_asked_do_not_answer() {
    let mut rng = StdRng::seed_from_u64(3);
    let (surb, _, _) = client(&mut rng);
    let delays = [(A, Some(ANSWER)), (ME, Some(ANSWER))];
    let unknown = StoreIndex(444);
    for (replicas, expected) in [
        ([ME, A], vec![(HALF, Some(A)), (SERVICE, None)]),
        ([A, ME], vec![(Duration::ZERO, Some(A)), (SERVICE, None)]),
        ([unknown, A], vec![(HALF, Some(A)), (SERVICE, None)]),
        ([A, unknown], vec![(Duration::ZERO, Some(A)), (SERVICE, None)]),
        ([A, A], vec![(SERVICE, None)]),
        ([ME, ME], vec![(SERVICE, None)]),
        ([unknown, unknown], vec![(SERVICE, None)]),
    ] {
        let plaintext = request(&surb, &garbage(replicas, &mut rng));
        assert_eq!(shape(&play(&mut courier(), &plaintext, delays, &mut rng)), expected, "{replicas:?}");
    }
}

#[test]
fn the_first_receipt_is_passed_on_and_both_answers_reach_the_client() {
    let mut rng = StdRng::seed_from_u64(4);
    for first_answers in [true, false] {
        let (surb, recovery, keys) = client(&mut rng);
        let envelope = garbage([A, B], &mut rng);
        let mut courier = courier();
        let Some(Action::Ask { ticket: for_a, envelope: asked, .. }) =
            courier.on_request(START, &request(&surb, &envelope), &mut rng)
        else {
            panic!("the first replica is asked at once");
        };
        assert_eq!(asked, envelope);
        let (from_a, from_b) = (SealedAnswer::random(&mut rng), SealedAnswer::random(&mut rng));
        let action = if first_answers {
            courier.on_answer(A, for_a, from_a.clone(), &mut rng)
        } else {
            courier.on_time(START + HALF, &mut rng).pop()
        };
        let Some(Action::Ask { store: B, ticket: for_b, receipt, .. }) = action else {
            panic!("then the second");
        };
        assert_eq!(receipt == from_a.receipt, first_answers);
        assert!(courier.on_answer(B, for_b, from_b.clone(), &mut rng).is_none());
        assert!(courier.on_time(START + SERVICE - Duration::from_nanos(1), &mut rng).is_empty());
        let Some(Action::Reply { first_hop, mut packet }) = courier.on_time(START + SERVICE, &mut rng).pop() else {
            panic!("the reply goes");
        };
        assert_eq!(first_hop, [1; 32]);
        assert_eq!((courier.pending(), courier.next_timeout()), (0, None));
        let mut payload = None;
        for key in &keys {
            match open_header(&packet, key).expect("ours").finish().expect("intact") {
                Unwrapped::Forward { packet: on, .. } => packet = on,
                Unwrapped::Final { payload: last, .. } => {
                    payload = Some(last);
                    break;
                }
            }
        }
        let reply = recovery.open(payload.expect("five hops")).expect("intact");
        let (full, short) = reply[..REPLY_SIZE].split_at(FULL_ANSWER_SIZE);
        if first_answers {
            assert_eq!((full, short), (from_a.full.as_slice(), from_b.short.as_slice()));
        } else {
            assert_eq!(full, from_b.full.as_slice());
            assert_ne!(short, from_a.short.as_slice(), "random bytes stand for the absent answer");
        }
    }
}

#[test]
fn what_is_no_request_is_counted_and_met_with_silence() {
    let mut rng = StdRng::seed_from_u64(5);
    let mut courier = courier();
    let mut spare = vec![0; PLAINTEXT_SIZE];
    *spare.last_mut().expect("not empty") = 1;
    for plaintext in [vec![], vec![0; 100], spare] {
        assert!(courier.on_request(START, &plaintext, &mut rng).is_none());
        assert_eq!(courier.next_timeout(), None);
    }
    assert_eq!(courier.drops.of(DropReason::MalformedRequest), 3);
}

#[test]
fn answers_that_nobody_asked_for_are_counted_and_forgotten() {
    let mut rng = StdRng::seed_from_u64(6);
    let (surb, _, _) = client(&mut rng);
    let mut courier = courier();
    let plaintext = request(&surb, &garbage([A, B], &mut rng));
    let Some(Action::Ask { ticket, .. }) = courier.on_request(START, &plaintext, &mut rng) else {
        panic!("asked");
    };
    let mut late = |courier: &mut Courier, from, ticket| {
        let before = courier.drops.of(DropReason::LateAnswer);
        let answer = SealedAnswer::random(&mut rng);
        assert!(courier.on_answer(from, ticket, answer, &mut rng).is_none());
        courier.drops.of(DropReason::LateAnswer) - before
    };
    assert_eq!(late(&mut courier, A, ticket.wrapping_add(1)), 1, "no such ticket");
    assert_eq!(late(&mut courier, B, ticket), 1, "another store's ticket");
    let mut rng = StdRng::seed_from_u64(7);
    assert!(courier.on_answer(A, ticket, SealedAnswer::random(&mut rng), &mut rng).is_some());
    let mut late = |from, ticket| {
        assert!(courier.on_answer(from, ticket, SealedAnswer::random(&mut rng), &mut rng).is_none());
    };
    late(A, ticket);
    assert_eq!(courier.drops.of(DropReason::LateAnswer), 3, "answered twice");
    let mut rng = StdRng::seed_from_u64(8);
    assert_eq!(courier.on_time(START + SERVICE, &mut rng).len(), 1);
    assert!(courier.tickets.is_empty());
}

#[test]
fn the_table_is_bounded_and_empties() {
    let mut rng = StdRng::seed_from_u64(9);
    let (surb, _, _) = client(&mut rng);
    let mut courier = courier();
    let plaintext = request(&surb, &garbage([A, B], &mut rng));
    for _ in 0..PENDING_MAX {
        assert!(courier.on_request(START, &plaintext, &mut rng).is_some());
    }
    assert!(courier.on_request(START, &plaintext, &mut rng).is_none());
    assert_eq!(courier.drops.of(DropReason::CourierQueueFull), 1);
    assert_eq!(courier.on_time(START + HALF, &mut rng).len(), PENDING_MAX);
    // replies cost a packet each: forget most of them
    let kept: Vec<u64> = courier.pending.keys().copied().take(3).collect();
    courier.pending.retain(|number, _| kept.contains(number));
    assert_eq!(courier.on_time(START + SERVICE, &mut rng).len(), 3);
    assert_eq!((courier.pending(), courier.next_timeout()), (0, None));
}

#[test]
fn a_new_service_time_holds_for_new_requests_only() {
    let mut rng = StdRng::seed_from_u64(10);
    let (surb, _, _) = client(&mut rng);
    let mut courier = courier();
    let plaintext = request(&surb, &garbage([A, B], &mut rng));
    courier.on_request(START, &plaintext, &mut rng);
    courier.set_network(ME, [A, B].into(), SERVICE * 10);
    courier.on_request(START, &plaintext, &mut rng);
    assert_eq!(courier.on_time(START + SERVICE, &mut rng).len(), 2, "one asks its second replica, one is replied to");
    assert_eq!(courier.pending(), 1);
    assert_eq!(courier.next_timeout(), Some(START + SERVICE * 5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes when: each request has one reply, at its arrival plus the service time, and asks each replica at
    /// most once.
    #[test]
    fn one_reply_each_at_its_time(
        seed in any::<u64>(),
        steps in prop::collection::vec((0u8..4, 0u64..200), 1..60),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (surb, _, _) = client(&mut rng);
        let mut courier = courier();
        let mut now = START;
        let mut due: Vec<Duration> = Vec::new();
        let mut replies = 0;
        let mut asked: Vec<(StoreIndex, u64)> = Vec::new();
        let mut asks = 0;
        let note = |actions: Vec<Action>, asked: &mut Vec<(StoreIndex, u64)>, asks: &mut usize| {
            let mut replies = 0;
            for action in actions {
                match action {
                    Action::Ask { store, ticket, .. } => {
                        asked.push((store, ticket));
                        *asks += 1;
                    }
                    Action::Reply { .. } => replies += 1,
                }
            }
            replies
        };
        for (kind, value) in steps {
            // time passes; every timeout on the way is met exactly
            let until = now + Duration::from_millis(value);
            while let Some(at) = courier.next_timeout().filter(|at| *at <= until) {
                let actions = courier.on_time(at, &mut rng);
                let sent = note(actions, &mut asked, &mut asks);
                for _ in 0..sent {
                    prop_assert_eq!(due.first().copied(), Some(at));
                    due.remove(0);
                }
                replies += sent;
            }
            now = until;
            let mut actions = Vec::new();
            match kind {
                0 => {
                    let replicas = [StoreIndex((value % 4) as u16), StoreIndex((value / 4 % 4) as u16)];
                    let plaintext = request(&surb, &garbage(replicas, &mut rng));
                    actions.extend(courier.on_request(now, &plaintext, &mut rng));
                    due.push(now + SERVICE);
                }
                1 if !asked.is_empty() => {
                    let (store, ticket) = asked.swap_remove(value as usize % asked.len());
                    actions.extend(courier.on_answer(store, ticket, SealedAnswer::random(&mut rng), &mut rng));
                }
                _ => {
                    let answer = SealedAnswer::random(&mut rng);
                    actions.extend(courier.on_answer(A, value, answer, &mut rng));
                }
            }
            prop_assert_eq!(note(actions, &mut asked, &mut asks), 0, "replies go by time alone");
        }
        while let Some(at) = courier.next_timeout() {
            let actions = courier.on_time(at, &mut rng);
            let sent = note(actions, &mut asked, &mut asks);
            due.drain(..sent);
            replies += sent;
        }
        prop_assert!(due.is_empty());
        prop_assert!(asks <= 2 * replies);
        prop_assert!(courier.tickets.is_empty() && courier.pending.is_empty());
    }
}
