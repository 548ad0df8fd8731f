//! Row 4: the bytes of a packet do not tell how far it has come, nor how far it goes. `SHOAL_POSITION_PACKETS=100000` is
//! the full size.
//!
//! Two judges. A logistic regression over every bit of the header and every byte of the payload learns from one half of
//! the packets and is scored on the other. And for every byte position a table of values, which finds any difference in
//! one byte, also one that no linear judge sees. Both are shown a leak first, so that they are known to find one.

use crate::{beside, size};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shoal_protocol::X25519Secret;
use shoal_protocol::geometry::{HEADER_SIZE, HOPS, PACKET_SIZE};
use shoal_protocol::poisson::exponential;
use shoal_protocol::sphinx::{Hop, Packet, Unwrapped, build, open_header};
use shoal_tests::statistics::{auc, chi_square_z};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

const HEADER_BITS: usize = HEADER_SIZE * 8;
const FEATURES: usize = HEADER_BITS + PACKET_SIZE - HEADER_SIZE;
/// Largest deviation that is chance: of 2,816 positions one exceeds 5.5 once in 10,000 runs.
const Z_MAX: f64 = 5.5;
type Bytes = [u8; PACKET_SIZE];

/// Every header bit and every payload byte, each with mean 0 and variance 1 in random bytes.
fn features(packet: &Bytes, into: &mut [f32]) {
    let (header, payload) = packet.split_at(HEADER_SIZE);
    let (bits, bytes) = into.split_at_mut(HEADER_BITS);
    for (bits, byte) in bits.chunks_exact_mut(8).zip(header) {
        for (n, bit) in bits.iter_mut().enumerate() {
            *bit = if byte >> n & 1 == 1 { 1.0 } else { -1.0 };
        }
    }
    for (feature, byte) in bytes.iter_mut().zip(payload) {
        *feature = (f32::from(*byte) - 127.5) / 73.9;
    }
}

/// Judges whether a packet is of the second kind.
struct Judge {
    weights: Vec<f32>,
    bias: f32,
    buffer: Vec<f32>,
    learnt: u32,
    positive: Vec<f32>,
    negative: Vec<f32>,
    /// Values of every byte position, of either kind.
    tables: [Vec<u32>; 2],
    counts: [u64; 2],
}

impl Judge {
    fn new() -> Self {
        Self {
            weights: vec![0.0; FEATURES],
            bias: 0.0,
            buffer: vec![0.0; FEATURES],
            learnt: 0,
            positive: Vec::new(),
            negative: Vec::new(),
            tables: [vec![0; PACKET_SIZE * 256], vec![0; PACKET_SIZE * 256]],
            counts: [0; 2],
        }
    }

    fn score(&mut self, packet: &Bytes) -> f32 {
        features(packet, &mut self.buffer);
        // eight sums, so that they are made side by side
        let mut sums = [0.0; 8];
        for (weights, values) in self.weights.chunks(8).zip(self.buffer.chunks(8)) {
            for (sum, (weight, value)) in sums.iter_mut().zip(weights.iter().zip(values)) {
                *sum += weight * value;
            }
        }
        self.bias + sums.iter().sum::<f32>()
    }

    /// One step of stochastic gradient descent.
    fn learn(&mut self, packet: &Bytes, second: bool) {
        let score = self.score(packet);
        let error = f32::from(u8::from(second)) - 1.0 / (1.0 + (-score).exp());
        self.learnt += 1;
        // the step shrinks, so that chance in single packets averages out
        let step = error * 1.5 / FEATURES as f32 * (2_000.0 / (2_000.0 + self.learnt as f32)).sqrt();
        for (weight, value) in self.weights.iter_mut().zip(&self.buffer) {
            *weight += step * value;
        }
        self.bias += step;
    }

    fn judge(&mut self, packet: &Bytes, second: bool) {
        let score = self.score(packet);
        if second { self.positive.push(score) } else { self.negative.push(score) }
    }

    fn tally(&mut self, packet: &Bytes, second: bool) {
        let kind = usize::from(second);
        self.counts[kind] += 1;
        for (values, byte) in self.tables[kind].chunks_exact_mut(256).zip(packet) {
            values[usize::from(*byte)] += 1;
        }
    }

    /// The first half is learnt from, the second judged; all are tallied.
    fn take(&mut self, packet: &Bytes, second: bool, learn: bool) {
        self.tally(packet, second);
        if learn { self.learn(packet, second) } else { self.judge(packet, second) }
    }

    fn auc(&self) -> f64 {
        auc(&self.positive, &self.negative)
    }

