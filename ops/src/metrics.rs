//! The prober's own metrics, in the Prometheus text format.

use prometheus::{
    Encoder as _, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::view::View;

/// Renders the metrics of one view. They are made anew for every question: the view is what is true, not the registry.
pub(crate) fn page(view: &View) -> prometheus::Result<String> {
    let registry = Registry::new();

    let build =
        IntGaugeVec::new(Opts::new("shoal_build_info", "Version and role of this process."), &["version", "role"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), "prober"]).set(1);
    registry.register(Box::new(build))?;

    let help = "Loops of the prober that ended, by a node of their route and by result.";
    let loops = IntCounterVec::new(Opts::new("shoal_probe_loops_total", help), &["node", "result"])?;
    for party in &view.parties {
        if let Some(passed) = party.probed {
            loops.with_label_values(&[&*party.identity, "returned"]).inc_by(passed.returned);
            loops.with_label_values(&[&*party.identity, "lost"]).inc_by(passed.lost);
        }
    }
    registry.register(Box::new(loops))?;

    let totals = [
        ("shoal_loops_sent_total", "Loops that the prober sent.", view.loops.sent),
        ("shoal_loops_returned_total", "Loops of the prober that came back.", view.loops.returned),
    ];
    for (name, help, number) in totals {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(number);
        registry.register(Box::new(counter))?;
    }

    if let Some(times) = view.loops.round_trip_ms {
        let help = "Round-trip times of the prober's recent loops in seconds, by percentile.";
        let percentiles = GaugeVec::new(Opts::new("shoal_probe_rtt_seconds", help), &["percentile"])?;
        for (percentile, ms) in [("10", times.p10), ("50", times.p50), ("90", times.p90), ("99", times.p99)] {
            percentiles.with_label_values(&[percentile]).set(f64::from(ms) / 1_000.0);
        }
        registry.register(Box::new(percentiles))?;
    }

    if let Some(certificate) = &view.certificate {
        let gauges = [
            ("shoal_consensus_epoch", "Epoch of the newest document.", certificate.epoch),
            ("shoal_consensus_signatures", "Signatures on the newest document.", certificate.signatures as u64),
        ];
        for (name, help, value) in gauges {
            let gauge = IntGauge::new(name, help)?;
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(Box::new(gauge))?;
        }
        let help = "Until when the newest document is valid, in seconds since 1970.";
        let until = Gauge::new("shoal_consensus_valid_until_timestamp_seconds", help)?;
        until.set(certificate.valid_until_ms as f64 / 1_000.0);
        registry.register(Box::new(until))?;
    }

    let mut bytes = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut bytes)?;
    String::from_utf8(bytes).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{Percentiles, Summary},
        samples::Samples,
        view::Probing,
    };

    #[test]
    fn the_page_says_what_the_view_says() {
        let times = Percentiles { p10: 80, p50: 120, p90: 300, p99: 420 };
        let view = View {
            network: "test".into(),
            fingerprint: String::new(),
            now_ms: 0,
            epoch_ms: 20_000,
            certificate: None,
            parties: Vec::new(),
            loops: Summary {
                sent: 12,
                returned: 10,
                lost: 1,
                survival: Some(0.9),
                recent_survival: Some(0.9),
                round_trip_ms: Some(times),
            },
            bucket_ms: 5_000,
            series: Vec::new(),
            probing: Probing::default(),
            findings: Vec::new(),
        };
        let samples = Samples::parse(&page(&view).expect("the metrics render"));
        assert_eq!(samples.sum_where("shoal_probe_loops_total", "result", "returned"), None);
        assert_eq!(samples.sum("shoal_loops_returned_total"), Some(10.0));
        assert_eq!(samples.sum_where("shoal_probe_rtt_seconds", "percentile", "50"), Some(0.12));
        assert_eq!(samples.sum("shoal_consensus_epoch"), None);
    }
}
