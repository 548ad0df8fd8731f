//! Starts a whole network on this machine, every party as a process of its own, and looks after it until the end.
#![expect(clippy::disallowed_methods, reason = "IO shell: ports are drawn at random")]

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::{duration, network::NetworkFile, types::Identity};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    clock::{self, Stopwatch},
    directory::{Directory, Newest},
    http, network,
    parties::{self, Ended},
    ports, prepare, probe,
    progress::Progress,
    serve::Server,
    signals::{self, Stop},
    stale,
    watch::Board,
};
use crate::{
    arguments::TestnetOptions,
    failure::{ExitKind, Failure},
    plan::{Party, Shape, place},
    ready::{AuthorityLine, NodeLine, Ready},
    view::{Document, Known},
};

/// A message can be sent after this long at most; on an idle machine it is a few seconds. Later is told as a fault.
const START_GOAL: Duration = Duration::from_secs(20);
/// When a slow machine is given up. Suites that share two cores with compilers needed more than a minute.
const START_LIMIT: Duration = Duration::from_secs(180);
/// How often parties are asked whether they are ready.
const LOOK: Duration = Duration::from_millis(100);
/// How often the status page's figures are renewed.
pub(crate) const WATCH_PERIOD: Duration = Duration::from_secs(2);
/// How long a party gets for one such question.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// The signals that end a party, each with the time it gets. The first asks a node to drain, which takes epochs; the
/// second tells it not to.
const STOP: [(fn(u32), Duration); 3] = [
    (signals::terminate, Duration::from_millis(300)),
    (signals::terminate, Duration::from_secs(3)),
    (signals::kill, Duration::from_secs(3)),
];

/// A party that was started.
#[derive(Debug, Clone)]
struct Started {
    party: Party,
    identity: Option<Identity>,
    pid: u32,
    alive: bool,
}

/// A network of processes.
#[derive(Debug)]
pub(crate) struct Testnet {
    dir: PathBuf,
    network_path: PathBuf,
    network: NetworkFile,
    started: Vec<Started>,
    ended: mpsc::Receiver<Ended>,
    progress: Progress,
    /// Keeps the directory ours.
    _lock: File,
}

impl Testnet {
    /// Starts a network of this shape in `dir` and returns when a message could be sent.
    pub(crate) async fn start(shape: &Shape, dir: &Path, progress: Progress) -> anyhow::Result<Self> {
        let watch = Stopwatch::start();
        shape
            .validate()
            .map_err(|error| Failure::new(ExitKind::Usage, error.to_string(), "see shoal-ops testnet --help"))?;
        let (dir, lock) = prepare::directory(dir).await?;
        let names = shape.names();
        let mut rng = match shape.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        let ports = ports::free(shape.ip, names.len() * 2, &mut rng).context("no ports for the parties")?;
        let placed = place(&names, &dir, &ports).context("no ports for the parties")?;
        prepare::write_note(&dir, &placed, None)?;

        let step = progress.step("making keys", placed.len() as u64);
        let (network, identities) = prepare::init_all(shape, &placed, &dir, |done| step.at(done)).await?;
        let network_path = dir.join("network.toml");
        network::write(&network_path, &network)?;
        step.done(&format!("{} parties", placed.len()));

        // one message for every party that ends: the capacity is never reached while the receiver lives
        let (sender, ended) = mpsc::channel(placed.len() * 2);
        let mut testnet = Self { dir, network_path, network, started: Vec::new(), ended, progress, _lock: lock };
        let result = timeout(START_LIMIT, testnet.run_all(&placed, &identities, sender)).await;
        let error = match result {
            Ok(Ok(())) => {
                if let Some(warning) = late(watch.elapsed()) {
                    progress.say(&warning);
                }
                return Ok(testnet);
            }
            Ok(Err(error)) => error,
            Err(_) => testnet.not_ready().await.into(),
        };
        testnet.stop().await;
        Err(error)
    }

    /// Starts the processes and waits for them.
    async fn run_all(
        &mut self,
        placed: &[Party],
        identities: &[Option<Identity>],
        ended: mpsc::Sender<Ended>,
    ) -> anyhow::Result<()> {
        let step = self.progress.step("starting processes", placed.len() as u64);
        for (party, identity) in placed.iter().zip(identities) {
            let binary = parties::binary(party.name.role.binary())?;
            let pid = parties::start(&binary, party, ended.clone())?;
            self.started.push(Started { party: party.clone(), identity: *identity, pid, alive: true });
            step.at(self.started.len());
        }
        step.done(&format!("{} processes", self.started.len()));

        let step = self.progress.step("first document", 0);
        let document = self.until_certified().await?;
        step.done(&format!("epoch {}, {} nodes", document.consensus.epoch, document.consensus.nodes.len()));

        let step = self.progress.step("links and health", self.started.len() as u64);
        self.until_ready(|ready| step.at(ready)).await?;
        step.done("every party is ready");
        Ok(())
    }

