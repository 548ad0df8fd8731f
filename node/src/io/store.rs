//! A store's task: courier towards the mixes, replica towards other couriers, and what connects the two to links, clock
//! and disk.
//!
//! One task owns both rooms, so nothing in them is locked. It wakes for time first, then for what arrives: a flood of
//! requests cannot make answers late.

use super::disk::Folder;
use super::engine_redb::RedbEngine;
use super::engine_thread::{Done, EngineClient};
use super::host::{Clock, generator};
use super::phase::{Phase, reached};
use super::seen_log::{Seen, SeenLog};
use super::store_links::{INCOMING, Incoming, StoreLinks, read};
use super::store_seam::StoreContext;
use crate::courier::{Action, Courier};
use crate::engine::{EngineError, Limits, Outcome};
use crate::replica::{Network, Question, Replica};
use anyhow::{Context as _, Result, anyhow};
use rand::rngs::StdRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::{Consensus, VerifiedConsensus};
use shoal_protocol::link::StoreFrame;
use shoal_protocol::quic::{CloseReason, Link};
use shoal_protocol::types::{Identity, IdentityKey};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

/// Records a store holds at most. Measured with 40,000 random boxes, one takes 5.3 kB on the disk, pages half full and
/// the file's growth ahead of need included: 44 GB in all.
const RECORDS_MAX: u64 = 1 << 23;
/// Outcomes that wait for the task; as many as tasks wait for the engine.
const OUTCOMES: usize = 1_024;
/// How long another process (one that is just ending) may still hold the files.
const IN_USE_WAIT: Duration = Duration::from_secs(5);
/// How often sizes and links are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How often the engine looks for what is over, in reports.
const TEND_EVERY: u32 = 5;

/// Runs the store until the process stops: then finishes the requests in hand, for at most a service time.
pub async fn run(mut context: StoreContext) -> Result<()> {
    let (done, mut outcomes) = mpsc::channel(OUTCOMES);
    let (incoming, mut frames) = mpsc::channel(INCOMING);
    let (engine, thread) = start_engine(&context, done).await?;
    let clock = Clock::start();
    let (seen_log, seen) = SeenLog::open(&context.dir).with_context(|| describe(&context.dir))?;
    let mut store = Store {
        me: context.identity.identity(),
        identity: Arc::clone(&context.identity),
        links: StoreLinks::new(
            clock,
            Arc::clone(&context.endpoint),
            Arc::clone(&context.drops),
            Arc::clone(&context.report),
        ),
        clock,
        rng: generator(),
        engine,
        rooms: None,
        seen_log,
        seen,
        consensus: None,
        incoming,
        reports: 0,
        stop_by: None,
    };
    let mut report = interval(REPORT_EVERY);
    report.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let first = context.consensus.borrow_and_update().clone();
    store.on_consensus(&context, first);
    let result = loop {
        if store.is_finished() {
            break Ok(());
        }
        let next = store.next_timeout();
        tokio::select! {
            biased;
            () = wait_until(&clock, next) => store.on_time(&context),
            Some(done) = outcomes.recv() => store.on_outcome(done),
            changed = context.consensus.changed(), if store.stop_by.is_none() => {
                if changed.is_ok() {
                    let newest = context.consensus.borrow_and_update().clone();
                    store.on_consensus(&context, newest);
                } else {
                    // nobody brings documents any more: the process ends
                    store.stop();
                }
            }
            () = reached(&mut context.phase, Phase::Stopping), if store.stop_by.is_none() => store.stop(),
            _ = report.tick() => {
                if !store.on_report(&context) {
                    break Err(anyhow!("the storage thread has ended; see the log above for its last words"));
                }
            }
            Some(frame) = frames.recv() => store.on_frame(&context, frame),
            Some(request) = context.requests.recv(), if store.stop_by.is_none() => store.on_request(&request),
            Some(link) = context.arrivals.recv() => store.on_arrival(&context, link),
        }
    };
    context.report.set_open(false);
    // the thread ends when nobody can send it tasks; it must not wait for us to take outcomes meanwhile
    drop(store);
    drop(outcomes);
    tokio::task::spawn_blocking(move || thread.join())
        .await
        .context("waiting for the storage thread")?
        .map_err(|_| anyhow!("the storage thread panicked"))?;
    result
}

/// Waits until a monotonic time; for ever if there is none.
async fn wait_until(clock: &Clock, at: Option<Duration>) {
    match at {
        Some(at) => sleep_until(clock.timer(at)).await,
        None => std::future::pending().await,
    }
}

fn limits(consensus: Option<&Consensus>) -> Limits {
    match consensus.map(|consensus| &consensus.parameters) {
        Some(parameters) => Limits {
            retention: Duration::from_millis(parameters.retention_ms),
            records_max: RECORDS_MAX,
            append_bits: parameters.append_bits,
        },
        // nothing is written before there is a consensus, and nothing may be erased
        None => Limits { retention: Duration::MAX, records_max: 0, append_bits: u8::MAX },
    }
}

