//! `status`: what the authority does now.

use std::path::Path;

use clap::Args;
use serde_json::Value;
use shoal_directory::config::files as names;
use shoal_directory::io::authority::look;
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::{control, now};
use shoal_protocol::UnixMillis;
use shoal_protocol::duration::short;

use super::Common;
use crate::Output;

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    common: Common,
}

impl Status {
    pub(super) async fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        // not in a directory that is no authority's
        home.config()?;
        let json = match control::ask(&home.path(names::CONTROL), "status").await? {
            Some(json) => json,
            None => {
                let authority = look(&home, now())?;
                serde_json::to_value(authority.status(now(), false)).map_err(|error| {
                    Failure::new(Kind::InputOutput, error.to_string(), "report this: it is a mistake in the program")
                })?
            }
        };
        let text = text(&json, &self.common.dir, now());
        Ok(Output::new(json, text))
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A member of an object; empty when it is not there.
fn get(of: &Value, name: &str) -> String {
    of.get(name).map_or_else(String::new, word)
}

fn list(of: &Value, name: &str) -> Vec<Value> {
    of.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// How long ago, for people.
fn ago(of: &Value, name: &str, now: UnixMillis) -> Option<String> {
    let at = of.get(name).and_then(Value::as_u64)?;
    Some(format!("{} ago", short(now.since(UnixMillis(at)))))
}

/// The status for people. It may come from a running authority of another version, so it is read leniently.
fn text(status: &Value, dir: &Path, now: UnixMillis) -> String {
    let field = |name: &str| status.get(name).map_or_else(|| "unknown".to_owned(), word);
    // what only a running authority knows is not known of one that does not run
    let stopped = status.get("running").and_then(Value::as_bool) == Some(false);
    let start = format!("start it: shoal-directory run --dir {}", dir.display());
    let authorities = list(status, "authorities");
    let missing = authorities.iter().filter(|one| get(one, "missing") == "true").count();
    let address = match status.get("address") {
        Some(Value::String(address)) => address.clone(),
        Some(_) | None => "not in the network file".to_owned(),
    };
    let mut lines = vec![
        format!("network    {} ({})", field("name"), field("fingerprint")),
        format!("identity   {}", field("identity")),
        format!("address    {address}, listens on {}", field("listen")),
        format!("running    {}", if stopped { "no".to_owned() } else { field("running") }),
        format!("documents  {}", field("documents")),
    ];
    if status.get("epoch").is_some_and(|epoch| !epoch.is_null()) {
        let (epoch, height, signatures) = (field("epoch"), field("height"), field("signatures"));
        lines.push(format!("newest     epoch {epoch}, document {height}, {signatures} signatures"));
    }
    if !stopped {
        let (all, needed) = (authorities.len(), field("needed"));
        lines.push(format!("here       {} of {all} authorities, {needed} must run", all - missing));
    }
    lines.push(format!("admitted   {} (open: {})", field("admitted"), field("open")));
    lines.extend(list(status, "asks").iter().map(|ask| format!("asks for   {}", word(ask))));
    if stopped {
        lines.push(format!("next       {start}"));
    }
    lines.extend(list(status, "next").iter().map(|next| format!("next       {}", word(next))));
    lines.extend(authorities.iter().map(|one| authority(one, stopped, now)));
    lines.extend(list(status, "nodes").iter().map(node));
    for refused in list(status, "refused") {
        let when = ago(&refused, "at", now).unwrap_or_default();
        let (epoch, count) = (get(&refused, "epoch"), get(&refused, "count"));
        lines.push(format!("refused    {when} (epoch {epoch}), {count} times: {}", get(&refused, "reason")));
    }
    lines.join("\n")
}

fn authority(one: &Value, stopped: bool, now: UnixMillis) -> String {
    let remarks: Vec<String> = list(one, "remarks").iter().map(word).collect();
    let mut parts = Vec::new();
    if get(one, "me") == "true" {
        parts.push("this one".to_owned());
    } else if stopped {
        parts.push("unknown while this one does not run".to_owned());
    } else {
        if get(one, "missing") == "true" {
            parts.push("MISSING".to_owned());
        }
        parts.push(match (ago(one, "heard", now), ago(one, "answered", now)) {
            (Some(heard), _) => format!("heard {heard}"),
            (None, Some(answered)) => format!("answered {answered}"),
            (None, None) => "not heard since this authority started".to_owned(),
        });
    }
    if !stopped {
        parts.extend(remarks);
    }
    let address = match one.get("address") {
        Some(Value::String(address)) => address.clone(),
        Some(_) | None => "address unknown".to_owned(),
    };
    format!("authority  {} {address}  {}", get(one, "identity"), parts.join("; "))
}

fn node(one: &Value) -> String {
    let place = if get(one, "dropped") != "none" {
        format!("dropped: {}", get(one, "dropped"))
    } else if get(one, "in_consensus") != "true" {
        "listed for the next document".to_owned()
    } else if one.pointer("/suspect/demoted_until").is_some_and(Value::is_u64) {
        let until = one.pointer("/suspect/demoted_until").map_or_else(String::new, word);
        format!("stands by: demoted until epoch {until}{}", said(one))
    } else if get(one, "standby") == "true" {
        "stands by".to_owned()
    } else if get(one, "layer") == "none" {
        "active".to_owned()
    } else {
        format!("active in {}{}", get(one, "layer"), said(one))
    };
    format!("node       {} {:<7} {place}", get(one, "identity"), get(one, "role"))
}

/// Who says that a node loses packets.
fn said(one: &Value) -> String {
    let Some(suspect) = one.get("suspect").filter(|suspect| suspect.is_object()) else { return String::new() };
    let share = |side: &str| {
        let side = suspect.get(side).cloned().unwrap_or_default();
        format!("{} of {}", get(&side, "losing"), get(&side, "of"))
    };
    let (before, behind) = (share("before"), share("behind"));
    format!(
        "; {before} operators before it and {behind} behind it lose loops there (strike {})",
        get(suspect, "strikes")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stopped_authority_says_that_it_does_not_run_and_nothing_of_others() {
        let mut status = json!({
            "name": "reef", "running": false, "ready": false, "epoch": null, "height": null, "signatures": null,
            "documents": "none was made yet", "next": [], "needed": 3, "address": "127.0.0.1:1", "listen": "127.0.0.1:1",
            "authorities": [
                {"identity": "aa", "me": true, "missing": false, "remarks": []},
                {"identity": "bb", "me": false, "missing": true, "heard": null, "remarks": ["not reached: closed"]},
            ],
        });
        let dir = Path::new("/srv/authority");
        let stopped = text(&status, dir, UnixMillis(1));
        assert!(stopped.contains("next       start it: shoal-directory run --dir /srv/authority"), "{stopped}");
        assert!(
            stopped.contains("none was made yet") && stopped.contains("bb address unknown  unknown while"),
            "{stopped}"
        );
        assert!(
            !stopped.contains("not reached") && !stopped.contains("MISSING") && !stopped.contains("here "),
            "{stopped}"
        );
        status["running"] = json!(true);
        let running = text(&status, dir, UnixMillis(1));
        assert!(running.contains("here       1 of 2 authorities, 3 must run"), "{running}");
        assert!(running.contains("MISSING; not heard since this authority started; not reached: closed"), "{running}");
    }

    #[test]
    fn who_is_missing_what_differs_and_when_is_said() {
        let status = json!({
            "name": "reef", "running": true, "documents": "ARE NOT MADE: it is epoch 9", "epoch": 7, "height": 3,
            "signatures": 3, "needed": 3, "address": null, "listen": "0.0.0.0:1", "asks": ["service_ms = 5 (4 in force)"],
            "next": ["2 of 4 authorities are missing"],
            "authorities": [
                {"identity": "aa", "me": true, "address": "127.0.0.1:1", "missing": false, "remarks": []},
                {"identity": "bb", "me": false, "address": "127.0.0.1:2", "missing": true, "heard": 40_000,
                 "remarks": ["not reached: closed"]},
                {"identity": "cc", "me": false, "address": "127.0.0.1:3", "missing": false, "answered": 98_000, "remarks": []},
            ],
            "refused": [{"at": 40_000, "epoch": 7, "count": 2, "reason": "not admitted"}],
        });
        let said = text(&status, Path::new("d"), UnixMillis(100_000));
        for line in [
            "address    not in the network file, listens on 0.0.0.0:1",
            "documents  ARE NOT MADE: it is epoch 9",
            "asks for   service_ms = 5 (4 in force)",
            "next       2 of 4 authorities are missing",
            "authority  bb 127.0.0.1:2  MISSING; heard 1m ago; not reached: closed",
            "authority  cc 127.0.0.1:3  answered 2.0s ago",
            "refused    1m ago (epoch 7), 2 times: not admitted",
        ] {
            assert!(said.lines().any(|found| found == line), "{line}\n{said}");
        }
    }
}
