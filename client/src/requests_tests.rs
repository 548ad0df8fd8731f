use super::*;
use crate::testing::{EPOCH, START, Secrets, consensus};
use crate::want::Rank;
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::boxes::{BoxBody, BoxId, ChainSecret, WriteKey};
use shoal_protocol::request::{Answer, SealedAnswer, Status};

struct Bench {
    consensus: Consensus,
    secrets: Secrets,
    gateway: Identity,
    session: Session,
    requests: Requests,
    rng: StdRng,
}

impl Bench {
    fn new() -> Self {
        let (consensus, secrets) = consensus(2, 3, 4);
        let mut rng = StdRng::seed_from_u64(9);
        let gateway = consensus.gateways().next().unwrap().identity;
        let session = Session::new(&mut rng);
        Self { consensus, secrets, gateway, session, requests: Requests::default(), rng }
    }

    fn make(&mut self, ask: Ask, departs: Duration) -> Result<Packet, UnbuildableRequest> {
        let (consensus, gateway) = (&self.consensus, &self.gateway);
        let around = Surroundings { consensus, epoch: EPOCH, gateway, now: START };
        self.requests.make(ask, around, &mut self.session, departs, &mut self.rng)
    }

    fn want(&mut self) -> Want {
        let writer = WriteKey::generate(&mut self.rng);
        let chain = ChainSecret::from_bytes([4; 32]);
        let body = BoxBody::random(&mut self.rng);
        let id = boxes::id(&writer.public(), &chain, 0);
        let signature = boxes::sign(&writer, &chain, 0, &body);
        Want {
            ticket: Ticket(7),
            rank: Rank::Send,
            generation: 2,
            replicas: [StoreIndex(3), StoreIndex(1)],
            operation: Operation::Put { id, signature, body },
        }
    }

    /// Carries a packet over all its hops; gives the last one's address and what it opened.
    fn carry(&self, mut packet: Packet, first: [u8; 32]) -> ([u8; 32], sphinx::Payload, Vec<[u8; 32]>) {
        let (mut at, mut way) = (first, Vec::new());
        loop {
            way.push(at);
            let key = &self.secrets[&at].0;
            match sphinx::open_header(&packet, key).unwrap().finish().unwrap() {
                Unwrapped::Forward { next, packet: on, .. } => (at, packet) = (next, on),
                Unwrapped::Final { payload, .. } => return (at, payload, way),
            }
        }
    }

    /// Carries a request to its courier and brings back the reply as it comes down the link.
    fn answer(&mut self, packet: Packet, status: Status) -> (Packet, BoxId, [StoreIndex; 2]) {
        let (_, payload, way) = self.carry(packet, *self.gateway.as_bytes());
        assert_eq!(way.len(), 5);
        let (surb, envelope) = request::parse_request(&payload.open().unwrap()).unwrap();
        let replicas = envelope.replicas();
        let sealed: Vec<(BoxId, SealedAnswer)> = replicas
            .iter()
            .map(|index| {
                let identity = self.consensus.store(*index).unwrap().identity;
                let open = envelope.open(*index, &self.secrets[identity.as_bytes()].1).unwrap();
                let id = *open.operation.as_ref().unwrap().id();
                (id, open.seal_answer(&Answer::plain(status), None, &mut self.rng))
            })
            .collect();
        let reply = request::pack_reply(&sealed[0].1.full, &sealed[1].1.short);
        let (first, packet) = surb.reply(&reply).unwrap();
        let mut at = first;
        let mut packet = packet;
        // L1, L2, L3, gateway; what is left is for the session
        for _ in 0..4 {
            match sphinx::open_header(&packet, &self.secrets[&at].0).unwrap().finish().unwrap() {
                Unwrapped::Forward { next, packet: on, .. } => (at, packet) = (next, on),
                Unwrapped::Final { .. } => panic!("the reply ended at a node"),
            }
        }
        assert_eq!(at, *self.session.address().as_bytes());
        (packet, sealed[0].0, replicas)
    }
}