    /// The byte position whose values differ most between the kinds, as a standard normal value. Values are taken
    /// together so that each is expected ten times at least.
    fn worst_position(&self) -> (usize, f64) {
        let smaller = self.counts[0].min(self.counts[1]) as f64;
        let together = (1..=256).find(|n| 256 % n == 0 && smaller * (*n as f64) / 256.0 >= 10.0).unwrap_or(256);
        let [n, m] = self.counts.map(|count| count as f64);
        let cells = |table: &[u32]| -> Vec<f64> {
            table.chunks(together).map(|values| values.iter().map(|value| f64::from(*value)).sum()).collect()
        };
        let positions = self.tables[0].chunks_exact(256).zip(self.tables[1].chunks_exact(256)).map(|(a, b)| {
            let cells: Vec<(f64, f64)> = cells(a).into_iter().zip(cells(b)).filter(|(a, b)| a + b > 0.0).collect();
            let chi_square: f64 =
                cells.iter().map(|(a, b)| ((m / n).sqrt() * a - (n / m).sqrt() * b).powi(2) / (a + b)).sum();
            if cells.len() < 2 { 0.0 } else { chi_square_z(chi_square, cells.len() as f64 - 1.0) }
        });
        positions.enumerate().fold((0, f64::MIN), |worst, (at, z)| if z > worst.1 { (at, z) } else { worst })
    }
}

/// A packet at every hop of a route of `length`, as an observer of the links sees it.
fn along(length: usize, rng: &mut StdRng) -> Vec<Packet> {
    let mean = Duration::from_millis(500);
    let keys: Vec<X25519Secret> = (0..length).map(|_| X25519Secret::generate(rng)).collect();
    let hops: Vec<Hop> = keys
        .iter()
        .map(|key| {
            let mut address = [0; 32];
            rng.fill_bytes(&mut address);
            Hop { address, key: key.public(), delay: exponential(mean, rng) }
        })
        .collect();
    let mut plaintext = [0; 2_000];
    rng.fill_bytes(&mut plaintext);
    let mut packets = vec![build(&plaintext, &hops, [1; 16], rng).expect("a good route")];
    for key in &keys {
        match open_header(packets.last().expect("one"), key).expect("whole").finish().expect("good") {
            Unwrapped::Forward { packet, .. } => packets.push(packet),
            Unwrapped::Final { .. } => break,
        }
    }
    packets
}

/// As if padding were zeros and not the filler: what a header would show if one byte of it told the position.
fn leaky(packet: &Bytes) -> Bytes {
    let mut packet = *packet;
    packet[HEADER_SIZE - 1] = 0;
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn row_04_bytes_do_not_tell_position_or_path_length() {
    let _beside = beside().await;
    let total = size("SHOAL_POSITION_PACKETS", 3_000).next_multiple_of(2);
    let began = Instant::now();
    // one thread on each core builds routes of five hops and, of every one, the first packet of a shorter one
    let (sender, routes) = sync_channel(64);
    let builders: Vec<_> = (0..2u64)
        .map(|thread| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut rng = StdRng::seed_from_u64(thread);
                for n in 0..total / 2 {
                    let shorter = along(1 + n as usize % (HOPS - 1), &mut rng).remove(0);
                    if sender.send((along(HOPS, &mut rng), shorter)).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    drop(sender);
    // the first link against each later one; a whole route against a shorter one, both on their first link; and a leak
    let mut positions: Vec<Judge> = (1..HOPS).map(|_| Judge::new()).collect();
    let (mut length, mut leak) = (Judge::new(), Judge::new());
    for (n, (packets, shorter)) in routes.into_iter().enumerate() {
        let learn = (n as u64) < total / 2;
        assert_eq!(packets.len(), HOPS);
        let first = packets[0].as_bytes();
        for (judge, later) in positions.iter_mut().zip(&packets[1..]) {
            judge.take(first, false, learn);
            judge.take(later.as_bytes(), true, learn);
        }
        length.take(first, false, learn);
        length.take(shorter.as_bytes(), true, learn);
        if n < 4_000 {
            leak.take(first, false, n < 2_000);
            leak.take(&leaky(packets[1].as_bytes()), true, n < 2_000);
        }
    }
    builders.into_iter().for_each(|builder| builder.join().expect("built"));

    let (leak_auc, leak_at) = (leak.auc(), leak.worst_position());
    println!("row 4: control, one byte leaks: AUC {leak_auc:.4}, position {leak_at:?}");
    assert!(leak_auc > 0.9 && leak_at.0 == HEADER_SIZE - 1 && leak_at.1 > 20.0, "the judges find a leak");

    // four standard errors of the AUC with as many packets of either kind, or what the table asks for
    let judged = total as f64 / 2.0;
    let band = (4.0 * (1.0 / (6.0 * judged)).sqrt()).max(0.01);
    let mut named: Vec<(String, &Judge)> =
        positions.iter().enumerate().map(|(n, judge)| (format!("hop 1 or {}", n + 2), judge)).collect();
    named.push(("5 hops or fewer".to_owned(), &length));
    for (name, judge) in named {
        let (area, (at, z)) = (judge.auc(), judge.worst_position());
        println!(
            "row 4: {name}: {total} packets each, AUC {area:.4} (0.5 ± {band:.3}); byte {at} differs most, by {z:.2} standard deviations"
        );
        assert!((area - 0.5).abs() <= band, "{name}: AUC {area}");
        assert!(z < Z_MAX, "{name}: byte {at}: {z}");
    }
    println!("row 4: {:.0} s", began.elapsed().as_secs_f64());
}
