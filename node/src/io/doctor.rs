//! `shoal-node doctor`: looks at everything a node needs and says what to do about what is missing.

use crate::config::Config;
use crate::failure::Failure;
use crate::io::control::{self, Command};
use crate::io::evidence::Evidence;
use crate::io::host::Clock;
use crate::io::setup::{self, Setup};
use crate::io::{doctor_authorities, doctor_machine, doctor_node, runtime_dir};
use serde::Serialize;
use shoal_protocol::quic::{Endpoint, QuicError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// Least time between the two looks at what the node counts: a node sends a loop every two seconds on average, and everyone
/// who sends one through it does, too.
const APART: Duration = Duration::from_secs(3);

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

pub(super) fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, ok: true, found: found.into(), next: String::new() }
}

pub(super) fn bad(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { check, ok: false, found: found.into(), next: next.into() }
}

/// Where to dial others from: both families, or IPv4 alone on a machine that has nothing else.
pub(super) fn dialler(setup: &Setup) -> Result<Endpoint, QuicError> {
    let from = |ip: IpAddr| Endpoint::dialler(Some(&setup.identity), SocketAddr::new(ip, 0));
    from(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| from(Ipv4Addr::UNSPECIFIED.into()))
}

/// Runs all checks. A check that cannot run is a finding.
pub async fn examine(dir: &Path) -> Vec<Finding> {
    let setup = match setup::load(dir) {
        Ok(setup) => setup,
        Err(Failure { message, next, .. }) => return vec![bad("configuration", message, next)],
    };
    let mut findings =
        vec![good("configuration", format!("{} of network `{}`", setup.config.role, setup.network.name))];
    // asked first: what the running node knows explains what the authorities say
    let socket = setup.config.runtime_path(dir);
    // what another node answers is not this one's
    let foreign = runtime_dir::is_mine(&socket, &setup.identity.identity()).err();
    let before = match &foreign {
        None => control::ask(&socket, Command::Status).await,
        Some(failure) => Err(anyhow::anyhow!("{}", failure.message)),
    };
    findings.extend(foreign.map(|Failure { message, next, .. }| bad("runtime directory", message, next)));
    let since = Clock::start();
    findings.extend(doctor_machine::examine(&setup, before.as_ref().ok()));
    findings.push(address(&setup.config).await);
    findings.extend(contradiction(dir));
    findings.extend(before.as_ref().ok().and_then(|status| doctor_node::reached(&setup.config, status)));
    findings.extend(doctor_authorities::examine(&setup, before.as_ref().ok()).await);
    findings.extend(doctor_node::running(&before));
    match before {
        Ok(before) => {
            sleep(APART.saturating_sub(since.monotonic())).await;
            if let Ok(after) = control::ask(&socket, Command::Status).await {
                findings.extend(doctor_node::packets(&before, &after));
            }
        }
        Err(_) => findings.extend(doctor_node::twin(&setup).await),
    }
    findings
}

/// What lies in the directory stops the node, whether it runs or not.
fn contradiction(dir: &Path) -> Option<Finding> {
    let found = Evidence::of(dir).found()?;
    Some(bad("consensus", found, "do what it says; the node stays stopped until then"))
}

async fn address(config: &Config) -> Finding {
    const CHECK: &str = "public address";
    match tokio::net::lookup_host(&config.address).await.map(Iterator::collect::<Vec<_>>) {
        Ok(found) if found.is_empty() => bad(CHECK, format!("{} has no address", config.address), "correct `address`"),
        Ok(found) => {
            // one that cannot arrive where the node listens is dialled in vain by everybody, every time
            let deaf = |address: &SocketAddr| {
                address.is_ipv6() && config.listen.is_ipv4()
                    || address.is_ipv4() && config.listen.is_ipv6() && !config.listen.ip().is_unspecified()
            };
            let names: Vec<String> = found.iter().map(ToString::to_string).collect();
            let said = format!("{} is {}", config.address, names.join(", "));
            match found.iter().find(|address| deaf(address)) {
                Some(address) => bad(
                    CHECK,
                    format!(
                        "{said}; but the node listens on {} only, where nothing for {address} arrives",
                        config.listen
                    ),
                    "set listen = \"[::]:PORT\" in node.toml, which takes IPv4 and IPv6, and restart; or take that address \
                     out of the name service",
                ),
                None => good(CHECK, said),
            }
        }
        Err(error) => bad(CHECK, format!("{}: {error}", config.address), "correct `address` or the name service"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_cannot_arrive_is_named() {
        let found = async |listen: &str, at: &str| {
            let text = format!(
                "config_version = 2\nrole = \"mix\"\nlisten = \"{listen}\"\naddress = \"{at}\"\nmetrics = \"127.0.0.1:9464\"\n"
            );
            address(&Config::parse(&text).expect("parses")).await
        };
        assert!(found("[::]:4433", "192.0.2.1:4433").await.ok);
        assert!(found("[::]:4433", "[2001:db8::1]:4433").await.ok);
        assert!(found("0.0.0.0:4433", "192.0.2.1:4433").await.ok);
        for (listen, at) in [("0.0.0.0:4433", "[2001:db8::1]:4433"), ("[2001:db8::1]:4433", "192.0.2.1:4433")] {
            let finding = found(listen, at).await;
            assert!(!finding.ok && finding.next.contains("[::]"), "{finding:?}");
        }
    }
}