#[test]
fn a_want_goes_out_and_its_answers_come_back_once() {
    let mut bench = Bench::new();
    let want = bench.want();
    let id = *want.operation.id();
    let packet = bench.make(Ask::Want(want), Duration::ZERO).unwrap();
    let (reply, seen, replicas) = bench.answer(packet, Status::Stored);
    assert_eq!(seen, id);
    let ended = bench.requests.reply(&reply, &bench.session, Duration::from_secs(1)).unwrap();
    let Ended::Want { ticket, answers: Some(answers) } = ended else { panic!("{ended:?}") };
    assert_eq!((ticket, answers.replicas), (Ticket(7), replicas));
    assert!(answers.by_replica.iter().all(|answer| answer.as_ref().unwrap().status == Status::Stored));
    // the same reply again: its SURB is used up
    assert!(bench.requests.reply(&reply, &bench.session, Duration::from_secs(1)).is_none());
    assert_eq!(bench.requests.awaited(), 0);
}

#[test]
fn what_is_late_is_ignored_and_its_owner_was_told() {
    let mut bench = Bench::new();
    let want = bench.want();
    let packet = bench.make(Ask::Want(want), Duration::ZERO).unwrap();
    let (reply, ..) = bench.answer(packet, Status::Stored);
    let deadline = bench.requests.next_deadline().unwrap();
    assert!(deadline > MARGIN + Duration::from_millis(bench.consensus.parameters.service_ms));
    assert!(bench.requests.expire(deadline - Duration::from_nanos(1)).is_none());
    let ended = bench.requests.expire(deadline).unwrap();
    assert!(matches!(ended, Ended::Want { ticket: Ticket(7), answers: None }), "{ended:?}");
    assert!(bench.requests.expire(deadline).is_none());
    assert!(bench.requests.reply(&reply, &bench.session, deadline).is_none());
}

#[test]
fn a_loop_measures_its_round_trip() {
    let mut bench = Bench::new();
    let packet = bench.make(Ask::Loop, Duration::from_secs(10)).unwrap();
    let (reply, ..) = bench.answer(packet, Status::Empty);
    let ended = bench.requests.reply(&reply, &bench.session, Duration::from_secs(13)).unwrap();
    let Ended::Loop { fate, nodes } = ended else { panic!("{ended:?}") };
    assert_eq!(fate, LoopFate::Returned(Duration::from_secs(3)));
    assert!(nodes.is_empty(), "a person's client remembers no route");
}

#[test]
fn a_prober_remembers_the_way() {
    let mut bench = Bench::new();
    bench.requests = Requests::prober();
    bench.make(Ask::Decoy, Duration::ZERO).unwrap();
    let deadline = bench.requests.next_deadline().unwrap();
    let Some(Ended::Loop { fate: LoopFate::Lost, nodes }) = bench.requests.expire(deadline) else { panic!() };
    assert_eq!(nodes.len(), 9);
    assert_eq!((nodes[0], nodes[8]), (bench.gateway, bench.gateway));
    assert!(nodes.iter().all(|node| bench.consensus.node(node).is_some()));
}

#[test]
fn damaged_replies_use_their_surb_up() {
    let mut bench = Bench::new();
    let want = bench.want();
    let packet = bench.make(Ask::Want(want), Duration::ZERO).unwrap();
    let (reply, ..) = bench.answer(packet, Status::Stored);
    let mut bytes = reply.into_array();
    bytes[2_000] ^= 1;
    let damaged = Packet::from_array(bytes);
    let ended = bench.requests.reply(&damaged, &bench.session, Duration::ZERO).unwrap();
    assert!(matches!(ended, Ended::Want { answers: None, .. }), "{ended:?}");
    // a damaged header belongs to nothing
    let mut header = damaged.into_array();
    header[0] ^= 1;
    assert!(bench.requests.reply(&Packet::from_array(header), &bench.session, Duration::ZERO).is_none());
}

#[test]
fn wants_keep_the_order_of_their_replicas_and_decoys_draw_theirs() {
    let mut bench = Bench::new();
    let mut swapped = 0;
    for _ in 0..40 {
        let want = bench.want();
        let packet = bench.make(Ask::Want(want), Duration::ZERO).unwrap();
        assert_eq!(bench.answer(packet, Status::Stored).2, [StoreIndex(3), StoreIndex(1)]);
        let packet = bench.make(Ask::Decoy, Duration::ZERO).unwrap();
        let (_, id, replicas) = bench.answer(packet, Status::Empty);
        let placed = boxes::placement(bench.consensus.generation(2).unwrap(), &id).unwrap();
        swapped += usize::from(replicas != placed);
        assert!(replicas == placed || replicas == [placed[1], placed[0]]);
    }
    assert!((8..=32).contains(&swapped), "{swapped}");
}

