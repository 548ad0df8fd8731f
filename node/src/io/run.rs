//! Putting a node together, and taking it apart again.
//!
//! The way of a packet: `accept` or `gateway_io` reads it from a link → `workers` unwrap it → `delay_thread` holds it →
//! `links` or `gateway_io` sends it on; at a store `store` takes what ends there. Beside it run the key task, the
//! consensus task, the publisher, the loops, at a gateway the shelf of documents, and the supervision of all of them.

use crate::failure::{Failure, Kind};
use crate::io::accept::{Acceptor, NodeLinks};
use crate::io::changes;
use crate::io::control;
use crate::io::counters::{Counters, Machine, Published};
use crate::io::delay_thread::{self, DelayContext, Egress, Lateness};
use crate::io::directory::{Authorities, ConsensusTask, FetchState, contradicted};
use crate::io::doctor;
use crate::io::drain::{Drain, Hold};
use crate::io::files;
use crate::io::gateway_io::{ClientService, SessionSender};
use crate::io::handing::{self, Handing};
use crate::io::host::{Clock, generator};
use crate::io::http;
use crate::io::key_files::KeyFiles;
use crate::io::links::{LinkKeeper, LinkSender};
use crate::io::live_keys::{KeySnapshot, KeyTask, LiveKeys};
use crate::io::logging::SetFilter;
use crate::io::loop_task::LoopTask;
use crate::io::metrics::Metrics;
use crate::io::phase::{self, Phase};
use crate::io::publish::{PublishState, Publisher};
use crate::io::reload::Reload;
use crate::io::setup::{self, IDENTITY_FILE, Setup};
use crate::io::status::Status;
use crate::io::store;
use crate::io::store_seam::{StoreContext, StoreReport};
use crate::io::supervise::Supervisor;
use crate::io::workers::{self, WorkerContext};
use crate::keys::OfEpoch as _;
use crate::loops::Loops;
use crate::replay::{Fill, FillAlarm};
use crate::view::View;
use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use shoal_protocol::consensus::{Follower, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::quic::{Endpoint, Limits, Link, Protocol};
use shoal_protocol::types::{Identity, Role};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Requests that wait for the courier. 512 × 2.5 kB = 1.3 MB; a store of a large network sees a few hundred a second.
const COURIER_QUEUE: usize = 512;
/// Accepted links that wait for the store.
const ARRIVALS: usize = 64;
/// How long the store may take to finish what is in hand.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// How long peers of closed links are waited for.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

type Consensus = watch::Receiver<Option<Arc<VerifiedConsensus>>>;

/// Runs a node until it is told to stop. `set_filter` changes the log when the configuration is read again.
pub async fn run(setup: Setup, set_filter: SetFilter) -> Result<(), Failure> {
    let runtime_dir = setup.config.runtime_path(&setup.dir);
    let retry = "check the node's directory and its owner";
    files::private_dir(&runtime_dir).map_err(|error| Failure::io(&error, retry))?;
    let memory = doctor::runtime_dir(&runtime_dir);
    if !memory.ok {
        tracing::warn!(found = memory.found, next = memory.next, "mix keys do not live in memory only");
    }
    let _lock = setup::lock(&setup.dir).await?;
    let failed = Arc::new(AtomicBool::new(false));
    let started = assemble(setup, set_filter, Arc::clone(&failed)).await;
    let node = started
        .map_err(|error| Failure::io(&error, "see the message; `shoal-node doctor` checks what a node needs"))?;
    node.until_stopped().await;
    if failed.load(Ordering::Relaxed) {
        let next = "see the log; start it again (a service manager does so by itself)";
        return Err(Failure::new(Kind::Temporary, "a part of the node failed and it stopped", next));
    }
    Ok(())
}

/// A running node.
struct Running {
    phase: watch::Sender<Phase>,
    endpoint: Arc<Endpoint>,
    drain: Drain,
    reload: Reload,
    /// In the order in which they are waited for.
    ending: Vec<(&'static str, JoinHandle<()>, Duration)>,
}

async fn assemble(setup: Setup, set_filter: SetFilter, failed: Arc<AtomicBool>) -> Result<Running> {
    let Setup { dir, config, network, identity } = setup;
    let (identity, me, role) = (Arc::new(identity.clone()), identity.identity(), config.role);
    let limits = config.limits;
    let runtime_dir = config.runtime_path(&dir);
    let clock = Clock::start();
    let schedule = network.schedule();
    let by_epoch = role == Role::Gateway;

    // what everybody counts into
    let metrics = Arc::new(Metrics::new(role)?);
    let counters = Arc::new(Counters::default());
    let live_keys = Arc::new(LiveKeys::default());
    let published = Arc::new(Published::new(Arc::clone(&counters), by_epoch, Machine::read(&live_keys)));
    let lateness = Arc::new(Lateness::new(metrics.lateness.clone(), by_epoch));
    let panics = Arc::clone(&counters);
    let on_panic: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        panics.panics.fetch_add(1, Ordering::Relaxed);
    });
    let (phase, phases) = watch::channel(Phase::Running);
    let supervisor = Supervisor { on_panic: Arc::clone(&on_panic), phase: phase.clone(), failed };

    // ports first: what is taken is said before anything else happens
    let accept: &[Protocol] = match role {
        Role::Gateway => &[Protocol::Mix, Protocol::Client, Protocol::Directory],
        Role::Mix => &[Protocol::Mix],
        Role::Store => &[Protocol::Mix, Protocol::Store],
    };
    let quic = Limits {
        connections: limits.links,
        guests: limits.sessions,
        per_prefix: limits.links_per_prefix,
        ..Limits::default()
    };
    let endpoint = Endpoint::bind_with(config.listen, &identity, accept, quic)
        .with_context(|| format!("cannot listen on UDP {} (key `listen`)", config.listen))?;
    let endpoint = Arc::new(endpoint);
    let metrics_listener = http::bind(config.metrics).await?;
    let control_listener = Arc::new(control::bind(&runtime_dir)?);

    // keys
    let (key_sender, keys) = watch::channel(KeySnapshot::default());
    let files = KeyFiles::new(&runtime_dir, network.genesis_hash(), limits.replay_capacity_packets);
    let keeper = KeyTask {
        files: files.clone(),
        schedule,
        parameters: network.parameters,
        with_envelope: role == Role::Store,
        clock,
        live: Arc::clone(&live_keys),
        snapshot: key_sender,
    };
    let keeper = keeper.start().context("mix keys")?;

    // consensus
    let (consensus_sender, consensus) = watch::channel(None);
    let (fetch_sender, fetch) = watch::channel(FetchState::default());
    let authorities = Arc::new(Authorities::new(Arc::clone(&endpoint), &network));
    let changes = changes::Keeper::open(&dir, &network.trust_anchor())?;
    let changes_shown = changes.subscribe();
    let mut consensus_task = ConsensusTask {
        me,
        authorities: Arc::clone(&authorities),
        follower: Follower::new(network.trust_anchor()),
        changes,
        known: None,
        failing: BTreeSet::new(),
        schedule,
        dir: dir.clone(),
        clock,
        consensus: consensus_sender,
        state: fetch_sender,
        stale: false,
        quiet_until: Duration::ZERO,
    };
    consensus_task.load()?;
    // what packets are handled by: the newest, but while the node drains
    let serving_sender = watch::Sender::new(consensus.borrow().clone());
    let serving = serving_sender.subscribe();
    let before_sender = watch::Sender::new(None);
    let before = before_sender.subscribe();

    // the packet path, from its end to its beginning
    let links = LinkSender::new(Arc::clone(&counters));
    let sessions = by_epoch.then(|| SessionSender::new(limits.sessions, Arc::clone(&counters)));
    let (delay, _thread) = delay_thread::start(DelayContext {
        capacity: limits.delay_queue_packets,
        clock,
        egress: Egress { links: links.clone(), sessions: sessions.clone() },
        counters: Arc::clone(&counters),
        lateness: Arc::clone(&lateness),
        on_panic: Arc::clone(&on_panic),
    })?;
    let loops = Loops::new(network.parameters.lambda_m.mean_gap(), clock.monotonic(), &mut generator());
    let loops = Arc::new(Mutex::new(loops));
    let view = Arc::new(ArcSwapOption::empty());
    let (courier, requests) = mpsc::channel(COURIER_QUEUE);
    let (workers, _threads) = workers::start(
        limits.workers,
        limits.worker_queue_packets,
        &WorkerContext {
            keys: Arc::clone(&live_keys),
            view: Arc::clone(&view),
            schedule,
            clock,
            delay,
            loops: Arc::clone(&loops),
            courier: (role == Role::Store).then_some(courier),
            counters: Arc::clone(&counters),
            on_panic: Arc::clone(&on_panic),
        },
    )?;
    let link_queue_packets = Arc::new(AtomicUsize::new(limits.link_queue_packets));
    let leaving = Arc::new(AtomicBool::new(config.leaving));
    let reload = Reload {
        dir: dir.clone(),
        config: config.clone(),
        set_filter,
        sessions: sessions.clone(),
        link_queue_packets: Arc::clone(&link_queue_packets),
        leaving: Arc::clone(&leaving),
    };
    let node_links = Arc::new(NodeLinks::default());
    let (stores, arrivals) = mpsc::channel::<Link>(ARRIVALS);
    let (shelf_sender, shelf) = watch::channel(Arc::default());
    if by_epoch {
        let (consensus, phases) = (consensus.clone(), phases.clone());
        drop(
            supervisor
                .renewed("shelf", move || handing::keep_shelf(consensus.clone(), shelf_sender.clone(), phases.clone())),
        );
    }
    let clients = sessions.map(|sessions| ClientService {
        sessions,
        handing: Handing::new(shelf, changes_shown, Arc::clone(&authorities), clock),
        workers: workers.clone(),
        consensus: consensus.clone(),
        genesis: network.parameters,
        clock,
        counters: Arc::clone(&counters),
        next_link: Arc::new(AtomicU64::new(0)),
        phase: phases.clone(),
        fetch: fetch.clone(),
    });

    // what is said about all this
    let (publish_sender, publish) = watch::channel(PublishState::default());
    let report = (role == Role::Store).then(|| Arc::new(StoreReport::default()));
    let status = Arc::new(Status {
        leaving: Arc::clone(&leaving),
        identity: me,
        role,
        schedule,
        clock,
        consensus: consensus.clone(),
        fetch: fetch.clone(),
        publish: publish.clone(),
        keys: keys.clone(),
        live_keys: Arc::clone(&live_keys),
        links: links.clone(),
        node_links: Arc::clone(&node_links),
        published: Arc::clone(&published),
        lateness: Arc::clone(&lateness),
        store: report.clone(),
        metrics: Arc::clone(&metrics),
        phase: phases.clone(),
        identity_file: dir.join(IDENTITY_FILE),
        runtime_dir,
        store_dir: config.store_path(&dir),
    });

    // and the tasks
    let mut ending = Vec::new();
    if let Some(report) = report {
        let store_dir = config.store_path(&dir);
        files::private_dir(&store_dir)?;
        let context = StoreContext {
            identity: Arc::clone(&identity),
            consensus: serving.clone(),
            requests,
            arrivals,
            endpoint: Arc::clone(&endpoint),
            outgoing: links.clone(),
            keys: Arc::clone(&live_keys),
            dir: store_dir,
            records_max: limits.store_records as u64,
            clock,
            drops: Arc::clone(&counters.drops),
            report,
            phase: phases.clone(),
        };
        ending.push(("store", supervisor.essential("store", store::run(context)), STORE_PATIENCE));
    }
    let key_phases = phases.clone();
    let key_task = supervisor.essential("keys", async move {
        keeper.run(key_phases).await;
        Ok(())
    });
    ending.push(("keys", key_task, CLOSE_PATIENCE));
    let hold = Hold {
        me,
        newest: consensus.clone(),
        serving: serving_sender,
        before: before_sender,
        clock,
        phase: phases.clone(),
    };
    drop(supervisor.renewed("hold", move || hold.clone().run()));
    let (consensus_now, consensus_before) = (serving.clone(), before.clone());
    let turn = Turn {
        me,
        schedule,
        clock,
        consensus: consensus_now,
        before: consensus_before,
        view,
        published,
        lateness,
        live_keys,
    };
    drop(supervisor.renewed("turn", move || turn.clone().run()));
    let consensus_task = Arc::new(tokio::sync::Mutex::new(consensus_task));
    let consensus_phases = phases.clone();
    drop(supervisor.renewed("consensus", move || {
        let (task, phases) = (Arc::clone(&consensus_task), consensus_phases.clone());
        async move { task.lock().await.run(phases).await }
    }));
    let publisher = Arc::new(tokio::sync::Mutex::new(Publisher {
        authorities,
        network: network.genesis_hash(),
        identity: Arc::clone(&identity),
        role,
        address: config.address.clone(),
        family: config.family_bytes()?,
        leaving: Arc::clone(&leaving),
        schedule,
        clock,
        keys,
        loops: Arc::clone(&loops),
        state: publish_sender,
        phase: phases.clone(),
    }));
    let publish_fetch = fetch.clone();
    drop(supervisor.renewed("publish", move || {
        let (publisher, fetch) = (Arc::clone(&publisher), publish_fetch.clone());
        async move {
            tokio::select! {
                () = async { publisher.lock().await.run().await } => {}
                // a node that takes no packet must not be offered to anybody
                () = contradicted(fetch) => std::future::pending().await,
            }
        }
    }));
    let loop_task = Arc::new(tokio::sync::Mutex::new(LoopTask {
        me,
        loops,
        consensus: consensus.clone(),
        schedule,
        clock,
        links: links.clone(),
        counters: Arc::clone(&counters),
        phase: phases.clone(),
    }));
    drop(supervisor.renewed("loops", move || {
        let task = Arc::clone(&loop_task);
        async move { task.lock().await.run().await }
    }));
    let acceptor = Acceptor {
        me,
        role,
        endpoint: Arc::clone(&endpoint),
        consensus: serving.clone(),
        before: before.clone(),
        workers,
        links: node_links,
        clients,
        stores: (role == Role::Store).then_some(stores),
        clock,
        counters: Arc::clone(&counters),
        on_panic,
        fetch,
        phase: phases.clone(),
    };
    drop(supervisor.renewed("accept", move || acceptor.clone().run()));
    let http_status = Arc::clone(&status);
    drop(supervisor.essential("http", http::serve(metrics_listener, http_status, phases.clone())));
    let control_phase = phase.clone();
    drop(supervisor.renewed("control", move || {
        control::serve(Arc::clone(&control_listener), Arc::clone(&status), control_phase.clone())
    }));
    let (keeper_endpoint, keeper_consensus, keeper_phases) = (Arc::clone(&endpoint), serving, phases.clone());
    let keeper = supervisor.renewed("links", move || {
        let keeper = LinkKeeper {
            me,
            endpoint: Arc::clone(&keeper_endpoint),
            consensus: keeper_consensus.clone(),
            before: before.clone(),
            sender: links.clone(),
            clock,
            queue_packets: Arc::clone(&link_queue_packets),
            phase: keeper_phases.clone(),
        };
        keeper.run()
    });
    ending.push(("links", keeper, CLOSE_PATIENCE));
    // not where it listens: no address in any log, not even our own
    tracing::info!(identity = %me, %role, "running");
    let grace = network.parameters.grace();
    Ok(Running {
        phase,
        endpoint,
        reload,
        drain: Drain { me, schedule, grace, clock, newest: consensus, counters, files },
        ending,
    })
}

