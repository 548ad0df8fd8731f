//! `shoal-node doctor`: looks at everything a node needs and says what to do about what is missing.

use crate::advice::next_step;
use crate::answers::{Answer, Why};
use crate::config::Config;
use crate::failure::Failure;
use crate::io::control::{self, Command};
use crate::io::doctor_authorities;
use crate::io::evidence::Evidence;
use crate::io::files;
use crate::io::setup::{self, IDENTITY_FILE, Setup};
use crate::verdict;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// File descriptors a node needs: one UDP socket, files, and room for the metrics port. Links take none.
const FILES_MIN: u64 = 256;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing. Something is well and to be looked at all the same if `ok` and this is not empty.
    pub next: String,
}

impl Finding {
    /// A finding of a verdict: whether it is as it should be, what was found, what to do.
    pub(super) fn of(check: &'static str, (ok, found, next): (bool, String, String)) -> Self {
        Self { check, ok, found, next }
    }
}

fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, ok: true, found: found.into(), next: String::new() }
}

pub(super) fn bad(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { check, ok: false, found: found.into(), next: next.into() }
}

/// Runs all checks. A check that cannot run is a finding.
pub async fn examine(dir: &Path) -> Vec<Finding> {
    let setup = match setup::load(dir) {
        Ok(setup) => setup,
        Err(Failure { message, next, .. }) => return vec![bad("configuration", message, next)],
    };
    let mut findings = vec![
        good("configuration", format!("{} of network `{}`", setup.config.role, setup.network.name)),
        identity_file(&setup),
        runtime_dir(&setup.config.runtime_path(dir)),
        open_files(),
        address(&setup.config).await,
    ];
    findings.extend(contradiction(dir));
    // asked first: what the running node knows explains what the authorities say
    let status = control::ask(&setup.config.runtime_path(dir), Command::Status).await;
    findings.extend(status.as_ref().ok().and_then(|status| descriptor_address(&setup.config, status)));
    findings.extend(doctor_authorities::examine(&setup, status.as_ref().ok()).await);
    findings.extend(running(status));
    findings
}

/// What lies in the directory stops the node, whether it runs or not.
fn contradiction(dir: &Path) -> Option<Finding> {
    let found = Evidence::of(dir).found()?;
    Some(bad("consensus", found, "do what it says; the node stays stopped until then"))
}

fn identity_file(setup: &Setup) -> Finding {
    let path = setup.dir.join(IDENTITY_FILE);
    match files::is_exposed(&path) {
        Ok(false) => good("identity key", setup.identity.identity().to_string()),
        Ok(true) => bad("identity key", "other users can read it", format!("chmod 600 {}", path.display())),
        Err(error) => bad("identity key", format!("{error:#}"), "restore it from its backup"),
    }
}

/// Mix keys belong on memory: on a disk an erased key may survive in the medium.
pub fn runtime_dir(path: &Path) -> Finding {
    const CHECK: &str = "runtime directory";
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let holder = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| absolute.starts_with(point))
        .max_by_key(|(point, _)| point.len());
    match holder {
        Some((_, "tmpfs" | "ramfs")) => good(CHECK, format!("{} is in memory", path.display())),
        Some((_, kind)) => bad(
            CHECK,
            format!("{} is on {kind}: an erased mix key may survive on the medium", path.display()),
            "set runtime_dir to a directory in memory, such as /run/shoal (systemd: RuntimeDirectory=shoal, RuntimeDirectoryPreserve=restart)",
        ),
        None => bad(CHECK, "the system does not tell where it lies", "make sure that runtime_dir is in memory"),
    }
}

fn open_files() -> Finding {
    const CHECK: &str = "open files";
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|soft| soft.parse::<u64>().ok());
    match soft {
        Some(soft) if soft < FILES_MIN => {
            bad(CHECK, format!("at most {soft}"), format!("raise the limit to {FILES_MIN} (LimitNOFILE=)"))
        }
        Some(soft) => good(CHECK, format!("at most {soft}")),
        None => good(CHECK, "no limit is told"),
    }
}

async fn address(config: &Config) -> Finding {
    const CHECK: &str = "public address";
    match tokio::net::lookup_host(&config.address).await.map(Iterator::collect::<Vec<_>>) {
        Ok(found) if found.is_empty() => bad(CHECK, format!("{} has no address", config.address), "correct `address`"),
        Ok(found) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            good(CHECK, format!("{} is {}", config.address, found.join(", ")))
        }
        Err(error) => bad(CHECK, format!("{}: {error}", config.address), "correct `address` or the name service"),
    }
}

/// Where the running node says that it is, and who did not find it there.
fn descriptor_address(config: &Config, status: &Value) -> Option<Finding> {
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
    Some(Finding::of("descriptor", verdict::of_address(&config.address, published, &named, &refusals)))
}

/// The running node's own opinion: all is well exactly when it says that it is ready. What somebody should look at although
/// it is has something to do next.
fn running(status: anyhow::Result<Value>) -> Vec<Finding> {
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
    let (problems, next) = (texts("problems"), next_step(&status));
    let mut findings = Vec::new();
    if ready {
        let forwarded = status.get("forwarded").and_then(Value::as_u64).unwrap_or(0);
        findings.push(good(CHECK, format!("ready ({standing}); forwarded {forwarded} packets")));
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_running_node_is_well_exactly_when_it_is_ready() {
        let stale = json!({"standing": "stale", "ready": true, "problems": [],
            "warnings": ["stale: no consensus since that of epoch 4"]});
        let findings = running(Ok(stale));
        assert!(findings.iter().all(|finding| finding.ok));
        assert!(findings.iter().any(|finding| finding.found.starts_with("stale") && !finding.next.is_empty()));
        let over = json!({"standing": "over", "ready": false, "problems": ["over since 3 s"], "warnings": []});
        assert!(running(Ok(over)).iter().all(|finding| !finding.ok && finding.next.contains("doctor")));
        for nothing in [json!({}), json!({"ready": false, "problems": []})] {
            assert!(running(Ok(nothing)).iter().any(|finding| !finding.ok));
        }
    }

    #[test]
    fn the_descriptors_address_is_compared_with_the_file() {
        let text = "config_version = 2\nrole = \"mix\"\nlisten = \"127.0.0.1:4433\"\naddress = \"127.0.0.1:4433\"\n\
                    metrics = \"127.0.0.1:9464\"\n";
        let config = Config::parse(text).expect("parses");
        let found = |descriptor: Value| descriptor_address(&config, &json!({ "descriptor": descriptor }));
        assert_eq!(found(json!({"address": ""})), None, "none was made yet");
        let well =
            json!({"address": "127.0.0.1:4433", "addresses": ["127.0.0.1:4433"], "refusals": {"ab": "not admitted"}});
        assert!(found(well).is_some_and(|finding| finding.ok));
        let reason = "this authority cannot reach the node at the address it names (127.0.0.1:4433: refused)";
        let unreached =
            json!({"address": "127.0.0.1:4433", "addresses": ["127.0.0.1:4433"], "refusals": {"ab": reason}});
        assert!(found(unreached).is_some_and(|finding| !finding.ok && finding.found.contains(reason)));
        let other = json!({"address": "127.0.0.1:4434", "addresses": ["127.0.0.1:4434"], "refusals": {}});
        assert!(found(other).is_some_and(|finding| !finding.ok && finding.next.contains("SIGHUP")));
    }
}
