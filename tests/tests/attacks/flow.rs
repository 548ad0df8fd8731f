//! Packets at a chosen rate, and what their way through the node took, measured on the wire.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::poisson::exponential;
use shoal_protocol::quic::FrameWriter;
use shoal_protocol::sphinx::{Packet, Unwrapped, open_header};
use shoal_tests::paper::{Neighbour, Paper, Record};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Numbered packets with the delay that their sender drew for the node.
pub(crate) type Drawn = Vec<(u64, Duration, Packet)>;

/// Packets `from..from + count` to `to`, made by two threads; mean zero: no delay.
pub(crate) async fn drawn(paper: &Arc<Paper>, to: &Arc<Neighbour>, from: u64, count: u64, mean: Duration) -> Drawn {
    let part = count.div_ceil(2);
    let makers = [(from, from + part), (from + part, from + count)].map(|(from, to_number)| {
        let (paper, hop) = (Arc::clone(paper), to.last_hop());
        tokio::task::spawn_blocking(move || {
            let mut rng = StdRng::seed_from_u64(from);
            (from..to_number)
                .map(|number| {
                    let delay = exponential(mean, &mut rng);
                    (number, delay, paper.numbered(number, delay, hop, &mut rng))
                })
                .collect::<Drawn>()
        })
    });
    let mut all = Vec::new();
    for maker in makers {
        all.extend(maker.await.expect("made"));
    }
    all
}

/// When each number was written, and what delay it carries.
pub(crate) type Written = BTreeMap<u64, (Duration, Duration)>;

/// Writes packets as a Poisson process of `rate` a second; `packets` may be made as they are taken.
pub(crate) async fn write_at(
    paper: &Paper,
    frames: &mut FrameWriter<PACKET_SIZE>,
    packets: impl IntoIterator<Item = (u64, Duration, Packet)>,
    rate: f64,
) -> Written {
    let mut rng = StdRng::seed_from_u64(6);
    let mut due = paper.clock.monotonic();
    let mut written = Written::new();
    for (number, delay, packet) in packets {
        due += exponential(Duration::from_secs_f64(1.0 / rate), &mut rng);
        if due > paper.clock.monotonic() {
            tokio::time::sleep_until(paper.clock.timer(due)).await;
        }
        // the moment of writing, not the one that was due
        written.insert(number, (paper.clock.monotonic(), delay));
        frames.write(packet.as_bytes()).await.expect("the link is open");
    }
    written
}

/// Takes what a neighbour receives as it comes, and opens nothing before it is asked: opening costs time that the node
/// may need.
pub(crate) struct Taker {
    arrived: Arc<Mutex<Vec<(Packet, Duration)>>>,
    task: JoinHandle<()>,
}

impl Taker {
    pub(crate) fn of(neighbour: &Arc<Neighbour>) -> Self {
        let (neighbour, arrived) = (Arc::clone(neighbour), Arc::<Mutex<Vec<_>>>::default());
        let kept = Arc::clone(&arrived);
        // what came earlier is nobody's business
        neighbour.packets();
        let task = tokio::spawn(async move {
            loop {
                let next = neighbour.packet().await;
                kept.lock().expect("whole").push(next);
            }
        });
        Self { arrived, task }
    }

    /// All that came, when `count` packets have come or no more come for a second.
    pub(crate) async fn taken(self, count: u64) -> Vec<(Packet, Duration)> {
        let (mut last, mut quiet) = (0, 0);
        while (last as u64) < count && quiet < 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.arrived.lock().expect("whole").len();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
        self.task.abort();
        std::mem::take(&mut *self.arrived.lock().expect("whole"))
    }
}

/// What came out, and when: of every packet that arrived the time it took and the delay it carried, in seconds.
#[derive(Default)]
pub(crate) struct Passed {
    pub(crate) took: Vec<f64>,
    pub(crate) carried: Vec<f64>,
}

impl Passed {
    /// Of packets as their receiver took them.
    pub(crate) fn of(arrived: Vec<(Packet, Duration)>, to: &Neighbour, written: &Written) -> Self {
        let mut passed = Self::default();
        for (packet, at) in arrived {
            let opened = open_header(&packet, &to.mix).expect("for this neighbour").finish().expect("good");
            let Unwrapped::Final { identifier, .. } = opened else { continue };
            let Some((sent, delay)) = written.get(&Record::number(&identifier)) else { continue };
            passed.took.push(at.saturating_sub(*sent).as_secs_f64());
            passed.carried.push(delay.as_secs_f64());
        }
        passed
    }

    /// How much longer than its delay each packet took: lateness, and two ways over loopback through three processes'
    /// queues.
    pub(crate) fn late(&self) -> Vec<f64> {
        self.took.iter().zip(&self.carried).map(|(took, carried)| took - carried).collect()
    }
}
