//! What the operator of a node should do now, from what the running node says of itself.

use crate::hindrance::Hindrance;
use crate::standing::Standing;
use serde_json::Value;

const READ_THE_LOG: &str = "`shoal-node doctor` looks for the cause; the log may say more";
/// How a wrong address is put right.
pub const CORRECT_THE_ADDRESS: &str = "if the address is wrong, correct `address` in node.toml and send SIGHUP (systemctl reload shoal-node) or restart; if it \
     is right, let UDP to its port through the firewall or router";

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn is(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// Whether no generation names this store.
pub fn may_go(status: &Value) -> bool {
    is(status, "/in_consensus") && status.get("generations").and_then(Value::as_array).is_some_and(Vec::is_empty)
}

/// The word that the node says of itself; of an answer without one, that nothing is known.
fn standing(status: &Value) -> Standing {
    let label = status.get("standing").and_then(Value::as_str);
    label.and_then(Standing::from_label).unwrap_or(Standing::Starting)
}

/// What the operator should do now.
pub fn next_step(status: &Value) -> String {
    match standing(status) {
        Standing::Contradicted => "do what the problem above says; nothing else helps".to_owned(),
        Standing::Stopping | Standing::Draining => "nothing: it leaves by itself".to_owned(),
        Standing::Starting if number(status, "/descriptor/accepted_by") < number(status, "/descriptor/needed") => {
            listing(status).unwrap_or_else(|| {
                "wait for the first consensus; if none comes, `shoal-node doctor` asks every authority".to_owned()
            })
        }
        Standing::Starting => {
            "wait for the first consensus; if none comes, `shoal-node doctor` asks every authority".to_owned()
        }
        Standing::Over => {
            "`shoal-node doctor` asks every authority: it says whether they make no documents, or this machine does not reach \
             them, or its clock is wrong"
                .to_owned()
        }
        Standing::Unlisted => listing(status).unwrap_or_else(|| "`shoal-node doctor` asks every authority".to_owned()),
        Standing::Stale => {
            "ask the operators of the authorities whether they run; if they do, check the network of this machine".to_owned()
        }
        Standing::Standby | Standing::Serving if is(status, "/leaving") && may_go(status) => {
            "stop it (SIGTERM): nothing that anybody may ask for lies here any more".to_owned()
        }
        Standing::Standby | Standing::Serving if is(status, "/leaving") => {
            "leave it running: it still holds what others may ask for".to_owned()
        }
        Standing::Hindered | Standing::Standby | Standing::Serving
            if number(status, "/descriptor/refused_for/unreached") > 0 =>
        {
            format!("some authorities do not reach it: {CORRECT_THE_ADDRESS}")
        }
        Standing::Hindered => remedies(status),
        Standing::Standby | Standing::Serving if status.get("demotion").is_some_and(Value::is_object) => demoted(status),
        Standing::Standby | Standing::Serving if !losing(status).is_empty() => {
            if losing(status).contains(&"everywhere") {
                "look for what drops packets here: load, memory, the network of this machine (`dropped` in `shoal-node status`)"
            } else {
                "nothing here; if it lasts, ask the operators of the nodes named above: authorities demote who loses packets"
            }
            .to_owned()
        }
        Standing::Standby => "nothing: leave it running".to_owned(),
        Standing::Serving => "nothing: all is well".to_owned(),
    }
}

/// The words of the places where loops are lost.
fn losing(status: &Value) -> Vec<&str> {
    let places = status.get("losing").and_then(Value::as_array).into_iter().flatten();
    places.filter_map(|place| place.get("where").and_then(Value::as_str)).collect()
}

/// What the operator of a node does at which others lose loops.
fn demoted(status: &Value) -> String {
    let look = "find what drops packets here: load, memory, firewall, the network of this machine (`dropped` in `shoal-node \
                status`)";
    match status.pointer("/demotion/until_epoch").and_then(Value::as_u64) {
        Some(epoch) => {
            format!("{look}; leave it running: from epoch {epoch} on it may have a place again, by a vacancy or draw")
        }
        None => look.to_owned(),
    }
}

/// What helps against everything that hinders it.
fn remedies(status: &Value) -> String {
    let labels = status.get("hindered_by").and_then(Value::as_array).into_iter().flatten();
    let labels: Vec<&str> = labels.filter_map(Value::as_str).collect();
    // links of a node that runs twice come and go for that reason
    let twin = labels.contains(&"twin");
    let labels = labels.into_iter().filter(|label| !twin || *label == "twin");
    let mut remedies: Vec<&str> = labels.filter_map(Hindrance::next).collect();
    // two kinds of links may be down for one reason
    remedies.dedup();
    if remedies.is_empty() { READ_THE_LOG.to_owned() } else { remedies.join("; ") }
}

/// What is to be done for more authorities to list the node; `None`: no reason is known.
pub fn listing(status: &Value) -> Option<String> {
    let (accepted, needed) = (number(status, "/descriptor/accepted_by"), number(status, "/descriptor/needed"));
    if needed > 0 && accepted >= needed {
        return Some("wait for the next document: enough authorities list the node".to_owned());
    }
    let why = |reason: &str| number(status, &format!("/descriptor/refused_for/{reason}")) > 0;
    let mut steps = Vec::new();
    if why("unreached") {
        steps.push(CORRECT_THE_ADDRESS);
    }
    if why("clock") {
        steps.push("set the clock of this machine (timedatectl); authorities refuse the descriptor for its time");
    }
    if why("not_admitted") {
        steps.push(
            "send the admission line to the operators of the authorities that refuse it (`shoal-node check-config` prints it)",
        );
    }
    if why("silent") {
        steps.push("authorities that do not answer: ask their operators, and check that UDP passes both ways");
    }
    if why("other") {
        steps.push("see what the authorities say (`shoal-node status`)");
    }
    (!steps.is_empty()).then(|| {
        let missing = needed.saturating_sub(accepted);
        format!("{missing} more of the authorities must list it: {}", steps.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(standing: Standing, accepted: u64, reasons: &[&str]) -> Value {
        let refused: serde_json::Map<String, Value> =
            reasons.iter().map(|reason| ((*reason).to_owned(), json!(1))).collect();
        json!({"standing": standing.label(), "in_consensus": standing.is_ready(),
            "descriptor": {"accepted_by": accepted, "needed": 2, "authorities": 4, "refused_for": refused}})
    }

    #[test]
    fn the_next_step_follows_from_the_standing() {
        for (standing, part) in [
            (Standing::Contradicted, "problem above"),
            (Standing::Stopping, "by itself"),
            (Standing::Draining, "by itself"),
            (Standing::Starting, "first consensus"),
            (Standing::Over, "doctor"),
            (Standing::Unlisted, "doctor"),
            (Standing::Hindered, "doctor"),
            (Standing::Stale, "operators of the authorities"),
            (Standing::Standby, "leave it running"),
            (Standing::Serving, "all is well"),
        ] {
            assert!(next_step(&status(standing, 0, &[])).contains(part), "{standing:?}");
        }
        assert!(next_step(&json!({})).contains("first consensus"));
    }

    #[test]
    fn losses_have_their_next_step() {
        let with = |standing: Standing, key: &str, value: Value| {
            let mut status = status(standing, 3, &[]);
            status[key] = value;
            next_step(&status)
        };
        let lost = |place: &str| json!([{"where": place, "nodes": []}]);
        assert!(with(Standing::Serving, "losing", lost("everywhere")).contains("drops packets here"));
        assert!(with(Standing::Serving, "losing", lost("to")).contains("ask the operators"));
        assert!(with(Standing::Serving, "losing", json!([])).contains("all is well"));
        assert!(with(Standing::Standby, "demotion", json!({"until_epoch": 9})).contains("from epoch 9 on"));
        assert!(with(Standing::Serving, "demotion", json!({"until_epoch": null})).starts_with("find what drops"));
        assert!(with(Standing::Standby, "demotion", Value::Null).contains("leave it running"));
    }

    #[test]
    fn a_hindered_node_is_told_what_helps_against_what_hinders_it() {
        let hindered = |by: &[&str]| {
            let mut status = status(Standing::Hindered, 2, &[]);
            status["hindered_by"] = json!(by);
            next_step(&status)
        };
        assert!(hindered(&["links"]).contains("firewall"));
        let twin = hindered(&["twin"]);
        assert!(twin.contains("stop the other process") && !twin.contains("firewall"), "{twin}");
        assert_eq!(hindered(&["twin", "links"]), twin);
        let both = hindered(&["keys_lost", "links"]);
        assert!(both.contains("runtime directory") && both.contains("firewall"), "{both}");
    }

    #[test]
    fn an_unlisted_node_is_told_how_many_more_are_needed_and_for_which_reason() {
        let unlisted = |accepted, reasons: &[&str]| next_step(&status(Standing::Unlisted, accepted, reasons));
        assert!(unlisted(2, &["not_admitted"]).starts_with("wait for the next document"));
        // f of 4 still list it
        let removed = unlisted(1, &["not_admitted"]);
        assert!(removed.starts_with("1 more") && removed.contains("admission line"), "{removed}");
        assert!(!removed.contains("wait for"), "{removed}");
        let many = unlisted(0, &["unreached", "clock", "silent", "other"]);
        for part in ["2 more", "`address` in node.toml", "clock", "do not answer", "what the authorities say"] {
            assert!(many.contains(part), "{part}: {many}");
        }
        // a new node with a wrong address hears it before there is any document
        assert!(next_step(&status(Standing::Starting, 0, &["unreached"])).contains("`address` in node.toml"));
        assert!(next_step(&status(Standing::Serving, 3, &["unreached"])).contains("`address` in node.toml"));
    }
}
