//! `shoal-node doctor`: looks at everything a node needs and says what to do about what is missing.

use crate::config::Config;
use crate::failure::Failure;
use crate::io::control::{self, Command};
use crate::io::directory::{Authorities, CONSENSUS_FILE};
use crate::io::evidence::Evidence;
use crate::io::files;
use crate::io::host::Clock;
use crate::io::setup::{self, IDENTITY_FILE, Setup};
use crate::report;
use serde::Serialize;
use serde_json::Value;
use shoal_protocol::consensus::UnverifiedConsensus;
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::Hint;
use shoal_protocol::quic::Endpoint;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long an authority may take to answer.
const AUTHORITY_PATIENCE: Duration = Duration::from_secs(10);
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
    /// What to do about it; empty if it is as it should be.
    pub next: String,
}

fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, ok: true, found: found.into(), next: String::new() }
}

fn bad(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Finding {
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
    findings.extend(authorities(&setup, status.as_ref().ok()).await);
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

async fn authorities(setup: &Setup, status: Option<&Value>) -> Vec<Finding> {
    const CHECK: &str = "authority";
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let endpoint = match Endpoint::dialler(Some(&setup.identity), any) {
        Ok(endpoint) => Arc::new(endpoint),
        Err(error) => return vec![bad(CHECK, error.to_string(), "the system must allow UDP sockets")],
    };
    let authorities = Authorities::new(endpoint, &setup.network);
    if let Ok(Some(newest)) = files::read_optional(&setup.dir.join(CONSENSUS_FILE))
        && let Ok(newest) = UnverifiedConsensus::parse(&newest)
        && let Ok(newest) = newest.dangerously_trust_own_copy(&setup.network.genesis_hash())
    {
        authorities.follow(Arc::new(newest));
    }
    if authorities.asked().is_empty() {
        return vec![bad(CHECK, "the network file names none", "get a network file with hints.authorities")];
    }
    let mut findings = Vec::new();
    for hint in authorities.asked() {
        findings.push(authority(setup, &authorities, &hint, status).await);
    }
    findings
}

async fn authority(setup: &Setup, authorities: &Authorities, hint: &Hint, status: Option<&Value>) -> Finding {
    const CHECK: &str = "authority";
    let who = format!("{} at {}", hint.identity, hint.address);
    let asked = timeout(AUTHORITY_PATIENCE, authorities.ask(hint, &DirectoryQuestion::Newest { have: None })).await;
    let bytes = match asked {
        Err(_) => {
            return bad(CHECK, format!("{who}: no answer in time"), "check the firewall: UDP must pass both ways");
        }
        Ok(Err(error)) => {
            return bad(CHECK, format!("{who}: {error:#}"), "check the firewall: UDP must pass both ways");
        }
        Ok(Ok(DirectoryAnswer::Document(bytes))) => bytes,
        Ok(Ok(DirectoryAnswer::NotYet(reason))) => return good(CHECK, format!("{who}: no consensus yet: {reason}")),
        Ok(Ok(_)) => {
            return bad(CHECK, format!("{who}: it does not answer the question asked"), "is it of this version?");
        }
    };
    let now = Clock::start().wall();
    let verified = UnverifiedConsensus::parse(&bytes)
        .and_then(|document| document.verify(&setup.network.trust_anchor(), now, None));
    match verified {
        Err(error) => bad(CHECK, format!("{who}: {error}"), "check the clock of this machine (timedatectl)"),
        Ok(document) if document.node(&setup.identity.identity()).is_none() => bad(
            CHECK,
            format!("{who}: the consensus of epoch {} does not list this node", document.epoch),
            unlisted(status),
        ),
        Ok(document) => good(CHECK, format!("{who}: lists this node in epoch {}", document.epoch)),
    }
}

/// What a node that no document lists has to do, in agreement with what its own status says.
fn unlisted(status: Option<&Value>) -> &'static str {
    match status {
        Some(status) => report::next_step(status),
        None => {
            "start the node; if an authority then refuses it, send the admission line to its operators (`shoal-node \
             check-config` prints it)"
        }
    }
}

/// The running node's own opinion.
fn running(status: anyhow::Result<Value>) -> Vec<Finding> {
    const CHECK: &str = "running node";
    let status = match status {
        Ok(status) => status,
        Err(error) => return vec![bad(CHECK, format!("{error:#}"), "start it: shoal-node run")],
    };
    let list = |key| status.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut problems = list("problems");
    problems.extend(list("warnings"));
    if problems.is_empty() {
        let forwarded = status.get("forwarded").and_then(Value::as_u64).unwrap_or(0);
        return vec![good(CHECK, format!("ready; forwarded {forwarded} packets"))];
    }
    problems
        .iter()
        .map(|problem| bad(CHECK, problem.as_str().unwrap_or("unknown problem"), report::next_step(&status)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn doctor_says_of_an_unlisted_node_what_its_status_says() {
        let accepted = json!({"phase": "running", "epoch": 4, "in_consensus": false,
            "problems": ["not in the consensus"], "descriptor": {"accepted_by": 1, "refusals": {}}});
        assert_eq!(unlisted(Some(&accepted)), report::next_step(&accepted));
        assert!(!unlisted(Some(&accepted)).contains("admission line"), "an open network admits without one");
        let findings = running(Ok(accepted.clone()));
        assert!(findings.iter().all(|finding| !finding.ok && finding.next == report::next_step(&accepted)));
        assert!(unlisted(None).starts_with("start the node"));
    }

    #[test]
    fn a_stale_consensus_is_a_finding() {
        let stale = json!({"phase": "running", "epoch": 4, "in_consensus": true, "stale": true, "problems": [],
            "warnings": ["stale: no consensus since that of epoch 4"]});
        assert!(running(Ok(stale)).iter().any(|finding| !finding.ok && finding.found.starts_with("stale")));
    }
}
