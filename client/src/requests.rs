//! From a want (or nothing) to a packet, and from a packet back to answers.
//!
//! Real or decoy, a request is made by the same steps: a box id → its two replicas (placement by generation) → an
//! envelope sealed to them → a SURB → a packet to a courier drawn at random. Only the id differs. Every retry is a new
//! envelope, a new SURB and a new route; the room above decides when, inside its schedule.

use std::time::Duration;

use rand::{CryptoRng, RngExt as _};
use shoal_protocol::boxes;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::request::{self, AnswerOpener, Answers, Operation};
use shoal_protocol::route::{self, RouteError};
use shoal_protocol::sphinx::{self, BuildError, Hop, Packet, Unwrapped};
use shoal_protocol::surb::{self, Recovery};
use shoal_protocol::{Epoch, Identity, StoreIndex, UnixMillis};

use crate::decoys::{DecoyChains, Pretended};
use crate::session::{Session, SurbIdentifier, SurbTable};
use crate::want::{Ticket, Want};

/// What a reply may be late by, beyond its sampled delays and the service time: ten links, queues of busy nodes, a
/// gateway that is reconnecting. Waiting longer costs nothing but the time until a lost request is asked again.
const MARGIN: Duration = Duration::from_secs(2);

/// What a request is for.
#[derive(Debug)]
pub enum Ask {
    /// Something that is wanted.
    Want(Want),
    /// Nothing: the payload clock ticked and nothing was wanted.
    Decoy,
    /// Nothing, and it is measured whether and when the reply comes.
    Loop,
}

/// Where and when a request is made. Routes, keys and parameters come from here and from nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The consensus in force.
    pub consensus: &'a Consensus,
    /// The epoch now: its keys are used at every hop, out and back.
    pub epoch: Epoch,
    /// The gateway this client is linked to.
    pub gateway: &'a Identity,
    /// The time now: the pretended chains of decoys cool by it.
    pub now: UnixMillis,
}

/// Why no request could be made. The consensus is at fault, never the want.
#[derive(Debug, thiserror::Error)]
pub enum UnbuildableRequest {
    /// The current generation has fewer than two stores.
    #[error("the consensus has no placement for generation {0}")]
    NoPlacement(u32),
    /// A replica is not listed, or has no envelope key for this epoch.
    #[error("a replica is not listed with a key for epoch {0}")]
    NoReplicaKey(Epoch),
    /// There is no generation at all yet.
    #[error("the consensus has no store generation")]
    NoGeneration,
    /// No route can be drawn.
    #[error("no route: {0}")]
    Route(#[from] RouteError),
    /// The packet cannot be made.
    #[error("no packet: {0}")]
    Build(#[from] BuildError),
}

/// What became of a request. Each one made ends exactly once.
#[derive(Debug)]
pub enum Ended {
    /// A want: answered, or not (`None`) by its deadline.
    Want {
        /// Whose.
        ticket: Ticket,
        /// What the replicas said.
        answers: Option<Answers>,
    },
    /// A measuring decoy.
    Loop {
        /// How it ended.
        fate: LoopFate,
        /// The nodes it passed, when this client is a prober ([`Requests::prober`]); else empty.
        nodes: Vec<Identity>,
    },
    /// A decoy that nobody looks at.
    Decoy,
}

/// How a measuring decoy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopFate {
    /// It came back, so long after its departure.
    Returned(Duration),
    /// It did not come back by its deadline.
    Lost,
    /// The link to the gateway broke while it was out: it says nothing.
    Void,
}

#[derive(Debug)]
enum Purpose {
    Want(Ticket),
    Decoy,
    Loop(Vec<Identity>),
}

struct Awaited {
    recovery: Recovery,
    opener: AnswerOpener,
    departed: Duration,
    purpose: Purpose,
}

impl Awaited {
    fn unanswered(self, fate: LoopFate) -> Ended {
        match self.purpose {
            Purpose::Want(ticket) => Ended::Want { ticket, answers: None },
            Purpose::Decoy => Ended::Decoy,
            Purpose::Loop(nodes) => Ended::Loop { fate, nodes },
        }
    }
}

/// The requests of one client.
///
/// Contract: [`Requests::make`] for each tick, [`Requests::reply`] for each packet that comes, [`Requests::expire`] until
/// `None` when [`Requests::next_deadline`] has passed (it may change with each of the others), [`Requests::cut`] until
/// `None` when the link is gone.
#[derive(Default)]
pub struct Requests {
    awaited: SurbTable<Awaited>,
    chains: DecoyChains,
    displaced: Vec<Ended>,
    keep_nodes: bool,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("awaited", &self.awaited.len()).finish_non_exhaustive()
    }
}