/// What happens when the consensus or the epoch changes.
#[derive(Clone)]
struct Turn {
    me: Identity,
    schedule: Schedule,
    clock: Clock,
    consensus: Consensus,
    before: Consensus,
    view: Arc<ArcSwapOption<View>>,
    published: Arc<Published>,
    lateness: Arc<Lateness>,
    live_keys: Arc<LiveKeys>,
}

impl Turn {
    async fn run(mut self) {
        let mut alarm = FillAlarm::default();
        let mut epoch = self.schedule.epoch_at(self.clock.wall());
        loop {
            let newest = self.consensus.borrow_and_update().clone();
            let before = self.before.borrow_and_update().clone();
            let before = before.as_deref().map(|before| &**before);
            let view = newest.and_then(|consensus| View::of(&consensus, before, &self.me));
            self.view.store(view.map(Arc::new));
            let now = self.clock.wall();
            if self.schedule.epoch_at(now) != epoch {
                epoch = self.schedule.epoch_at(now);
                self.published.epoch_ended(Machine::read(&self.live_keys));
                self.lateness.epoch_ended();
            }
            self.look_at_replay_sets(&mut alarm);
            let wait =
                self.schedule.start(epoch.plus(1)).since(now).clamp(Duration::from_millis(1), Duration::from_secs(1));
            tokio::select! {
                changed = self.consensus.changed() => if changed.is_err() { return },
                changed = self.before.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

impl Turn {
    fn look_at_replay_sets(&self, alarm: &mut FillAlarm) {
        let keys = self.live_keys.all();
        for (epoch, fill) in alarm.observe(keys.iter().map(|key| (key.epoch(), key.fill_ratio()))) {
            let next = "raise limits.replay_capacity_packets, or run another node";
            match fill {
                Fill::Full => tracing::warn!(%epoch, next, "the replay set is full: packets of this epoch are refused"),
                Fill::Filling => tracing::warn!(%epoch, next, "the replay set is filled to 80 %"),
                Fill::Roomy => {}
            }
        }
    }
}

impl Running {
    async fn until_stopped(self) {
        let Self { phase, endpoint, mut drain, reload, ending } = self;
        notify(&[sd_notify::NotifyState::Ready]);
        tokio::spawn(watchdog());
        tokio::spawn(signals(phase.clone(), reload));
        let mut phases = phase.subscribe();
        phase::reached(&mut phases, Phase::Draining).await;
        let mut drained = false;
        if *phases.borrow() == Phase::Draining {
            tracing::info!("draining: serving until the consensus lets this node go; a second signal stops now");
            tokio::select! {
                // when the process stops, documents end, and with them the drain: then it was not carried out
                () = drain.run() => drained = *phase.borrow() == Phase::Draining,
                () = phase::reached(&mut phases, Phase::Stopping) => {}
            }
        }
        notify(&[sd_notify::NotifyState::Stopping]);
        phase::advance(&phase, Phase::Stopping);
        // the store finishes what it acknowledged, then the links send what they hold, then they close
        for (name, task, patience) in ending {
            if timeout(patience, task).await.is_err() {
                tracing::warn!(task = name, "did not end in time");
            }
        }
        endpoint.close();
        // peers that do not answer notice by themselves
        let _ = timeout(CLOSE_PATIENCE, endpoint.wait_idle()).await;
        // one that was stopped before may be started again soon, and needs its keys then
        if drained {
            drain.erase();
        }
        tracing::info!("stopped");
    }
}

/// SIGTERM drains, a second one stops now; SIGINT (a terminal's Ctrl-C) stops now; SIGHUP reads the configuration again.
async fn signals(phase: watch::Sender<Phase>, mut reload: Reload) {
    use tokio::signal::unix::{SignalKind, signal};
    let streams = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = streams else {
        tracing::error!("signals cannot be received; use `shoal-node drain`");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {
                let next = if *phase.borrow() == Phase::Running { Phase::Draining } else { Phase::Stopping };
                phase::advance(&phase, next);
            }
            _ = interrupt.recv() => phase::advance(&phase, Phase::Stopping),
            _ = hangup.recv() => reload.again(),
        }
    }
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Tells the service manager's watchdog that the runtime still turns.
async fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        notify(&[sd_notify::NotifyState::Watchdog]);
        tokio::time::sleep(interval / 2).await;
    }
}
