//! What a mix passes on, and how punctually: over real QUIC links, with replay check, replay log, delay queue and link
//! encryption, on one core of its own.
//!
//! Everything is measured against the Sphinx crate's own processing of a packet on the same core in the same run. Time is
//! CPU time, so that what else a machine does counts for neither.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use rand::{SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use shoal_protocol::{
    poisson::exponential,
    sphinx::{Hop, Packet, RawPacket, Unwrapped, build, open_header},
    x25519::X25519Secret,
};
use tokio::runtime::{Builder, Handle};

use super::{
    machine::{Cores, thread_time},
    stage::Stage,
};
use crate::io::{clock::Stopwatch, progress::Progress};

/// Mean mixing delay in the bench's network, that of a public one: a packet whose delay is shorter than the time it takes to
/// unwrap it is late, and how many such there are follows from the mean.
const MEAN: Duration = Duration::from_millis(500);
/// Offered ÷ raw rate when the mix is to be saturated.
const OVERLOAD: f64 = 1.2;
/// How long it is saturated before it is measured (six means: as much leaves as comes), and then for how long.
const WARM_UP: Duration = Duration::from_secs(3);
const SATURATED: Duration = Duration::from_secs(4);
/// How long each lighter load lasts.
const LOADED: Duration = Duration::from_secs(4);
/// The lighter loads, in parts of what the mix passes on when it is saturated.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// Packets of a measurement of the raw rate.
const RAW_PACKETS: usize = 10_000;
/// How often the mix is asked whether anything still waits in it.
const LOOK: Duration = Duration::from_millis(50);
/// Packets of one write at most.
const BATCH: usize = 16;

/// What a mix does on one core.
#[derive(Debug, Serialize)]
pub(super) struct NodeFigures {
    /// Runs; every figure is their median.
    runs: u8,
    /// The crate's own processing, packets a second of CPU time.
    raw_per_core_second: f64,
    /// Packets that the mix forwards a second of its CPU time, when it is saturated.
    forwarded_per_core_second: f64,
    /// The one ÷ the other.
    ratio: f64,
    /// The same of every run.
    ratios: Vec<f64>,
    /// CPU time ÷ time while it is saturated: how much of its core the mix gets.
    core_share: f64,
    /// Growth of resident memory ÷ packets accepted: replay set and whatever else grows.
    memory_bytes_per_packet: f64,
    /// Lateness at lighter loads.
    lateness: Vec<LatenessFigures>,
}

/// How late packets are against their mixing delay, from write to read on loopback.
#[derive(Debug, Clone, Copy, Serialize)]
struct LatenessFigures {
    /// Part of the saturated rate.
    load: f64,
    /// Packets a second.
    offered_per_second: f64,
    /// Packets that did not arrive ÷ packets sent.
    lost: f64,
    /// Median, in ms.
    p50_ms: f64,
    /// 99th percentile, in ms.
    p99_ms: f64,
}

struct Run {
    raw: f64,
    forwarded: f64,
    core_share: f64,
    lateness: Vec<LatenessFigures>,
}

/// Measures; returns when all runs are done.
pub(super) async fn measure(runs: u8) -> anyhow::Result<NodeFigures> {
    let cores = Cores::divide()?;
    // a runtime of its own, whose threads all stay on the cores that measure
    let measuring = move || {
        let runtime = Builder::new_multi_thread().enable_all().build().context("a runtime")?;
        runtime.block_on(measure_all(runs, cores))
    };
    tokio::task::spawn_blocking(move || cores.on_measuring(measuring)?).await.context("measuring")?
}

async fn measure_all(runs: u8, cores: Cores) -> anyhow::Result<NodeFigures> {
    // in memory, as a node's runtime directory should be
    let memory = PathBuf::from("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.context("a folder for the mix")?;
    let step = Progress::new().step("a mix on a core of its own", u64::from(runs));
    let spawn = |mut command: std::process::Command| -> anyhow::Result<std::process::Child> {
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).env("SHOAL_LOG", "error");
        cores.on_measured(|| command.spawn())?.context("the mix does not start")
    };
    let stage = Arc::new(Stage::set(dir.path(), MEAN, spawn).await?);
    let mut links = stage.links().await?;
    let memory = async || anyhow::Ok((stage.metric("process_resident_memory_bytes").await?, accepted(&stage).await?));
    let mut before = memory().await?;
    let mut all = Vec::new();
    for run in 0..runs {
        all.push(one_run(&stage, &mut links, cores).await?);
        if run == 0 && runs > 1 {
            // queues and buffers have their size now; what grows from here on grows with the packets
            before = memory().await?;
        }
        step.at(usize::from(run) + 1);
    }
    let after = memory().await?;
    step.done(&format!("{runs} runs"));
    let of = |pick: &dyn Fn(&Run) -> f64| median(all.iter().map(pick).collect());
    let lateness = |at: usize| -> Option<LatenessFigures> {
        let at_load: Vec<LatenessFigures> = all.iter().filter_map(|run| run.lateness.get(at).copied()).collect();
        let of = |pick: fn(&LatenessFigures) -> f64| median(at_load.iter().map(pick).collect());
        Some(LatenessFigures {
            load: at_load.first()?.load,
            offered_per_second: of(|figures| figures.offered_per_second),
            lost: of(|figures| figures.lost),
            p50_ms: of(|figures| figures.p50_ms),
            p99_ms: of(|figures| figures.p99_ms),
        })
    };
    Ok(NodeFigures {
        runs,
        raw_per_core_second: of(&|run| run.raw),
        forwarded_per_core_second: of(&|run| run.forwarded),
        ratio: of(&|run| run.forwarded / run.raw),
        ratios: all.iter().map(|run| run.forwarded / run.raw).collect(),
        core_share: of(&|run| run.core_share),
        memory_bytes_per_packet: (after.0 - before.0) / (after.1 - before.1).max(1.0),
        lateness: (0..LOADS.len()).filter_map(lateness).collect(),
    })
}