impl Requests {
    /// The requests of a client that measures the network and carries nothing for anybody: every decoy is measured, and
    /// the nodes it passed are remembered until it ends, so that loss can be attributed. Never for a person's client.
    #[must_use]
    pub fn prober() -> Self {
        Self { keep_nodes: true, ..Self::default() }
    }

    /// The requests of a person's client, whose decoys go on with `chains`.
    #[must_use]
    pub fn pretending(chains: DecoyChains) -> Self {
        Self { chains, ..Self::default() }
    }

    /// The chains that decoys pretend to read, to keep them.
    pub fn decoys(&mut self) -> &mut DecoyChains {
        &mut self.chains
    }

    /// How many replies are awaited.
    #[must_use]
    pub fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Makes the packet of one tick, which will leave at `departs`.
    ///
    /// # Errors
    /// The consensus allows no such request now. A want is then not asked; its owner has to be told.
    pub fn make(
        &mut self,
        ask: Ask,
        around: Surroundings<'_>,
        session: &mut Session,
        departs: Duration,
        rng: &mut impl CryptoRng,
    ) -> Result<Packet, UnbuildableRequest> {
        let Surroundings { consensus, epoch, gateway, now } = around;
        // a decoy's read is drawn for every tick, used or not: the work stays the same
        let pretended = self.chains.next(consensus, now, rng).ok_or(UnbuildableRequest::NoGeneration)?;
        let decoy = Operation::Get { id: pretended.id };
        let decoy_replicas = place(consensus, &pretended, rng)?;
        let (operation, replicas) = match &ask {
            Ask::Want(want) => (&want.operation, want.replicas),
            Ask::Decoy | Ask::Loop => (&decoy, decoy_replicas),
        };
        let decoy_goes = !matches!(ask, Ask::Want(_));
        let keyed = |store: StoreIndex| {
            let key = consensus.store(store).and_then(|entry| entry.envelope_key(epoch));
            key.map(|key| (store, *key)).ok_or(UnbuildableRequest::NoReplicaKey(epoch))
        };
        let [first, second] = replicas;
        let (envelope, opener) = request::seal_envelope(operation, [keyed(first)?, keyed(second)?], rng);

        let courier = route::pick_courier(consensus, epoch, replicas, rng)?;
        let out = route::request_route(consensus, epoch, gateway, courier, rng)?;
        let session_key = session.key(epoch, rng).public();
        let back = route::reply_route(consensus, epoch, gateway, session.address(), &session_key, rng)?;
        let identifier = fresh_identifier(rng);
        let (surb, recovery) = surb::build(&back, identifier, rng)?;
        let packet = sphinx::build(&request::pack_request(&surb, &envelope), &out, fresh_identifier(rng), rng)?;

        let purpose = match ask {
            Ask::Want(want) => Purpose::Want(want.ticket),
            Ask::Decoy if !self.keep_nodes => Purpose::Decoy,
            Ask::Decoy | Ask::Loop => Purpose::Loop(if self.keep_nodes { passed(&out, &back) } else { Vec::new() }),
        };
        let deadline = deadline(departs, &out, &back, &consensus.parameters);
        let entry = Awaited { recovery, opener, departed: departs, purpose };
        if let Some(displaced) = self.awaited.insert(identifier, deadline, entry) {
            self.displaced.push(displaced.unanswered(LoopFate::Void));
        }
        if decoy_goes {
            self.chains.asked(pretended, &consensus.parameters, now, rng);
        }
        Ok(packet)
    }

