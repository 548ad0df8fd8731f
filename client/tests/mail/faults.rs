//! Lost answers, crashes at random points, replicas that die or lie, older copies of a profile.

use crate::messages::acquainted;
use crate::world::World;
use rand::RngExt as _;
use shoal_client::mail::{Mail, MailError, MessageId, MessageState};
use shoal_client::want::Rank;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Everything sent, in order, once: texts as shown equal texts as sent, ids too, and nothing was announced twice within
/// the order.
pub(crate) fn exactly_once(world: &mut World, reader: usize, sent: &[(MessageId, String)], seed: u64) {
    let shown: Vec<_> = world.shown(reader).into_iter().map(|message| (message.id, message.text)).collect();
    assert_eq!(shown, sent, "seed {seed}");
    let announced: Vec<_> = world.announced(reader).into_iter().map(|message| message.id).collect();
    let unique: BTreeSet<_> = announced.iter().collect();
    assert_eq!(unique.len(), announced.len(), "seed {seed}: announced twice");
}

#[test]
fn a_third_of_all_answers_is_lost() {
    let seed = 21;
    let mut world = World::new(seed, 2);
    world.loss = 0.3;
    world.half_loss = 0.2;
    let (alice, bob) = (world.address(0), world.address(1));
    let mut sent = [Vec::new(), Vec::new()];
    let text = "hello".to_owned();
    sent[0].push((world.send(0, &bob, &text), text));
    assert!(world.run_until(20 * MINUTE, |world| world.shown(1).len() == 1), "first contact");
    world.accept(1, &alice);
    for n in 0..10 {
        let (to_bob, to_alice) = (format!("a{n}"), format!("b{n}"));
        sent[0].push((world.send(0, &bob, &to_bob), to_bob));
        sent[1].push((world.send(1, &alice, &to_alice), to_alice));
    }
    let long = "ü".repeat(10_000);
    sent[0].push((world.send(0, &bob, &long), long));
    let ids = sent.clone().map(|sent| sent.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
    assert!(
        world.run_until(20 * MINUTE, |world| { world.all_delivered(0, &ids[0]) && world.all_delivered(1, &ids[1]) })
    );
    exactly_once(&mut world, 1, &sent[0], seed);
    exactly_once(&mut world, 0, &sent[1], seed);
}

/// From the first message to an unknown address on, both clients crash at random points, with losses.
fn crashes(seed: u64) {
    let mut world = World::new(seed, 2);
    world.loss = 0.1;
    let (alice, bob) = (world.address(0), world.address(1));
    world.add(1, "alice", &alice);
    let mut sent = [Vec::new(), Vec::new()];
    for n in 0..10 {
        let text = if n % 4 == 3 { format!("long {n} {}", "x".repeat(6_000)) } else { format!("short {n}") };
        sent[0].push((world.send(0, &bob, &text), text));
    }
    let mut rounds = 0;
    let done = |world: &mut World, sent: &[Vec<(MessageId, String)>; 2]| {
        (0..2).all(|who| {
            let ids: Vec<_> = sent[who].iter().map(|(id, _)| *id).collect();
            world.all_delivered(who, &ids)
        })
    };
    while sent[1].len() < 10 || !done(&mut world, &sent) {
        rounds += 1;
        assert!(rounds < 2_000, "seed {seed}: not done after {rounds} crashes");
        let run = Duration::from_millis(world.rng.random_range(1..4_000));
        world.run(run);
        let who = world.rng.random_range(0..2);
        world.crash(who);
        if world.rng.random_bool(0.3) {
            world.run(Duration::from_millis(700));
        }
        world.restart(who);
        if sent[1].len() < 10 && world.shown(1).len() > sent[1].len() {
            let text = format!("answer {}", sent[1].len());
            sent[1].push((world.send(1, "alice", &text), text));
        }
    }
    exactly_once(&mut world, 1, &sent[0], seed);
    exactly_once(&mut world, 0, &sent[1], seed);
}

#[test]
fn crashes_at_random_points_lose_nothing_and_show_nothing_twice() {
    // more seeds: SHOAL_SEEDS=500 cargo test -p shoal-client --test mail crashes
    let seeds = std::env::var("SHOAL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    for seed in 30..30 + seeds {
        crashes(seed);
    }
}

#[test]
fn a_dead_replica_stops_the_state_stored_but_not_the_message() {
    let mut world = acquainted(22);
    let store = *world.stores.keys().next().unwrap();
    let ids: Vec<_> = (0..12).map(|n| world.send(0, "bob", &format!("m{n}"))).collect();
    world.stores.get_mut(&store).unwrap().down = true;
    assert!(world.run_until(10 * MINUTE, |world| world.all_delivered(0, &ids)));
    assert_eq!(world.texts(1)[1..], (0..12).map(|n| format!("m{n}")).collect::<Vec<_>>());
}

/// Polls of hot chains, and second copies, in some minutes of somebody's: about 800 polls, so that chance makes no more than
/// a few per cent.
fn minutes(world: &mut World, who: usize) -> [usize; 2] {
    let before = world.people[who].asked.len();
    world.run(4 * MINUTE);
    let asked = &world.people[who].asked[before..];
    [(Rank::Hot, "get"), (Rank::Copy, "put")].map(|kind| asked.iter().filter(|asked| **asked == kind).count())
}

/// A box of which one replica is gone is written again and again until its reader has confirmed it. A reader who is away
/// confirms nothing: the second copies are more than there are ticks, and get those that nobody else wants, and one in 16.
#[test]
fn second_copies_for_a_dead_replica_take_no_tick_from_a_poll() {
    let mut world = acquainted(31);
    let [quiet, _] = minutes(&mut world, 0);
    let store = *world.stores.keys().next().unwrap();
    world.stores.get_mut(&store).unwrap().down = true;
    world.crash(1);
    let ids: Vec<_> = (0..120).map(|n| world.send(0, "bob", &format!("m{n}"))).collect();
    world.run(2 * MINUTE);
    let [polls, copies] = minutes(&mut world, 0);
    println!("{quiet} polls in four quiet minutes, {polls} beside {copies} second copies");
    assert!(copies > quiet / 2, "nothing waits: {copies}");
    assert!(polls * 10 > quiet * 9, "{quiet} polls before, {polls} beside {copies} second copies");
    world.restart(1);
    assert!(world.run_until(10 * MINUTE, |world| world.all_delivered(0, &ids)));
}

/// And when every tick is wanted elsewhere, for as long as it may be, they get that one in 16: half a minute of 300 ticks,
/// in which more messages wait than can leave.
#[test]
fn second_copies_go_on_while_every_tick_is_wanted() {
    let mut world = acquainted(32);
    let store = *world.stores.keys().next().unwrap();
    world.stores.get_mut(&store).unwrap().down = true;
    world.crash(1);
    for n in 0..120 {
        world.send(0, "bob", &format!("m{n}"));
    }
    world.run(2 * MINUTE);
    for n in 0..300 {
        world.send(0, "bob", &format!("later {n}"));
    }
    let before = world.people[0].asked.len();
    world.run(MINUTE / 2);
    let asked = &world.people[0].asked[before..];
    let [sends, copies] = [Rank::Send, Rank::Copy].map(|rank| asked.iter().filter(|(of, _)| *of == rank).count());
    println!("{copies} second copies beside {sends} sends, of {}", asked.len());
    assert!(sends * 2 > asked.len(), "{sends} sends of {}: nothing presses", asked.len());
    assert!(copies * 20 > asked.len(), "{copies} second copies of {}", asked.len());
    assert!(copies * 12 < asked.len(), "{copies} second copies of {}", asked.len());
}

#[test]
fn first_contact_survives_a_dead_replica() {
    for dead in 0..5 {
        let mut world = World::new(200 + dead, 2);
        let store = *world.stores.keys().nth(usize::try_from(dead).unwrap()).unwrap();
        world.stores.get_mut(&store).unwrap().down = true;
        let bob = world.address(1);
        world.send(0, &bob, "hello");
        assert!(world.run_until(10 * MINUTE, |world| world.shown(1).len() == 1), "store {dead} is dead");
    }
}

#[test]
fn a_clock_that_steps_back_stalls_nothing() {
    let mut world = acquainted(28);
    world.run(MINUTE);
    world.step_back(Duration::from_secs(3_000));
    let ids = [world.send(0, "bob", "an hour ago")];
    assert!(world.run_until(2 * MINUTE, |world| world.all_delivered(0, &ids)));
}

#[test]
fn a_lying_replica_is_outvoted() {
    let mut world = acquainted(23);
    let store = *world.stores.keys().next().unwrap();
    world.stores.get_mut(&store).unwrap().lies = true;
    let mut ids: Vec<_> = (0..12).map(|n| world.send(0, "bob", &format!("m{n}"))).collect();
    ids.push(world.send(0, "bob", &"long ".repeat(4_000)));
    assert!(world.run_until(20 * MINUTE, |world| world.all_delivered(0, &ids)));
    assert_eq!(world.mail(0).rolled_back(), None, "`taken` alone proves nothing");
    assert_eq!(world.shown(1).len(), 14);
}

#[test]
fn messages_outlive_the_retention_of_their_boxes() {
    let mut world = acquainted(24);
    world.crash(1);
    let ids = [world.send(0, "bob", "short"), world.send(0, "bob", &"long ".repeat(2_000))];
    world.run(7 * MINUTE);
    assert!(ids.iter().all(|id| world.state(0, *id) == MessageState::Stored));
    // the retention of a test network is ten minutes: the stores have forgotten everything, the writer has not
    world.stores.values_mut().for_each(|store| store.boxes.clear());
    world.run(7 * MINUTE);
    world.restart(1);
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &ids)));
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn an_older_copy_of_a_profile_stops_itself() {
    for seed in 250..258 {
        older_copy(seed);
    }
}

