//! A store's task: courier towards the mixes, replica towards other couriers, and what connects the two to links, clock
//! and disk.
//!
//! One task owns both rooms, so nothing in them is locked. It wakes for time first, so that a flood of requests cannot make
//! answers late; everything that arrives has the same chance, so that a flood of one kind cannot keep another out.

use super::engine_seat::Seat;
use super::engine_thread::{Done, EngineClient, Opened};
use super::host::{Clock, generator};
use super::live_keys::LiveKeys;
use super::store_engine;
use super::store_inputs::{Event, Inputs, wait_until};
use super::store_links::{INCOMING, Incoming, StoreLinks, read};
use super::store_seam::{Request, StoreContext, StoreReport};
use crate::courier::{Action, Courier};
use crate::drops::Drops;
use crate::engine::{EngineError, Limits, Outcome};
use crate::io::links::LinkSender;
use crate::keys::OfEpoch as _;
use crate::portions::{Parties, Party};
use crate::replay::Insertion;
use crate::replica::{Network, Question, Replica};
use anyhow::{Context as _, Result, anyhow};
use rand::rngs::StdRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::{Consensus, VerifiedConsensus};
use shoal_protocol::link::StoreFrame;
use shoal_protocol::quic::{CloseReason, Link};
use shoal_protocol::types::{Identity, IdentityKey};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Outcomes that wait for the task; as many as tasks wait for the engine.
const OUTCOMES: usize = 1_024;
/// How long another process (one that is just ending) may still hold the files.
const IN_USE_WAIT: Duration = Duration::from_secs(5);
/// How often sizes and links are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How often the engine looks for what is over, in reports.
const TEND_EVERY: u32 = 5;

/// Runs the store until the process stops: then finishes the requests in hand, for at most a service time.
pub async fn run(context: StoreContext) -> Result<()> {
    let (done, outcomes) = mpsc::channel(OUTCOMES);
    let (incoming, frames) = mpsc::channel(INCOMING);
    let (engine, thread) = start_engine(&context, done).await?;
    let StoreContext { clock, report, drops, .. } = &context;
    let (clock, report) = (*clock, Arc::clone(report));
    let links = StoreLinks::new(clock, Arc::clone(&context.endpoint), Arc::clone(drops), Arc::clone(&report));
    let mut ticks = interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut inputs = Inputs {
        outcomes,
        consensus: context.consensus,
        phase: context.phase,
        ticks,
        frames,
        requests: context.requests,
        arrivals: context.arrivals,
    };
    let mut store = Store {
        me: context.identity.identity(),
        identity: context.identity,
        links,
        clock,
        rng: generator(),
        engine,
        rooms: None,
        keys: context.keys,
        outgoing: context.outgoing,
        drops: context.drops,
        report: context.report,
        records_max: context.store.records as u64,
        consensus: None,
        incoming,
        reports: 0,
        stop_by: None,
    };
    let first = inputs.consensus.borrow_and_update().clone();
    store.on_consensus(first);
    let result = loop {
        if store.is_finished() {
            break Ok(());
        }
        let next = store.next_timeout();
        let event = tokio::select! {
            biased;
            () = wait_until(&clock, next) => Event::Time,
            event = inputs.next(store.stop_by.is_some()) => event,
        };
        match event {
            Event::Time => store.on_time(),
            Event::Outcome(done) => store.on_outcome(done),
            Event::Consensus(newest) => store.on_consensus(newest),
            Event::Stop => store.stop(),
            Event::Tick => {
                if !store.on_report() {
                    break Err(anyhow!("the storage thread has ended; see the log above for its last words"));
                }
            }
            Event::Frame(frame) => store.on_frame(frame),
            Event::Request(request) => store.on_request(&request),
            Event::Arrival(link) => store.on_arrival(link),
        }
    };
    report.set_open(false);
    // the thread ends when nobody can send it tasks; it must not wait for us to take outcomes meanwhile
    drop(store);
    drop(inputs);
    tokio::task::spawn_blocking(move || thread.join())
        .await
        .context("waiting for the storage thread")?
        .map_err(|_| anyhow!("the storage thread panicked"))?;
    result
}

fn limits(consensus: Option<&Consensus>, records_max: u64) -> Limits {
    match consensus.map(|consensus| &consensus.parameters) {
        Some(parameters) => {
            Limits { retention: parameters.retention(), records_max, append_bits: parameters.append_bits }
        }
        // nothing is written before there is a consensus, and nothing may be erased
        None => Limits { retention: Duration::MAX, records_max: 0, append_bits: u8::MAX },
    }
}

