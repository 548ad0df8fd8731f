//! Keeps what the status page shows up to date: asks the parties that it knows for their health and an authority for
//! the newest document.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_protocol::{network::NetworkFile, types::UnixMillis};
use tokio::task::JoinSet;

use super::{
    clock,
    directory::{Directory, Newest},
    http, network,
};
use crate::{
    history::LoopHistory,
    samples::Samples,
    view::{Document, Health, Known, Network, Probing, View, view},
};

/// How long a party gets to answer.
const LIMIT: Duration = Duration::from_millis(800);

/// What is known now, shared by who finds it out and who shows it.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    network: Arc<Network>,
    genesis: UnixMillis,
    known: Arc<Vec<Known>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    document: Option<Document>,
    health: BTreeMap<String, Health>,
    history: LoopHistory,
    probing: Probing,
}

impl Board {
    /// An empty board for a network and the parties of it that can be asked.
    pub(crate) fn new(file: &NetworkFile, known: Vec<Known>) -> Self {
        let bucket = (file.parameters.epoch() / 4).clamp(Duration::from_secs(5), Duration::from_secs(300));
        let state = State {
            document: None,
            health: BTreeMap::new(),
            history: LoopHistory::new(bucket),
            probing: Probing::default(),
        };
        let genesis = file.genesis_time;
        Self {
            network: Arc::new(network::shown(file)),
            genesis,
            known: Arc::new(known),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Changes what is known of the prober and its loops.
    pub(crate) fn probed(&self, change: impl FnOnce(&mut LoopHistory, &mut Probing, UnixMillis)) {
        let now = clock::now();
        let mut state = self.lock();
        let State { history, probing, .. } = &mut *state;
        change(history, probing, now);
    }

    /// What the page shows now.
    pub(crate) fn view(&self) -> View {
        let state = self.lock();
        let State { document, health, history, probing } = &*state;
        view(&self.network, document.as_ref(), &self.known, health, history, probing, clock::now())
    }

    /// When the network began.
    pub(crate) fn genesis(&self) -> UnixMillis {
        self.genesis
    }

    /// What a party's metrics said last.
    pub(crate) fn samples(&self, name: &str) -> Samples {
        self.lock().health.get(name).map(|health| health.samples.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // each change is one assignment: what a panicking holder left behind is whole
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at everything once.
    async fn look(&self, directory: &mut Directory) {
        let mut asked = JoinSet::new();
        for known in self.known.iter().cloned() {
            asked.spawn(async move { (known.name.clone(), health(&known).await) });
        }
        if let Ok(Newest::Document(document)) = directory.newest(clock::now()).await {
            self.lock().document = Some(*document);
        }
        while let Some(answered) = asked.join_next().await {
            if let Ok((name, health)) = answered {
                self.lock().health.insert(name, health);
            }
        }
    }

    /// Looks again and again; never returns.
    pub(crate) async fn watch(self, mut directory: Directory, period: Duration) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(&mut directory).await;
        }
    }
}

/// Asks one party.
async fn health(known: &Known) -> Health {
    let ready = http::get(known.metrics, "/readyz", LIMIT).await.ok();
    let metrics = match ready {
        Some(_) => http::get(known.metrics, "/metrics", LIMIT).await.ok(),
        None => None,
    };
    Health {
        ready: ready.map(|answer| (answer.code == 200, first_line(&answer.body))),
        samples: metrics
            .filter(|answer| answer.code == 200)
            .map(|answer| Samples::parse(&answer.body))
            .unwrap_or_default(),
    }
}

/// At most 120 characters of the first line: enough for a reason, too little to fill a page.
fn first_line(body: &str) -> String {
    body.lines().next().unwrap_or_default().chars().take(120).collect()
}
