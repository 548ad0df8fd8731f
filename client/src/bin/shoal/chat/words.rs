//! Words for what programs say, and when to think twice before sending.

use shoal_client::io::{Condition, EntryLine, Status, WaitsFor};
use shoal_client::mail::MessageState;

/// Below so many bits, among fewer than 16, one is nearly alone.
const LOW_BITS: f64 = 4.0;

/// The condition in one word.
pub(super) fn condition(state: Condition) -> &'static str {
    match state {
        Condition::Good => "CONNECTED",
        Condition::Starting => "STARTING",
        Condition::Warn => "WARNING",
        Condition::Pause => "PAUSED",
        Condition::Offline => "OFFLINE",
        Condition::Stopped => "STOPPED",
    }
}

/// What the condition means for what is about to be sent; `None`: nothing to say.
pub(super) fn caution(status: &Status) -> Option<String> {
    let few = || match (status.test_network, status.anonymity_bits, status.hiding_among) {
        (false, Some(bits), Some(among)) if status.connected && bits < LOW_BITS => {
            Some(format!("You hide among few: about {among}. Wait for more traffic if it matters."))
        }
        (_, _, _) => None,
    };
    match status.state {
        Condition::Warn if status.cause.as_deref() == Some("loss") => Some(
            "Many packets are lost. Somebody may be attacking the network: you may be hidden less well than shown."
                .into(),
        ),
        Condition::Warn => {
            Some("Something is wrong with the network or this profile: you may be hidden less well than shown.".into())
        }
        Condition::Pause => {
            Some("Most packets are lost: messages wait on this machine and leave by themselves when it is over.".into())
        }
        Condition::Stopped => {
            Some("The network's authorities contradicted themselves: no message leaves this machine.".into())
        }
        Condition::Offline => Some("No connection: messages wait on this machine and leave by themselves.".into()),
        Condition::Good | Condition::Starting => few(),
    }
}

/// Why the user is asked before something is sent, once a reason; `None`: they are not.
pub(super) fn asks_first(status: &Status) -> Option<String> {
    let asks =
        matches!(status.state, Condition::Warn | Condition::Pause) || status.connected && caution(status).is_some();
    asks.then(|| format!("{} {}", condition(status.state), status.cause.as_deref().unwrap_or("few")))
}

/// A state as symbol and word; what it waits for, when that is not to be guessed.
pub(super) fn state(entry: &EntryLine) -> Option<String> {
    let (symbol, word) = match entry.state? {
        MessageState::Queued => ("…", "queued"),
        MessageState::Sent => ("→", "sent"),
        MessageState::Stored => ("✓", "stored"),
        MessageState::Delivered => ("✓✓", "delivered"),
        MessageState::Cancelled => ("✗", "taken back"),
    };
    let waits = match entry.waits_for {
        Some(WaitsFor::Card) => ", until they have run Shoal once on this network",
        Some(WaitsFor::Member) => ", until a member adds you again: you were away for too long",
        Some(WaitsFor::Turn | WaitsFor::Stores | WaitsFor::Reader) | None => "",
    };
    Some(format!("{symbol} {word}{waits}"))
}

pub(super) fn size(bytes: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit / (unit / 10));
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} kB", tenths(1_000)),
        _ => format!("{} MB", tenths(1_000_000)),
    }
}

/// About so long, in one unit.
pub(super) fn span(milliseconds: u64) -> String {
    let seconds = (milliseconds.saturating_add(500) / 1_000).max(1);
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5_400 => format!("{} min", (seconds + 30) / 60),
        5_400..172_800 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn sizes_and_spans() {
        assert_eq!([0, 999, 1_000, 1_990, 2_500_000].map(size), ["0 bytes", "999 bytes", "1.0 kB", "1.9 kB", "2.5 MB"]);
        assert_eq!([0, 4_600, 120_000, 7_200_000, 259_200_000].map(span), ["1 s", "5 s", "2 min", "2 h", "3 days"]);
    }

    #[test]
    fn few_to_hide_among_is_said_and_asked_about_once() {
        let good = samples::status();
        assert_eq!((caution(&good), asks_first(&good)), (None, None));
        let few = Status { anonymity_bits: Some(3.0), hiding_among: Some(8), ..samples::status() };
        assert!(caution(&few).unwrap().contains("about 8"));
        assert!(asks_first(&few).is_some());
        let test = Status { test_network: true, ..few };
        assert_eq!(asks_first(&test), None);
        for (state, asks) in [(Condition::Warn, true), (Condition::Pause, true), (Condition::Offline, false)] {
            let connected = state != Condition::Offline;
            let status = Status { state, connected, ..samples::status() };
            assert!(caution(&status).is_some());
            assert_eq!(asks_first(&status).is_some(), asks, "{state:?}");
        }
    }
}