/// Opens the engine on a thread that may block. Repairs after a crash happen here, so it may take a while.
async fn start_engine(context: &StoreContext, done: mpsc::Sender<Done>) -> Result<(EngineClient, JoinHandle<()>)> {
    let mut waited = Duration::ZERO;
    let engine = loop {
        let (store, dir) = (context.store.clone(), context.dir.clone());
        let identity = *context.identity.identity().as_bytes();
        // a move that goes on may have left this place already: who holds the seat looks before anything is acknowledged
        let open = if context.mover.is_moving() { store_engine::open_marked } else { store_engine::open };
        let opened = tokio::task::spawn_blocking(move || open(&store, &dir, &identity, limits(None, 0)))
            .await
            .context("opening the store")?;
        match opened {
            Err(EngineError::InUse) if waited < IN_USE_WAIT => {
                const STEP: Duration = Duration::from_millis(100);
                sleep(STEP).await;
                waited += STEP;
            }
            opened => break opened.with_context(|| store_engine::describe(&context.store, &context.dir))?,
        }
    };
    let StoreContext { report, drops, keys, mover, .. } = context;
    let seat = Seat::new(engine, Arc::clone(mover));
    EngineClient::start(seat, context.clock, done, Arc::clone(report), Arc::clone(drops), Arc::clone(keys))
        .context("starting the storage thread")
}

/// Courier and replica, which exist from the first consensus on that lists this node as a store.
struct Rooms {
    courier: Courier,
    replica: Replica,
}

struct Store {
    me: Identity,
    identity: Arc<IdentityKey>,
    links: StoreLinks,
    clock: Clock,
    rng: StdRng,
    engine: EngineClient,
    rooms: Option<Rooms>,
    keys: Arc<LiveKeys>,
    outgoing: LinkSender,
    drops: Arc<Drops>,
    report: Arc<StoreReport>,
    records_max: u64,
    consensus: Option<Arc<VerifiedConsensus>>,
    incoming: mpsc::Sender<Incoming>,
    reports: u32,
    /// Set when the process stops: by then the store ends, sooner if nothing is in hand.
    stop_by: Option<Duration>,
}

impl Store {
    fn on_consensus(&mut self, newest: Option<Arc<VerifiedConsensus>>) {
        if let Some(consensus) = &newest {
            self.links.set_network(consensus, &self.me);
            // a store that is not listed any more finishes what it has in hand; nobody asks it anything new
            if let Some(network) = Network::of(consensus, &self.me) {
                self.set_rooms(consensus, network);
            }
        }
        // an expired consensus is withdrawn, not replaced: requests in hand are finished under the old one
        if newest.is_some() {
            self.consensus = newest;
            self.tend();
        }
    }

    fn set_rooms(&mut self, consensus: &Consensus, network: Network) {
        let service = Duration::from_millis(consensus.parameters.service_ms);
        let stores = consensus.stores().filter_map(|node| node.store_index).collect();
        let (identity, drops, me) = (&self.identity, &self.drops, network.me());
        let rooms = self.rooms.get_or_insert_with(|| Rooms {
            courier: Courier::new(me, service, Arc::clone(drops)),
            replica: Replica::new(Arc::clone(identity), network.clone(), Arc::clone(drops)),
        });
        rooms.courier.set_network(me, stores, service);
        rooms.replica.set_network(network);
    }

    fn next_timeout(&self) -> Option<Duration> {
        let rooms = self
            .rooms
            .as_ref()
            .and_then(|rooms| [rooms.courier.next_timeout(), rooms.replica.next_timeout()].into_iter().flatten().min());
        [rooms, self.stop_by].into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        let now = self.clock.monotonic();
        let Some(rooms) = &mut self.rooms else { return };
        for reply in rooms.replica.on_time(now, &mut self.rng) {
            self.links.send(reply.to, &StoreFrame::Answer { ticket: reply.ticket, answer: reply.answer });
        }
        for action in rooms.courier.on_time(now, &mut self.rng) {
            match action {
                Action::Ask { store, ticket, envelope, receipt } => {
                    self.links.send(store, &StoreFrame::Request { ticket, envelope, receipt });
                }
                Action::Reply { first_hop, packet } => {
                    // what cannot be sent is counted there; to the client it is a lost packet
                    let _ = self.outgoing.send(first_hop, packet);
                }
            }
        }
    }

    fn on_request(&mut self, request: &Request) {
        let Some(rooms) = &mut self.rooms else { return };
        let action = rooms.courier.on_request(request.arrived, &request.plaintext, &mut self.rng);
        self.ask(action);
    }

