//! Group epochs: conversations go on while generations of stores come and go, while both members commit at once, while
//! one is away, and while clients crash at any point.

use crate::faults::{copy, exactly_once};
use crate::messages::acquainted;
use crate::world::World;
use rand::RngExt as _;
use shoal_client::mail::{ConversationInfo, MessageId};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn conversation(world: &mut World, who: usize) -> ConversationInfo {
    let found = world.mail(who).conversations().unwrap();
    assert_eq!(found.len(), 1);
    found.into_iter().next().unwrap()
}

fn newest(world: &World) -> u32 {
    world.consensus.generations.last().unwrap().number
}

/// Both are in the newest generation and in one epoch.
fn followed(world: &mut World) -> bool {
    let newest = newest(world);
    let [a, b] = [0, 1].map(|who| conversation(world, who));
    assert!(!a.broken && !b.broken);
    (a.generation, b.generation) == (newest, newest) && a.epoch == b.epoch
}

/// Texts that were sent, by sender; what `acquainted` sent is among them.
struct Talk([Vec<(MessageId, String)>; 2]);

impl Talk {
    fn of(world: &mut World) -> Self {
        let said = |world: &mut World, reader| {
            world.shown(reader).into_iter().map(|message| (message.id, message.text)).collect::<Vec<_>>()
        };
        Self([said(world, 1), said(world, 0)])
    }
    fn say(&mut self, world: &mut World, who: usize, text: String) {
        let to = ["bob", "alice"][who];
        self.0[who].push((world.send(who, to, &text), text));
    }
    fn delivered(&self, world: &mut World) -> bool {
        (0..2).all(|who| {
            let ids: Vec<_> = self.0[who].iter().map(|(id, _)| *id).collect();
            world.all_delivered(who, &ids)
        })
    }
    fn exactly_once(&self, world: &mut World, seed: u64) {
        exactly_once(world, 1, &self.0[0], seed);
        exactly_once(world, 0, &self.0[1], seed);
    }
}

#[test]
fn who_accepts_leaves_the_leaf_of_the_card_at_once() {
    let mut world = World::new(400, 2);
    let (alice, bob) = (world.address(0), world.address(1));
    world.send(0, &bob, "hello");
    assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() == 1));
    // before the user accepts nothing of ours is written, whatever is due
    world.draw_since(5 * MINUTE);
    world.run(3 * MINUTE);
    assert_eq!(conversation(&mut world, 0).generation, newest(&world), "the founder need not wait");
    assert_eq!(conversation(&mut world, 1).generation, newest(&world), "who is invited follows");
    let founder = conversation(&mut world, 0).epoch;
    let boxes = |world: &World| world.people[1].asked.iter().filter(|(_, kind)| *kind == "put ordered").count();
    assert_eq!(boxes(&world), 0);
    world.accept(1, &alice);
    assert!(world.run_until(MINUTE, |world| [0, 1].iter().all(|who| conversation(world, *who).epoch > founder)));
    let id = world.send(1, &alice, "hello back");
    assert!(world.run_until(MINUTE, |world| world.all_delivered(1, &[id])));
    assert_eq!(world.texts(0), ["hello back"]);
}

#[test]
fn a_conversation_outlives_its_stores() {
    let seed = 401;
    let mut world = acquainted(seed);
    let mut talk = Talk::of(&mut world);
    let first = world.consensus.generations[0].number;
    for round in 0..6 {
        world.draw();
        for minute in 0..11 {
            for who in 0..2 {
                talk.say(&mut world, who, format!("{who}: round {round}, minute {minute}"));
            }
            if minute == 4 {
                let picture = vec![7; 9_000];
                world.send_file(0, "bob", "picture", &picture);
                let shown = world.shown(1).len();
                world.run_until(MINUTE, |world| world.shown(1).len() > shown + 1);
                let file = world.shown(1).pop().unwrap();
                talk.0[0].push((file.id, file.text));
            }
            world.run(MINUTE);
            world.retire();
        }
        // one of them may have committed this moment
        assert!(world.run_until(MINUTE, followed), "round {round}");
        assert!(world.consensus.generation(first + round).is_none(), "the old stores are gone");
    }
    assert!(world.run_until(5 * MINUTE, |world| talk.delivered(world)));
    talk.exactly_once(&mut world, seed);
    assert!(world.warnings(0).is_empty() && world.warnings(1).is_empty());
}

