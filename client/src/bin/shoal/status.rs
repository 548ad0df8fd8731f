//! `shoal status` and `shoal doctor`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;
use shoal_client::io::{Call, Status};
use shoal_client::loops::Health;
use shoal_client::mail::RateClass;
use tokio::time::{Instant, sleep};

use crate::daemon::reach;
use crate::output::{Out, Problem, plain};
use crate::time::readable;

/// How long `doctor` waits for a connection before it calls it missing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_RETRY: Duration = Duration::from_millis(200);
/// Below this share of returning loops `doctor` complains; ordinary loss is a few in a hundred.
const SURVIVAL_MIN: f64 = 0.8;

pub(crate) async fn status(profile: &Path, out: &Out) -> Result<(), Problem> {
    let status: Status = reach(profile, out).await?.call(Call::Status).await?;
    out.either(&status, || human(&status))
}

fn human(status: &Status) -> String {
    let connection = match (&status.gateway, status.connected) {
        (Some(gateway), true) => {
            format!("connected, gateway {}…", gateway.to_string().chars().take(16).collect::<String>())
        }
        (Some(_), false) => "linked to a gateway, no consensus in force yet".to_owned(),
        (None, _) => match &status.trouble {
            Some(trouble) => format!("not connected: {}", plain(trouble)),
            None => "connecting".to_owned(),
        },
    };
    let epoch = match (status.epoch, status.consensus_valid_until, status.consensus_signatures) {
        (Some(epoch), Some(until), Some(signatures)) => {
            format!("{epoch}, certified by {signatures}, usable until {}", readable(until))
        }
        (_, _, _) => "none yet".to_owned(),
    };
    let anonymity = match (status.anonymity_bits, status.hiding_among) {
        (Some(bits), Some(among)) => format!("at most {bits:.1} bits: you hide among about {among} packets, or fewer"),
        (_, _) => "unknown".to_owned(),
    };
    let loops = match (status.loop_survival, status.round_trip_p50_ms, status.round_trip_p99_ms) {
        (Some(survival), Some(p50), Some(p99)) => {
            format!(
                "{:.0} % of the test loops come back, half within {p50} ms, 99 of 100 within {p99} ms",
                survival * 100.0
            )
        }
        (Some(survival), _, _) => format!("{:.0} % of the test loops come back", survival * 100.0),
        (None, _, _) => "no test loop decided yet".to_owned(),
    };
    let state = match status.state {
        _ if status.conflict => "STOPPED: the authorities certified two documents for one epoch; no message leaves",
        Health::Good => "good",
        Health::Warn => "WARNING: many test loops are lost; something drops packets",
        Health::Pause => "PAUSED: most test loops are lost; messages wait, cover traffic goes on",
    };
    let class = match status.class {
        RateClass::Normal => "normal (visible to your provider and gateway)",
        RateClass::Low => "low (visible to your provider and gateway)",
    };
    format!(
        "Connection  {connection}\nNetwork     {state}\nLoops       {loops}\nAnonymity   {anonymity}\nEpoch       {epoch}\n\
         Rate class  {class}\nQueue       {} messages not stored yet",
        status.queue
    )
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    ok: bool,
    detail: String,
    next: &'static str,
}

impl Check {
    fn new(check: &'static str, ok: bool, detail: impl Into<String>, next: &'static str) -> Self {
        Self { check, ok, detail: detail.into(), next: if ok { "" } else { next } }
    }
}

pub(crate) async fn doctor(profile: &Path, out: &Out) -> Result<(), Problem> {
    let mut checks = vec![permissions(profile)];
    let mut caller = reach(profile, out).await?;
    let spinner = out.spinner("waiting for the network");
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut status: Status = caller.call(Call::Status).await?;
    while !(status.connected && status.loop_survival.is_some()) && Instant::now() < deadline {
        sleep(CONNECT_RETRY).await;
        status = caller.call(Call::Status).await?;
    }
    spinner.finish_and_clear();
    checks.push(Check::new("daemon", true, "answers on its socket", ""));
    checks.extend(network_checks(&status));
    out.either(&json!({ "checks": checks }), || {
        let line = |check: &Check| {
            let mark = if check.ok { "ok     " } else { "PROBLEM" };
            let next = if check.ok { String::new() } else { format!("\n           next: {}", check.next) };
            format!("{mark}  {}: {}{next}", check.check, plain(&check.detail))
        };
        checks.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn network_checks(status: &Status) -> Vec<Check> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let gateway = match (&status.gateway, &status.trouble) {
        (Some(_), _) => "linked".to_owned(),
        (None, Some(trouble)) => trouble.clone(),
        (None, None) => "no answer yet".to_owned(),
    };
    let consensus = match (status.epoch, status.consensus_valid_until) {
        (Some(epoch), Some(until)) => format!("epoch {epoch}, usable until {}", readable(until)),
        (_, _) => "none received".to_owned(),
    };
    let authorities = match (status.conflict, status.rolled_back) {
        (true, _) => "they certified two documents for one epoch; both are kept in the profile",
        (false, true) => "a gateway handed over a document older than the one held; it was refused",
        (false, false) => "nothing contradicts the documents held",
    };
    let in_force = status.consensus_valid_until.is_some_and(|until| u128::from(until) > now);
    let survival = status.loop_survival;
    vec![
        Check::new(
            "gateway",
            status.gateway.is_some(),
            gateway,
            "check that UDP leaves this network; the daemon keeps trying other gateways",
        ),
        Check::new(
            "consensus",
            in_force,
            consensus,
            "check this machine's clock (date -u); if it is right, the authorities may be out: wait",
        ),
        Check::new(
            "authorities",
            !status.conflict && !status.rolled_back,
            authorities,
            "ask whoever runs the network; after a contradiction trust only a network file that they give you in person",
        ),
        Check::new(
            "loops",
            survival.is_some_and(|survival| survival >= SURVIVAL_MIN),
            survival.map_or("none decided".to_owned(), |survival| format!("{:.0} % come back", survival * 100.0)),
            "nodes may be out, or somebody drops packets: wait for the next epoch, and do not switch networks in haste",
        ),
    ]
}

/// Nobody else may look into the profile.
fn permissions(profile: &Path) -> Check {
    let open: Vec<String> = [profile.to_owned(), profile.join("profile.key"), profile.join("profile.db")]
        .into_iter()
        .filter(|path| std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0))
        .map(|path| path.display().to_string())
        .collect();
    let detail = if open.is_empty() {
        "only you can read it".to_owned()
    } else {
        format!("others can read {}", open.join(", "))
    };
    Check::new("profile", open.is_empty(), detail, "chmod -R go-rwx on the profile's folder")
}
