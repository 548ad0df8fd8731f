//! What every storage engine must do, as tests that run on any of them. An engine's own tests call [`all`].

use crate::engine::{Bucket, Engine, Entry, Key, Limits, Record, Totals, Write, Written, bucket_length};
use crate::inbox;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Where engines live.
pub(crate) trait Place {
    /// Opens the engine on what the last one left; the last one has been dropped without a word.
    fn open(&self, limits: Limits) -> Box<dyn Engine>;
}

pub(crate) const LIMITS: Limits = Limits { retention: Duration::from_secs(600), records_max: 100_000, append_bits: 4 };
pub(crate) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// Runs the whole suite, each test in a place of its own.
pub(crate) fn all<P: Place>(place: impl Fn() -> P) {
    first_write_wins(&place());
    write_once_holds_across_buckets_and_restarts(&place());
    a_batch_is_one_write_after_another(&place());
    confirming_writes_nothing(&place());
    full_refuses_and_evicts_nothing(&place());
    entries_are_read_in_order_once_each(&place());
    entries_are_not_stored_twice(&place());
    a_full_inbox_asks_for_more_work(&place());
    one_inbox_fills_alone(&place());
    records_go_after_the_retention_and_not_before(&place());
    numbers_rise_after_everything_expired(&place());
    a_clock_that_goes_back_loses_nothing(&place());
    look_ups_come_in_the_order_they_were_asked_for(&place());
    writing_and_erasing_do_not_disturb_each_other(&place());
    records_are_paged_in_the_order_of_their_keys(&place());
    a_copy_is_as_good_as_the_original(&place(), &place());
    any_history_agrees_with_the_model(place);
}

pub(crate) fn id(n: u64) -> BoxId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&n.to_be_bytes());
    BoxId::from_bytes(bytes)
}

pub(crate) fn body(n: u64) -> BoxBody {
    BoxBody::random(&mut StdRng::seed_from_u64(n))
}

pub(crate) fn put(name: u64, content: u64) -> Write {
    Write::Put { id: id(name), body: body(content) }
}

pub(crate) fn append(inbox: u64, content: u64) -> Write {
    Write::Append { inbox: id(inbox), body: body(content), work_bits: 60 }
}

fn write(engine: &mut dyn Engine, now: UnixMillis, write: Write) -> Written {
    engine.write(now, &[write]).expect("a working disk")[0]
}

fn later(seconds: u64) -> UnixMillis {
    UnixMillis(NOW.0 + seconds * 1_000)
}

/// All entries of an inbox, read as its owner does.
fn drain(engine: &mut dyn Engine, inbox: u64, mut after: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some(entry) = engine.read(&id(inbox), after).expect("a working disk") {
        assert!(entry.number > after);
        after = entry.number;
        entries.push(entry);
    }
    entries
}

fn first_write_wins(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    assert_eq!(engine.get(&id(1)).expect("works"), None);
    assert_eq!(write(&mut *engine, NOW, put(1, 1)), Written::Stored);
    assert_eq!(write(&mut *engine, NOW, put(1, 1)), Written::Stored);
    assert_eq!(write(&mut *engine, NOW, put(1, 2)), Written::Taken);
    assert_eq!(engine.get(&id(1)).expect("works"), Some(body(1)));
    assert_eq!(engine.get(&id(2)).expect("works"), None);
    assert_eq!(engine.totals().records, 1);
    assert!(engine.write(NOW, &[]).expect("works").is_empty());
}

fn write_once_holds_across_buckets_and_restarts(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    assert_eq!(write(&mut *engine, NOW, put(1, 1)), Written::Stored);
    for step in 1..6 {
        drop(engine);
        engine = place.open(LIMITS);
        let now = later(step * 90);
        assert_eq!(write(&mut *engine, now, put(1, 2)), Written::Taken);
        assert_eq!(write(&mut *engine, now, put(1, 1)), Written::Stored);
        assert_eq!(write(&mut *engine, now, put(1 + step, step)), Written::Stored);
    }
    drop(engine);
    let mut engine = place.open(LIMITS);
    assert_eq!(engine.totals().records, 6);
    for step in 1..6 {
        assert_eq!(engine.get(&id(1 + step)).expect("works"), Some(body(step)));
    }
}

