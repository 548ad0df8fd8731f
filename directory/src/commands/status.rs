//! `status`: what the authority does now.

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
        let text = text(&json);
        Ok(Output { json, text })
    }
}

/// The status for people. It may come from a running authority of another version, so it is read leniently.
fn text(status: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let field = |name: &str| status.get(name).map_or_else(|| "unknown".to_owned(), word);
    let mut lines = vec![
        format!("network    {} ({})", field("name"), field("fingerprint")),
        format!("identity   {}", field("identity")),
        format!("running    {}", field("running")),
        format!("ready      {}", field("ready")),
        format!("epoch      {} (document {}, {} signatures)", field("epoch"), field("height"), field("signatures")),
        format!("admitted   {} (open: {})", field("admitted"), field("open")),
    ];
    if status.get("waiting_for").is_some_and(Value::is_string) {
        lines.push(format!("next       {}", field("waiting_for")));
    }
    let list = |name: &str| status.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for authority in list("authorities") {
        let get = |name: &str| authority.get(name).map_or_else(String::new, word);
        let remarks = authority.get("remarks").and_then(Value::as_array).cloned().unwrap_or_default();
        let remarks: Vec<_> = remarks.iter().map(word).collect();
        let state = match (get("me") == "true", remarks.is_empty()) {
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
