//! `admit`: the operator's decision about nodes.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use serde_json::{Value, json};
use shoal_directory::admission::{AdmissionError, Admitted, AdmittedList, Change, parse_line, parse_whom};
use shoal_directory::config::{Config, files as names};
use shoal_directory::io::failure::{Failure, Kind};

use super::{Common, tell};
use crate::Output;

#[derive(Debug, Args)]
pub(super) struct Admit {
    #[command(flatten)]
    common: Common,
    /// The line that `shoal-node init` printed, quoted or not.
    #[arg(required_unless_present_any = ["remove", "list"], value_name = "LINE")]
    line: Vec<String>,
    /// Remove this node instead; it is left out of the next document.
    #[arg(long, value_name = "IDENTITY|LINE", conflicts_with = "line")]
    remove: Option<String>,
    /// Show who is admitted.
    #[arg(long, conflicts_with_all = ["line", "remove"])]
    list: bool,
}

impl Admit {
    pub(super) async fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        // not in a directory that is no authority's
        let config = home.config()?;
        let mut list = home.admitted()?;
        if self.list {
            return Ok(shown(&list, config.open));
        }
        let mut done = match &self.remove {
            Some(whom) => remove(&mut list, whom)?,
            None => admit(&mut list, &self.line.join(" "), &config)?,
        };
        if config.open {
            done.output.warnings.push(
                "this authority is open: it lists every node that publishes a good descriptor, whoever is admitted"
                    .to_owned(),
            );
        }
        let mut running = false;
        if done.changed {
            home.write_admitted(&list)?;
            let told = tell(&home).await?;
            running = told.running;
            if let Some(problem) = told.problems.iter().find(|problem| problem.contains(names::ADMITTED)) {
                return Err(Failure::new(
                    Kind::Temporary,
                    format!("written, but the running authority did not take it: {problem}"),
                    "correct admitted.toml, then send SIGHUP to the authority",
                ));
            }
            done.output.warnings.extend(told.problems.clone());
            done.output.text += &format!("\n{} nodes are admitted now, {}", list.len(), told.text());
        } else {
            done.output.text += "\nnothing was changed";
        }
        if let Some(object) = done.output.json.as_object_mut() {
            object.insert("count".to_owned(), json!(list.len()));
            object.insert("running_authority_told".to_owned(), json!(running));
        }
        Ok(done.output)
    }
}

/// What came of it, and whether the list is another one now.
struct Done {
    changed: bool,
    output: Output,
}

fn admit(list: &mut AdmittedList, line: &str, config: &Config) -> Result<Done, Failure> {
    let node = parse_line(line).map_err(|error| {
        Failure::new(Kind::Usage, error.to_string(), "pass the whole line that shoal-node init printed")
    })?;
    let mut warnings = Vec::new();
    // an authority that itself listens where only this machine comes belongs to a network of this machine
    if let Some(address) =
        node.address.as_ref().filter(|address| !config.listen.ip().is_loopback() && is_private(address))
    {
        warnings.push(format!(
            "its address {address} is a private one: other operators' nodes cannot reach it there; if that is not meant, ask \
             its operator for the public address"
        ));
    }
    let identity = node.identity;
    let change = list.admit(node.clone()).map_err(|error| {
        let known_otherwise = matches!(error, AdmissionError::OtherRole { .. } | AdmissionError::OtherFamily { .. });
        let next = if known_otherwise {
            format!("if the new line is right: shoal-directory admit --remove {identity}, then admit it again")
        } else {
            "see shoal-directory admit --list; remove who is gone".to_owned()
        };
        Failure::new(Kind::Usage, error.to_string(), next)
    })?;
    let is = described(&node);
    let text = match &change {
        Change::New => format!("admitted: {is}"),
        Change::Moved { before } => {
            let before = before.as_deref().unwrap_or("none");
            format!("admitted before; its address is changed from {before}: {is}")
        }
        Change::Same => format!("admitted before, just so: {is}"),
    };
    let mut json = to_json(&node);
    if let Some(object) = json.as_object_mut() {
        object.insert("admitted".to_owned(), json!(true));
        object.insert("new".to_owned(), json!(change == Change::New));
        object.insert("changed".to_owned(), json!(change != Change::Same));
    }
    Ok(Done { changed: change != Change::Same, output: Output { json, text, warnings } })
}

fn remove(list: &mut AdmittedList, whom: &str) -> Result<Done, Failure> {
    let identity = parse_whom(whom).map_err(|error| {
        Failure::new(
            Kind::Usage,
            error.to_string(),
            "pass the identity, or the line it was admitted by; see admit --list",
        )
    })?;
    let removed = list.remove(&identity);
    let text = match &removed {
        Some(node) => format!("no longer admitted: {}", described(node)),
        None => format!("{identity} was not admitted; shoal-directory admit --list shows who is"),
    };
    let json = json!({"identity": identity, "removed": removed.is_some()});
    Ok(Done { changed: removed.is_some(), output: Output::new(json, text) })
}

fn shown(list: &AdmittedList, open: bool) -> Output {
    let nodes: Vec<Value> = list.nodes().map(to_json).collect();
    let mut lines: Vec<String> = list.nodes().map(described).collect();
    lines.push(format!("{} nodes are admitted", list.len()));
    if open {
        lines.push("this authority is open: it lists every node that publishes a good descriptor".to_owned());
    }
    Output::new(json!({"nodes": nodes, "count": list.len(), "open": open}), lines.join("\n"))
}

/// In the order of the line that admits it, so that the line can be used again.
fn described(node: &Admitted) -> String {
    let address = node.address.as_deref().map(|address| format!(" {address}")).unwrap_or_default();
    let family = node.family.map(|family| format!(" family={}", hex::encode(family))).unwrap_or_default();
    format!("{} {}{address}{family}", node.role, node.identity)
}

fn to_json(node: &Admitted) -> Value {
    json!({
        "identity": node.identity,
        "role": node.role,
        "address": node.address,
        "family": node.family.map(hex::encode),
    })
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

    #[test]
    fn what_is_shown_admits_again() {
        let line = format!("shoal-node-1 mix {} mix.example:4000 family={}", "ab".repeat(32), "cd".repeat(32));
        let node = parse_line(&line).expect("a line");
        assert_eq!(parse_line(&described(&node)), Ok(node));
    }
}
