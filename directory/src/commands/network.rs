//! `network`: the file that nodes and clients are initialised with.

use std::net::ToSocketAddrs as _;

use clap::Args;
use serde_json::json;
use shoal_directory::config::files as names;
use shoal_directory::io::authority::{Authority, look};
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::home::Home;
use shoal_directory::io::now;
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::{Identity, Role};

use super::{Common, put, tell};
use crate::Output;

/// Said wherever the network file is shown.
const NO_GATEWAYS: &str = "the network file names no gateway: clients cannot begin from it. When a gateway runs: \
                           shoal-directory network --add-gateway IDENTITY@HOST:PORT, and publish network.toml again";

#[derive(Debug, Args)]
pub(super) struct Network {
    #[command(flatten)]
    common: Common,
    /// Add a gateway that clients begin with, or change its address. Hints are not part of the network's hash.
    #[arg(long, value_name = "IDENTITY@HOST:PORT")]
    add_gateway: Vec<String>,
    /// Take a gateway out of the file.
    #[arg(long, value_name = "IDENTITY")]
    remove_gateway: Vec<String>,
    /// Add an address of an authority that nodes begin with, or change it.
    #[arg(long, value_name = "IDENTITY@HOST:PORT")]
    add_authority: Vec<String>,
    /// Take an authority's address out of the file. Who certifies is not changed by that.
    #[arg(long, value_name = "IDENTITY")]
    remove_authority: Vec<String>,
}

impl Network {
    pub(super) async fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        let mut network = home.network()?;
        let before = network.hints.clone();
        let mut warnings = Vec::new();
        for text in &self.remove_gateway {
            take_out(&mut network.hints.gateways, text, "gateway")?;
        }
        for text in &self.remove_authority {
            take_out(&mut network.hints.authorities, text, "authority")?;
        }
        if !self.add_gateway.is_empty() {
            let authority = look(&home, now())?;
            for text in &self.add_gateway {
                let hint = hint(text)?;
                warnings.extend(check_gateway(&network, &authority, &home, &hint)?);
                put(&mut network.hints.gateways, hint);
            }
        }
        for text in &self.add_authority {
            let hint = hint(text)?;
            warnings.extend(check_authority(&network, &home, &hint)?);
            put(&mut network.hints.authorities, hint);
        }
        let mut done = String::new();
        if network.hints != before {
            home.write_network(&network)?;
            done = format!("written, {}", tell(&home).await?.text());
            if network.hints.authorities != before.authorities {
                done += "; the other operators do the same in their directories";
            }
            done += "; publish the file again\n";
        }
        warnings.extend(no_gateways(&network));
        let path = home.path(names::NETWORK);
        let list = |hints: &[Hint]| {
            let lines = hints.iter().map(|hint| format!("\n  {}@{}", hint.identity, hint.address));
            lines.collect::<String>()
        };
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
                "{done}{}\nname         {}\nfingerprint  {}\nauthorities  {} known addresses{}\ngateways     {} known \
                 addresses{}",
                path.display(),
                network.name,
                network.fingerprint_words(),
                network.hints.authorities.len(),
                list(&network.hints.authorities),
                network.hints.gateways.len(),
                list(&network.hints.gateways)
            ),
            warnings,
        })
    }
}

/// That clients cannot begin from this file, if that is so.
pub(super) fn no_gateways(network: &NetworkFile) -> Option<String> {
    network.hints.gateways.is_empty().then(|| NO_GATEWAYS.to_owned())
}