/// Opens the files on a thread that may block. Repairs after a crash happen here, so it may take a while.
async fn start_engine(context: &StoreContext, done: mpsc::Sender<Done>) -> Result<(EngineClient, JoinHandle<()>)> {
    let dir = context.dir.clone();
    let mut waited = Duration::ZERO;
    let engine = loop {
        let folder = Box::new(Folder::new(dir.clone()));
        let opened = tokio::task::spawn_blocking(move || RedbEngine::open(folder, limits(None)))
            .await
            .context("opening the store")?;
        match opened {
            Err(EngineError::InUse) if waited < IN_USE_WAIT => {
                const STEP: Duration = Duration::from_millis(100);
                sleep(STEP).await;
                waited += STEP;
            }
            opened => break opened.with_context(|| describe(&dir))?,
        }
    };
    EngineClient::start(Box::new(engine), done, Arc::clone(&context.report)).context("starting the storage thread")
}

fn describe(dir: &Path) -> String {
    format!("cannot open the store in {}", dir.display())
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
    seen_log: SeenLog,
    /// What an earlier process has seen, until the replica takes it.
    seen: Seen,
    consensus: Option<Arc<VerifiedConsensus>>,
    incoming: mpsc::Sender<Incoming>,
    reports: u32,
    /// Set when the process stops: by then the store ends, sooner if nothing is in hand.
    stop_by: Option<Duration>,
}

impl Store {
    fn on_consensus(&mut self, context: &StoreContext, newest: Option<Arc<VerifiedConsensus>>) {
        if let Some(consensus) = &newest {
            self.links.set_network(consensus, &self.me);
            // a store that is not listed any more finishes what it has in hand, and remembers what it has seen in case it
            // comes back; nobody asks it anything new
            if let Some(network) = Network::of(consensus, &self.me) {
                self.set_rooms(context, consensus, network);
            }
        }
        // an expired consensus is withdrawn, not replaced: requests in hand are finished under the old one
        if newest.is_some() {
            self.consensus = newest;
            self.tend();
        }
    }

    fn set_rooms(&mut self, context: &StoreContext, consensus: &Consensus, network: Network) {
        let service = Duration::from_millis(consensus.parameters.service_ms);
        let stores = consensus.stores().filter_map(|node| node.store_index).collect();
        let (identity, me) = (&self.identity, network.me());
        let rooms = self.rooms.get_or_insert_with(|| Rooms {
            courier: Courier::new(me, service, Arc::clone(&context.drops)),
            replica: Replica::new(Arc::clone(identity), network.clone(), Arc::clone(&context.drops)),
        });
        rooms.courier.set_network(me, stores, service);
        rooms.replica.set_network(network);
        for (epoch, halves) in self.seen.drain(..) {
            rooms.replica.restore(epoch, halves);
        }
    }

    fn next_timeout(&self) -> Option<Duration> {
        let rooms = self
            .rooms
            .as_ref()
            .and_then(|rooms| [rooms.courier.next_timeout(), rooms.replica.next_timeout()].into_iter().flatten().min());
        [rooms, self.stop_by].into_iter().flatten().min()
    }

    fn on_time(&mut self, context: &StoreContext) {
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
                    let _ = context.outgoing.send(first_hop, packet);
                }
            }
        }
    }

    fn on_request(&mut self, plaintext: &[u8]) {
        let Some(rooms) = &mut self.rooms else { return };
        let action = rooms.courier.on_request(self.clock.monotonic(), plaintext, &mut self.rng);
        self.ask(action);
    }

    fn ask(&self, action: Option<Action>) {
        if let Some(Action::Ask { store, ticket, envelope, receipt }) = action {
            self.links.send(store, &StoreFrame::Request { ticket, envelope, receipt });
        }
    }

    fn on_frame(&mut self, context: &StoreContext, incoming: Incoming) {
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
                let keys = context.envelope_keys.accepted(wall, epoch);
                let question = Question { courier: incoming.from, ticket, envelope: &envelope, receipt: &receipt };
                if let Some((job, task)) =
                    rooms.replica.on_request(incoming.at, epoch, question, &keys, |epoch, half| {
                        self.seen_log.append(epoch, half).is_ok()
                    })
                    && !self.engine.submit(job, task, storage_time(wall, consensus))
                {
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

    fn on_arrival(&self, context: &StoreContext, link: Link) {
        let index = self.consensus.as_ref().and_then(|consensus| consensus.node(&link.peer?)?.store_index);
        match index {
            Some(index) => {
                let pace = self.links.pace();
                let reading = read(link, index, self.clock, pace, self.incoming.clone(), Arc::clone(&context.drops));
                // ends with the link, at the latest when nobody takes frames any more
                tokio::spawn(reading);
            }
            None => link.close(CloseReason::NotAdmitted),
        }
    }

    /// `false` if the engine's thread has ended.
    fn on_report(&mut self, context: &StoreContext) -> bool {
        self.links.report();
        self.reports = self.reports.wrapping_add(1);
        if !self.reports.is_multiple_of(TEND_EVERY) {
            return true;
        }
        if let Some(rooms) = &mut self.rooms {
            // not "accepted now": a clock that steps back and forth must not empty the memory of a key that lives on
            let is_alive = |epoch| context.envelope_keys.holds(epoch);
            rooms.replica.forget(is_alive);
            self.seen_log.forget(is_alive);
        }
        self.tend()
    }

    fn tend(&self) -> bool {
        self.consensus.as_ref().is_none_or(|consensus| {
            self.engine.tend(storage_time(self.clock.wall(), consensus), limits(Some(consensus)))
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
