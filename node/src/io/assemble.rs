//! Putting a node together.
//!
//! The way of a packet: `accept` or `gateway_io` reads it from a link → `workers` unwrap it, hold it and
//! give it to `links` or `gateway_io`, which send it on; at a store `store` takes what ends there. Beside it run the key task, the
//! consensus task, the publisher, the loops, at a gateway the shelf of documents, and the supervision of all of them.

use crate::io::accept::{Acceptor, NodeLinks};
use crate::io::backlog::Backlog;
use crate::io::control;
use crate::io::counters::{Counters, Machine, Published};
use crate::io::documents::Documents;
use crate::io::drain::{Drain, Hold};
use crate::io::egress::Egress;
use crate::io::fetch_state::contradicted;
use crate::io::gateway_io::{ClientService, SessionSender};
use crate::io::handing::{self, Handing};
use crate::io::host::{Clock, cores, generator};
use crate::io::http;
use crate::io::key_files::KeyFiles;
use crate::io::lateness::Lateness;
use crate::io::links::{LinkKeeper, LinkSender};
use crate::io::live_keys::{KeySnapshot, KeyTask, LiveKeys};
use crate::io::logging::SetFilter;
use crate::io::loop_task::LoopTask;
use crate::io::metrics::Metrics;
use crate::io::mover::Mover;
use crate::io::older::Older;
use crate::io::phase::Phase;
use crate::io::ports::Ports;
use crate::io::publish::{PublishState, Publisher};
use crate::io::reload::Reload;
use crate::io::run::{CLOSE_PATIENCE, Running};
use crate::io::setup::{IDENTITY_FILE, Setup};
use crate::io::status::Status;
use crate::io::store;
use crate::io::store_moves::StoreMoves;
use crate::io::store_seam::{StoreContext, StoreReport};
use crate::io::supervise::Supervisor;
use crate::io::turn::Turn;
use crate::io::workers::{self, Size, WorkerContext};
use crate::loops::Loops;
use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use shoal_protocol::quic::Link;
use shoal_protocol::types::Role;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Requests that wait for the courier. 512 × 2.5 kB = 1.3 MB; a store of a large network sees a few hundred a second.
const COURIER_QUEUE: usize = 512;
/// Accepted links that wait for the store.
const ARRIVALS: usize = 64;
/// How long the store may take to finish what is in hand.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// Starts every part of a node.
pub async fn assemble(
    setup: Setup,
    set_filter: SetFilter,
    backlog: Backlog,
    failed: Arc<AtomicBool>,
) -> Result<Running> {
    let Setup { dir, config, network, identity, .. } = setup;
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
    let Ports { endpoint, metrics: metrics_listener, control: control_listener } =
        Ports::open(&config, &identity, &runtime_dir).await?;
    // the only place that sets it
    let _ = counters.turned_away.set(endpoint.turned_away());

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
    let documents = Documents::open(me, &endpoint, &network, &dir, clock)?;
    let Documents { authorities, task: consensus_task, newest: consensus, fetch, changes: changes_shown, .. } =
        documents;
    let (serving_sender, before_sender) = (documents.serving, documents.before);
    let (serving, before) = (serving_sender.subscribe(), before_sender.subscribe());

    // the packet path, from its end to its beginning
    let links = LinkSender::new(Arc::clone(&counters));
    let sessions = by_epoch.then(|| SessionSender::new(limits.sessions, Arc::clone(&counters)));
    let loops = Loops::new(network.parameters.lambda_m.mean_gap(), clock.monotonic(), &mut generator());
    let loops = Arc::new(Mutex::new(loops));
    let view = Arc::new(ArcSwapOption::empty());
    let (courier, requests) = mpsc::channel(COURIER_QUEUE);
    let (workers, _threads) = workers::start(
        Size {
            workers: limits.workers_on(cores()),
            intake_packets: limits.worker_queue_packets,
            delay_queue_packets: limits.delay_queue_packets,
        },
        &WorkerContext {
            keys: Arc::clone(&live_keys),
            view: Arc::clone(&view),
            schedule,
            clock,
            egress: Egress { links: links.clone(), sessions: sessions.clone() },
            lateness: Arc::clone(&lateness),
            loops: Arc::clone(&loops),
            courier: (role == Role::Store).then_some(courier),
            counters: Arc::clone(&counters),
            backlog,
            on_panic: Arc::clone(&on_panic),
        },
    )?;
    let link_queue_packets = Arc::new(AtomicUsize::new(limits.link_queue_packets));
    let leaving = Arc::new(AtomicBool::new(config.leaving));
    let (address, public_address) = watch::channel(config.address.clone());
    let mover = Arc::new(Mover::default());
    let moves = (role == Role::Store)
        .then(|| StoreMoves::new(dir.clone(), *me.as_bytes(), config.store.clone(), Arc::clone(&mover)))
        .map(Arc::new);
    if let Some(moves) = &moves {
        let moves = Arc::clone(moves);
        tokio::task::spawn_blocking(move || moves.resume()).await?.context("going on with the move of the store")?;
    }
    let reload = Reload {
        dir: dir.clone(),
        config: config.clone(),
        set_filter,
        sessions: sessions.clone(),
        link_queue_packets: Arc::clone(&link_queue_packets),
        leaving: Arc::clone(&leaving),
        moves: moves.clone(),
        address,
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
    let older = Older::new(Arc::clone(&authorities), changes_shown.clone(), clock);
    let clients = sessions.map(|sessions| ClientService {
        sessions,
        handing: Handing::new(shelf, changes_shown, older, schedule, clock),
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
        runtime_dir: runtime_dir.clone(),
        moves,
    });

    // and the tasks
    let mut ending = Vec::new();
    if let Some(report) = report {
        let context = StoreContext {
            identity: Arc::clone(&identity),
            consensus: serving.clone(),
            requests,
            arrivals,
            endpoint: Arc::clone(&endpoint),
            outgoing: links.clone(),
            keys: Arc::clone(&live_keys),
            dir: dir.clone(),
            store: config.store.clone(),
            mover,
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
    let shown = Arc::clone(&published);
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
        address: public_address,
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
        published: Arc::clone(&shown),
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
        hinted: network.hints.authorities.iter().map(|hint| hint.address.ip()).collect(),
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
        runtime_dir,
        drain: Drain { me, schedule, grace, clock, newest: consensus, counters, files },
        ending,
    })
}
