//! When a client sends: the emission schedule (design §3.5).
//!
//! Two Poisson clocks tick whether or not anyone has anything to say: λ_P (a want if there is one, else a decoy) and
//! λ_L (always a decoy that measures). The low rate class has one clock of rate λ_low, whose ticks are split between
//! the two in the same proportion.
//!
//! The schedule owns its random generator. Nothing that is sent, asked or answered draws from it, so the instants are
//! a function of seed and time alone: an idle and a busy client with one seed tick at the same nanoseconds. What is
//! made in a tick leaves [`LEAD`] after it, so that the work (a disk transaction or none) does not show either.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::parameters::{Parameters, Rate};
use shoal_protocol::poisson::PoissonClock;

use crate::mail::RateClass;

/// Time between a tick and the departure of its packet. Everything that a tick may cost fits in: one transaction with
/// fsync (1–5 ms on real disks) and the packet itself (about 2 ms).
pub const LEAD: Duration = Duration::from_millis(10);

/// What is left of [`LEAD`] for building: a want that has not come by then waits for the next tick, and a decoy takes
/// its place.
pub const BUILD_TIME: Duration = Duration::from_millis(4);

/// What a tick is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// λ_P: a want if there is one, else a decoy.
    Payload,
    /// λ_L: a decoy that measures, always.
    Loop,
}

/// One tick of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// What it is for.
    pub kind: Kind,
    /// When it was due, on the caller's monotonic clock.
    pub at: Duration,
}

impl Tick {
    /// When its packet leaves.
    #[must_use]
    pub fn departs(&self) -> Duration {
        self.at.saturating_add(LEAD)
    }
}

/// λ_P + λ_L of a class.
#[must_use]
pub fn total_rate(class: RateClass, parameters: &Parameters) -> Rate {
    match class {
        RateClass::Normal => Rate(parameters.lambda_p.0.saturating_add(parameters.lambda_l.0)),
        RateClass::Low => parameters.lambda_low,
    }
}

/// Rate of the measuring decoys of a class, per second.
#[must_use]
pub fn loop_rate(class: RateClass, parameters: &Parameters) -> f64 {
    match class {
        RateClass::Normal => parameters.lambda_l.per_second(),
        RateClass::Low => parameters.lambda_low.per_second() * loop_share(parameters),
    }
}

/// λ_L ÷ (λ_P + λ_L).
fn loop_share(parameters: &Parameters) -> f64 {
    let loops = f64::from(parameters.lambda_l.0);
    // parameters are validated: both rates are at least 1 mHz
    loops / (f64::from(parameters.lambda_p.0) + loops)
}

/// What a class costs in a month of 30 days, in bytes each way: every packet fills two datagrams with 40 bytes of QUIC
/// and 28 of UDP and IPv4 around them, and about one acknowledgement of 60 bytes comes back for it.
#[must_use]
pub fn monthly_bytes(class: RateClass, parameters: &Parameters) -> u64 {
    const MONTH_SECONDS: u64 = 30 * 24 * 3_600;
    const WIRE_BYTES: u64 = PACKET_SIZE as u64 + 2 * (40 + 28) + 60;
    u64::from(total_rate(class, parameters).0) * MONTH_SECONDS / 1_000 * WIRE_BYTES
}

#[derive(Debug)]
enum Clocks {
    Normal { payload: PoissonClock, loops: PoissonClock },
    Low { clock: PoissonClock, loop_share: f64 },
}

/// The emission schedule of one client.
///
/// Contract: sleep until [`Traffic::next`], then call [`Traffic::due`] until it returns `None`. Ask again for `next`
/// after `due` and after `set_parameters`, and after nothing else: no want, reply or command moves a tick.
pub struct Traffic {
    class: RateClass,
    clocks: Clocks,
    rng: StdRng,
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // the generator's state tells every tick to come
        f.debug_struct("Traffic").field("class", &self.class).finish_non_exhaustive()
    }
}

impl Traffic {
    /// A schedule that begins at `now` (any monotonic origin). `seed` must be fresh and secret: who knows it knows
    /// every tick.
    #[must_use]
    pub fn new(class: RateClass, parameters: &Parameters, now: Duration, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let clocks = match class {
            RateClass::Normal => Clocks::Normal {
                payload: PoissonClock::new(parameters.lambda_p.mean_gap(), now, &mut rng),
                loops: PoissonClock::new(parameters.lambda_l.mean_gap(), now, &mut rng),
            },
            RateClass::Low => Clocks::Low {
                clock: PoissonClock::new(parameters.lambda_low.mean_gap(), now, &mut rng),
                loop_share: loop_share(parameters),
            },
        };
        Self { class, clocks, rng }
    }

    /// The rate class this schedule keeps.
    #[must_use]
    pub fn class(&self) -> RateClass {
        self.class
    }

    /// When the next tick is due.
    #[must_use]
    pub fn next(&self) -> Duration {
        match &self.clocks {
            Clocks::Normal { payload, loops } => payload.next().min(loops.next()),
            Clocks::Low { clock, .. } => clock.next(),
        }
    }

