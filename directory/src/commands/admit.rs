//! `admit`: the operator's decision about a node.

use std::net::{IpAddr, SocketAddr};

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
        let config = home.config()?;
        let mut warning = None;
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
            // an authority that itself listens where only this machine comes belongs to a network of this machine
            warning = node.address.clone().filter(|address| !config.listen.ip().is_loopback() && is_private(address));
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
        let warning = warning.map(|address| {
            format!(
                "its address {address} is a private one: other operators' nodes cannot reach it there; if that is not meant, ask \
                 its operator for the public address"
            )
        });
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
            if let Some(warning) = &warning {
                object.insert("warning".to_owned(), json!(warning));
            }
        }
        let text = warning.map_or_else(|| text.clone(), |warning| format!("{text}\nwarning: {warning}"));
        Ok(Output { json, text })
    }
}

/// Whether nobody outside of one site can reach the address. A name is looked up by nobody here.
fn is_private(address: &str) -> bool {
    match address.parse::<SocketAddr>().map(|address| address.ip().to_canonical()) {
        Ok(IpAddr::V4(ip)) => {
            let [first, second, ..] = ip.octets();
            // 100.64.0.0/10 is what providers put between themselves and their customers (RFC 6598)
            let shared = first == 100 && (64..128).contains(&second);
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared
        }
        Ok(IpAddr::V6(ip)) => {
            ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified()
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known() {
        for address in [
            "10.0.0.7:4000",
            "192.168.1.2:1",
            "172.16.3.4:1",
            "127.0.0.1:1",
            "100.64.0.1:1",
            "[fd00::1]:1",
            "[fe80::1]:1",
            "[::ffff:10.0.0.1]:1",
            "0.0.0.0:1",
        ] {
            assert!(is_private(address), "{address}");
        }
        for address in ["203.0.113.9:4000", "[2001:db8::1]:1", "172.32.0.1:1", "100.128.0.1:1", "mix.example:4000", ""]
        {
            assert!(!is_private(address), "{address}");
        }
    }
}