fn a_batch_is_one_write_after_another(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    let batch = [put(1, 1), put(1, 2), put(1, 1), append(5, 1), append(5, 2), append(5, 1)];
    let written = engine.write(NOW, &batch).expect("works");
    use Written::{Stored, Taken};
    assert_eq!(written, [Stored, Taken, Stored, Stored, Stored, Stored]);
    assert_eq!(engine.totals().records, 3);
    let bodies: Vec<BoxBody> = drain(&mut *engine, 5, 0).into_iter().map(|entry| entry.body).collect();
    assert_eq!(bodies, [body(1), body(2)]);
}

fn confirming_writes_nothing(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    let confirm = |content| Write::Confirm { id: id(1), body: body(content) };
    assert_eq!(write(&mut *engine, NOW, confirm(1)), Written::Absent);
    assert_eq!(engine.get(&id(1)).expect("works"), None);
    write(&mut *engine, NOW, put(1, 1));
    assert_eq!(write(&mut *engine, later(100), confirm(1)), Written::Stored);
    assert_eq!(write(&mut *engine, later(100), confirm(2)), Written::Taken);
}

fn full_refuses_and_evicts_nothing(place: &impl Place) {
    let limits = Limits { records_max: 3, ..LIMITS };
    let mut engine = place.open(limits);
    let written = engine.write(NOW, &[put(1, 1), append(7, 1), put(2, 2), put(3, 3), append(7, 2)]).expect("works");
    use Written::{Full, Stored, Taken};
    assert_eq!(written, [Stored, Stored, Stored, Full, Full]);
    drop(engine);
    let mut engine = place.open(limits);
    assert_eq!(write(&mut *engine, later(200), put(3, 3)), Full);
    assert_eq!(write(&mut *engine, later(200), put(1, 1)), Stored);
    assert_eq!(write(&mut *engine, later(200), put(1, 9)), Taken);
    assert_eq!(write(&mut *engine, later(200), append(7, 1)), Stored);
    assert_eq!(engine.get(&id(2)).expect("works"), Some(body(2)));
    engine.set_limits(Limits { records_max: 4, ..LIMITS });
    assert_eq!(write(&mut *engine, later(200), put(3, 3)), Stored);
}

fn entries_are_read_in_order_once_each(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    assert_eq!(engine.read(&id(5), 0).expect("works"), None);
    let mut expected = Vec::new();
    for step in 0..20 {
        // four buckets, another inbox in between
        let now = later(step * 15);
        write(&mut *engine, now, append(5, step));
        write(&mut *engine, now, append(6, 100 + step));
        expected.push(body(step));
    }
    let entries = drain(&mut *engine, 5, 0);
    assert!(entries.is_sorted_by(|a, b| a.number < b.number));
    assert_eq!(entries.iter().map(|entry| entry.body.clone()).collect::<Vec<_>>(), expected);
    let middle = entries[9].number;
    assert_eq!(drain(&mut *engine, 5, middle), entries[10..]);
    assert_eq!(engine.read(&id(5), u64::MAX).expect("works"), None);
    drop(engine);
    assert_eq!(drain(&mut *place.open(LIMITS), 5, 0), entries);
}

fn entries_are_not_stored_twice(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    for now in [NOW, later(1), later(100), later(300)] {
        assert_eq!(write(&mut *engine, now, append(5, 1)), Written::Stored);
    }
    assert_eq!(drain(&mut *engine, 5, 0).len(), 1);
    // another inbox, the same body
    assert_eq!(write(&mut *engine, NOW, append(6, 1)), Written::Stored);
    assert_eq!(drain(&mut *engine, 6, 0).len(), 1);
}

fn a_full_inbox_asks_for_more_work(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    let append = |content, work_bits| Write::Append { inbox: id(5), body: body(content), work_bits };
    let lazy = Written::TooLittleWork { required: 4 };
    assert_eq!(write(&mut *engine, NOW, append(0, 3)), lazy);
    let batch: Vec<Write> = (0..64).map(|content| append(content, 4)).collect();
    assert!(engine.write(NOW, &batch).expect("works").iter().all(|written| *written == Written::Stored));
    // counted over all buckets
    assert_eq!(write(&mut *engine, later(200), append(64, 4)), Written::TooLittleWork { required: 5 });
    assert_eq!(write(&mut *engine, later(200), append(64, 5)), Written::Stored);
    // what is there needs no work
    assert_eq!(write(&mut *engine, later(200), append(3, 0)), Written::Stored);
}