    /// The earliest tick that is due, if any. Ticks that were slept through are not made up for.
    pub fn due(&mut self, now: Duration) -> Option<Tick> {
        let rng = &mut self.rng;
        match &mut self.clocks {
            Clocks::Normal { payload, loops } => {
                let (clock, kind) =
                    if payload.next() <= loops.next() { (payload, Kind::Payload) } else { (loops, Kind::Loop) };
                let at = clock.next();
                clock.due(now, rng).then_some(Tick { kind, at })
            }
            Clocks::Low { clock, loop_share } => {
                let at = clock.next();
                clock.due(now, rng).then(|| {
                    let kind = if rng.random::<f64>() < *loop_share { Kind::Loop } else { Kind::Payload };
                    Tick { kind, at }
                })
            }
        }
    }

    /// Takes the rates of a new consensus. Rates that did not change leave the pending ticks alone.
    pub fn set_parameters(&mut self, parameters: &Parameters, now: Duration) {
        let rng = &mut self.rng;
        match &mut self.clocks {
            Clocks::Normal { payload, loops } => {
                payload.set_mean(parameters.lambda_p.mean_gap(), now, rng);
                loops.set_mean(parameters.lambda_l.mean_gap(), now, rng);
            }
            Clocks::Low { clock, loop_share: share } => {
                clock.set_mean(parameters.lambda_low.mean_gap(), now, rng);
                *share = loop_share(parameters);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(traffic: &mut Traffic, until: Duration) -> Vec<Tick> {
        let mut ticks = Vec::new();
        while traffic.next() <= until {
            let now = traffic.next();
            while let Some(tick) = traffic.due(now) {
                ticks.push(tick);
            }
        }
        ticks
    }

    /// Kolmogorov–Smirnov distance of gaps (in means) from Exp(1).
    fn distance(ticks: &[Tick], rate: f64) -> f64 {
        let mut gaps: Vec<f64> = ticks.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64() * rate).collect();
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len() as f64;
        gaps.iter().enumerate().fold(0.0, |worst: f64, (i, gap)| {
            let expected = 1.0 - (-gap).exp();
            worst.max((expected - i as f64 / n).abs()).max(((i + 1) as f64 / n - expected).abs())
        })
    }

    #[test]
    fn emission_is_poisson_in_both_classes() {
        let parameters = Parameters::production();
        for (class, hours) in [(RateClass::Normal, 10), (RateClass::Low, 500)] {
            let mut traffic = Traffic::new(class, &parameters, Duration::ZERO, [7; 32]);
            let ticks = run(&mut traffic, Duration::from_secs(hours * 3_600));
            let rate = total_rate(class, &parameters).per_second();
            // p = 0.01
            assert!(distance(&ticks, rate) < 1.63 / (ticks.len() as f64).sqrt(), "{class:?}");
            let loops = ticks.iter().filter(|tick| tick.kind == Kind::Loop).count() as f64;
            assert!((loops / ticks.len() as f64 - 0.2).abs() < 0.02, "{class:?}: {loops} of {}", ticks.len());
        }
    }

    #[test]
    fn polling_late_does_not_move_a_tick() {
        let parameters = Parameters::test_network();
        let until = Duration::from_secs(60);
        let mut prompt = Traffic::new(RateClass::Normal, &parameters, Duration::ZERO, [1; 32]);
        let expected = run(&mut prompt, until);
        let mut tardy = Traffic::new(RateClass::Normal, &parameters, Duration::ZERO, [1; 32]);
        let mut ticks = Vec::new();
        // a caller that wakes every 3 ms, as a loaded machine may
        for step in 0..=20_000u64 {
            while let Some(tick) = tardy.due(Duration::from_millis(3 * step)) {
                ticks.push(tick);
            }
        }
        assert_eq!(ticks, expected);
    }

    #[test]
    fn no_burst_after_suspend() {
        let parameters = Parameters::production();
        let mut traffic = Traffic::new(RateClass::Normal, &parameters, Duration::ZERO, [2; 32]);
        let woken = Duration::from_secs(8 * 3_600);
        let mut ticks = 0;
        while traffic.due(woken).is_some() {
            ticks += 1;
        }
        assert!(ticks <= 2, "{ticks}");
    }

    #[test]
    fn unchanged_parameters_leave_the_ticks_alone() {
        let parameters = Parameters::production();
        let mut traffic = Traffic::new(RateClass::Normal, &parameters, Duration::ZERO, [3; 32]);
        let next = traffic.next();
        traffic.set_parameters(&parameters, Duration::from_millis(1));
        assert_eq!(traffic.next(), next);
    }

    #[test]
    fn the_low_class_fits_a_phone() {
        let parameters = Parameters::production();
        let low = monthly_bytes(RateClass::Low, &parameters);
        assert!((300_000_000..=450_000_000).contains(&low), "{low}");
        assert!(monthly_bytes(RateClass::Normal, &parameters) > 10_000_000_000);
    }
}