#[test]
fn a_broken_link_ends_everything_at_once() {
    let mut bench = Bench::new();
    let want = bench.want();
    bench.make(Ask::Want(want), Duration::ZERO).unwrap();
    bench.make(Ask::Loop, Duration::ZERO).unwrap();
    bench.make(Ask::Decoy, Duration::ZERO).unwrap();
    let ended: Vec<Ended> = std::iter::from_fn(|| bench.requests.cut(LoopFate::Void)).collect();
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().any(|ended| matches!(ended, Ended::Loop { fate: LoopFate::Void, .. })));
    assert!(ended.iter().any(|ended| matches!(ended, Ended::Want { answers: None, .. })));
    assert_eq!(bench.requests.next_deadline(), None);
}

/// Seen by the courier it is a request like any other, and a request leaves in every tick, whoever is gone.
#[test]
fn a_replica_that_has_left_costs_its_own_answer_and_nothing_else() {
    let mut bench = Bench::new();
    let (gone, here) = (StoreIndex(77), StoreIndex(1));
    let want = Want { replicas: [gone, here], ..bench.want() };
    let id = *want.operation.id();
    let packet = bench.make(Ask::Want(want), Duration::ZERO).unwrap();
    let (_, payload, _) = bench.carry(packet, *bench.gateway.as_bytes());
    let (_, envelope) = request::parse_request(&payload.open().unwrap()).unwrap();
    assert_eq!(envelope.replicas(), [gone, here]);
    let identity = bench.consensus.store(here).unwrap().identity;
    let key = &bench.secrets[identity.as_bytes()].1;
    assert_eq!(envelope.open(here, key).unwrap().operation.unwrap().id(), &id);
    for (_, key) in bench.secrets.values() {
        assert!(envelope.open(gone, key).is_err());
    }
}

/// Of three stores one has left: for the boxes of the other two there is no third one to carry, and a pretended chain that
/// came to such a box stood there for good, until every loop counted as lost and the client paused.
#[test]
fn with_two_of_three_stores_every_tick_has_its_packet() {
    let mut bench = Bench::new();
    let stores: Vec<StoreIndex> = bench.consensus.stores().filter_map(|node| node.store_index).collect();
    let [left, here, there] = stores[..3] else { panic!("{stores:?}") };
    bench.consensus.nodes.retain(|node| node.store_index.is_none_or(|index| index == here || index == there));
    for generation in &mut bench.consensus.generations {
        generation.stores = vec![left, here, there];
    }
    let mut alone = 0;
    for _ in 0..200 {
        let packet = bench.make(Ask::Decoy, Duration::ZERO).unwrap();
        let (courier, payload, _) = bench.carry(packet, *bench.gateway.as_bytes());
        let (_, envelope) = request::parse_request(&payload.open().unwrap()).unwrap();
        let courier = bench.consensus.nodes.iter().find(|node| *node.identity.as_bytes() == courier).unwrap();
        let named = envelope.replicas();
        assert!(!named.contains(&courier.store_index.unwrap()), "the courier is no replica: {named:?}");
        alone += usize::from(named[1] == left);
    }
    assert!(alone > 0, "boxes of the two that are left are asked for too");
    // a want for such a box is asked of its first replica, by way of the second
    for [first, second] in [[here, there], [there, here]] {
        let want = Want { replicas: [first, second], ..bench.want() };
        let packet = bench.make(Ask::Want(want), Duration::ZERO).unwrap();
        let (courier, payload, _) = bench.carry(packet, *bench.gateway.as_bytes());
        assert_eq!(courier, *bench.consensus.store(second).unwrap().identity.as_bytes());
        let (_, envelope) = request::parse_request(&payload.open().unwrap()).unwrap();
        assert_eq!(envelope.replicas(), [first, left]);
        let asked = bench.consensus.store(first).unwrap().identity;
        assert!(envelope.open(first, &bench.secrets[asked.as_bytes()].1).unwrap().operation.is_ok());
    }
}

#[test]
fn an_epoch_without_keys_is_refused_without_a_trace() {
    let mut bench = Bench::new();
    let (consensus, gateway) = (&bench.consensus, &bench.gateway);
    let around = Surroundings { consensus, epoch: EPOCH.plus(1), gateway, now: START };
    let made = bench.requests.make(Ask::Decoy, around, &mut bench.session, Duration::ZERO, &mut bench.rng);
    assert!(matches!(made, Err(UnbuildableRequest::Route(_))));
    assert_eq!(bench.requests.awaited(), 0);
}
