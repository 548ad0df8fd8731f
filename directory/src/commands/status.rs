//! `status`: what the authority does now.

use std::path::Path;

use clap::Args;
use serde_json::Value;
use shoal_directory::config::files as names;
use shoal_directory::io::authority::look;
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::{control, now};

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
        let text = text(&json, &self.common.dir);
        Ok(Output { json, text })
    }
}

/// The status for people. It may come from a running authority of another version, so it is read leniently.
fn text(status: &Value, dir: &Path) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let field = |name: &str| status.get(name).map_or_else(|| "unknown".to_owned(), word);
    // what only a running authority knows is not known of one that does not run
    let stopped = status.get("running").and_then(Value::as_bool) == Some(false);
    let start = format!("no: start it with shoal-directory run --dir {}", dir.display());
    let mut lines = vec![
        format!("network    {} ({})", field("name"), field("fingerprint")),
        format!("identity   {}", field("identity")),
        format!("running    {}", if stopped { start.clone() } else { field("running") }),
        format!("ready      {}", field("ready")),
        match status.get("epoch") {
            Some(Value::Null) => "epoch      no document is in force".to_owned(),
            Some(_) | None => {
                format!(
                    "epoch      {} (document {}, {} signatures)",
                    field("epoch"),
                    field("height"),
                    field("signatures")
                )
            }
        },
        format!("admitted   {} (open: {})", field("admitted"), field("open")),
    ];
    if !stopped && status.get("waiting_for").is_some_and(Value::is_string) {
        lines.push(format!("next       {}", field("waiting_for")));
    }
    let list = |name: &str| status.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for authority in list("authorities") {
        let get = |name: &str| authority.get(name).map_or_else(String::new, word);
        let remarks = authority.get("remarks").and_then(Value::as_array).cloned().unwrap_or_default();
        let remarks: Vec<_> = remarks.iter().map(word).collect();
        let state = match (get("me") == "true", remarks.is_empty()) {
            (false, _) if stopped => "unknown while this one does not run".to_owned(),
            (true, true) => "this one".to_owned(),
            (true, false) => format!("this one: {}", remarks.join("; ")),
            (false, true) => "well".to_owned(),
            (false, false) => remarks.join("; "),
        };
        lines.push(format!("authority  {} {state}", get("identity")));
    }
    for node in list("nodes") {
        let get = |name: &str| node.get(name).map_or_else(String::new, word);
        let place = if get("dropped") != "none" {
            format!("dropped: {}", get("dropped"))
        } else if get("in_consensus") != "true" {
            "listed for the next document".to_owned()
        } else if get("standby") == "true" {
            "stands by".to_owned()
        } else if get("layer") == "none" {
            "active".to_owned()
        } else {
            format!("active in {}", get("layer"))
        };
        lines.push(format!("node       {} {:<7} {place}", get("identity"), get("role")));
    }
    for refused in list("refused") {
        let get = |name: &str| refused.get(name).map_or_else(String::new, word);
        lines.push(format!("refused    {} times: {}", get("count"), get("reason")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stopped_authority_says_that_it_does_not_run_and_nothing_of_others() {
        let mut status = json!({
            "name": "reef", "running": false, "ready": false, "epoch": null, "height": null, "signatures": null,
            "waiting_for": "lists of others",
            "authorities": [
                {"identity": "aa", "me": true, "remarks": []},
                {"identity": "bb", "me": false, "remarks": ["not heard since this authority started"]},
            ],
        });
        let stopped = text(&status, Path::new("/srv/authority"));
        assert!(stopped.contains("no: start it with shoal-directory run --dir /srv/authority"), "{stopped}");
        assert!(stopped.contains("no document is in force"), "{stopped}");
        assert!(!stopped.contains("not heard") && !stopped.contains("lists of others"), "{stopped}");
        assert!(stopped.contains("bb unknown while this one does not run"), "{stopped}");
        status["running"] = json!(true);
        let running = text(&status, Path::new("/srv/authority"));
        assert!(running.contains("not heard") && running.contains("lists of others"), "{running}");
    }
}
