//! `shoal status` and `shoal doctor`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use shoal_client::io::{Call, Condition, OLDER_COPY_NEXT, Status, WaitingLine};
use shoal_client::mail::RateClass;
use shoal_client::profile::{KeyFile, Protection};
use shoal_client::view::Freshness;
use shoal_protocol::duration;
use tokio::time::{Instant, sleep};

use crate::daemon::reach;
use crate::output::{Out, Problem, plain};
use crate::time::readable;

/// How long `doctor` waits for a connection before it calls it missing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_RETRY: Duration = Duration::from_millis(200);
/// Below this share of returning loops `doctor` complains; ordinary loss is a few in a hundred.
const SURVIVAL_MIN: f64 = 0.8;

pub(crate) async fn status(profile: &Path, seen: bool, out: &Out) -> Result<(), Problem> {
    let mut caller = reach(profile, out).await?;
    let status: Status = caller.call(Call::Status).await?;
    out.either(&status, || human(&status, seen))?;
    if let Some(last) = status.notices.last().filter(|_| seen) {
        // after they were shown
        let _: serde_json::Value = caller.call(Call::NoticesSeen { number: last.number }).await?;
    }
    Ok(())
}

/// All of it in lines; `seen`: the notices are forgotten after that.
pub(crate) fn human(status: &Status, seen: bool) -> String {
    let since = readable(status.since);
    let connection = match (&status.gateway, status.connected) {
        (Some(gateway), true) => {
            let gateway: String = gateway.to_string().chars().take(16).collect();
            format!("connected since {since}, gateway {gateway}…")
        }
        (Some(_), false) => format!("not connected since {since}: linked to a gateway, but no consensus is in force"),
        (None, _) => match &status.trouble {
            Some(trouble) => format!("not connected since {since}: {}", plain(trouble)),
            None => format!("not connected since {since}: connecting"),
        },
    };
    let state = match status.state {
        Condition::Stopped => {
            "STOPPED: the authorities certified two documents for one place in the chain; no message leaves"
        }
        Condition::Offline => "OFFLINE: nothing is sent or received, no cover traffic either",
        Condition::Pause => "PAUSED: most test loops are lost; messages wait, cover traffic goes on",
        Condition::Warn if status.older_copy.is_some() => "WARNING: this profile sends nothing any more",
        Condition::Warn if !status.disputes.is_empty() => "WARNING: a contact is shown another network than you",
        Condition::Warn => "WARNING: many of the newest test loops are lost; something drops packets",
        Condition::Starting => "starting: no test loop is back yet",
        Condition::Good => "good: test loops come back",
    };
    let loops = match (status.loop_survival, status.round_trip_p50_ms, status.round_trip_p99_ms) {
        (Some(survival), Some(p50), Some(p99)) => {
            let [p50, p99] = [p50, p99].map(|ms| duration::short(Duration::from_millis(ms)));
            format!("{:.0} % of the test loops came back, half within {p50}, 99 of 100 within {p99}", survival * 100.0)
        }
        (Some(survival), _, _) => format!("{:.0} % of the test loops came back", survival * 100.0),
        (None, _, _) => "no test loop decided yet".to_owned(),
    };
    let loops = match (status.state, status.loops_lost_lately) {
        (Condition::Warn | Condition::Pause, (lost, of)) if lost > 0 => {
            format!("{loops}; of the newest {of}, {lost} are lost")
        }
        _ => loops,
    };
    let class = match status.class {
        RateClass::Normal => "normal (visible to your provider and gateway)",
        RateClass::Low => "low (visible to your provider and gateway)",
    };
    let mut lines = vec![
        format!("Connection  {connection}"),
        format!("State       {state}"),
        format!("Network     {} ({})", plain(&status.network), status.fingerprint),
        format!("Epoch       {}", epoch(status)),
        format!("Loops       {loops}"),
        format!("Anonymity   {}", anonymity(status)),
        format!("Rate class  {class}"),
        match status.queue {
            1 => "Queue       1 message not stored yet".to_owned(),
            queue => format!("Queue       {queue} messages not stored yet"),
        },
    ];
    match status.requests {
        0 => {}
        1 => lines.push("Requests    1 waits for your answer: shoal conversations".to_owned()),
        some => lines.push(format!("Requests    {some} wait for your answer: shoal conversations")),
    }
    for WaitingLine { name, since } in &status.waiting {
        let (name, since) = (plain(name), readable(*since));
        lines.push(format!(
            "            for {name} since {since}: not found: they have not run shoal on this network yet, or an invite is being used"
        ));
    }
    for dispute in &status.disputes {
        let (what, next) = dispute.advice();
        lines.push(format!("WARNING     since {}: {}", readable(dispute.since), plain(&what)));
        lines.push(format!("            {}", plain(&next)));
    }
    for notice in &status.notices {
        lines.push(format!("Notice      {}: {}", readable(notice.at), plain(&notice.message)));
    }
    if !status.notices.is_empty() && !seen {
        lines.push("            to forget them: shoal status --seen".to_owned());
    }
    if status.older_copy.is_some() {
        lines.push(format!("Profile     {OLDER_COPY}; {OLDER_COPY_NEXT}"));
    }
    if !status.next.is_empty() {
        lines.push(format!("Next        {}", plain(&status.next)));
    }
    lines.join("\n")
}

