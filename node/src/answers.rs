//! What authorities say of a node's descriptor: how many list it, how many have to, and why the others do not.
//!
//! A reason is a sentence of the authority for the node's operator. Two beginnings and one phrase in it mean something to
//! a program as well (`protocol/spec/links.md`).

use shoal_protocol::types::Identity;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// How a reason begins when the authority dialled the node in vain.
const UNREACHED: &str = "this authority cannot reach the node";
/// What is in a reason when the node's time differs from the authority's.
const CLOCK: &str = "check the node's clock";
/// What is in a reason when the authority's operator has not admitted the node.
const NOT_ADMITTED: &str = "is not admitted here";

/// Why an authority does not list a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It dialled the node and did not reach it.
    Unreached,
    /// Their clocks differ.
    Clock,
    /// Its operator has not admitted the node, or has removed it.
    NotAdmitted,
    /// It did not answer.
    Silent,
    /// What it says.
    Other,
}

/// What was heard of one authority last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It lists the descriptor.
    Accepted,
    /// It refuses it, with this reason.
    Refused(String),
    /// It did not answer, and why not.
    Silent(String),
}

impl Answer {
    /// Why the node is not listed there; `None`: it is.
    pub fn why(&self) -> Option<Why> {
        match self {
            Self::Accepted => None,
            Self::Silent(_) => Some(Why::Silent),
            Self::Refused(reason) if reason.starts_with(UNREACHED) => Some(Why::Unreached),
            Self::Refused(reason) if reason.contains(CLOCK) => Some(Why::Clock),
            Self::Refused(reason) if reason.contains(NOT_ADMITTED) => Some(Why::NotAdmitted),
            Self::Refused(_) => Some(Why::Other),
        }
    }

    /// What was said, if it is not listed.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Accepted => None,
            Self::Refused(reason) | Self::Silent(reason) => Some(reason),
        }
    }
}

/// The last answer of each authority. One entry each, 64 at most.
pub type Answers = BTreeMap<Identity, Answer>;

/// How many of `n` authorities have to list a node: one more than may lie.
pub fn needed(n: usize) -> usize {
    n.saturating_sub(1) / 3 + 1
}

/// How many list the node.
pub fn accepted(answers: &Answers) -> usize {
    answers.values().filter(|answer| **answer == Answer::Accepted).count()
}

/// How many do not, for this reason.
pub fn count(answers: &Answers, why: Why) -> usize {
    answers.values().filter(|answer| answer.why() == Some(why)).count()
}

/// A text without the addresses in it, as it may go to a log: not even our own is to be there.
pub fn without_addresses(text: &str) -> String {
    let hide = |word: &str| {
        let bare = word.trim_matches(|c: char| "(),;\"'`".contains(c));
        let bare = bare.trim_end_matches(['.', ':']);
        let whole = bare.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok();
        if whole && !bare.is_empty() { word.replace(bare, "[address]") } else { word.to_owned() }
    };
    text.split(' ').map(hide).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_may_lie_has_to_list_a_node() {
        assert_eq!([1, 2, 3, 4, 6, 7, 10].map(needed), [1, 1, 1, 2, 2, 3, 4]);
    }

    #[test]
    fn reasons_are_sorted_by_what_helps() {
        let refused = |reason: &str| Answer::Refused(reason.to_owned());
        let answers = [
            Answer::Accepted,
            refused("this authority cannot reach the node at the address it names (192.0.2.1:1: no answer in time); …"),
            refused("the descriptor was made 7200000 ms in the future; check the node's clock"),
            refused("the descriptor has keys for epochs 4 to 7, but it is epoch 9; check the node's clock"),
            refused("ab… is not admitted here; send your admission line to the authority's operator"),
            refused("this authority already lists 2048 nodes"),
            Answer::Silent("no answer in time".to_owned()),
        ];
        let answers: Answers = (0..).zip(answers).map(|(n, answer)| (Identity::from_bytes([n; 32]), answer)).collect();
        assert_eq!(accepted(&answers), 1);
        let counts = [Why::Unreached, Why::Clock, Why::NotAdmitted, Why::Other, Why::Silent];
        assert_eq!(counts.map(|why| count(&answers, why)), [1, 2, 1, 1, 1]);
    }

    #[test]
    fn no_address_is_left_in_what_goes_to_a_log() {
        let text =
            "cannot reach it (192.0.2.1:4433: no answer; [2001:db8::1]:4433: refused), 2001:db8::2. At 12:30, in 3 s";
        let hidden = without_addresses(text);
        assert_eq!(hidden, "cannot reach it ([address]: no answer; [address]: refused), [address]. At 12:30, in 3 s");
    }
}