    /// Takes a packet that came down the link. `None`: it is not the reply to anything that is awaited — late, sent
    /// twice, tampered with or never asked for; the request it pretends to answer, if any, runs into its deadline.
    pub fn reply(&mut self, packet: &Packet, session: &Session, now: Duration) -> Option<Ended> {
        let opened = session.keys().find_map(|key| sphinx::open_header(packet, key).ok())?;
        let Unwrapped::Final { identifier, payload } = opened.finish().ok()? else { return None };
        // taken before the payload is known to be intact: a SURB is used once, also by whoever damaged its reply
        let awaited = self.awaited.take(&identifier)?;
        let Awaited { recovery, opener, departed, purpose } = awaited;
        let plaintext = recovery.open(payload).ok();
        // opened for decoys too: the same work whatever came
        let answers = plaintext.map(|plaintext| opener.open(&plaintext));
        Some(match purpose {
            Purpose::Want(ticket) => Ended::Want { ticket, answers },
            Purpose::Decoy => Ended::Decoy,
            Purpose::Loop(nodes) => {
                let fate = match answers {
                    Some(_) => LoopFate::Returned(now.saturating_sub(departed)),
                    None => LoopFate::Lost,
                };
                Ended::Loop { fate, nodes }
            }
        })
    }

    /// Takes one request whose deadline has passed.
    pub fn expire(&mut self, now: Duration) -> Option<Ended> {
        if let Some(ended) = self.displaced.pop() {
            return Some(ended);
        }
        self.awaited.expire(now).map(|awaited| awaited.unanswered(LoopFate::Lost))
    }

    /// Takes any request: the link is gone, no reply will come on it. `fate`: what to make of loops that were out.
    pub fn cut(&mut self, fate: LoopFate) -> Option<Ended> {
        if let Some(ended) = self.displaced.pop() {
            return Some(ended);
        }
        self.awaited.pop_first().map(|awaited| awaited.unanswered(fate))
    }

    /// When [`Requests::expire`] has something next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.displaced.is_empty() { self.awaited.next_deadline() } else { Some(Duration::ZERO) }
    }
}

/// The two replicas of a decoy's box, in random order as for every read.
fn place(
    consensus: &Consensus,
    read: &Pretended,
    rng: &mut impl CryptoRng,
) -> Result<[StoreIndex; 2], UnbuildableRequest> {
    let generation = consensus.generation(read.generation).ok_or(UnbuildableRequest::NoGeneration)?;
    let placement = boxes::placement(generation, &read.id);
    let [first, second] = placement.ok_or(UnbuildableRequest::NoPlacement(generation.number))?;
    Ok(if rng.random::<bool>() { [second, first] } else { [first, second] })
}

/// Random and not all zero, which the SURB format reserves.
fn fresh_identifier(rng: &mut impl CryptoRng) -> SurbIdentifier {
    let mut identifier = [0; 16];
    while identifier == [0; 16] {
        rng.fill_bytes(&mut identifier);
    }
    identifier
}

/// Departure, all delays that the client sampled itself, the service time, and a margin.
fn deadline(departs: Duration, out: &[Hop], back: &[Hop], parameters: &Parameters) -> Duration {
    let delays: Duration = out.iter().chain(back).map(|hop| hop.delay).sum();
    departs.saturating_add(delays).saturating_add(Duration::from_millis(parameters.service_ms)).saturating_add(MARGIN)
}

/// The nodes a request and its reply pass, the client's own session left out.
fn passed(out: &[Hop], back: &[Hop]) -> Vec<Identity> {
    let back = back.split_last().map_or(&[][..], |(_client, nodes)| nodes);
    out.iter().chain(back).map(|hop| Identity::from_bytes(hop.address)).collect()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn an_unknown_replica_or_epoch_is_refused_without_a_trace() {
        let mut bench = Bench::new();
        let want = Want { replicas: [StoreIndex(0), StoreIndex(77)], ..bench.want() };
        assert!(matches!(bench.make(Ask::Want(want), Duration::ZERO), Err(UnbuildableRequest::NoReplicaKey(_))));
        let (consensus, gateway) = (&bench.consensus, &bench.gateway);
        let around = Surroundings { consensus, epoch: EPOCH.plus(1), gateway, now: START };
        let made = bench.requests.make(Ask::Decoy, around, &mut bench.session, Duration::ZERO, &mut bench.rng);
        assert!(matches!(made, Err(UnbuildableRequest::NoReplicaKey(_))));
        assert_eq!(bench.requests.awaited(), 0);
    }
}
