//! How well a client is hidden now, as an upper bound: bits, and "among about N" (design §3.5).
//!
//! A passive observer of all links who sees a packet leave a Poisson mix can attribute it with an entropy of
//! H ≈ log2(e·λ/μ) bits, λ/μ being how many packets wait in the mix on average. Three layers add at most three times
//! that; and however the packets are spread, the way through all three is a sum of three exponentials (Erlang-3), whose
//! differential entropy bounds what can be confused in time: log2(Λ/μ) + h. The smaller of the two is shown. Fewer
//! senders than that, bad nodes and months of watching make it less, never more.

use std::time::Duration;

use serde::Serialize;
use shoal_protocol::Layer;
use shoal_protocol::consensus::Consensus;

use crate::mail::RateClass;
use crate::traffic::total_rate;

/// Entropy of Erlang-3 with unit mean per stage, in bits: (3 + ln Γ(3) − 2·ψ(3)) / ln 2 with ψ(3) = 3/2 − γ.
const ERLANG3_BITS: f64 = 2.665_5;

/// What `status` shows. Both values are at most what they say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Anonymity {
    /// Sender entropy of one packet against a passive observer of all links, in bits.
    pub bits: f64,
    /// 2 to the power of it: how many equally likely packets that would be.
    pub hiding_among: u64,
}

/// The bound for a cascade-free stratified network: `rate_per_second` packets enter each layer of `width` mixes, which
/// hold them for `mean_delay` on average.
#[must_use]
pub fn bits_at_most(rate_per_second: f64, width: usize, mean_delay: Duration) -> f64 {
    if width == 0 {
        return 0.0;
    }
    let waiting_in_layer = rate_per_second * mean_delay.as_secs_f64();
    let waiting_in_mix = waiting_in_layer / width as f64;
    let by_layers = 3.0 * (std::f64::consts::E * waiting_in_mix).log2();
    let by_time = waiting_in_layer.log2() + ERLANG3_BITS;
    let bits = by_layers.min(by_time);
    // zero traffic gives −∞, and less than one packet in a mix a negative figure: nothing hides there
    if bits.is_finite() && bits > 0.0 { bits } else { 0.0 }
}

/// What is known of the traffic through each layer, in packets per second.
///
/// The published total if the network publishes one. Else only what every client can count on: the loops of the nodes
/// (λ_M each) and its own packets, which pass the layers twice (request and reply). Other clients are then left out,
/// so that a figure is never made of hopes.
#[must_use]
pub fn known_rate(consensus: &Consensus, class: RateClass, published_per_second: Option<f64>) -> f64 {
    published_per_second.unwrap_or_else(|| {
        let nodes = consensus.nodes.iter().filter(|node| !node.standby).count();
        nodes as f64 * consensus.parameters.lambda_m.per_second()
            + 2.0 * total_rate(class, &consensus.parameters).per_second()
    })
}

/// The anonymity of a client of `class` under `consensus`.
#[must_use]
pub fn now(consensus: &Consensus, class: RateClass, published_per_second: Option<f64>) -> Anonymity {
    let width = Layer::ALL.iter().map(|layer| consensus.layer(*layer).count()).min().unwrap_or(0);
    let rate = known_rate(consensus, class, published_per_second);
    of_bits(bits_at_most(rate, width, Duration::from_millis(consensus.parameters.mean_delay_ms)))
}

fn of_bits(bits: f64) -> Anonymity {
    // shown with two digits; 2^63 is beyond any network, the cast saturates
    let bits = (bits * 100.0).floor() / 100.0;
    Anonymity { bits, hiding_among: bits.exp2().floor().max(1.0) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulated means of the settings we know (packets per second, mixes a layer, mean delay in ms, bits): the bound
    /// must not be below any of them, nor absurdly above.
    const SIMULATED: [(f64, usize, u64, f64); 5] = [
        (1_500.0, 2, 500, 8.84),
        (150.0, 1, 200, 6.13),
        (5_500.0, 80, 15, 4.24),
        (5.0, 3, 5_000, 6.05),
        (5.0, 3, 1_000, 4.25),
    ];

    #[test]
    fn the_bound_holds_for_what_was_simulated() {
        for (rate, width, delay_ms, simulated) in SIMULATED {
            let bound = bits_at_most(rate, width, Duration::from_millis(delay_ms));
            assert!(bound >= simulated && bound < simulated + 4.0, "{rate}/s, {width}: {bound} for {simulated}");
        }
    }

    #[test]
    fn more_traffic_hides_better_and_more_mixes_do_not() {
        let delay = Duration::from_millis(500);
        assert!(bits_at_most(100.0, 3, delay) > bits_at_most(50.0, 3, delay));
        assert!(bits_at_most(10.0, 30, delay) <= bits_at_most(10.0, 3, delay));
    }

    #[test]
    fn nothing_hides_in_an_empty_network() {
        for (rate, width) in [(0.0, 3), (10.0, 0), (0.001, 3), (-1.0, 3), (f64::NAN, 3)] {
            assert_eq!(bits_at_most(rate, width, Duration::from_millis(20)), 0.0);
        }
        assert_eq!(of_bits(0.0), Anonymity { bits: 0.0, hiding_among: 1 });
        assert_eq!(of_bits(6.018).hiding_among, 64);
    }
}