/// The replica that decides about the slot of a commit is gone while the document still lists it: who wants to commit
/// sees that it is not heard, looks for itself, and gives the slot up after a quarter of the retention.
#[test]
fn a_commit_does_not_hang_on_a_dead_store() {
    for dead in 0..5 {
        let mut world = acquainted(440 + dead as u64);
        let mut talk = Talk::of(&mut world);
        assert!(world.run_until(5 * MINUTE, followed), "the first commits");
        let store = *world.stores.keys().nth(dead).unwrap();
        world.stores.get_mut(&store).unwrap().down = true;
        let before = conversation(&mut world, 0).epoch;
        world.draw_since(5 * MINUTE);
        let began = world.now;
        for n in 0..40 {
            for who in 0..2 {
                talk.say(&mut world, who, format!("{who}: {n}"));
            }
            world.run(Duration::from_secs(1));
        }
        let patience = world.consensus.parameters.retention() / 4;
        let moved = |world: &mut World| conversation(world, 0).epoch > before && followed(world);
        assert!(world.run_until(patience + MINUTE, moved), "store {dead}");
        println!("store {dead} is dead: moved after {:?}", world.now.since(began));
        assert!(world.run_until(MINUTE, |world| talk.delivered(world)), "store {dead}");
        talk.exactly_once(&mut world, dead as u64);
    }
}

/// Both come back at the same time, and for both a commit is due.
fn both_commit(seed: u64) -> bool {
    let mut world = acquainted(seed);
    let mut talk = Talk::of(&mut world);
    assert!(world.run_until(5 * MINUTE, followed), "seed {seed}: the first commits");
    let before = conversation(&mut world, 0).epoch;
    world.draw_since(5 * MINUTE);
    let ordered = |world: &World| {
        [0, 1].map(|who: usize| world.people[who].asked.iter().filter(|(_, kind)| *kind == "put ordered").count())
    };
    let asked = ordered(&world);
    for n in 0..5 {
        for who in 0..2 {
            talk.say(&mut world, who, format!("{who}: {n}"));
        }
        world.run(Duration::from_secs(4));
    }
    assert!(world.run_until(3 * MINUTE, followed), "seed {seed}: they do not converge");
    assert!(world.run_until(3 * MINUTE, |world| talk.delivered(world)), "seed {seed}: not delivered");
    talk.exactly_once(&mut world, seed);
    assert!(conversation(&mut world, 0).epoch > before);
    let after = ordered(&world);
    asked.iter().zip(&after).all(|(before, after)| after > before)
}

