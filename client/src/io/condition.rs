//! One word for how a client is doing, and what its user can do about it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::loops::Health;
use crate::view::Freshness;

/// How a client is doing, the worst that is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// The authorities contradicted themselves: no message leaves.
    Stopped,
    /// No link, or no document to send by: nothing goes, no cover either.
    Offline,
    /// Most loops are lost: messages wait, cover goes on.
    Pause,
    /// Many loops are lost, or a contact's network differs: messages go.
    Warn,
    /// Connected; no loop has been decided yet, so nobody knows whether packets come through.
    Starting,
    /// Connected, and loops come back.
    Good,
}

/// What the condition is judged by.
pub(super) struct Facts<'a> {
    pub(super) linked: bool,
    pub(super) document: Freshness,
    pub(super) health: Health,
    /// At least one loop was decided.
    pub(super) measured: bool,
    /// Where the evidence against the authorities lies.
    pub(super) conflict: Option<&'a Path>,
    /// A gateway serves documents of another network.
    pub(super) other_network: bool,
    /// Name and fingerprint words of the profile's network.
    pub(super) network: (&'a str, &'a str),
}

impl Facts<'_> {
    /// The condition, and what to do next (empty: nothing).
    pub(super) fn judge(&self) -> (Condition, String) {
        let (name, words) = self.network;
        if let Some(folder) = self.conflict {
            let next = format!(
                "the authorities signed two documents for one place in the chain; the proof is in {}. Compare the hashes in \
                 its names with a friend's and ask who runs the network. To go on: shoal down, move that folder away, any command",
                folder.display()
            );
            return (Condition::Stopped, next);
        }
        let another = format!(
            "this profile belongs to network {name} ({words}); if that network was made anew, make a profile for the new \
             one: shoal --profile OTHER_DIR init --network FILE"
        );
        let in_force = matches!(self.document, Freshness::Current | Freshness::Stale);
        match (self.linked, in_force) {
            _ if self.other_network && !in_force => {
                (Condition::Offline, format!("the gateway serves another network: {another}"))
            }
            (false, _) => {
                let next = match self.document {
                    Freshness::None | Freshness::Expired => {
                        format!("no gateway answers: check that UDP leaves this network. Else: {another}")
                    }
                    Freshness::Current | Freshness::Stale => {
                        "no gateway answers: check that UDP leaves this network; it goes on being tried".to_owned()
                    }
                };
                (Condition::Offline, next)
            }
            (true, false) => {
                let next = match self.document {
                    Freshness::None => "the gateway has sent no document yet: wait for the next epoch",
                    Freshness::Expired | Freshness::Current | Freshness::Stale => {
                        "the document held is over and none newer came: check this machine's clock (date -u); if it is \
                         right, the authorities may be out: wait"
                    }
                };
                (Condition::Offline, next.to_owned())
            }
            (true, true) => match self.health {
                Health::Pause => {
                    let next = "packets get lost in the network: messages wait and leave by themselves when it is over";
                    (Condition::Pause, next.to_owned())
                }
                Health::Warn => {
                    (Condition::Warn, "nodes may be out, or somebody drops packets: wait for the next epoch".to_owned())
                }
                Health::Good if !self.measured => {
                    (Condition::Starting, "the first test loops are under way: look again in a moment".to_owned())
                }
                Health::Good => (Condition::Good, String::new()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Facts<'static> {
        Facts {
            linked: true,
            document: Freshness::Current,
            health: Health::Good,
            measured: true,
            conflict: None,
            other_network: false,
            network: ("reef", "babab dadad"),
        }
    }

    #[test]
    fn good_is_said_only_of_what_was_seen_to_work() {
        assert_eq!(fine().judge(), (Condition::Good, String::new()));
        assert_eq!(Facts { document: Freshness::Stale, ..fine() }.judge().0, Condition::Good);
        assert_eq!(Facts { measured: false, ..fine() }.judge().0, Condition::Starting);
        for facts in [
            Facts { linked: false, ..fine() },
            Facts { document: Freshness::Expired, ..fine() },
            Facts { document: Freshness::None, ..fine() },
            Facts { linked: false, document: Freshness::None, health: Health::Pause, ..fine() },
        ] {
            let (condition, next) = facts.judge();
            assert_eq!(condition, Condition::Offline);
            assert!(!next.is_empty());
        }
        assert_eq!(Facts { health: Health::Warn, ..fine() }.judge().0, Condition::Warn);
        assert_eq!(Facts { health: Health::Pause, ..fine() }.judge().0, Condition::Pause);
    }

    #[test]
    fn a_conflict_names_its_files_and_the_way_out() {
        let folder = Path::new("/profile/conflict");
        let (condition, next) = Facts { conflict: Some(folder), linked: false, ..fine() }.judge();
        assert_eq!(condition, Condition::Stopped);
        assert!(next.contains("/profile/conflict") && next.contains("shoal down"), "{next}");
    }

    #[test]
    fn a_profile_of_another_network_says_so() {
        let facts = Facts { document: Freshness::Expired, other_network: true, ..fine() };
        let (_, next) = facts.judge();
        assert!(next.contains("another network") && next.contains("babab dadad") && next.contains("init"), "{next}");
        // a gateway alone must not talk a client out of a network that works
        assert_eq!(Facts { other_network: true, ..fine() }.judge().0, Condition::Good);
    }
}
