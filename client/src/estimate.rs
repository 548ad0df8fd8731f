//! About how long a message takes: the sum of the mean waits on its way. Single messages differ, as they must: every
//! wait is drawn at random.

use std::time::Duration;

use shoal_protocol::parameters::Parameters;

use shoal_protocol::geometry::BOX_PLAINTEXT_SIZE;

use crate::mail::RateClass;
use crate::polls::mean_gap;
use crate::traffic::monthly_bytes;
use crate::want::Rank;

/// Hops of a request that hold a packet: the gateway and three layers. A reply has as many.
const HELD: u32 = 4;

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Boxes of the message: one, or one more than its content has.
    pub boxes: u64,
    /// Own messages before it that are not stored; each counts as one box.
    pub ahead: u64,
    /// How often the reader looks, if the reader's client does as ours.
    pub reader: Rank,
}

/// Mean times from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Until two stores have said that they have it.
    pub stored: Duration,
    /// Until the reader's client has it, if it is online.
    pub arrived: Duration,
}

/// Mean gap between two ticks of the schedule that may carry a message.
fn tick(class: RateClass, parameters: &Parameters) -> Duration {
    match class {
        RateClass::Normal => parameters.lambda_p.mean_gap(),
        // of the low class's ticks, the share of λ_P may
        RateClass::Low => {
            let (payload, loops) = (parameters.lambda_p.per_second(), parameters.lambda_l.per_second());
            // a mean gap is at most 1,000 s, and the share of λ_P is at least 1 of a million: 32 years
            parameters.lambda_low.mean_gap().mul_f64((payload + loops) / payload.max(0.001))
        }
    }
}

/// The estimate for a client of `class`. The reader is taken to be of the normal class.
#[must_use]
pub fn estimate(load: Load, class: RateClass, parameters: &Parameters) -> Estimate {
    let boxes = u32::try_from(load.boxes.saturating_add(load.ahead)).unwrap_or(u32::MAX).max(1);
    let way = Duration::from_millis(parameters.mean_delay_ms) * HELD;
    let service = Duration::from_millis(parameters.service_ms);
    let own = u32::try_from(load.boxes).unwrap_or(u32::MAX).max(1);
    // sends take at most three of four ticks while there are other things to ask; one box alone takes the next
    let several = |count: u32, tick: Duration| {
        let ticks = tick.saturating_mul(count);
        if count > 1 { ticks.saturating_mul(4) / 3 } else { ticks }
    };
    let written = several(boxes, tick(class, parameters)).saturating_add(way);
    let stored = written.saturating_add(service).saturating_add(way);
    // the replicas have it within the service time; then the reader looks, waits for a tick, asks and is answered; the
    // content of a long message is fetched box by box
    let looked = mean_gap(load.reader, parameters).saturating_add(several(own, parameters.lambda_p.mean_gap()));
    let arrived = written.saturating_add(service / 2).saturating_add(looked).saturating_add(way * 2 + service);
    Estimate { stored, arrived }
}

/// What a rate class costs: traffic, whatever is written, and time, in a conversation that both sides have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Bytes in a month of 30 days, each way.
    pub monthly_bytes: u64,
    /// A text, until two stores have it.
    pub text_stored: Duration,
    /// A text, until its reader has it.
    pub text_arrives: Duration,
    /// A file of 64 KiB, until its reader has it.
    pub file_64k_arrives: Duration,
    /// One of 5 MiB.
    pub file_5m_arrives: Duration,
}

/// The costs of a class for whoever writes; readers are taken to be of the normal class.
#[must_use]
pub fn costs(class: RateClass, parameters: &Parameters) -> Costs {
    let with = |bytes: u64| {
        // a message whose content is a blob has a box of its own beside those of the content
        let boxes = if bytes == 0 { 1 } else { bytes.div_ceil(BOX_PLAINTEXT_SIZE as u64) + 1 };
        estimate(Load { boxes, ahead: 0, reader: Rank::Hot }, class, parameters)
    };
    Costs {
        monthly_bytes: monthly_bytes(class, parameters),
        text_stored: with(0).stored,
        text_arrives: with(0).arrived,
        file_64k_arrives: with(64 << 10).arrived,
        file_5m_arrives: with(5 << 20).arrived,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Load = Load { boxes: 1, ahead: 0, reader: Rank::Hot };

    #[test]
    fn a_text_at_default_rates() {
        let estimate = estimate(ONE, RateClass::Normal, &Parameters::production());
        // 0.5 s for a tick, 2 s of mixing each way, 1 s of service
        assert_eq!(estimate.stored, Duration::from_millis(5_500));
        // 0.5 + 2 + 0.5, the reader's poll 2 s, its tick 0.5 s, 2 + 1 + 2
        assert_eq!(estimate.arrived, Duration::from_millis(10_500));
    }

    #[test]
    fn the_low_class_trades_time_for_traffic() {
        let [normal, low] = [RateClass::Normal, RateClass::Low].map(|class| costs(class, &Parameters::production()));
        assert!(low.monthly_bytes * 4 < normal.monthly_bytes);
        assert!(low.text_stored > normal.text_stored * 2);
        assert!(low.file_5m_arrives > low.file_64k_arrives * 50);
        assert!(normal.file_64k_arrives > normal.text_arrives);
    }

    #[test]
    fn more_takes_longer_and_so_do_a_phone_and_a_reader_who_seldom_looks() {
        let parameters = Parameters::production();
        let arrived = |load, class| estimate(load, class, &parameters).arrived;
        let one = arrived(ONE, RateClass::Normal);
        assert!(arrived(Load { boxes: 38, ..ONE }, RateClass::Normal) > one * 2);
        assert!(arrived(Load { ahead: 10, ..ONE }, RateClass::Normal) > one);
        assert!(arrived(ONE, RateClass::Low) > one + Duration::from_secs(15));
        let idle = arrived(Load { reader: Rank::Idle, ..ONE }, RateClass::Normal);
        assert!(idle > one + Duration::from_secs(590));
        // the largest there is does not overflow
        let _ = estimate(Load { boxes: u64::MAX, ahead: u64::MAX, reader: Rank::Idle }, RateClass::Low, &parameters);
    }
}
