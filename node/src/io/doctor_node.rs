//! What `doctor` makes of the running node's own words: where it stands, whether packets flow, where it is reached; and, of
//! one that does not run here, whether it runs elsewhere.

use crate::advice::next_step;
use crate::answers::{Answer, Why};
use crate::config::Config;
use crate::io::doctor::{Finding, bad, dialler, good};
use crate::io::documents::kept;
use crate::io::setup::Setup;
use crate::verdict;
use serde_json::Value;
use shoal_protocol::consensus::Follower;
use shoal_protocol::quic::Protocol;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;

/// How long somebody elsewhere may take to answer with this node's identity.
const TWIN_PATIENCE: Duration = Duration::from_secs(2);

fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The running node's own opinion: all is well exactly when it says that it is ready. What somebody should look at although
/// it is has something to do next.
pub fn running(status: &anyhow::Result<Value>) -> Vec<Finding> {
    const CHECK: &str = "running node";
    let status = match status {
        Ok(status) => status,
        Err(error) => return vec![bad(CHECK, format!("{error:#}"), "start it: shoal-node run")],
    };
    let texts = |key| {
        let list = status.get(key).and_then(Value::as_array).into_iter().flatten();
        list.map(|text| text.as_str().unwrap_or("unknown problem").to_owned()).collect::<Vec<_>>()
    };
    let ready = status.get("ready").and_then(Value::as_bool).unwrap_or(false);
    let standing = status.get("standing").and_then(Value::as_str).unwrap_or("unknown");
    let (problems, next) = (texts("problems"), next_step(status));
    let mut findings = Vec::new();
    if ready {
        findings.push(good(CHECK, format!("ready ({standing})")));
    } else if problems.is_empty() {
        findings.push(bad(CHECK, format!("not ready ({standing})"), next.clone()));
    }
    findings.extend(problems.into_iter().map(|problem| bad(CHECK, problem, next.clone())));
    findings.extend(texts("warnings").into_iter().map(|warning| Finding {
        check: CHECK,
        ok: true,
        found: warning,
        next: next.clone(),
    }));
    findings
}

/// Whether packets flow, by two answers of the node some seconds apart, and by its own loops.
pub fn packets(before: &Value, after: &Value) -> Vec<Finding> {
    const CHECK: &str = "packets";
    if after.get("ready").and_then(Value::as_bool) != Some(true) {
        return Vec::new();
    }
    let mut findings = vec![if after.get("by_epoch").and_then(Value::as_bool) == Some(true) {
        let found =
            format!("{} received by the end of the last epoch; a gateway shows no more", number(after, "/received"));
        good(CHECK, found)
    } else {
        let came = number(after, "/received").saturating_sub(number(before, "/received"));
        let went = number(after, "/forwarded").saturating_sub(number(before, "/forwarded"));
        let found =
            format!("{came} came and {went} went while this ran; {} forwarded in all", number(after, "/forwarded"));
        let quiet = came == 0 && after.get("standing").and_then(Value::as_str) == Some("serving");
        let next = "if it stays so for minutes, nobody reaches the node: see what authorities and loops say";
        Finding { check: CHECK, ok: true, found, next: if quiet { next.to_owned() } else { String::new() } }
    }];
    findings.push(loops(number(after, "/loops/returned"), number(after, "/loops/lost")));
    findings
}

/// What came of the node's own loops.
fn loops(returned: u64, lost: u64) -> Finding {
    const CHECK: &str = "own loops";
    /// Fewer say nothing.
    const FEW: u64 = 20;
    let settled = returned + lost;
    let found = format!("{returned} of {settled} came back");
    match settled {
        settled if settled < FEW => good(CHECK, format!("{found}; too few yet to say anything")),
        settled if returned * 2 < settled => bad(
            CHECK,
            found,
            "most of what this node sends is lost: if other nodes do not lose theirs, the way from or to this machine is bad, \
             or the machine is too slow (see `dropped` in status)",
        ),
        settled if returned * 10 < settled * 9 => Finding {
            check: CHECK,
            ok: true,
            found,
            next: "some are lost: normal while nodes come and go; if it stays so, see `dropped` in status".to_owned(),
        },
        _ => good(CHECK, found),
    }
}

/// Where the running node says that it is, and who did not find it there.
pub fn reached(config: &Config, status: &Value) -> Option<Finding> {
    let text = |pointer| status.pointer(pointer).and_then(Value::as_str);
    let published = text("/descriptor/address").filter(|address| !address.is_empty())?;
    let named = status.pointer("/descriptor/addresses").and_then(Value::as_array);
    let named: Vec<&str> = named.into_iter().flatten().filter_map(Value::as_str).collect();
    let refusals = status.pointer("/descriptor/refusals").and_then(Value::as_object).into_iter().flatten();
    let refusals: Vec<String> = refusals
        .filter_map(|(who, reason)| Some((who, reason.as_str()?)))
        .filter(|(_, reason)| Answer::Refused((*reason).to_owned()).why() == Some(Why::Unreached))
        .map(|(who, reason)| format!("{who}: {reason}"))
        .collect();
    let refusals: Vec<&str> = refusals.iter().map(String::as_str).collect();
    let (ok, found, next) = verdict::of_address(&config.address, published, &named, &refusals);
    let listed = number(status, "/descriptor/accepted_by");
    let found = if ok && listed > 0 { format!("{found}; {listed} authorities have reached it there") } else { found };
    Some(Finding { check: "descriptor", ok, found, next })
}