fn one_inbox_fills_alone(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    let mut stored = 0;
    for chunk in 0..=inbox::ENTRIES_MAX / 512 {
        let batch: Vec<Write> = (0..512).map(|i| append(5, chunk * 512 + i)).collect();
        let written = engine.write(later(chunk * 20), &batch).expect("works");
        stored += written.iter().filter(|written| **written == Written::Stored).count() as u64;
        assert!(written.iter().all(|written| matches!(written, Written::Stored | Written::Full)));
    }
    assert_eq!(stored, inbox::ENTRIES_MAX);
    assert_eq!(write(&mut *engine, later(200), append(6, 1)), Written::Stored);
    assert_eq!(write(&mut *engine, later(200), put(1, 1)), Written::Stored);
}

fn records_go_after_the_retention_and_not_before(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    let length = bucket_length(LIMITS.retention);
    let bucket = Bucket::at(NOW, LIMITS.retention);
    write(&mut *engine, NOW, put(1, 1));
    write(&mut *engine, NOW, append(5, 1));
    let second = UnixMillis(NOW.0).plus(length);
    write(&mut *engine, second, put(2, 2));
    let over = UnixMillis(bucket.end).plus(LIMITS.retention);
    assert_eq!(engine.expire(UnixMillis(over.0 - 1)).expect("works"), 0);
    assert_eq!(engine.get(&id(1)).expect("works"), Some(body(1)));
    assert_eq!(engine.expire(over).expect("works"), 1);
    assert_eq!(engine.expire(over).expect("works"), 0);
    assert_eq!(engine.get(&id(1)).expect("works"), None);
    assert!(drain(&mut *engine, 5, 0).is_empty());
    assert_eq!(engine.get(&id(2)).expect("works"), Some(body(2)));
    assert_eq!(engine.totals().records, 1);
    drop(engine);
    let mut engine = place.open(LIMITS);
    assert_eq!(engine.totals().records, 1);
    assert_eq!(engine.expire(over.plus(length)).expect("works"), 1);
    assert_eq!(engine.totals(), Totals::default());
    // a box whose time is over is a new box
    assert_eq!(write(&mut *engine, over.plus(length), put(1, 9)), Written::Stored);
}

fn numbers_rise_after_everything_expired(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    for content in 0..5 {
        write(&mut *engine, NOW, append(5, content));
    }
    let cursor = drain(&mut *engine, 5, 0).last().expect("five entries").number;
    let much_later = later(3_600);
    assert_eq!(engine.expire(much_later).expect("works"), 1);
    drop(engine);
    let mut engine = place.open(LIMITS);
    write(&mut *engine, much_later, append(5, 9));
    let entries = drain(&mut *engine, 5, cursor);
    assert_eq!(entries.iter().map(|entry| entry.body.clone()).collect::<Vec<_>>(), [body(9)]);
}

fn a_clock_that_goes_back_loses_nothing(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    write(&mut *engine, later(1_000), append(5, 1));
    write(&mut *engine, later(1_000), put(1, 1));
    assert_eq!(write(&mut *engine, NOW, put(1, 2)), Written::Taken);
    assert_eq!(write(&mut *engine, NOW, put(2, 2)), Written::Stored);
    assert_eq!(write(&mut *engine, NOW, append(5, 2)), Written::Stored);
    assert_eq!(engine.expire(NOW).expect("works"), 0);
    let bodies: Vec<BoxBody> = drain(&mut *engine, 5, 0).into_iter().map(|entry| entry.body).collect();
    assert_eq!(bodies, [body(1), body(2)]);
    assert_eq!(engine.get(&id(2)).expect("works"), Some(body(2)));
}

fn look_ups_come_in_the_order_they_were_asked_for(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    let batch: Vec<Write> = (0..200).map(|n| put(n, n)).chain((0..9).map(|n| append(n % 3, 50 + n))).collect();
    engine.write(NOW, &batch).expect("works");
    let names = [7, 150, 999, 7, 0].into_iter().chain(20..120);
    let asked: Vec<BoxId> = names.clone().map(id).collect();
    let expected: Vec<Option<BoxBody>> = names.map(|n| (n < 200).then(|| body(n))).collect();
    assert_eq!(engine.get_all(&asked).expect("works"), expected);
    let first = |engine: &mut dyn Engine, inbox| engine.read(&id(inbox), 0).expect("works");
    let (zero, two) = (first(&mut *engine, 0), first(&mut *engine, 2));
    let wanted = [(id(2), 0), (id(8), 0), (id(0), 0), (id(0), u64::MAX), (id(2), 0)];
    assert_eq!(engine.read_all(&wanted).expect("works"), [two.clone(), None, zero, None, two]);
    assert!(engine.get_all(&[]).expect("works").is_empty() && engine.read_all(&[]).expect("works").is_empty());
    engine.check().expect("works");
}