type Links =
    [(shoal_protocol::quic::Link, shoal_protocol::quic::FrameWriter<{ shoal_protocol::geometry::PACKET_SIZE }>)];

async fn one_run(stage: &Arc<Stage>, links: &mut Links, cores: Cores) -> anyhow::Result<Run> {
    let mut rng = crate::io::clock::generator();
    let raw_rate = || anyhow::Ok(tokio::task::block_in_place(|| cores.on_measured(raw_rate))??);
    let raw = raw_rate()?;

    // the rate of one core that is never idle
    let flood = Traffic::prepare(stage, raw * OVERLOAD, WARM_UP + SATURATED, &mut rng)?;
    // a task of its own, because sending keeps this one busy
    let watched = Arc::clone(stage);
    let measured = tokio::spawn(async move {
        tokio::time::sleep(WARM_UP).await;
        let begun = Reading::of(&watched).await?;
        tokio::time::sleep(SATURATED - Duration::from_millis(200)).await;
        anyhow::Ok((begun, Reading::of(&watched).await?))
    });
    flood.send(stage, links).await?;
    let (begun, ended) = measured.await??;
    if ended.forwarded <= begun.forwarded {
        bail!("the mix forwarded nothing; it dropped: {}", stage.drops().await?);
    }
    // a machine that shares its cores with others is faster at one moment than at the next: before and after, and between
    let raw = f64::midpoint(raw, raw_rate()?);
    let cpu = ended.cpu - begun.cpu;
    let forwarded = (ended.forwarded - begun.forwarded) / cpu;
    let core_share = cpu / (ended.at - begun.at).as_secs_f64();
    let rate = (ended.forwarded - begun.forwarded) / (ended.at - begun.at).as_secs_f64();

    let mut lateness = Vec::new();
    for load in LOADS {
        settle(stage).await?;
        let traffic = Traffic::prepare(stage, rate * load, LOADED, &mut rng)?;
        let sent = traffic.send(stage, links).await?;
        settle(stage).await?;
        lateness.push(traffic.lateness(stage, load, &sent).await?);
    }
    Ok(Run { raw, forwarded, core_share, lateness })
}