/// Of a node that does not run here: whether somebody answers with its identity where it is to be reached, or where the
/// newest document that is known here says that it is. A copy of a node that is forgotten on another machine is found
/// before the second one is started, also when the address in `node.toml` is a new one.
pub async fn twin(setup: &Setup) -> Option<Finding> {
    const CHECK: &str = "another process";
    let me = setup.identity.identity();
    let (_, document) = kept(&setup.dir, Follower::new(setup.network.trust_anchor()));
    let mut addresses: BTreeSet<SocketAddr> =
        document.and_then(|document| Some(document.node(&me)?.addresses.iter().copied().collect())).unwrap_or_default();
    addresses.extend(tokio::net::lookup_host(&setup.config.address).await.into_iter().flatten());
    let endpoint = match dialler(setup) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let found = format!("whether another process has this node's identity cannot be seen: {error}");
            return Some(bad(CHECK, found, "the system must allow UDP sockets"));
        }
    };
    for address in addresses {
        let answered = timeout(TWIN_PATIENCE, endpoint.connect(address, &me, Protocol::Mix)).await;
        if let Ok(Ok(link)) = answered {
            link.close(shoal_protocol::quic::CloseReason::Done);
            let next = "do not start it here: stop it there first, for good. One identity may run once; of two, the authorities \
                        list one or the other, and packets are lost";
            return Some(bad(CHECK, format!("something answers at {address} with this node's identity"), next));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_running_node_is_well_exactly_when_it_is_ready() {
        let stale = json!({"standing": "stale", "ready": true, "problems": [],
            "warnings": ["stale: no consensus since that of epoch 4"]});
        let findings = running(&Ok(stale));
        assert!(findings.iter().all(|finding| finding.ok));
        assert!(findings.iter().any(|finding| finding.found.starts_with("stale") && !finding.next.is_empty()));
        let over = json!({"standing": "over", "ready": false, "problems": ["over since 3 s"], "warnings": []});
        assert!(running(&Ok(over)).iter().all(|finding| !finding.ok && finding.next.contains("doctor")));
        for nothing in [json!({}), json!({"ready": false, "problems": []})] {
            assert!(running(&Ok(nothing)).iter().any(|finding| !finding.ok));
        }
    }

    #[test]
    fn packets_that_do_not_flow_are_looked_at() {
        let status = |received: u64, returned: u64, lost: u64| {
            json!({"ready": true, "standing": "serving", "by_epoch": false, "received": received, "forwarded": received,
                "loops": {"sent": returned + lost, "returned": returned, "lost": lost}})
        };
        let marks = |before: Value, after: Value| {
            packets(&before, &after).iter().map(|finding| (finding.ok, !finding.next.is_empty())).collect::<Vec<_>>()
        };
        assert_eq!(marks(status(5, 90, 1), status(9, 95, 1)), [(true, false), (true, false)]);
        assert_eq!(marks(status(5, 90, 1), status(5, 95, 1)), [(true, true), (true, false)], "nothing came");
        assert_eq!(marks(status(5, 80, 20), status(9, 80, 20)), [(true, false), (true, true)]);
        assert_eq!(marks(status(5, 30, 70), status(9, 30, 70)), [(true, false), (false, true)]);
        assert_eq!(marks(status(5, 1, 9), status(9, 1, 9)), [(true, false), (true, false)], "too few");
        let mut gateway = status(0, 90, 0);
        gateway["by_epoch"] = json!(true);
        assert_eq!(marks(gateway.clone(), gateway), [(true, false), (true, false)]);
        assert!(packets(&json!({"ready": false}), &json!({"ready": false})).is_empty(), "`running node` says why");
    }

    #[test]
    fn the_descriptors_address_is_compared_with_the_file() {
        let text = "config_version = 2\nrole = \"mix\"\nlisten = \"127.0.0.1:4433\"\naddress = \"127.0.0.1:4433\"\n\
                    metrics = \"127.0.0.1:9464\"\n";
        let config = Config::parse(text).expect("parses");
        let found = |descriptor: Value| reached(&config, &json!({ "descriptor": descriptor }));
        assert_eq!(found(json!({"address": ""})), None, "none was made yet");
        let well = json!({"address": "127.0.0.1:4433", "addresses": ["127.0.0.1:4433"], "accepted_by": 3,
            "refusals": {"ab": "not admitted"}});
        assert!(found(well).is_some_and(|finding| finding.ok && finding.found.contains("3 authorities")));
        let reason = "this authority cannot reach the node at the address it names (127.0.0.1:4433: refused)";
        let unreached =
            json!({"address": "127.0.0.1:4433", "addresses": ["127.0.0.1:4433"], "refusals": {"ab": reason}});
        assert!(found(unreached).is_some_and(|finding| !finding.ok && finding.found.contains(reason)));
        let other = json!({"address": "127.0.0.1:4434", "addresses": ["127.0.0.1:4434"], "refusals": {}});
        assert!(found(other).is_some_and(|finding| !finding.ok && finding.next.contains("SIGHUP")));
    }
}
