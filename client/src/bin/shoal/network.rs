//! `shoal network`: which network a profile belongs to, and where its client begins.

use std::path::Path;

use shoal_client::io::{Call, NetworkLine, usable_network_file};

use crate::daemon::reach;
use crate::init::{at, read_network, read_text};
use crate::output::{Out, Problem, plain};

pub(crate) async fn show(profile: &Path, out: &Out) -> Result<(), Problem> {
    let line: NetworkLine = reach(profile, out).await?.call(Call::Network).await?;
    out.either(&line, || human(&line))
}

pub(crate) async fn update(profile: &Path, newer: &Path, out: &Out) -> Result<(), Problem> {
    // what is wrong with the file alone is said without a daemon
    usable_network_file(&read_network(newer)?).map_err(|failure| at(newer, failure))?;
    let call = Call::NetworkUpdate { file: read_text(newer)? };
    let line: NetworkLine = reach(profile, out).await?.call(call).await?;
    out.either(&line, || {
        let said = match line.changed {
            Some(true) => "taken up; the daemon goes by it from now on",
            Some(false) | None => "nothing new in it",
        };
        format!("{said}\n\n{}", human(&line))
    })
}

fn human(line: &NetworkLine) -> String {
    let NetworkLine { network, fingerprint, genesis, authorities, gateways, .. } = line;
    let mut lines = vec![
        format!("Network      {}", plain(network)),
        format!("Fingerprint  {fingerprint}"),
        format!("Genesis      {genesis}"),
        format!("Authorities  {authorities} at its founding"),
    ];
    lines.extend(gateways.iter().map(|gateway| {
        let identity: String = gateway.identity.to_string().chars().take(16).collect();
        format!("Gateway      {} ({identity}…)", gateway.address)
    }));
    if gateways.is_empty() {
        lines.push("Gateway      none: ask who runs the network for the file for users".to_owned());
    }
    lines.join("\n")
}