fn writing_and_erasing_do_not_disturb_each_other(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    let length = bucket_length(LIMITS.retention);
    // a store as it runs: every bucket is written to, and once the first are over one goes with each new one
    for round in 0..24u64 {
        let now = NOW.plus(length * u32::try_from(round).expect("small"));
        let batch = [put(round, round), append(5, round), put(1_000, 1), append(6, 1)];
        let erased = engine.expire(now).expect("works");
        assert!(erased <= 1, "round {round}");
        let written = engine.write(now, &batch).expect("works");
        assert!(written.iter().all(|written| *written == Written::Stored), "round {round}: {written:?}");
        assert_eq!(engine.get(&id(round)).expect("works"), Some(body(round)));
        // what is repeated is there once at any time, and comes again when it was over
        assert_eq!(engine.get(&id(1_000)).expect("works"), Some(body(1)), "round {round}");
        assert_eq!(drain(&mut *engine, 6, 0).len(), 1, "round {round}");
    }
    // eight whole buckets and the one in hand, or one more at the edge
    let live = engine.buckets().expect("works").len();
    assert!((9..=10).contains(&live), "{live} buckets");
    assert_eq!(engine.get(&id(0)).expect("works"), None);
}

/// Everything that an engine holds, bucket by bucket.
pub(crate) fn contents(engine: &mut dyn Engine, page: usize) -> Vec<Record> {
    let mut all = Vec::new();
    for bucket in engine.buckets().expect("works") {
        let mut after = None;
        loop {
            let records = engine.page(bucket, after, page).expect("works");
            assert!(records.len() <= page);
            all.extend(records.iter().cloned());
            match records.last() {
                Some(last) if records.len() == page => after = Some(last.key),
                Some(_) | None => break,
            }
        }
    }
    all
}

/// Boxes and entries over three buckets.
pub(crate) fn fill(engine: &mut dyn Engine) {
    for round in 0..3u64 {
        let names = round * 20..round * 20 + 20;
        let batch: Vec<Write> = names.clone().map(|n| put(n, n)).chain(names.map(|n| append(n % 3, n))).collect();
        let written = engine.write(later(round * 100), &batch).expect("works");
        assert!(written.iter().all(|written| *written == Written::Stored));
    }
}

fn records_are_paged_in_the_order_of_their_keys(place: &impl Place) {
    let mut engine = place.open(LIMITS);
    assert!(contents(&mut *engine, 7).is_empty());
    fill(&mut *engine);
    let all = contents(&mut *engine, 1_000);
    assert_eq!(all.len(), 120);
    assert!(all.is_sorted_by(|a, b| (a.bucket, a.key) < (b.bucket, b.key)));
    for page in [1, 7, 20, 40, 41] {
        assert_eq!(contents(&mut *engine, page), all, "pages of {page}");
    }
    // and each is found as what answers its write
    let writes = [put(3, 3), put(3, 999), append(0, 3), append(1, 3), put(777, 1)];
    let found = engine.find(&writes).expect("works");
    let keys: Vec<Option<Key>> = found.iter().map(|found| found.as_ref().map(|record| record.key)).collect();
    assert_eq!(keys[..2], [Some(Key::Box(id(3))), Some(Key::Box(id(3)))]);
    assert!(matches!(keys[2], Some(Key::Entry { inbox, .. }) if inbox == id(0)));
    assert_eq!(keys[3..], [None, None]);
    assert!(found.iter().flatten().all(|record| all.contains(record)));
}

