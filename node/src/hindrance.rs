//! What keeps a listed node from serving, in words for its operator: each with what to do about it.

use shoal_protocol::types::Epoch;

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hindrance {
    /// The document lists keys that were here and are lost; this node's own count again from that epoch.
    KeysLost(Option<Epoch>),
    /// The document lists keys that were never here: somebody else publishes with this identity.
    Twin,
    /// No link to a next hop was made yet.
    NoLink,
    /// Links to next hops are down.
    LinksDown {
        /// How many.
        down: usize,
        /// Of how many.
        of: usize,
    },
    /// Replay tags cannot be written: no packet leaves.
    ReplayLog,
    /// The store is not open, and why.
    StoreClosed(String),
    /// The store's disk is too slow, in words.
    StoreSlow(String),
    /// Links to other stores are down.
    StoreLinks {
        /// How many are up.
        up: u64,
        /// Of how many.
        of: u64,
    },
}

/// Epochs after which keys of an earlier run are in no document any more: one that was made in the epoch of the start, and
/// the two after it, which others may still hold.
pub const EPOCHS_AFTER_START: u64 = 3;

/// How the keys that a document lists for a node compare with those it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Whether the one that is used now is ours.
    pub current: bool,
    /// Whether any of the others is.
    pub any: bool,
    /// Epochs that this process has run.
    pub epochs_up: u64,
    /// First epoch from which the listed keys are ours again.
    pub out_until: Option<Epoch>,
}

impl Hindrance {
    /// What the keys say. Of a process that runs for a while, one key may be lost (its replay log was torn); that all are
    /// somebody else's has one reason only.
    pub fn of_keys(listed: &Listed) -> Option<Self> {
        match listed {
            Listed { current: true, .. } => None,
            Listed { any: false, epochs_up, .. } if *epochs_up >= EPOCHS_AFTER_START => Some(Self::Twin),
            Listed { out_until, .. } => Some(Self::KeysLost(*out_until)),
        }
    }

    /// As `status --json` has it in `hindered_by`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::KeysLost(_) => "keys_lost",
            Self::Twin => "twin",
            Self::NoLink | Self::LinksDown { .. } => "links",
            Self::ReplayLog => "replay_log",
            Self::StoreClosed(_) => "store_closed",
            Self::StoreSlow(_) => "store_slow",
            Self::StoreLinks { .. } => "store_links",
        }
    }

    /// What is missing.
    pub fn text(&self) -> String {
        match self {
            Self::KeysLost(until) => {
                let until = until.map_or("a later epoch".to_owned(), |epoch| format!("epoch {epoch}"));
                format!("the consensus lists keys that this node no longer holds; out until {until}")
            }
            Self::Twin => {
                "the consensus lists keys that this process never made, although it has run for three epochs: \
                           another process publishes with this node's identity key"
                    .to_owned()
            }
            Self::NoLink => "no link is up yet".to_owned(),
            Self::LinksDown { down, of } => format!("{down} of {of} links to next hops are down"),
            Self::ReplayLog => {
                "replay tags cannot be written: no packet leaves until the runtime directory has room and can be written"
                    .to_owned()
            }
            Self::StoreClosed(why) | Self::StoreSlow(why) => why.clone(),
            Self::StoreLinks { up, of } => format!("{up} of {of} links to other stores are up"),
        }
    }

    /// What to do about the thing with this label; `None` if there is no such label.
    pub fn next(label: &str) -> Option<&'static str> {
        Some(match label {
            "keys_lost" => {
                "wait: the node has new keys, and the documents of the next epochs list them. It lost the old ones with its \
                 runtime directory: after a reboot this is as it should be; after a restart, keep that directory \
                 (RuntimeDirectoryPreserve=yes)"
            }
            "twin" => {
                "stop the other process: the machine that this node was moved or copied from, or a second start from the same \
                 directory. If it is none of yours, the identity key was stolen: have the authorities remove it \
                 (shoal-directory admit --remove), and make a new node"
            }
            "links" => {
                "if few are down, their nodes are: wait. If most are: UDP must pass the firewall both ways. If they come and \
                 go: does a second process run with this node's identity? Its `status` says so"
            }
            "store_closed" => "see the log: why the store cannot be opened; `shoal-node doctor` looks at its disk",
            "replay_log" => "make room in the runtime directory, or see why it cannot be written (`shoal-node doctor`)",
            "store_slow" => {
                "see what else uses the store's disk; a disk that stays slow needs a faster one (`shoal-node doctor`)"
            }
            "store_links" => {
                "if few are down, their stores are: wait. If most are: UDP must pass the firewall both ways"
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Listed = Listed { current: true, any: true, epochs_up: 100, out_until: None };

    #[test]
    fn only_a_process_that_has_run_for_long_calls_foreign_keys_a_twin() {
        assert_eq!(Hindrance::of_keys(&WELL), None);
        let lost =
            |any, epochs_up| Hindrance::of_keys(&Listed { current: false, any, epochs_up, out_until: Some(Epoch(7)) });
        // a restart without its runtime directory: documents with the old keys are still in force
        assert_eq!(lost(false, 0), Some(Hindrance::KeysLost(Some(Epoch(7)))));
        assert_eq!(lost(false, EPOCHS_AFTER_START - 1), Some(Hindrance::KeysLost(Some(Epoch(7)))));
        // one torn log of a node that runs for months
        assert_eq!(lost(true, 1_000), Some(Hindrance::KeysLost(Some(Epoch(7)))));
        assert_eq!(lost(false, EPOCHS_AFTER_START), Some(Hindrance::Twin));
    }

    #[test]
    fn every_hindrance_has_its_own_remedy() {
        use Hindrance::{KeysLost, LinksDown, NoLink, ReplayLog, StoreClosed, StoreLinks, StoreSlow, Twin};
        for hindrance in [
            KeysLost(None),
            Twin,
            NoLink,
            LinksDown { down: 1, of: 2 },
            ReplayLog,
            StoreClosed("closed".into()),
            StoreSlow("slow".into()),
            StoreLinks { up: 1, of: 2 },
        ] {
            let next = Hindrance::next(hindrance.label()).expect("a remedy");
            assert_eq!(
                next.contains("firewall"),
                matches!(hindrance.label(), "links" | "store_links"),
                "{hindrance:?}"
            );
            assert!(!hindrance.text().is_empty());
        }
        assert!(Hindrance::next("weather").is_none());
    }
}