    fn ask(&self, action: Option<Action>) {
        if let Some(Action::Ask { store, ticket, envelope, receipt }) = action {
            self.links.send(store, &StoreFrame::Request { ticket, envelope, receipt });
        }
    }

    fn on_frame(&mut self, incoming: Incoming) {
        let (Some(rooms), Some(consensus)) = (&mut self.rooms, &self.consensus) else { return };
        match incoming.frame {
            StoreFrame::Dummy => {}
            StoreFrame::Answer { ticket, answer } => {
                let action = rooms.courier.on_answer(incoming.from, ticket, answer, &mut self.rng);
                self.ask(action);
            }
            StoreFrame::Request { ticket, envelope, receipt } => {
                let wall = self.clock.wall();
                let epoch = consensus.schedule().epoch_at(wall);
                let all = self.keys.all();
                let accepted = LiveKeys::accepted(&all, wall, epoch);
                let keys: Vec<_> = accepted.iter().map(|key| Arc::clone(key.keys())).collect();
                let question = Question { courier: incoming.from, ticket, envelope: &envelope, receipt: &receipt };
                let mut opened = None;
                let party = Party::Courier(incoming.from);
                let among = Parties { nodes: consensus.stores().count(), clients: false };
                let work = rooms.replica.on_request(incoming.at, epoch, question, &keys, |epoch, ephemeral| {
                    let memory = accepted.iter().find(|key| key.epoch() == epoch).and_then(|key| key.seen());
                    // an envelope key without a memory cannot be: both are made and read back together
                    let Some(memory) = memory else { return Insertion::Full };
                    let (insertion, tag) = memory.insert_from(party, among, ephemeral);
                    if insertion == Insertion::Fresh {
                        opened = Some(Opened { epoch, memory: Arc::clone(memory), tag, task: None });
                    }
                    insertion
                });
                // one that asks nothing of the engine goes there too: its tag has to be written
                let Some(opened) = opened else { return };
                let job = work.as_ref().map(|(job, _)| *job);
                let submitted = self.engine.submit(Opened { task: work, ..opened }, storage_time(wall, consensus));
                if let (false, Some(job)) = (submitted, job) {
                    rooms.replica.on_outcome(job, Outcome::Failed);
                }
            }
        }
    }

    fn on_outcome(&mut self, done: Done) {
        if let Some(rooms) = &mut self.rooms {
            rooms.replica.on_outcome(done.job, done.outcome);
        }
    }

    fn on_arrival(&self, link: Link) {
        let index = self.consensus.as_ref().and_then(|consensus| consensus.node(&link.peer?)?.store_index);
        match index {
            Some(index) => {
                let pace = self.links.pace();
                let reading = read(link, index, self.clock, pace, self.incoming.clone(), Arc::clone(&self.drops));
                // ends with the link, at the latest when nobody takes frames any more
                tokio::spawn(reading);
            }
            None => link.close(CloseReason::NotAdmitted),
        }
    }

    /// `false` if the engine's thread has ended.
    fn on_report(&mut self) -> bool {
        self.links.report();
        if let Some(consensus) = self.consensus.as_ref().filter(|_| self.report.is_open()) {
            self.report.show_size(consensus.schedule().epoch_at(self.clock.wall()));
        }
        self.reports = self.reports.wrapping_add(1);
        !self.reports.is_multiple_of(TEND_EVERY) || self.tend()
    }

    fn tend(&self) -> bool {
        self.consensus.as_ref().is_none_or(|consensus| {
            let limits = limits(Some(consensus), self.records_max);
            self.engine.tend(storage_time(self.clock.wall(), consensus), limits)
        })
    }

    fn stop(&mut self) {
        let service = self.consensus.as_ref().map_or(0, |consensus| consensus.parameters.service_ms);
        self.stop_by = Some(self.clock.monotonic() + Duration::from_millis(service));
    }

    fn is_finished(&self) -> bool {
        self.stop_by.is_some_and(|at| {
            let idle = self.rooms.as_ref().is_none_or(|rooms| rooms.courier.pending() == 0 && rooms.replica.is_idle());
            idle || self.clock.monotonic() >= at
        })
    }
}

/// The time by which records are filed and erased: this machine's, held inside what the consensus vouches for. A clock
/// that was set years ahead must not erase a single box.
fn storage_time(wall: UnixMillis, consensus: &Consensus) -> UnixMillis {
    // a consensus ends after it begins; checked when it is read
    UnixMillis(wall.0.max(consensus.valid_from.0).min(consensus.valid_until.0))
}

#[cfg(test)]
mod tests;
