//! `shoal-node store`: moves boxes between engines and shows how far it is.

use crate::args::{Dir, Store};
use crate::output::{fields, say};
use serde_json::Value;
use shoal_node::failure::Failure;
use shoal_node::io::store_migrate::{self, Tell};
use std::io::Write as _;

/// Shows how far a move is: to programs on standard output, to people on standard error.
struct Shown {
    json: bool,
}

impl Tell for Shown {
    fn progress(&mut self, progress: &Value) {
        if self.json {
            return say(&progress.to_string());
        }
        let number = |key| progress.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (done, buckets, records) = (number("buckets_done"), number("buckets"), number("records"));
        let waits =
            progress.get("problem").and_then(Value::as_str).map(|text| format!("; waits: {text}")).unwrap_or_default();
        // nothing can be done about a standard error that is closed
        let _ =
            writeln!(std::io::stderr(), "{records} records copied and compared, {done} of {buckets} buckets{waits}");
    }
}

/// Runs a subcommand to its end.
pub(crate) fn run(command: &Store, json: bool) -> Result<(), Failure> {
    let Store::Migrate { dir: Dir { dir }, options } = command;
    let ended = crate::runtime()?.block_on(store_migrate::migrate(dir, options, &mut Shown { json }))?;
    if json {
        say(&ended.to_string());
    } else if options.cancel {
        say("called off: the store stays where it is");
    } else {
        fields(&ended);
        say("what the old engine holds is not used any more; ops/runbooks/store.md says how to remove it");
    }
    Ok(())
}
