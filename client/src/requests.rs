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
use shoal_protocol::{Epoch, Identity, StoreIndex, UnixMillis, X25519Secret};

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
        let (operation, generation, replicas) = match &ask {
            Ask::Want(want) => (&want.operation, want.generation, want.replicas),
            Ask::Decoy | Ask::Loop => (&decoy, pretended.generation, decoy_replicas),
        };
        let (courier, replicas) = handed_to(consensus, epoch, generation, replicas, rng)?;
        let decoy_goes = !matches!(ask, Ask::Want(_));
        // a store that has left answers nobody, and the other replica answers still: its half is sealed to a key that nobody
        // holds, and the courier finds a store that cannot be asked
        let mut keyed = |store: StoreIndex| {
            let key = consensus.store(store).and_then(|entry| entry.envelope_key(epoch));
            (store, key.copied().unwrap_or_else(|| X25519Secret::generate(rng).public()))
        };
        let [first, second] = replicas.map(&mut keyed);
        let (envelope, opener) = request::seal_envelope(operation, [first, second], rng);

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

/// The courier, and the two stores that its envelope names. Courier and replica are different parties of one request: where
/// so few stores are left that no third one is there for the two replicas, the first is asked alone, the other one carries,
/// and the envelope names one that has left in its place. For wants and decoys alike, so a packet leaves in every tick.
fn handed_to(
    consensus: &Consensus,
    epoch: Epoch,
    generation: u32,
    replicas: [StoreIndex; 2],
    rng: &mut impl CryptoRng,
) -> Result<(StoreIndex, [StoreIndex; 2]), UnbuildableRequest> {
    let none = match route::pick_courier(consensus, epoch, replicas, rng) {
        Ok(courier) => return Ok((courier, replicas)),
        Err(none) => none,
    };
    let placed = consensus.generation(generation).map(|generation| generation.stores.as_slice()).unwrap_or_default();
    let has_left = |store: &&StoreIndex| consensus.store(**store).is_none() && !replicas.contains(store);
    let left = placed.iter().find(has_left).ok_or(none)?;
    let alone = [replicas[0], *left];
    Ok((route::pick_courier(consensus, epoch, alone, rng)?, alone))
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
#[path = "requests_tests.rs"]
mod tests;
