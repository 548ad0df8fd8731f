//! Things to test with.

use serde_json::json;
use shoal_client::io::{ContactLine, EntryLine, OverviewLine, Status, TimelinePage};
use shoal_client::mail::MessageState;

/// All is well.
pub(super) fn status() -> Status {
    serde_json::from_value(json!({
        "connected": true, "gateway": "3f".repeat(32), "epoch": 41, "anonymity_bits": 9.0, "hiding_among": 512,
        "loop_survival": 0.98, "queue": 2, "state": "good", "since": 1_750_000_000_000_u64, "document": "current",
        "cause": null, "next": "", "network": "reef", "fingerprint": "amber basil cedar", "waiting": [],
        "older_copy": null, "disputes": [], "notices": [], "test_network": false, "class": "normal", "loops_sent": 100,
        "loops_returned": 98, "round_trip_p50_ms": 900, "round_trip_p90_ms": 1200, "round_trip_p99_ms": 2000,
        "consensus_valid_until": 1_750_000_100_000_u64, "consensus_signatures": 4, "trouble": null, "conflict": false,
        "conflict_files": null, "rolled_back": false
    }))
    .unwrap()
}

pub(super) fn contact(name: &str, conversation: Option<&str>) -> ContactLine {
    ContactLine {
        was: None,
        name: name.into(),
        address: format!("shoal1{name}"),
        conversation: conversation.map(str::to_owned),
        request: false,
        blocked: false,
        verified: false,
        waiting_since: None,
    }
}

/// Somebody else's message.
pub(super) fn theirs(cursor: u64, text: &str) -> EntryLine {
    EntryLine {
        cursor,
        id: format!("id{cursor}"),
        own: false,
        from: Some("bob".into()),
        text: text.into(),
        file: None,
        sent_at: 1_750_000_000_000 + cursor,
        received_at: Some(1_750_000_000_000 + cursor),
        state: None,
        waits_for: None,
        parts: None,
        request: false,
    }
}

pub(super) fn own(cursor: u64, text: &str, state: MessageState) -> EntryLine {
    EntryLine { own: true, from: None, received_at: None, state: Some(state), ..theirs(cursor, text) }
}

pub(super) fn page(entries: Vec<EntryLine>, more: bool) -> TimelinePage {
    TimelinePage { entries, more, seen: 0 }
}

pub(super) fn overview(key: &str, cursor: u64, unseen: u64) -> OverviewLine {
    OverviewLine { conversation: key.into(), waiting: false, unseen, newest: theirs(cursor, "hello") }
}
