//! What SIGHUP reads again, file by file: one that is wrong leaves what it said before in force, and nothing else.

use serde_json::{Value, json};
use shoal_protocol::network::Hint;

use super::Authority;
use crate::config::files as names;
use crate::io::failure::{Failure, Kind};
use crate::wishes::advice;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Reloaded {
    /// Nodes on the admission list.
    pub admitted: usize,
    /// What the operator's files ask for, otherwise than it is in force.
    pub asks: Vec<String>,
    /// What the operator has to know of them.
    pub notices: Vec<String>,
    /// Other authorities that are new, or at another address.
    pub moved: Vec<Hint>,
    /// Files that were refused, and what stays.
    pub problems: Vec<Failure>,
}

impl Reloaded {
    /// For the command that asked.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let problems: Vec<Value> = self.problems.iter().map(|problem| problem.to_json()["error"].clone()).collect();
        json!({
            "admitted": self.admitted,
            "asks": self.asks,
            "notices": self.notices,
            "moved": self.moved,
            "problems": problems,
        })
    }
}

impl Authority {
    /// Reads the operator's files again: admitted nodes, wishes, and the addresses in the network file. Nodes no longer
    /// admitted are left out of the next list.
    pub fn reload(&mut self) -> Reloaded {
        let mut problems = Vec::new();
        let mut notices = Vec::new();
        match self.home.admitted() {
            Ok(admitted) => {
                self.admitted = admitted;
                self.pruned = None;
            }
            Err(failure) => {
                problems.push(stays(failure, &format!("the {} nodes before stay admitted", self.admitted.len())))
            }
        }
        match self.home.wanted_parameters() {
            Ok(parameters) => self.wishes.parameters = parameters,
            Err(failure) => problems.push(stays(
                failure,
                &match self.wishes.parameters {
                    Some(_) => format!("what was asked for before stays: {}", listed(&self.asked_parameters())),
                    None => "no other parameters are asked for, as before".to_owned(),
                },
            )),
        }
        match self.home.wanted_authorities() {
            Ok(authorities) => self.wishes.want(authorities, self.home.public().ok().as_ref()),
            Err(failure) => problems.push(stays(
                failure,
                &match self.asked_set() {
                    Some(asked) => format!("what was asked for before stays: {asked}"),
                    None => "no other set of authorities is asked for, as before".to_owned(),
                },
            )),
        }
        let mut moved = Vec::new();
        match self.home.network() {
            Ok(network) if network.genesis_hash() == self.id => {
                self.network = network;
                moved = self.find_peers();
            }
            Ok(_) => problems.push(stays(
                Failure::new(
                    Kind::Configuration,
                    format!("{} is another network's", self.home.path(names::NETWORK).display()),
                    "",
                ),
                "this authority stays in its own",
            )),
            Err(failure) => problems.push(stays(failure, "the addresses before stay")),
        }
        match self.home.config() {
            Ok(config) if config == self.config => {}
            Ok(_) => {
                notices.push("authority.toml was changed: it is read when the authority is started again".to_owned())
            }
            Err(failure) => {
                problems.push(stays(failure, "the settings before stay, and it keeps the next start from running"))
            }
        }
        self.published = self.home.public().ok().map(|public| public.address);
        self.core.wish(self.wishes.clone());
        notices.extend(self.advice());
        Reloaded { admitted: self.admitted.len(), asks: self.asks(), notices, moved, problems }
    }

    /// What the operator's files ask for, otherwise than it is in force.
    #[must_use]
    pub fn asks(&self) -> Vec<String> {
        let mut asks = self.asked_parameters();
        asks.extend(self.asked_set());
        asks
    }

    fn asked_parameters(&self) -> Vec<String> {
        let wanted = self.wishes.parameters.iter();
        let differences = wanted.flat_map(|wanted| advice::differences(&self.parameters(), wanted));
        differences.map(|one| one.to_string()).collect()
    }

    fn asked_set(&self) -> Option<String> {
        let current = self.core.set();
        let wanted = self.wishes.authorities.as_ref().filter(|wanted| **wanted != current)?;
        Some(format!("{} authorities, {}", wanted.len(), advice::exchange(current, wanted)))
    }

    /// What the operator has to know of his files.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        let own = self.secret.public().identity;
        let mut said: Vec<String> =
            self.misplaced().map(|failure| format!("{}; {}", failure.message, failure.next)).into_iter().collect();
        said.extend(advice::advice(&self.wishes, &self.parameters(), self.core.set(), &own));
        for key in self.wishes.authorities.iter().flatten() {
            let known =
                self.wishes.addresses.contains_key(&key.identity) || self.peers.address(&key.identity).is_some();
            if !known && key.identity != own {
                let name = key.identity;
                said.push(format!(
                    "authorities.toml names {name}, of whom no address is known: write address = \"IP:PORT\" into its block \
                     there"
                ));
            }
        }
        match (self.address(), self.published) {
            (None, _) if self.core.index().is_some() => said.push(format!(
                "the network file has no address of this authority: nodes made from it do not find it. On every authority: \
                 shoal-directory network --add-authority {own}@IP:PORT"
            )),
            (Some(here), Some(there)) if here != there => said.push(format!(
                "the network file has this authority at {here}, authority.pub at {there}: documents name the latter; for those \
                 who have no document yet: shoal-directory network --add-authority {own}@{there}, and publish the file"
            )),
            (None | Some(_), _) => {}
        }
        said
    }
}

/// A file is refused, and this stays in force.
fn stays(failure: Failure, what: &str) -> Failure {
    let message = format!("{}; {what}", failure.message);
    Failure {
        message,
        next: "correct the file, see shoal-directory check-config, and send SIGHUP again".to_owned(),
        ..failure
    }
}

fn listed(asks: &[String]) -> String {
    if asks.is_empty() { "what is in force".to_owned() } else { asks.join(", ") }
}
