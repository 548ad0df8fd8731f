//! What `shoal-node status` and `secrets` say to people: the JSON of the running node, turned into sentences.

use crate::advice::{may_go, next_step};
use serde_json::Value;
use shoal_protocol::types::UnixMillis;
use std::fmt::Write as _;

/// One sentence for who sees the word for the first time.
const STANDBY: &str = "stands by: it is listed and does its part only after the next draw gives it a place; until then \
                       nobody sends anything through it";

/// And for who was demoted.
const DEMOTED: &str = "none: others lose loops at this node, so the authorities took it out of its layer";

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("unknown")
}

fn is(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

fn texts<'v>(value: &'v Value, pointer: &str) -> Vec<&'v str> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// `shoal-node status` for people.
pub fn status(status: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // writing into a string cannot fail
        let _ = writeln!(out, "{text}");
    };
    let layer = status.get("layer").and_then(Value::as_str).map(|layer| format!(" in {layer}")).unwrap_or_default();
    line(format_args!("{}{layer}  {}", text(status, "/role"), text(status, "/identity")));
    let problems = texts(status, "/problems");
    match (is(status, "/ready"), problems.split_first()) {
        (true, _) => line(format_args!("ready         yes")),
        (false, None) => line(format_args!("ready         no")),
        (false, Some((first, others))) => {
            line(format_args!("ready         no: {first}"));
            others.iter().for_each(|other| line(format_args!("              and {other}")));
        }
    }
    for warning in texts(status, "/warnings") {
        line(format_args!("warning       {warning}"));
    }
    match status.get("epoch").and_then(Value::as_u64) {
        None => line(format_args!("consensus     none held")),
        Some(epoch) if !is(status, "/in_consensus") => {
            line(format_args!("consensus     epoch {epoch}; this node is not in it"));
        }
        Some(epoch) => line(format_args!(
            "consensus     epoch {epoch}; lists this node since epoch {}",
            number(status, "/since_epoch")
        )),
    }
    if status.pointer("/demotion/until_epoch").is_some_and(Value::is_u64) {
        let until = number(status, "/demotion/until_epoch");
        line(format_args!("place         {DEMOTED}; from epoch {until} on it may have a place again"));
    } else if is(status, "/standby") {
        line(format_args!("place         {STANDBY}"));
    }
    if is(status, "/leaving") && may_go(status) {
        line(format_args!("leaving       no generation of stores names it any more"));
    } else if is(status, "/leaving") {
        let naming = status.get("generations").and_then(Value::as_array).into_iter().flatten();
        let naming: Vec<String> = naming.filter_map(Value::as_u64).map(|number| number.to_string()).collect();
        line(format_args!("leaving       generations that still name it: {}", naming.join(", ")));
    }
    let twin = texts(status, "/hindered_by").contains(&"twin");
    if let Some(epoch) = status.get("out_until_epoch").and_then(Value::as_u64).filter(|_| !twin) {
        line(format_args!("keys          the listed ones are lost; new ones count from epoch {epoch}"));
    }
    let accepted = (number(status, "/descriptor/accepted_by"), number(status, "/descriptor/authorities"));
    let needed = number(status, "/descriptor/needed");
    line(format_args!("descriptor    accepted by {} of {} authorities, {needed} needed", accepted.0, accepted.1));
    let addresses = texts(status, "/descriptor/addresses");
    if !addresses.is_empty() {
        line(format_args!("              says that the node is at {}", addresses.join(", ")));
    }
    for (authority, reason) in status.pointer("/descriptor/refusals").and_then(Value::as_object).into_iter().flatten() {
        line(format_args!("              {authority}: {}", reason.as_str().unwrap_or("refused")));
    }
    line(format_args!(
        "links         {} of {} to next hops up, {} from other nodes",
        number(status, "/links/outgoing_up"),
        number(status, "/links/outgoing_wanted"),
        number(status, "/links/incoming")
    ));
    if status.get("store").is_some() {
        line(format_args!(
            "store         {}, about {} boxes in {} bytes, {} of {} links to other stores up",
            if is(status, "/store/open") { "open" } else { "not open" },
            number(status, "/store/boxes"),
            number(status, "/store/bytes"),
            number(status, "/store/links_up"),
            number(status, "/store/links_wanted")
        ));
    }
    let when = if is(status, "/by_epoch") { " (as at the end of the last epoch)" } else { "" };
    line(format_args!(
        "packets       {} received, {} forwarded, {} waiting{when}",
        number(status, "/received"),
        number(status, "/forwarded"),
        number(status, "/queue")
    ));
    let drops: Vec<String> = status
        .get("dropped")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(reason, count)| Some((reason, count.as_u64().filter(|count| *count > 0)?)))
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    line(format_args!("dropped       {}", if drops.is_empty() { "nothing".to_owned() } else { drops.join(", ") }));
    line(format_args!(
        "own loops     {} sent, {} returned, {} lost",
        number(status, "/loops/sent"),
        number(status, "/loops/returned"),
        number(status, "/loops/lost")
    ));
    line(format_args!("next          {}", next_step(status)));
    out.trim_end().to_owned()
}

