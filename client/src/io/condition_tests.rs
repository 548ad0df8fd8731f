use super::*;
use shoal_protocol::Epoch;

const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

fn fine() -> Facts<'static> {
    Facts {
        reach: Reach::Linked,
        trouble: None,
        document: Freshness::Current,
        lack: Lack::Nothing,
        health: Health::Good,
        measured: true,
        conflict: None,
        network: ("reef", "babab dadad"),
        now: NOW,
    }
}

const REACHES: [Reach; 6] =
    [Reach::Trying, Reach::Linked, Reach::NoGateway, Reach::Silent, Reach::SomeSilent, Reach::Refused];
const DOCUMENTS: [Freshness; 4] = [Freshness::None, Freshness::Current, Freshness::Stale, Freshness::Expired];

fn lacks() -> [Lack; 8] {
    let hour = Duration::from_secs(3_600);
    [
        Lack::Nothing,
        Lack::Early { begins: NOW.plus(hour) },
        Lack::ClockBehind(hour),
        Lack::ClockAhead(hour),
        Lack::Standstill { epoch: Epoch(12), ended: NOW.minus(hour) },
        Lack::UnknownAuthorities,
        Lack::OtherNetwork,
        Lack::Refused,
    ]
}

#[test]
fn good_is_said_only_of_what_was_seen_to_work() {
    let good = Judgement { condition: Condition::Good, cause: None, next: String::new() };
    assert_eq!(fine().judge(), good);
    assert_eq!(Facts { document: Freshness::Stale, ..fine() }.judge(), good);
    assert_eq!(Facts { measured: false, ..fine() }.judge().condition, Condition::Starting);
    assert_eq!(Facts { health: Health::Warn, ..fine() }.judge().condition, Condition::Warn);
    assert_eq!(Facts { health: Health::Pause, ..fine() }.judge().condition, Condition::Pause);
}

#[test]
fn whatever_is_not_good_says_why_and_what_to_do() {
    for reach in REACHES {
        for document in DOCUMENTS {
            for lack in lacks() {
                for (health, measured) in
                    [(Health::Good, true), (Health::Good, false), (Health::Warn, true), (Health::Pause, true)]
                {
                    let judged = Facts { reach, document, lack, health, measured, ..fine() }.judge();
                    let good = judged.condition == Condition::Good;
                    assert_eq!((judged.cause.is_none(), judged.next.is_empty()), (good, good), "{judged:?}");
                    let goes = matches!(document, Freshness::Current | Freshness::Stale) && reach == Reach::Linked;
                    assert_eq!(judged.condition == Condition::Offline, !goes, "{judged:?}");
                }
            }
        }
    }
}

#[test]
fn a_clock_and_the_firewall_are_named_only_where_something_points_at_them() {
    for reach in REACHES {
        for document in DOCUMENTS {
            for lack in lacks() {
                let judged = Facts { reach, document, lack, ..fine() }.judge();
                let (cause, next) = (judged.cause.unwrap_or_default(), &judged.next);
                assert_eq!(next.contains("UDP"), cause == "no_answer", "{judged:?}");
                assert!(cause != "no_answer" || reach == Reach::Silent, "{judged:?}");
                assert_eq!(next.contains("Set the clock"), cause.starts_with("clock"), "{judged:?}");
                let blamed = matches!(lack, Lack::ClockAhead(_) | Lack::ClockBehind(_));
                assert!(!cause.starts_with("clock") || blamed, "{judged:?}");
            }
        }
    }
}

#[test]
fn what_documents_say_is_told_in_figures() {
    let of = |lack| Facts { document: Freshness::Expired, lack, ..fine() }.judge();
    let [_, _, behind, ahead, still, unknown, other, _] = lacks();
    assert!(of(behind).next.contains("behind by 1h") && of(ahead).next.contains("ahead by 1h"));
    assert!(of(still).next.contains("epoch 12, over since 1h"), "{}", of(still).next);
    assert!(of(unknown).next.contains("shoal network update"));
    let next = of(other).next;
    assert!(next.contains("another network") && next.contains("babab dadad") && next.contains("init"), "{next}");
    // a gateway alone must not talk a client out of a network that works
    assert_eq!(Facts { lack: other, ..fine() }.judge().condition, Condition::Good);
    // of a client that reaches nobody, what it held says nothing about the network
    let silent = Facts { reach: Reach::Silent, document: Freshness::Expired, lack: still, ..fine() }.judge();
    assert_eq!(silent.cause, Some("no_answer"));
}

#[test]
fn a_conflict_names_its_files_and_the_way_out() {
    let folder = Path::new("/profile/conflict");
    let judged = Facts { conflict: Some(folder), reach: Reach::Silent, ..fine() }.judge();
    assert_eq!(judged.condition, Condition::Stopped);
    assert!(judged.next.contains("/profile/conflict") && judged.next.contains("shoal down"), "{}", judged.next);
}
