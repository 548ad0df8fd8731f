//! `shoal-ops bench --part client`: how long files take over a whole network of processes, at a fixed λ_P; a small one as it is,
//! a large one while both daemons are killed and started again half-way.

use std::{fmt, fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use rand::Rng as _;
use serde::Serialize;
use shoal_client::io::EventLine;
use tokio::{sync::mpsc, time::timeout};

use crate::io::{
    clock::{self, Stopwatch},
    person::{Heard, Person},
    progress::Progress,
    testnet::Testnet,
};
use crate::plan::Shape;

/// Payload packets a second of every client: twice the normal class of a public network.
const LAMBDA_P: f64 = 4.0;
/// How long stores of the network keep a box: longer than the large file takes.
const RETENTION: Duration = Duration::from_secs(3_600);
/// The small file.
const SMALL: usize = 64 << 10;
/// How long the first message may take: a conversation has to begin.
const FIRST_LIMIT: Duration = Duration::from_secs(300);
/// How long a small file may take.
const SMALL_LIMIT: Duration = Duration::from_secs(600);
/// How long a large one may take, for each of its bytes: ten times the expected 0.2 ms.
const LIMIT_PER_BYTE: Duration = Duration::from_millis(2);
/// How often the writer is asked how far the large one has come.
const LOOK: Duration = Duration::from_secs(1);
/// Events that may wait to be looked at.
const HEARD_MAX: usize = 65_536;

/// How long files take.
#[derive(Debug, Serialize)]
pub(super) struct ClientFigures {
    /// Payload packets a second of every client.
    lambda_p: f64,
    /// From the command to the file at the reader, whole: 64 KiB, median of all runs.
    file_64k_s: f64,
    /// Of every run.
    file_64k_all_s: Vec<f64>,
    /// The large file.
    large: LargeFigures,
}

#[derive(Debug, Serialize)]
struct LargeFigures {
    bytes: usize,
    /// Its boxes: each is written once, to both its stores, and read once.
    boxes: u64,
    /// How many of them were written when both daemons were killed.
    killed_at: u64,
    /// From the command to the file at the reader, restart and all.
    seconds: f64,
    /// Boxes a second ÷ λ_P.
    ratio: f64,
}

impl fmt::Display for ClientFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lambda_p, file_64k_s, file_64k_all_s, large } = self;
        let all = file_64k_all_s.iter().map(|seconds| format!("{seconds:.1}")).collect::<Vec<_>>().join(", ");
        write!(
            f,
            "client, {lambda_p} payload packets a second\n  64 KiB: {file_64k_s:.1} s (median of {all})\n  \
             {} KiB, both daemons killed at {} of {} boxes: {:.0} s, {:.2} of the packets carried a box of it",
            large.bytes >> 10,
            large.killed_at,
            large.boxes,
            large.seconds,
            large.ratio
        )
    }
}

/// Two people and what their daemons tell.
struct Pair {
    alice: Person,
    bob: Person,
    heard: mpsc::Receiver<Heard>,
    sender: mpsc::Sender<Heard>,
    watch: Stopwatch,
}

impl Pair {
    async fn meet(dir: &Path, network: &Path) -> anyhow::Result<Self> {
        let watch = Stopwatch::start();
        let (sender, heard) = mpsc::channel(HEARD_MAX);
        let (alice, bob) = tokio::try_join!(
            Person::start("Alice", dir, network, watch, sender.clone()),
            Person::start("Bob", dir, network, watch, sender.clone()),
        )?;
        tokio::try_join!(alice.add("Bob", &bob.address), bob.add("Alice", &alice.address))?;
        let mut pair = Self { alice, bob, heard, sender, watch };
        let (id, _) = pair.alice.send("Bob", "Hello, Bob").await?;
        pair.until_shown(&id, FIRST_LIMIT).await.context("the first message")?;
        Ok(pair)
    }