/// `shoal-node secrets` for people, at `now`.
pub fn secrets(secrets: &Value, now: UnixMillis) -> String {
    let mut out = String::new();
    for secret in secrets.get("secrets").and_then(Value::as_array).into_iter().flatten() {
        let erased = match secret.get("erased_at_ms").and_then(Value::as_u64) {
            Some(at) => format!("{}, {}", utc(UnixMillis(at)), relative(UnixMillis(at), now)),
            None => text(secret, "/erased").to_owned(),
        };
        let places = texts(secret, "/where").join(" and ");
        // writing into a string cannot fail
        let _ = write!(
            out,
            "{}\n  where:  {places}\n  erased: {erased}\n  tells:  {}\n\n",
            text(secret, "/secret"),
            text(secret, "/tells")
        );
    }
    let lacks = texts(secrets, "/lacks");
    if secrets.get("memory").is_some() {
        let memory = if lacks.is_empty() {
            "not dumped, not shown to other processes, not swapped out".to_owned()
        } else {
            lacks.join("; ")
        };
        let _ = write!(out, "memory of the node: {memory}");
    }
    out.trim_end().to_owned()
}

/// `in 12 min`, or `overdue`: rounded up, so that nothing is promised too early.
fn relative(at: UnixMillis, now: UnixMillis) -> String {
    let seconds = at.0.saturating_sub(now.0).div_ceil(1_000);
    match seconds {
        0 => "due now".to_owned(),
        1..120 => format!("in {seconds} s"),
        120..7_200 => format!("in {} min", seconds.div_ceil(60)),
        _ => format!("in {} h", seconds.div_ceil(3_600)),
    }
}

/// `2025-06-15 15:06:40Z`: UTC, which does not tell where the machine stands.
pub fn utc(at: UnixMillis) -> String {
    let seconds = at.0 / 1_000;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01, by walking: years first, then months. Beyond the year 9999 it
/// stays there, so that no number of a file makes it walk for long.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while year < 9_999 {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    for (length, month) in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().zip(1..) {
        if days < length {
            return (year, month, days + 1);
        }
        days -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ready() -> Value {
        json!({
            "identity": "ab".repeat(32), "role": "mix", "layer": "L2", "epoch": 45, "in_consensus": true,
            "since_epoch": 12, "standby": false, "ready": true, "problems": [], "warnings": [], "stale": false,
            "contradiction": null, "phase": "running", "standing": "serving",
            "links": {"outgoing": [], "outgoing_up": 3, "outgoing_wanted": 3, "incoming": 4},
            "queue": 2, "received": 100, "forwarded": 90, "dropped": {"replayed": 7, "bad_mac": 0},
            "loops": {"sent": 10, "returned": 9, "lost": 1}, "by_epoch": false,
            "descriptor": {"accepted_by": 4, "needed": 2, "authorities": 4, "refusals": {}},
        })
    }

    fn with(pairs: &[(&str, Value)]) -> Value {
        let mut status = ready();
        for (pointer, value) in pairs {
            *status.pointer_mut(pointer).expect("a field") = value.clone();
        }
        status
    }

    #[test]
    fn a_ready_node_in_ten_lines() {
        let text = status(&ready());
        assert!(text.starts_with(&format!("mix in L2  {}", "ab".repeat(32))), "{text}");
        for part in
            ["ready         yes", "epoch 45; lists this node since epoch 12", "3 of 3", "90 forwarded", "7 replayed"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("bad_mac"), "what did not happen is left out");
        assert!(text.ends_with("next          nothing: all is well"), "{text}");
        assert!(text.lines().count() <= 10);
    }

    #[test]
    fn who_refuses_and_where_the_node_says_it_is() {
        let descriptor = json!({"accepted_by": 1, "needed": 2, "authorities": 4, "addresses": ["192.0.2.1:4433"],
            "refusals": {"ab": "this authority cannot reach the node"}, "refused_for": {"unreached": 1}});
        let text = status(&with(&[("/descriptor", descriptor), ("/standing", json!("unlisted"))]));
        for part in ["accepted by 1 of 4 authorities, 2 needed", "192.0.2.1:4433", "ab: this authority", "node.toml"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(status(&with(&[("/standby", json!(true))])).contains("stands by: "));
    }

    #[test]
    fn what_is_missing_from_an_answer_breaks_nothing() {
        assert!(status(&json!({})).contains("none held"));
        assert_eq!(secrets(&json!({}), UnixMillis(0)), "");
    }

    #[test]
    fn secrets_say_when_in_words() {
        let secret = json!({"secrets": [{
            "secret": "mix key of epoch 3", "where": ["run/mix-3.key", "memory"], "erased": "", "tells": "one layer",
            "erased_at_ms": 1_750_000_000_000u64,
        }]});
        let text = secrets(&secret, UnixMillis(1_750_000_000_000 - 12 * 60_000));
        assert!(text.contains("erased: 2025-06-15 15:06:40Z, in 12 min"), "{text}");
        assert!(text.contains("run/mix-3.key and memory"), "{text}");
    }

    #[test]
    fn known_days() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (4_107_542_399_999, "2100-02-28 23:59:59Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(utc(UnixMillis(ms)), text);
        }
        assert!(utc(UnixMillis(u64::MAX)).starts_with("9999-12-31"));
    }
}