/// What `older_copy` means.
const OLDER_COPY: &str = "this profile is an older copy of one that went on: it reads, and sends nothing any more";

fn epoch(status: &Status) -> String {
    let (Some(epoch), Some(until), Some(signatures)) =
        (status.epoch, status.consensus_valid_until, status.consensus_signatures)
    else {
        return "no document yet".to_owned();
    };
    let until = readable(until);
    match status.document {
        Freshness::None | Freshness::Current => {
            format!("{epoch}, current, certified by {signatures}, serves until {until}")
        }
        Freshness::Stale => format!("{epoch}, STALE: the next document is late; this one serves until {until}"),
        Freshness::Expired => format!("{epoch}, EXPIRED since {until}: nothing can be sent by it"),
    }
}

/// Nothing is claimed that nobody measured: no network publishes its traffic yet, and a test network has none.
fn anonymity(status: &Status) -> String {
    match (status.anonymity_bits, status.hiding_among) {
        _ if status.test_network => {
            "not measurable: a test network has no traffic of others to hide in; expect none".to_owned()
        }
        (Some(bits), Some(among)) => format!(
            "at most {bits:.1} bits, as if among {among} packets; the network publishes no traffic figures yet, so only \
             what is certain counts (its nodes' loops and your own packets)"
        ),
        (_, _) => "unknown: no document".to_owned(),
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    ok: bool,
    detail: String,
    next: String,
}

impl Check {
    fn new(check: &'static str, ok: bool, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, ok, detail: detail.into(), next: if ok { String::new() } else { next.into() } }
    }
}

pub(crate) async fn doctor(profile: &Path, out: &Out) -> Result<(), Problem> {
    let mut checks = vec![permissions(profile)];
    checks.extend(protection(profile));
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
            let next = if check.ok { String::new() } else { format!("\n           next: {}", plain(&check.next)) };
            format!("{mark}  {}: {}{next}", check.check, plain(&check.detail))
        };
        checks.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn network_checks(status: &Status) -> Vec<Check> {
    let gateway = match (&status.gateway, &status.trouble) {
        (Some(_), _) => "linked".to_owned(),
        (None, Some(trouble)) => trouble.clone(),
        (None, None) => "no answer yet".to_owned(),
    };
    let authorities = match (&status.conflict_files, status.conflict, status.rolled_back) {
        (Some(files), _, _) => {
            format!("they certified two documents for one place in the chain; the proof is in {}", files.display())
        }
        (None, true, _) => "they certified two documents for one place in the chain".to_owned(),
        (None, false, true) => "a gateway handed over a document older than the one held; it was refused".to_owned(),
        (None, false, false) => "nothing contradicts the documents held".to_owned(),
    };
    let in_force = matches!(status.document, Freshness::Current | Freshness::Stale);
    // what else is wrong follows from it: its advice stands beside the check that it is about
    let survival = status.loop_survival;
    let mut checks = vec![
        Check::new("gateway", status.gateway.is_some(), gateway, status.next.clone()),
        Check::new("consensus", in_force, epoch(status), status.next.clone()),
        Check::new(
            "authorities",
            !status.conflict && !status.rolled_back,
            authorities,
            if status.conflict {
                status.next.clone()
            } else {
                "ask whoever runs the network; if it happens again, use another gateway's operator".to_owned()
            },
        ),
        Check::new(
            "loops",
            status.connected && survival.is_some_and(|survival| survival >= SURVIVAL_MIN),
            match survival {
                Some(survival) if status.connected => format!("{:.0} % came back", survival * 100.0),
                Some(survival) => format!("{:.0} % came back, while there was a connection", survival * 100.0),
                None => "none decided".to_owned(),
            },
            match status.connected {
                true => {
                    "nodes may be out, or somebody drops packets: wait for the next epoch, and do not switch networks in haste"
                }
                false => "they go on when there is a connection",
            },
        ),
    ];
    if status.older_copy.is_some() {
        checks.push(Check::new("older copy", false, OLDER_COPY.to_owned(), OLDER_COPY_NEXT.to_owned()));
    }
    for dispute in &status.disputes {
        let (what, next) = dispute.advice();
        checks.push(Check::new("contacts' networks", false, what, next));
    }
    for WaitingLine { name, .. } in &status.waiting {
        let next = "wait, if an invite is being used; else ask them to run shoal once (shoal up), and compare address and network";
        checks.push(Check::new("waiting", false, format!("{name} is not found yet"), next));
    }
    checks
}

/// What a thief of the profile's folder would have.
fn protection(profile: &Path) -> Option<Check> {
    let said = match KeyFile::read(profile).ok()?.protection() {
        Protection::File => {
            "its key lies in its folder: whoever copies the folder can read it (shoal passphrase set closes it)"
        }
        Protection::Passphrase => "closed by a passphrase",
        Protection::Keyring => "closed by a key in the keyring of the desktop session",
    };
    Some(Check::new("key", true, said, ""))
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
