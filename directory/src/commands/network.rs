//! `network`: the file that nodes and clients are initialised with.

use std::net::ToSocketAddrs as _;

use clap::Args;
use serde_json::json;
use shoal_directory::config::files as names;
use shoal_directory::io::failure::{Failure, Kind};
use shoal_protocol::Identity;
use shoal_protocol::network::Hint;

use super::Common;
use crate::Output;

#[derive(Debug, Args)]
pub(super) struct Network {
    #[command(flatten)]
    common: Common,
    /// Add a gateway that clients begin with, or change its address. Hints are not part of the network's hash.
    #[arg(long, value_name = "IDENTITY@HOST:PORT")]
    add_gateway: Vec<String>,
    /// Add an address of an authority that nodes begin with, or change it.
    #[arg(long, value_name = "IDENTITY@HOST:PORT")]
    add_authority: Vec<String>,
}

impl Network {
    pub(super) fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        let mut network = home.network()?;
        for text in &self.add_gateway {
            put(&mut network.hints.gateways, hint(text)?);
        }
        for text in &self.add_authority {
            put(&mut network.hints.authorities, hint(text)?);
        }
        if !self.add_gateway.is_empty() || !self.add_authority.is_empty() {
            home.write_network(&network)?;
        }
        let path = home.path(names::NETWORK);
        Ok(Output {
            json: json!({
                "network": path,
                "name": network.name,
                "genesis": network.genesis_hash(),
                "fingerprint": network.fingerprint_words(),
                "genesis_time": network.genesis_time,
                "parameters": network.parameters,
                "hints": network.hints,
            }),
            text: format!(
                "{}\nname         {}\nfingerprint  {}\nauthorities  {} known addresses\ngateways     {} known addresses",
                path.display(),
                network.name,
                network.fingerprint_words(),
                network.hints.authorities.len(),
                network.hints.gateways.len()
            ),
        })
    }
}

/// One address a party: the last one given.
fn put(hints: &mut Vec<Hint>, hint: Hint) {
    hints.retain(|other| other.identity != hint.identity);
    hints.push(hint);
}

fn hint(text: &str) -> Result<Hint, Failure> {
    let wrong = |problem: &str| Failure::new(Kind::Usage, format!("'{text}': {problem}"), "write IDENTITY@HOST:PORT");
    let (identity, address) = text.split_once('@').ok_or_else(|| wrong("there is no @"))?;
    let identity: Identity = identity.parse().map_err(|_| wrong("the identity is not 64 hexadecimal digits"))?;
    let mut addresses = address.to_socket_addrs().map_err(|error| wrong(&format!("the address: {error}")))?;
    let address = addresses.next().ok_or_else(|| wrong("the name has no address"))?;
    Ok(Hint { identity, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_and_replaced() {
        let identity = "ab".repeat(32);
        let one = hint(&format!("{identity}@127.0.0.1:4000")).expect("a hint");
        let two = hint(&format!("{identity}@[::1]:4001")).expect("a hint");
        let mut hints = Vec::new();
        put(&mut hints, one);
        put(&mut hints, two);
        assert_eq!(hints, [two]);
        for text in ["", "127.0.0.1:4000", "ab@127.0.0.1:4000", &format!("{identity}@127.0.0.1")] {
            assert_eq!(hint(text).map_err(|failure| failure.kind), Err(Kind::Usage), "{text}");
        }
    }
}