fn a_copy_is_as_good_as_the_original(place: &impl Place, other: &impl Place) {
    let mut engine = place.open(LIMITS);
    fill(&mut *engine);
    let all = contents(&mut *engine, 1_000);
    let mut copy = other.open(LIMITS);
    // in pieces, some of them twice, newest bucket first
    for piece in all.rchunks(17).chain(all.chunks(50)) {
        copy.import(piece).expect("works");
    }
    drop(copy);
    let mut copy = other.open(LIMITS);
    assert_eq!(contents(&mut *copy, 1_000), all);
    assert_eq!(copy.totals().records, 120);
    for n in [0, 25, 59] {
        assert_eq!(write(&mut *copy, later(250), put(n, 999)), Written::Taken);
        assert_eq!(write(&mut *copy, later(250), append(n % 3, n)), Written::Stored);
    }
    for inbox in 0..3 {
        assert_eq!(drain(&mut *copy, inbox, 0), drain(&mut *engine, inbox, 0));
        // the next entry gets the number that it would have got
        assert_eq!(write(&mut *copy, later(250), append(inbox, 777)), Written::Stored);
        assert_eq!(write(&mut *engine, later(250), append(inbox, 777)), Written::Stored);
        assert_eq!(drain(&mut *copy, inbox, 0), drain(&mut *engine, inbox, 0));
    }
    // and goes when the original goes
    let first = copy.buckets().expect("works")[0];
    let over = UnixMillis(first.end).plus(LIMITS.retention);
    assert_eq!((copy.expire(over).expect("works"), engine.expire(over).expect("works")), (1, 1));
    assert_eq!(contents(&mut *copy, 1_000), contents(&mut *engine, 1_000));
}

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<(bool, u64, u64)>),
    Wait(u64),
    Expire,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let item = (any::<bool>(), 0u64..6, 0u64..4);
    let step = prop_oneof![
        6 => prop::collection::vec(item, 1..5).prop_map(Step::Batch),
        3 => (0u64..200).prop_map(Step::Wait),
        2 => Just(Step::Expire),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..30)
}

/// The plainest thing that does the same: every record with the end of its bucket.
#[derive(Default)]
struct Model {
    boxes: BTreeMap<u64, (u64, u64)>,
    entries: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Model {
    fn put(&mut self, name: u64, content: u64, end: u64) -> Written {
        let held = self.boxes.entry(name).or_insert((content, end));
        if held.0 == content { Written::Stored } else { Written::Taken }
    }
    fn append(&mut self, inbox: u64, content: u64, end: u64) -> Written {
        let entries = self.entries.entry(inbox).or_default();
        if entries.iter().all(|(held, _)| *held != content) {
            entries.push((content, end));
        }
        Written::Stored
    }
    fn expire(&mut self, now: u64) {
        let lives = |end: u64| end + 600_000 > now;
        self.boxes.retain(|_, (_, end)| lives(*end));
        self.entries.values_mut().for_each(|entries| entries.retain(|(_, end)| lives(*end)));
    }
}

fn any_history_agrees_with_the_model<P: Place>(place: impl Fn() -> P) {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let run = |steps: Vec<Step>| {
        let place = place();
        let mut engine = place.open(LIMITS);
        let mut model = Model::default();
        let mut now = NOW;
        for step in steps {
            match step {
                Step::Batch(items) => {
                    let end = Bucket::at(now, LIMITS.retention).end;
                    let batch: Vec<Write> = items
                        .iter()
                        .map(
                            |(is_put, name, content)| {
                                if *is_put { put(*name, *content) } else { append(*name, *content) }
                            },
                        )
                        .collect();
                    let expected: Vec<Written> =
                        items
                            .iter()
                            .map(|(is_put, name, content)| {
                                if *is_put {
                                    model.put(*name, *content, end)
                                } else {
                                    model.append(*name, *content, end)
                                }
                            })
                            .collect();
                    prop_assert_eq!(engine.write(now, &batch).expect("works"), expected);
                }
                Step::Wait(seconds) => now = now.plus(Duration::from_secs(seconds)),
                Step::Expire => {
                    engine.expire(now).expect("works");
                    model.expire(now.0);
                }
                Step::Restart => {
                    drop(engine);
                    engine = place.open(LIMITS);
                }
            }
        }
        for name in 0..6 {
            let held = model.boxes.get(&name).map(|(content, _)| body(*content));
            prop_assert_eq!(engine.get(&id(name)).expect("works"), held);
            let entries: Vec<BoxBody> = drain(&mut *engine, name, 0).into_iter().map(|entry| entry.body).collect();
            let held = model.entries.get(&name).into_iter().flatten().map(|(content, _)| body(*content));
            prop_assert_eq!(entries, held.collect::<Vec<_>>());
        }
        Ok(())
    };
    if let Err(error) = TestRunner::new(config).run(&steps(), run) {
        panic!("{error}");
    }
}