fn older_copy(seed: u64) {
    let mut world = acquainted(seed);
    let old = world.people[0].dir.with_extension("old");
    world.crash(0);
    copy(&world.people[0].dir, &old);
    world.restart(0);
    let id = world.send(0, "bob", "after the copy was made");
    assert!(world.run_until(MINUTE, |world| world.all_delivered(0, &[id])));
    world.replace_profile(0, &old);
    world.send(0, "bob", "from the older copy");
    assert!(world.run_until(5 * MINUTE, |world| world.mail(0).rolled_back().is_some()));
    assert!(world.warnings(0).contains(&"rolled_back"));
    let asked = world.people[0].asked.len();
    world.run(MINUTE);
    assert!(world.people[0].asked[asked..].iter().all(|(_, kind)| *kind != "put"));
    // it stays stopped, and says why
    world.crash(0);
    world.restart(0);
    let (now, mut rng) = (world.now, world.fork());
    assert!(matches!(world.mail(0).send("bob", "again", now, &mut rng), Err(MailError::RolledBack(_))));
    assert_eq!(world.texts(1).last().map(String::as_str), Some("after the copy was made"));
}

#[test]
fn one_process_at_a_time() {
    let mut world = World::new(26, 1);
    let dir = world.people[0].dir.clone();
    assert!(matches!(Mail::open(&dir), Err(MailError::Locked(_))));
    world.crash(0);
    drop(Mail::open(&dir).unwrap());
    assert!(matches!(Mail::open(&dir.join("nothing")), Err(MailError::Missing(_))));
    world.restart(0);
}

#[test]
fn nothing_lies_in_plain_text() {
    let mut world = acquainted(27);
    let id = world.send(0, "bob", "the treasure lies under the third palm");
    assert!(world.run_until(MINUTE, |world| world.all_delivered(0, &[id])));
    let address = world.address(1);
    for who in 0..2 {
        world.crash(who);
        for name in ["profile.db", "profile.db-wal"] {
            let Ok(bytes) = std::fs::read(world.people[who].dir.join(name)) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            for secret in ["third palm", "hello Bob", "exporter_secret", "sender_data_secret", "private", &address] {
                assert!(!text.contains(secret), "{secret:?} in {name}");
            }
        }
        use std::os::unix::fs::PermissionsExt as _;
        let mode =
            |name: &str| std::fs::metadata(world.people[who].dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("profile.key"), mode("profile.db"), mode(".")), (0o600, 0o600, 0o700));
    }
}