#[test]
fn who_commits_at_the_same_time_converges() {
    // more seeds: SHOAL_SEEDS=200 cargo test -p shoal-client --test mail converges
    let seeds = std::env::var("SHOAL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let races = (0..seeds).filter(|n| both_commit(1_000 + n)).count();
    println!("{races} of {seeds} seeds had two commits for one slot");
    assert!(races > 0, "nobody raced");
}

#[test]
fn who_was_away_follows_one_commit_after_another() {
    let seed = 402;
    let mut world = acquainted(seed);
    let mut talk = Talk::of(&mut world);
    assert!(world.run_until(5 * MINUTE, followed));
    talk.say(&mut world, 1, "before I leave".to_owned());
    world.crash(1);
    for n in 0..3 {
        let epoch = conversation(&mut world, 0).epoch;
        talk.say(&mut world, 0, format!("in epoch {epoch}, {n}"));
        world.draw_since(5 * MINUTE);
        assert!(world.run_until(2 * MINUTE, |world| conversation(world, 0).epoch == epoch + 1), "commit {n}");
    }
    talk.say(&mut world, 0, "last".to_owned());
    world.restart(1);
    talk.say(&mut world, 1, "back".to_owned());
    assert!(world.run_until(5 * MINUTE, |world| talk.delivered(world) && followed(world)));
    talk.exactly_once(&mut world, seed);
}

#[test]
fn commits_that_the_stores_lost_are_written_again() {
    let seed = 403;
    let mut world = acquainted(seed);
    let mut talk = Talk::of(&mut world);
    assert!(world.run_until(5 * MINUTE, followed));
    world.crash(1);
    let epoch = conversation(&mut world, 0).epoch;
    world.draw_since(5 * MINUTE);
    talk.say(&mut world, 0, "while you were away".to_owned());
    assert!(world.run_until(2 * MINUTE, |world| conversation(world, 0).epoch == epoch + 1));
    world.run(Duration::from_secs(10));
    world.stores.values_mut().for_each(|store| store.boxes.clear());
    // the slot is there again after a sixteenth of the retention, the commit only after half of it
    world.run(Duration::from_secs(60));
    world.restart(1);
    assert!(world.run_until(8 * MINUTE, |world| talk.delivered(world) && followed(world)));
    talk.exactly_once(&mut world, seed);
}

/// Both clients crash at random points while generations are drawn.
fn crashes(seed: u64) {
    let mut world = acquainted(seed);
    let mut talk = Talk::of(&mut world);
    world.loss = 0.1;
    for round in 0..3 {
        world.draw_since(4 * MINUTE);
        for who in 0..2 {
            talk.say(&mut world, who, format!("{who}: round {round}"));
        }
        let mut crashes = 0;
        while !(followed(&mut world) && talk.delivered(&mut world)) {
            crashes += 1;
            assert!(crashes < 1_000, "seed {seed}: not done in round {round}");
            let run = Duration::from_millis(world.rng.random_range(1..3_000));
            world.run(run);
            let who = world.rng.random_range(0..2);
            world.crash(who);
            world.restart(who);
            if crashes % 7 == 0 {
                talk.say(&mut world, who, format!("{who}: {round}.{crashes}"));
            }
        }
    }
    world.run(MINUTE);
    talk.exactly_once(&mut world, seed);
    assert!((0..2).all(|who| world.mail(who).rolled_back().is_none()), "seed {seed}");
}

#[test]
fn crashes_between_epochs_lose_nothing_and_show_nothing_twice() {
    let seeds = std::env::var("SHOAL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    for seed in 500..500 + seeds {
        crashes(seed);
    }
}

#[test]
fn an_older_copy_that_finds_its_own_commit_stops_itself() {
    let mut world = acquainted(404);
    assert!(world.run_until(5 * MINUTE, followed));
    // nor is anything staged: the copy would know it
    world.run(MINUTE);
    let old = world.people[1].dir.with_extension("old");
    world.crash(1);
    copy(&world.people[1].dir, &old);
    world.restart(1);
    world.crash(0);
    let epoch = conversation(&mut world, 1).epoch;
    world.draw_since(5 * MINUTE);
    assert!(world.run_until(2 * MINUTE, |world| conversation(world, 1).epoch == epoch + 1));
    world.replace_profile(1, &old);
    assert!(world.run_until(2 * MINUTE, |world| world.mail(1).rolled_back().is_some()));
    assert_eq!(conversation(&mut world, 1).epoch, epoch, "nothing of the old state went on");
    world.crash(1);
    world.restart(1);
    assert!(world.mail(1).rolled_back().is_some());
    let asked = world.people[1].asked.len();
    world.run(MINUTE);
    assert!(world.people[1].asked[asked..].iter().all(|(_, kind)| !kind.starts_with("put")));
}