/// Waits until nothing waits in the mix, and throws away what it has sent.
async fn settle(stage: &Stage) -> anyhow::Result<()> {
    while stage.metric("shoal_delay_queue_packets").await? > 0.0 {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Packets whose tags are in the mix's replay sets.
async fn accepted(stage: &Stage) -> anyhow::Result<f64> {
    stage.metric("shoal_packets_forwarded_total").await
}

/// What the mix has done until now.
struct Reading {
    forwarded: f64,
    cpu: f64,
    at: Duration,
}

impl Reading {
    async fn of(stage: &Stage) -> anyhow::Result<Self> {
        let forwarded = stage.metric("shoal_packets_forwarded_total").await?;
        let cpu = stage.metric("process_cpu_seconds_total").await?;
        Ok(Self { forwarded, cpu, at: stage.now() })
    }
}

/// The crate's own processing of packets that are to be sent on, packets a second of this thread's CPU time.
fn raw_rate() -> anyhow::Result<f64> {
    let mut rng = StdRng::seed_from_u64(3);
    let (key, last) = (X25519Secret::generate(&mut rng), X25519Secret::generate(&mut rng));
    let hops = [
        Hop { address: [1; 32], key: key.public(), delay: MEAN },
        Hop { address: [2; 32], key: last.public(), delay: Duration::ZERO },
    ];
    let sample = build(&[], &hops, [1; 16], &mut rng)?;
    // the cost does not depend on what a packet holds
    let packets: Vec<RawPacket> = (0..RAW_PACKETS).map(|_| RawPacket::parse(&sample)).collect::<Result<_, _>>()?;
    let begun = thread_time();
    for packet in packets {
        ensure!(packet.process(&key)?, "the crate does not send it on");
    }
    Ok(RAW_PACKETS as f64 / (thread_time() - begun).as_secs_f64())
}

/// Packets that are ready to be sent, each at its time.
struct Traffic {
    rate: f64,
    packets: Vec<(Duration, Packet)>,
    delays: Vec<Duration>,
}

impl Traffic {
    /// Poisson traffic of so many packets a second for `time`, with exponential delays.
    fn prepare(stage: &Stage, rate: f64, time: Duration, rng: &mut StdRng) -> anyhow::Result<Self> {
        let gap = Duration::from_secs_f64(1.0 / rate);
        let next = stage.next_mixes();
        let mut traffic = Self { rate, packets: Vec::new(), delays: Vec::new() };
        let mut at = exponential(gap, rng);
        while at < time {
            let delay = exponential(MEAN, rng);
            let number = traffic.packets.len();
            let last = next.get(number % next.len().max(1)).context("a next mix")?.0;
            let packet = build(&[], &[stage.hop(delay)?, last], identifier(number), rng)?;
            traffic.packets.push((at, packet));
            traffic.delays.push(delay);
            at += exponential(gap, rng);
        }
        Ok(traffic)
    }

    /// Sends every packet at its time, over the links in turn; says when each left.
    async fn send(&self, stage: &Stage, links: &mut Links) -> anyhow::Result<Vec<Duration>> {
        drop(stage.take_received().await);
        let runtime = Handle::current();
        // a thread of its own sleeps to the microsecond; the runtime's timer would send in bursts
        tokio::task::block_in_place(|| {
            let watch = Stopwatch::start();
            let mut sent = Vec::with_capacity(self.packets.len());
            let mut left = self.packets.as_slice();
            let mut turn = 0;
            while let Some((due, _)) = left.first() {
                std::thread::sleep(due.saturating_sub(watch.elapsed()));
                let now = watch.elapsed();
                let ready = left.iter().take(BATCH).take_while(|(at, _)| *at <= now).count().max(1);
                let (batch, rest) = left.split_at(ready);
                left = rest;
                let count = links.len().max(1);
                let (_, writer) = links.get_mut(turn % count).context("a link")?;
                turn += 1;
                let frames = batch.iter().map(|(_, packet)| packet.clone().into_array()).collect();
                sent.extend(std::iter::repeat_n(stage.now(), ready));
                runtime.block_on(writer.write_batch(frames))?;
            }
            Ok(sent)
        })
    }

    /// How late those that arrived were.
    async fn lateness(&self, stage: &Stage, load: f64, sent: &[Duration]) -> anyhow::Result<LatenessFigures> {
        let keys: Vec<&X25519Secret> = stage.next_mixes().into_iter().map(|(_, key)| key).collect();
        let mut late = Vec::with_capacity(sent.len());
        for (read, frame) in stage.take_received().await {
            let packet = Packet::from_array(frame);
            let opened = keys.iter().find_map(|key| open_header(&packet, key).ok()).and_then(|open| open.finish().ok());
            // the mix's own loops go further
            let Some(Unwrapped::Final { identifier, .. }) = opened else { continue };
            let number = number(identifier);
            if let (Some(left), Some(delay)) = (sent.get(number), self.delays.get(number)) {
                late.push((read.as_secs_f64() - left.as_secs_f64() - delay.as_secs_f64()) * 1e3);
            }
        }
        ensure!(!late.is_empty(), "the mix sent nothing on");
        late.sort_by(f64::total_cmp);
        let at = |part: f64| late.get(((late.len() - 1) as f64 * part) as usize).copied().unwrap_or(f64::NAN);
        Ok(LatenessFigures {
            load,
            offered_per_second: self.rate,
            lost: 1.0 - late.len() as f64 / sent.len() as f64,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
        })
    }
}

/// The number of a packet as its identifier, which must not be zero.
fn identifier(number: usize) -> [u8; 16] {
    (number as u128 + 1).to_be_bytes()
}

fn number(identifier: [u8; 16]) -> usize {
    let number = u128::from_be_bytes(identifier).checked_sub(1);
    number.and_then(|number| usize::try_from(number).ok()).unwrap_or(usize::MAX)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for NodeFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a mix on one core, medians of {} runs\n  \
             the crate's own    {:>9.0} packets a core-second\n  \
             the mix forwards   {:>9.0} packets a core-second over QUIC: ratio {:.3}\n  \
             its core           {:>9.1} % used while saturated\n  \
             memory             {:>9.1} bytes a packet, replay set and all",
            self.runs,
            self.raw_per_core_second,
            self.forwarded_per_core_second,
            self.ratio,
            self.core_share * 100.0,
            self.memory_bytes_per_packet,
        )?;
        for at in &self.lateness {
            write!(
                f,
                "\n  at {:>2.0} % load       {:>9.0} packets a second, late by {:.2} ms (median), {:.2} ms (p99); {:.2} % lost",
                at.load * 100.0,
                at.offered_per_second,
                at.p50_ms,
                at.p99_ms,
                at.lost * 100.0,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_keeps_its_number() {
        for n in [0, 1, 77_777, usize::MAX / 2] {
            assert_ne!(identifier(n), [0; 16]);
            assert_eq!(number(identifier(n)), n);
        }
    }

    #[test]
    fn the_crates_own_rate_is_measured() {
        let rate = raw_rate().expect("measured");
        assert!((100.0..10_000_000.0).contains(&rate), "{rate}");
    }
}