    /// Waits until Bob has a message; returns when, on the stopwatch.
    async fn until_shown(&mut self, id: &str, limit: Duration) -> anyhow::Result<Duration> {
        let shown = async {
            loop {
                let heard = self.heard.recv().await.context("both daemons are gone")?;
                if matches!(&heard.event, EventLine::Message(line) if line.id == id && heard.person == "Bob") {
                    return Ok(heard.at);
                }
            }
        };
        timeout(limit, shown).await.with_context(|| format!("not shown after {} s", limit.as_secs()))?
    }

    /// Sends a file, kills both daemons when half of it is written if that is wanted, and compares what arrives. Returns how long
    /// it took, and how much was written when they were killed.
    async fn file(&mut self, path: &Path, kill: bool, progress: Progress) -> anyhow::Result<(Duration, (u64, u64))> {
        let content = fs::read(path)?;
        let limit = SMALL_LIMIT + LIMIT_PER_BYTE * u32::try_from(content.len())?;
        let begun = self.watch.elapsed();
        let (id, _) = self.alice.send_file("Bob", path).await?;
        let mut killed_at = (0, 0);
        if kill {
            let step = progress.step("half of it", 0);
            let half = async {
                loop {
                    let (written, all) = self.alice.parts(&id).await?;
                    step.detail(&format!("{written} of {all} boxes"));
                    if 2 * written >= all {
                        return anyhow::Ok((written, all));
                    }
                    tokio::time::sleep(LOOK).await;
                }
            };
            killed_at = timeout(limit, half).await.context("half of the file")??;
            self.alice.kill_and_start(self.watch, self.sender.clone()).await?;
            self.bob.kill_and_start(self.watch, self.sender.clone()).await?;
            step.done(&format!("{} of {} boxes; both daemons killed and started again", killed_at.0, killed_at.1));
        }
        let shown = self.until_shown(&id, limit).await?;
        let read = self.bob.read().await?;
        let line = read.iter().find(|line| line.get("id").and_then(|id| id.as_str()) == Some(&id));
        let place = line.and_then(|line| line.get("file")?.get("path")?.as_str()).context("no file was read")?;
        ensure!(fs::read(place)? == content, "the file that arrived is another one");
        Ok((shown.saturating_sub(begun), killed_at))
    }
}

/// Measures over a network of its own.
pub(super) async fn measure(runs: u8, large: usize, progress: Progress) -> anyhow::Result<ClientFigures> {
    let scratch = tempfile::Builder::new().prefix("shoal-bench-").tempdir().context("no temporary directory")?;
    let shape = Shape { lambda_p: Some(LAMBDA_P), retention: Some(RETENTION), ..Shape::default() };
    let mut testnet = Testnet::start(&shape, &scratch.path().join("net"), progress).await?;
    let measured = with_network(testnet.network_path(), scratch.path(), runs, large, progress).await;
    testnet.stop().await;
    measured
}

async fn with_network(
    network: &Path,
    dir: &Path,
    runs: u8,
    large: usize,
    progress: Progress,
) -> anyhow::Result<ClientFigures> {
    let mut pair = Pair::meet(dir, network).await?;
    let path = dir.join("file.bin");
    let random = |size: usize| {
        let mut content = vec![0; size];
        clock::generator().fill_bytes(&mut content);
        fs::write(&path, &content).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut all = Vec::new();
    let step = progress.step("64 KiB", u64::from(runs));
    for run in 0..runs {
        random(SMALL)?;
        let (took, _) = pair.file(&path, false, progress).await?;
        all.push(tenths(took));
        step.at(usize::from(run) + 1);
    }
    step.done(&format!("{runs} times"));
    random(large)?;
    let (took, (killed_at, boxes)) = pair.file(&path, true, progress).await?;
    let Pair { alice, bob, .. } = pair;
    alice.stop().await;
    bob.stop().await;
    let mut sorted = all.clone();
    sorted.sort_by(f64::total_cmp);
    Ok(ClientFigures {
        lambda_p: LAMBDA_P,
        file_64k_s: sorted.get(sorted.len() / 2).copied().context("no run")?,
        file_64k_all_s: all,
        large: LargeFigures {
            bytes: large,
            boxes,
            killed_at,
            seconds: tenths(took),
            ratio: (boxes as f64 / took.as_secs_f64() / LAMBDA_P * 100.0).round() / 100.0,
        },
    })
}

fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