/// What is known here of a gateway to be named: refused if it is something else, unchecked if nothing is known.
fn check_gateway(
    network: &NetworkFile,
    authority: &Authority,
    home: &Home,
    hint: &Hint,
) -> Result<Option<String>, Failure> {
    let Hint { identity, address } = hint;
    let refused = |what: &str| {
        Failure::new(
            Kind::Usage,
            format!("{identity} is {what}, not a gateway: clients that begin with it would find nobody"),
            "name a gateway: its operator knows identity and address from shoal-node init",
        )
    };
    if authority.set().contains(identity) || network.authorities.iter().any(|key| key.identity == *identity) {
        return Err(refused("an authority of this network"));
    }
    if let Some(node) = authority.known_node(identity) {
        let place = if node.in_consensus { "the newest document" } else { "its descriptor" };
        if node.role != Role::Gateway {
            return Err(refused(&format!("a {} in {place}", node.role)));
        }
        if !node.addresses.contains(address) {
            let there: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
            return Err(Failure::new(
                Kind::Usage,
                format!("{place} has this gateway at {}, not at {address}", there.join(", ")),
                "name that address; if the gateway moves, name the new one when its descriptor has it",
            ));
        }
        return Ok((!node.in_consensus).then(|| {
            format!("{identity} is listed for the next document as a gateway at {address}; the newest one does not have it yet")
        }));
    }
    if let Some(admitted) = home.admitted()?.get(identity)
        && admitted.role != Role::Gateway
    {
        return Err(refused(&format!("admitted as a {}", admitted.role)));
    }
    Ok(Some(format!(
        "UNCHECKED: neither the newest document nor a descriptor is here that knows {identity}; whether it is a gateway, and at \
         {address}, is not known. Clients that begin with a wrong one find nobody there"
    )))
}

/// Whether somebody is an authority, as far as the files here tell.
fn check_authority(network: &NetworkFile, home: &Home, hint: &Hint) -> Result<Option<String>, Failure> {
    let Hint { identity, address } = hint;
    if let Some(other) =
        network.hints.authorities.iter().find(|other| other.address == *address && other.identity != *identity)
    {
        return Err(Failure::new(
            Kind::Usage,
            format!("{address} is the address of authority {} already", other.identity),
            "ask its operator for the right address, or take the old one out with --remove-authority",
        ));
    }
    let wanted = home.wanted_authorities()?.unwrap_or_default();
    let genesis = network.authorities.iter().chain(&wanted.keys).any(|key| key.identity == *identity);
    if genesis || look(home, now()).is_ok_and(|authority| authority.set().contains(identity)) {
        return Ok(None);
    }
    Ok(Some(format!(
        "{identity} is not an authority of this network as far as this directory knows, and authorities.toml does not ask for it; \
         nobody speaks to it before it is one"
    )))
}

fn take_out(hints: &mut Vec<Hint>, text: &str, what: &str) -> Result<(), Failure> {
    // the form in which the file's hints are shown
    let identity = identity(text.split_once('@').map_or(text, |(identity, _)| identity), text)?;
    let before = hints.len();
    hints.retain(|hint| hint.identity != identity);
    if hints.len() == before {
        return Err(Failure::new(
            Kind::Usage,
            format!("the network file names no {what} {identity}"),
            "see shoal-directory network for those it names",
        ));
    }
    Ok(())
}

fn wrong(text: &str, problem: &str) -> Failure {
    Failure::new(Kind::Usage, format!("'{text}': {problem}"), "write IDENTITY@HOST:PORT")
}

fn identity(word: &str, text: &str) -> Result<Identity, Failure> {
    word.parse().map_err(|_| {
        wrong(text, &format!("the identity is not 64 hexadecimal digits, but {} characters", word.chars().count()))
    })
}

fn hint(text: &str) -> Result<Hint, Failure> {
    let (key, address) = text.split_once('@').ok_or_else(|| wrong(text, "there is no @"))?;
    let identity = identity(key, text)?;
    let mut addresses = address.to_socket_addrs().map_err(|error| wrong(text, &format!("the address: {error}")))?;
    let address = addresses.next().ok_or_else(|| wrong(text, "the name has no address"))?;
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(wrong(text, "nobody can be reached at this address"));
    }
    Ok(Hint { identity, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_replaced_and_taken_out() {
        let identity = "ab".repeat(32);
        let one = hint(&format!("{identity}@127.0.0.1:4000")).expect("a hint");
        let two = hint(&format!("{identity}@[::1]:4001")).expect("a hint");
        let mut hints = Vec::new();
        put(&mut hints, one);
        put(&mut hints, two);
        assert_eq!(hints, [two]);
        for text in [
            "",
            "127.0.0.1:4000",
            "ab@127.0.0.1:4000",
            &format!("{identity}@127.0.0.1"),
            &format!("{identity}@0.0.0.0:1"),
        ] {
            assert_eq!(hint(text).map_err(|failure| failure.kind), Err(Kind::Usage), "{text}");
        }
        assert!(take_out(&mut hints, &"cd".repeat(32), "gateway").is_err());
        take_out(&mut hints, &format!("{identity}@[::1]:4001"), "gateway").expect("as it is shown");
        assert_eq!(hints, []);
    }
}
