//! `show`: the consensus in force.

use clap::Args;
use serde::Serialize;
use shoal_directory::io::authority::look;
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::now;
use shoal_protocol::consensus::{Consensus, DEMOTION_STRIKES, NodeEntry, Suspect, VerifiedConsensus};
use shoal_protocol::{Hash, Layer, Role};

use super::Common;
use super::network::no_gateways;
use crate::Output;

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    common: Common,
}

/// The whole document, with what was verified about it.
#[derive(Serialize)]
struct Shown<'a> {
    hash: Hash,
    signatures: usize,
    #[serde(flatten)]
    document: &'a Consensus,
}

impl Show {
    pub(super) fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        let authority = look(&home, now())?;
        let document = authority.newest(now()).ok_or_else(|| {
            Failure::new(
                Kind::Temporary,
                "there is no document yet",
                "start the authority and enough nodes; shoal-directory status says what is missing",
            )
        })?;
        let shown = Shown { hash: document.hash(), signatures: document.signatures(), document };
        let json = serde_json::to_value(&shown).map_err(|error| {
            Failure::new(Kind::InputOutput, error.to_string(), "report this: it is a mistake in the program")
        })?;
        let warnings = no_gateways(&home.network()?).into_iter().collect();
        Ok(Output { json, text: text(document), warnings })
    }
}

fn text(document: &VerifiedConsensus) -> String {
    let mut lines = vec![
        format!("epoch {}, document {} ({} signatures)", document.epoch, document.height, document.signatures()),
        format!("hash {}", document.hash()),
    ];
    if let Some(generation) = document.current_generation() {
        let stores = generation.stores.iter().map(|index| index.0.to_string()).collect::<Vec<_>>().join(", ");
        lines.push(format!("store generation {} since epoch {}: stores {stores}", generation.number, generation.since));
    }
    let mut section = |title: &str, nodes: Vec<&NodeEntry>| {
        lines.push(format!("\n{title}: {}", nodes.len()));
        for node in nodes {
            let addresses = node.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let index = node.store_index.map_or_else(String::new, |index| format!("  index {}", index.0));
            lines.push(format!("  {}  {addresses}{index}", node.identity));
        }
    };
    section("gateways", document.gateways().collect());
    for layer in Layer::ALL {
        section(&format!("mixes {layer}"), document.layer(layer).collect());
    }
    section("stores", document.stores().collect());
    let standbys: Vec<_> = document.nodes.iter().filter(|node| node.standby).collect();
    if !standbys.is_empty() {
        let mixes = standbys.iter().filter(|node| node.role == Role::Mix).count();
        section(&format!("standing by ({mixes} mixes, {} stores)", standbys.len() - mixes), standbys);
    }
    for suspect in &document.suspects {
        let Suspect { identity, strikes, before, behind, demoted_until } = suspect;
        let state = match demoted_until {
            Some(until) => format!("demoted until epoch {until}"),
            None => format!("strike {strikes} of {DEMOTION_STRIKES}"),
        };
        lines.push(format!(
            "loses packets: {identity}  {state}; {} of {} operators before it and {} of {} behind it say so",
            before.losing, before.of, behind.losing, behind.of
        ));
    }
    lines.join("\n")
}
