//! `admit`: the operator's decision about a node.

use clap::Args;
use serde_json::{Value, json};
use shoal_directory::admission::{Admitted, parse_line};
use shoal_directory::config::files as names;
use shoal_directory::io::control;
use shoal_directory::io::failure::{Failure, Kind};
use shoal_protocol::Identity;

use super::Common;
use crate::Output;

#[derive(Debug, Args)]
pub(super) struct Admit {
    #[command(flatten)]
    common: Common,
    /// The line that `shoal-node init` printed, quoted or not.
    #[arg(required_unless_present = "remove", value_name = "LINE")]
    line: Vec<String>,
    /// Remove this node instead; it is left out of the next document.
    #[arg(long, value_name = "IDENTITY", conflicts_with = "line")]
    remove: Option<Identity>,
}

impl Admit {
    pub(super) async fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        // not in a directory that is no authority's
        home.config()?;
        let mut list = home.admitted()?;
        let (mut json, text, changed) = if let Some(identity) = self.remove {
            let removed = list.remove(&identity);
            let text = if removed { "is no longer admitted" } else { "was not admitted" };
            (json!({"identity": identity, "removed": removed}), format!("{identity} {text}"), removed)
        } else {
            let node = parse_line(&self.line.join(" ")).map_err(|error| {
                Failure::new(Kind::Usage, error.to_string(), "pass the whole line that shoal-node init printed")
            })?;
            let Admitted { identity, role, .. } = node;
            let new = list
                .admit(node)
                .map_err(|error| Failure::new(Kind::Usage, error.to_string(), "remove the old entry first"))?;
            let text = if new { "is admitted as" } else { "was admitted before as" };
            (
                json!({"identity": identity, "role": role, "admitted": true, "new": new}),
                format!("{identity} {text} {role}"),
                new,
            )
        };
        let mut running = false;
        if changed {
            home.write_admitted(&list)?;
            let answer = control::ask(&home.path(names::CONTROL), "reload").await?;
            running = answer.is_some();
            if let Some(problem) = answer.as_ref().and_then(|answer| answer.get("error")) {
                let message = problem.get("message").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(Failure::new(
                    Kind::Temporary,
                    format!("written, but the running authority did not take it: {message}"),
                    "correct admitted.toml, then send SIGHUP to the authority",
                ));
            }
        }
        if let Some(object) = json.as_object_mut() {
            object.insert("count".to_owned(), json!(list.len()));
            object.insert("running_authority_told".to_owned(), json!(running));
        }
        Ok(Output { json, text })
    }
}