    /// Waits for a document that gives every node its place.
    async fn until_certified(&mut self) -> anyhow::Result<Document> {
        let mut directory = Directory::open(self.network.clone())?;
        let mut last = None;
        loop {
            self.fail_if_one_ended()?;
            // an authority that does not answer yet is still starting
            if let Ok(Newest::Document(document)) = directory.newest(clock::now()).await {
                last = Some(*document);
            }
            let complete = last.as_ref().is_some_and(|document| {
                let nodes = self.started.iter().filter_map(|started| started.identity);
                nodes.into_iter().all(|identity| document.consensus.node(&identity).is_some_and(|node| !node.standby))
            });
            match last {
                Some(document) if complete => return Ok(document),
                Some(_) | None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Waits until every `/readyz` says 200.
    async fn until_ready(&mut self, at: impl Fn(usize)) -> anyhow::Result<()> {
        loop {
            self.fail_if_one_ended()?;
            let waiting = self.waiting().await;
            at(self.started.len() - waiting.len());
            if waiting.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The parties that are not ready, each with what it says.
    async fn waiting(&self) -> Vec<(Party, String)> {
        let mut asked = JoinSet::new();
        for started in self.started.iter().filter(|started| started.alive) {
            let party = started.party.clone();
            asked.spawn(async move {
                let answer = http::get(party.metrics, "/readyz", ASK_LIMIT).await;
                match answer {
                    Ok(answer) if answer.code == 200 => None,
                    Ok(answer) => Some((party, answer.body.trim().to_owned())),
                    Err(error) => Some((party, error.to_string())),
                }
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    /// Says who is not ready, with the end of its log.
    async fn not_ready(&self) -> Failure {
        let waiting = self.waiting().await;
        let each = waiting.iter().map(|(party, reason)| format!("{}: {reason}", party.name));
        let tail = waiting.first().map(|(party, _)| format!("\n{} says:\n{}", party.name, parties::log_tail(party)));
        Failure::new(
            ExitKind::Temporary,
            format!(
                "not ready after {} s: {}{}",
                START_LIMIT.as_secs(),
                each.collect::<Vec<_>>().join("; "),
                tail.unwrap_or_default()
            ),
            format!("read the logs below {}", self.dir.display()),
        )
    }

    /// While starting, a party that ends is a failure.
    fn fail_if_one_ended(&mut self) -> anyhow::Result<()> {
        let Ok(ended) = self.ended.try_recv() else { return Ok(()) };
        let party = self.note_end(&ended);
        let tail = party.as_ref().map(parties::log_tail).unwrap_or_default();
        bail!(Failure::new(
            ExitKind::InputOutput,
            format!("{} ended while the network was starting ({})\n{tail}", ended.name, how(&ended)),
            format!("read the logs below {}", self.dir.display()),
        ))
    }

    fn note_end(&mut self, ended: &Ended) -> Option<Party> {
        let started = self.started.iter_mut().find(|started| started.pid == ended.pid)?;
        started.alive = false;
        Some(started.party.clone())
    }

    /// The line for standard output. It is also noted in the directory.
    pub(crate) async fn ready_line(&self, status: String) -> anyhow::Result<Ready> {
        let mut directory = Directory::open(self.network.clone())?;
        let document = match directory.newest(clock::now()).await? {
            Newest::Document(document) => document,
            Newest::Unchanged | Newest::NotYet(_) => bail!("the authority has lost its document"),
        };
        let authorities = self.started.iter().filter(|started| started.identity.is_none());
        let nodes = self.started.iter().filter_map(|started| Some((started, started.identity?)));
        let ready = Ready {
            ready: true,
            network: self.network_path.clone(),
            status,
            authorities: authorities
                .map(|started| AuthorityLine {
                    pid: started.pid,
                    dir: started.party.dir.clone(),
                    addr: started.party.address,
                    metrics: started.party.metrics,
                })
                .collect(),
            nodes: nodes
                .map(|(started, identity)| NodeLine {
                    identity: identity.to_string(),
                    role: started.party.name.role.name().to_owned(),
                    layer: document.consensus.node(&identity).and_then(|node| Some(node.layer?.to_string())),
                    pid: started.pid,
                    dir: started.party.dir.clone(),
                    addr: started.party.address,
                    metrics: started.party.metrics,
                })
                .collect(),
        };
        let placed: Vec<Party> = self.started.iter().map(|started| started.party.clone()).collect();
        prepare::write_note(&self.dir, &placed, Some(ready.clone()))?;
        Ok(ready)
    }

    /// The network file, with hints.
    pub(crate) fn network(&self) -> &NetworkFile {
        &self.network
    }

    /// Where the network file is.
    pub(crate) fn network_path(&self) -> &Path {
        &self.network_path
    }

    /// The parties, as the status page asks them.
    pub(crate) fn known(&self) -> Vec<Known> {
        let known = |started: &Started| Known {
            name: started.party.name.to_string(),
            identity: started.identity,
            metrics: started.party.metrics,
        };
        self.started.iter().map(known).collect()
    }

    /// Tells about parties that end; never returns. Nobody is started again: that is for whoever ended it.
    pub(crate) async fn look_after(&mut self) {
        while let Some(ended) = self.ended.recv().await {
            let party = self.note_end(&ended);
            let dir = party.map(|party| party.dir.display().to_string()).unwrap_or_default();
            let binary = ended.name.role.binary();
            self.progress.say(&format!(
                "{} ended ({}); to start it again: {binary} run --dir {dir}",
                ended.name,
                how(&ended)
            ));
        }
        // all have ended; the network stays as it is until it is stopped
        std::future::pending().await
    }

    /// Ends every party, also those that somebody started again.
    pub(crate) async fn stop(&mut self) {
        for (signal, patience) in STOP {
            let alive: Vec<u32> =
                self.started.iter().filter(|started| started.alive).map(|started| started.pid).collect();
            if alive.is_empty() {
                break;
            }
            alive.into_iter().for_each(signal);
            let watch = Stopwatch::start();
            while self.started.iter().any(|started| started.alive) {
                let left = patience.saturating_sub(watch.elapsed());
                match timeout(left, self.ended.recv()).await {
                    Ok(Some(ended)) => {
                        self.note_end(&ended);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
        }
        let dirs: Vec<PathBuf> = self.started.iter().map(|started| started.party.dir.clone()).collect();
        stale::end(&dirs).await;
    }
}

/// `shoal-ops testnet`.
pub(crate) async fn command(options: &TestnetOptions) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let progress = Progress::new();
    let shape = options.shape.shape();
    let mut testnet = tokio::select! {
        started = Testnet::start(&shape, &options.dir, progress) => started?,
        () = stop.wait() => bail!(Failure::new(
            ExitKind::Interrupted,
            "interrupted while starting; everything was stopped",
            "start it again",
        )),
    };
    let result = tokio::select! {
        result = serve(options, &mut testnet, progress) => result,
        () = stop.wait() => Ok(()),
    };
    progress.say("stopping");
    testnet.stop().await;
    result
}

/// Serves the status page, says that all is ready, and looks after the parties. Returns only when it could not say so.
async fn serve(options: &TestnetOptions, testnet: &mut Testnet, progress: Progress) -> anyhow::Result<()> {
    let server = Server::bind(options.status).await?;
    let url = server.url();
    let board = Board::new(testnet.network(), testnet.known());
    let mut tasks = JoinSet::new();
    tasks.spawn(board.clone().watch(Directory::open(testnet.network().clone())?, WATCH_PERIOD));
    tasks.spawn(server.run(board.clone(), WATCH_PERIOD));
    if !options.no_prober {
        tasks.spawn(probe::probe(testnet.network().clone(), board));
    }
    let ready = testnet.ready_line(url.clone()).await?;
    let mut stdout = std::io::stdout();
    // who started this and does not listen can still use the network
    let _ = writeln!(stdout, "{}", serde_json::to_string(&ready)?).and_then(|()| stdout.flush());
    progress.say(&what_next(testnet.network(), testnet.network_path(), &url)?);
    // the network goes on when its status page does not
    let watched = async {
        while let Some(ended) = tasks.join_next().await {
            let problem = match ended {
                Ok(Ok(())) => "it ended by itself".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(error) => error.to_string(),
            };
            progress.say(&format!("a part of the status page has stopped: {problem}"));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = testnet.look_after() => {}
        () = watched => {}
    }
    Ok(())
}

/// What a person can do with a network that is ready.
fn what_next(network: &NetworkFile, path: &Path, url: &str) -> anyhow::Result<String> {
    let (shoal, path) = (parties::binary("shoal")?, path.display());
    let kept = duration::short(network.parameters.retention());
    Ok(format!(
        "ready; Ctrl-C stops everything\n  network file: {path}\n  status page:  {url}\n  stores keep what nobody fetches \
         for {kept} (--retention)\n  next, in another terminal:\n    {} --profile ~/alice init --network {path}",
        shoal.display()
    ))
}

/// What to say of a network that took `elapsed` to start.
fn late(elapsed: Duration) -> Option<String> {
    (elapsed > START_GOAL).then(|| {
        let (elapsed, goal) = (elapsed.as_secs_f64(), START_GOAL.as_secs());
        format!("warning: ready late, after {elapsed:.1} s instead of {goal} s; this machine is slow or busy")
    })
}

fn how(ended: &Ended) -> String {
    ended.status.map_or_else(|| "the system does not say how".to_owned(), |status| status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_start_is_told() {
        assert_eq!(late(START_GOAL), None);
        let warning = late(Duration::from_millis(20_100)).expect("is late");
        assert!(warning.contains("after 20.1 s instead of 20 s"), "{warning}");
    }
}
