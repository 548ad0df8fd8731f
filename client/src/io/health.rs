//! `/livez`, `/readyz` and `/metrics` of a running client, on a loopback address of its own.
//!
//! Nothing here tells cover from payload: packets are counted whatever they carried, and the loops are the λ_L decoys
//! only, whose rate says nothing about what the user does.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Counter, Encoder as _, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use shoal_protocol::pages;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::clock::Clock;
use super::snapshot::Snapshot;

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Only this machine may ask.
    #[error("{0} is not a loopback address; metrics are for this machine only")]
    NotLoopback(SocketAddr),
    /// The address is taken, or the port is not ours to bind.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A metric could not be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Serves health and metrics until the returned task is aborted; also says on which address, for port 0.
///
/// # Errors
/// The address is not loopback or cannot be bound.
pub async fn serve_health(
    address: SocketAddr,
    snapshot: watch::Receiver<Snapshot>,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>), HealthError> {
    if !address.ip().is_loopback() {
        return Err(HealthError::NotLoopback(address));
    }
    let bind = |source| HealthError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let metrics = Metrics::new()?;
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Shared { snapshot, metrics, clock: Clock::start() });
    let task = tokio::spawn(async move {
        if let Err(error) = pages::serve(listener, router, std::future::pending()).await {
            tracing::error!(%error, "the metrics server ended");
        }
    });
    Ok((bound, task))
}

#[derive(Clone)]
struct Shared {
    snapshot: watch::Receiver<Snapshot>,
    metrics: Metrics,
    clock: Clock,
}

/// Alive as long as the schedule publishes: its sender lives in the loop.
async fn livez(State(shared): State<Shared>) -> impl IntoResponse {
    match shared.snapshot.has_changed() {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the emission schedule has ended\n"),
    }
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    let (linked, in_force) = {
        let snapshot = shared.snapshot.borrow();
        (snapshot.gateway.is_some(), snapshot.in_force)
    };
    match (linked, in_force) {
        (true, true) => (StatusCode::OK, "ok\n"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "no link to a gateway\n"),
        (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "no consensus in force\n"),
    }
}

async fn render(State(shared): State<Shared>) -> impl IntoResponse {
    let snapshot = shared.snapshot.borrow().clone();
    match shared.metrics.render(&snapshot, shared.clock) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Clone)]
struct Metrics {
    registry: Registry,
    links: IntGaugeVec,
    packets_sent: IntCounter,
    packets_received: IntCounter,
    loops_sent: IntCounter,
    loops_returned: IntCounter,
    epoch: IntGauge,
    valid_until: IntGauge,
    signatures: IntGauge,
    resident: IntGauge,
    open_files: IntGauge,
    cpu_seconds: Counter,
    started: IntGauge,
}

impl Metrics {
    fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let build = IntGaugeVec::new(
            Opts::new("shoal_build_info", "Version of this program; always 1."),
            &["version", "role"],
        )?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), "client"]).set(1);
        let links = IntGaugeVec::new(Opts::new("shoal_links", "Links to gateways."), &["direction", "state"])?;
        registry.register(Box::new(links.clone()))?;
        let cpu_seconds = Counter::new("process_cpu_seconds_total", "Processor time used, in seconds.")?;
        registry.register(Box::new(cpu_seconds.clone()))?;
        Ok(Self {
            links,
            packets_sent: counter(
                "shoal_packets_sent_total",
                "Packets given to the gateway link, whatever they carried.",
            )?,
            packets_received: counter("shoal_packets_received_total", "Packets that came down the gateway link.")?,
            loops_sent: counter("shoal_loops_sent_total", "Measuring decoys sent.")?,
            loops_returned: counter("shoal_loops_returned_total", "Measuring decoys that came back.")?,
            epoch: gauge("shoal_consensus_epoch", "Epoch of the newest consensus held.")?,
            valid_until: gauge(
                "shoal_consensus_valid_until_timestamp_seconds",
                "Until when the newest consensus held may be used.",
            )?,
            signatures: gauge("shoal_consensus_signatures", "Signatures on the newest consensus held.")?,
            resident: gauge("process_resident_memory_bytes", "Resident memory, in bytes.")?,
            open_files: gauge("process_open_fds", "Open file descriptors.")?,
            started: gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")?,
            cpu_seconds,
            registry,
        })
    }

    fn render(&self, snapshot: &Snapshot, clock: Clock) -> Result<Vec<u8>, prometheus::Error> {
        let up = i64::from(snapshot.gateway.is_some());
        self.links.with_label_values(&["out", "up"]).set(up);
        self.links.with_label_values(&["out", "down"]).set(1 - up);
        raise(&self.packets_sent, snapshot.packets_sent);
        raise(&self.packets_received, snapshot.packets_received);
        raise(&self.loops_sent, snapshot.loops.sent_total());
        raise(&self.loops_returned, snapshot.loops.returned_total());
        if let Some(consensus) = &snapshot.consensus {
            self.epoch.set(signed(consensus.epoch.0));
            self.valid_until.set(signed(consensus.valid_until.0 / 1_000));
            self.signatures.set(signed(consensus.signatures() as u64));
        }
        self.measure_process(clock);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Linux only; elsewhere these stay zero.
    fn measure_process(&self, clock: Clock) {
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.open_files.set(signed(files.count() as u64));
        }
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
        // fields after the command's name in brackets, counted from the third (proc(5))
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        // USER_HZ is 100 and the page 4 KiB on every Linux we build for
        let ticks = field(14) + field(15);
        self.cpu_seconds.inc_by((ticks as f64 / 100.0 - self.cpu_seconds.get()).max(0.0));
        self.resident.set(signed(field(24) * 4_096));
        if self.started.get() == 0 {
            let uptime = clock_since_boot();
            let now = clock.unix().0 / 1_000;
            self.started.set(signed(now.saturating_sub(uptime.saturating_sub(field(22) / 100))));
        }
    }
}

/// Seconds since the machine booted.
fn clock_since_boot() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Counters only rise: the totals of a running client never fall.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::RateClass;
    use shoal_protocol::UnixMillis;
    use shoal_protocol::network::{Hints, NetworkFile};
    use shoal_protocol::parameters::Parameters;

    fn snapshot() -> Snapshot {
        let network = NetworkFile {
            name: "nowhere".to_owned(),
            genesis_time: UnixMillis(0),
            authorities: Vec::new(),
            parameters: Parameters::test_network(),
            founding: shoal_protocol::network::Founding::default(),
            hints: Hints::default(),
        };
        Snapshot::new(RateClass::Normal, &network, UnixMillis(0))
    }

    #[test]
    fn metrics_are_named_as_agreed_and_hold_no_label_of_a_user() {
        let metrics = Metrics::new().unwrap();
        let mut snapshot = snapshot();
        snapshot.packets_sent = 12;
        let text = String::from_utf8(metrics.render(&snapshot, Clock::start()).unwrap()).unwrap();
        for line in [
            "shoal_build_info{role=\"client\",version=",
            "shoal_links{direction=\"out\",state=\"up\"} 0",
            "shoal_packets_sent_total 12",
            "shoal_loops_sent_total 0",
            "shoal_consensus_epoch 0",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[tokio::test]
    async fn only_loopback_is_served() {
        let (_published, snapshot) = watch::channel(snapshot());
        let refused = serve_health("0.0.0.0:0".parse().unwrap(), snapshot).await;
        assert!(matches!(refused, Err(HealthError::NotLoopback(_))));
    }
}
