//! Losses in words: where this node's own loops are lost, and what the authorities make of losses at this node.

use crate::alarm::Spot;
use serde_json::{Value, json};
use shoal_protocol::consensus::{DEMOTION_STRIKES, Suspect};
use shoal_protocol::types::Identity;
use std::collections::BTreeSet;

/// Places named at most; one that loses everywhere needs no longer list.
const NAMED_MAX: usize = 20;

/// `losing` of `status --json`. `next_hops` are the nodes that this one sends to.
pub fn to_json(losing: &[Spot], next_hops: &BTreeSet<Identity>) -> Value {
    let describe = |spot: &Spot| {
        let id = |node: &[u8; 32]| Identity::from_bytes(*node);
        let (place, nodes) = match spot {
            Spot::Own => ("everywhere", Vec::new()),
            Spot::Node(node) if next_hops.contains(&id(node)) => ("to", vec![id(node)]),
            Spot::Node(node) => ("at", vec![id(node)]),
            Spot::Between(from, to) => ("between", vec![id(from), id(to)]),
        };
        json!({"where": place, "nodes": nodes.iter().map(ToString::to_string).collect::<Vec<_>>()})
    };
    Value::Array(losing.iter().take(NAMED_MAX).map(describe).collect())
}

/// A warning for each place where loops are lost.
pub fn warnings(losing: &[Spot], next_hops: &BTreeSet<Identity>) -> Vec<String> {
    let id = |node: &[u8; 32]| Identity::from_bytes(*node);
    let say = |spot: &Spot| match spot {
        Spot::Own => {
            "own loops are lost everywhere: this machine or its network drops packets, or nobody's arrive".to_owned()
        }
        Spot::Node(node) if next_hops.contains(&id(node)) => {
            format!("own loops are lost on the link to {}, or there", id(node))
        }
        Spot::Node(node) => format!("own loops are lost at {}, which is no next hop", id(node)),
        Spot::Between(from, to) => format!("own loops are lost between {} and {}", id(from), id(to)),
    };
    losing.iter().take(NAMED_MAX).map(say).collect()
}

/// `demotion` of `status --json`: what the document remembers of losses at this node.
pub fn suspect_to_json(suspect: &Suspect) -> Value {
    json!({
        "strikes": suspect.strikes,
        "strikes_needed": DEMOTION_STRIKES,
        "losing_before": suspect.before.losing, "before": suspect.before.of,
        "losing_behind": suspect.behind.losing, "behind": suspect.behind.of,
        "until_epoch": suspect.demoted_until.map(|epoch| epoch.0),
    })
}

/// The same as a warning.
pub fn warning_of_suspect(suspect: &Suspect) -> String {
    let Suspect { strikes, before, behind, demoted_until, .. } = suspect;
    let who = format!(
        "{} of {} operators before it and {} of {} behind it lose loops at this node",
        before.losing, before.of, behind.losing, behind.of
    );
    match demoted_until {
        Some(until) => format!("out of its layer until epoch {until}: {who}, document after document"),
        None => format!("{who}; strike {strikes} of {DEMOTION_STRIKES}, then it loses its place for a day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::consensus::Share;
    use shoal_protocol::types::Epoch;

    #[test]
    fn every_place_has_its_word_and_its_sentence() {
        let losing = [Spot::Own, Spot::Node([1; 32]), Spot::Node([2; 32]), Spot::Between([1; 32], [2; 32])];
        let next_hops = BTreeSet::from([Identity::from_bytes([1; 32])]);
        let json = to_json(&losing, &next_hops);
        let words: Vec<_> = json.as_array().into_iter().flatten().filter_map(|one| one["where"].as_str()).collect();
        assert_eq!(words, ["everywhere", "to", "at", "between"]);
        let said = warnings(&losing, &next_hops);
        for (sentence, part) in said.iter().zip(["this machine", "on the link to 0101", "at 0202", "between 0101"]) {
            assert!(sentence.contains(part), "{sentence}");
        }
        assert_eq!(warnings(&[Spot::Own; 50], &next_hops).len(), NAMED_MAX);
    }

    #[test]
    fn a_suspect_hears_who_says_so_and_until_when() {
        let share = |losing, of| Share { losing, of };
        let mut suspect = Suspect {
            identity: Identity::from_bytes([1; 32]),
            strikes: 2,
            before: share(3, 4),
            behind: share(5, 6),
            demoted_until: None,
        };
        let said = warning_of_suspect(&suspect);
        assert!(said.starts_with("3 of 4 operators before it and 5 of 6 behind it") && said.contains("strike 2 of 3"));
        suspect.demoted_until = Some(Epoch(99));
        assert!(warning_of_suspect(&suspect).starts_with("out of its layer until epoch 99"));
        assert_eq!(suspect_to_json(&suspect)["until_epoch"], 99);
    }
}
