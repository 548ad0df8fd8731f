//! Groups: people join, leave and are removed, all at once and while their clients crash; those who stay read the same.

use crate::world::World;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use shoal_client::mail::{ConversationInfo, MailError, MemberState, MessageId, Standing};
use std::collections::BTreeMap;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// The only group of somebody.
pub(crate) fn group(world: &mut World, who: usize) -> Option<ConversationInfo> {
    let mut groups: Vec<_> = world.mail(who).conversations().unwrap().into_iter().filter(|found| found.group).collect();
    assert!(groups.len() < 2);
    groups.pop()
}

pub(crate) fn create(world: &mut World, who: usize, name: &str) -> String {
    // a document is known from the first tick on
    world.run(Duration::from_secs(2));
    let (now, mut rng) = (world.now, world.fork());
    world.mail(who).group_create(name, now, &mut rng).unwrap().id.to_string()
}

fn add(world: &mut World, who: usize, group: &str, whom: usize) {
    let (now, address) = (world.now, world.address(whom));
    world.mail(who).group_add(group, &address, now).unwrap();
}

fn remove(world: &mut World, who: usize, group: &str, whom: usize) {
    let address = world.address(whom);
    world.mail(who).group_remove(group, &address).unwrap();
}

fn leave(world: &mut World, who: usize, group: &str) {
    let mut rng = world.fork();
    world.mail(who).group_leave(group, &mut rng).unwrap();
}

/// Who sees what, for the message of a test that failed.
fn picture(world: &mut World) -> String {
    let mut lines = Vec::new();
    for who in 0..world.people.len() {
        let name = world.address(who);
        let short = |address: &str| address.chars().skip(address.len() - 4).collect::<String>();
        for found in world.mail(who).conversations().unwrap() {
            let members: Vec<String> =
                found.members.iter().map(|member| format!("{} {:?}", short(&member.address), member.state)).collect();
            let (standing, epoch, generation) = (found.standing, found.epoch, found.generation);
            lines.push(format!(
                "{who} = {}: {standing:?}, epoch {epoch}, generation {generation}, broken {}, undelivered {}, {members:?}, {:?}",
                short(&name),
                found.broken,
                found.undelivered,
                world.warnings(who)
            ));
        }
    }
    lines.join("\n")
}

/// Whether all of these, and nobody else, are members for each other, in one epoch.
fn settled(world: &mut World, who: &[usize]) -> bool {
    let mut addresses: Vec<String> = who.iter().map(|who| world.address(*who)).collect();
    addresses.sort();
    let mut epochs = Vec::new();
    for member in who {
        let Some(group) = group(world, *member) else { return false };
        assert!(!group.broken);
        let mut here: Vec<String> = group.members.iter().map(|member| member.address.clone()).collect();
        here.sort();
        let sound =
            group.members.iter().all(|member| matches!(member.state, MemberState::Member | MemberState::Invited));
        if !sound || here != addresses {
            return false;
        }
        epochs.push(group.epoch);
    }
    epochs.iter().all(|epoch| *epoch == epochs[0])
}

/// A group of all, founded by the first, whose requests all accept.
fn group_of_all(seed: u64, people: usize) -> (World, String) {
    let mut world = World::new(seed, people);
    let id = create(&mut world, 0, "reef crew");
    for whom in 1..people {
        add(&mut world, 0, &id, whom);
    }
    let all: Vec<usize> = (0..people).collect();
    let joined = |world: &mut World| {
        world.accept_group(&id, &all);
        settled(world, &all)
    };
    assert!(world.eventually(20 * MINUTE, joined), "seed {seed}: they do not come together");
    (world, id)
}

/// What was sent, by sender.
#[derive(Default)]
struct Talk(BTreeMap<usize, Vec<(MessageId, String)>>);

impl Talk {
    fn say(&mut self, world: &mut World, who: usize, to: &str, text: String) {
        let id = world.send(who, to, &text);
        self.0.entry(who).or_default().push((id, text));
    }
    fn delivered(&self, world: &mut World, by: &[usize]) -> bool {
        by.iter().all(|who| {
            let ids: Vec<_> = self.0.get(who).into_iter().flatten().map(|(id, _)| *id).collect();
            world.all_delivered(*who, &ids)
        })
    }
    /// What a reader has of a sender.
    fn read(world: &mut World, reader: usize, sender: usize) -> Vec<(MessageId, String)> {
        let from = world.address(sender);
        let shown = world.shown(reader).into_iter().filter(|message| message.address == from);
        shown.map(|message| (message.id, message.text)).collect()
    }
    /// Each of these read all that each other of them wrote, once and in order.
    fn exactly_once(&self, world: &mut World, who: &[usize], seed: u64) {
        for reader in who {
            for sender in who.iter().filter(|sender| *sender != reader) {
                let sent = self.0.get(sender).cloned().unwrap_or_default();
                assert_eq!(Self::read(world, *reader, *sender), sent, "seed {seed}: {reader} of {sender}");
            }
        }
    }
}

#[test]
fn a_group_of_three_talks() {
    let seed = 600;
    let (mut world, id) = group_of_all(seed, 3);
    let mut talk = Talk::default();
    for n in 0..5 {
        for who in 0..3 {
            talk.say(&mut world, who, &id, format!("{who}: {n}"));
        }
        world.run(Duration::from_secs(2));
    }
    assert!(world.eventually(3 * MINUTE, |world| talk.delivered(world, &[0, 1, 2])));
    talk.exactly_once(&mut world, &[0, 1, 2], seed);
    // a file, and the name by which everybody can write to it
    world.send_file(1, "reef crew", "shoal.png", &[9; 20_000]);
    let file = |world: &mut World, who: usize| {
        let last = world.shown(who).pop().unwrap();
        last.file.is_some_and(|file| std::fs::read(file.path).unwrap() == [9; 20_000])
    };
    assert!(world.eventually(3 * MINUTE, |world| file(world, 0) && file(world, 2)));
    assert!((0..3).all(|who| world.warnings(who).is_empty()));
}

#[test]
fn a_strangers_group_is_a_request() {
    let mut world = World::new(601, 3);
    let id = create(&mut world, 0, "spam");
    add(&mut world, 0, &id, 1);
    add(&mut world, 0, &id, 2);
    world.eventually(5 * MINUTE, |world| group(world, 1).is_some() && group(world, 2).is_some());
    world.send(0, &id, "hello strangers");
    assert!(world.eventually(5 * MINUTE, |world| world.shown(1).len() == 1 && world.shown(2).len() == 1));
    assert!(world.shown(1)[0].request);
    let written = |world: &World, who: usize| {
        world.people[who].asked.iter().filter(|(_, kind)| kind.starts_with("put ordered")).count()
    };
    assert_eq!(written(&world, 1), 0);
    // one accepts by answering, the other refuses, and the founder sees no difference between that and silence
    world.send(1, &id, "hello");
    let (now, mut rng) = (world.now, world.fork());
    world.mail(2).block(&id, now, &mut rng).unwrap();
    assert!(world.eventually(5 * MINUTE, |world| world.texts(0) == ["hello"]));
    assert!(!group(&mut world, 1).unwrap().request);
    assert_eq!(group(&mut world, 2).unwrap().standing, Standing::Removed);
    assert_eq!(written(&world, 2), 0);
    let (now, mut rng) = (world.now, world.fork());
    assert!(matches!(world.mail(2).send(&id, "no", now, &mut rng), Err(MailError::NotAMember(_))));
    // nor can the founder bring them back who refused
    remove(&mut world, 0, &id, 2);
    assert!(world.eventually(5 * MINUTE, |world| settled(world, &[0, 1])));
    add(&mut world, 0, &id, 2);
    assert!(
        world.eventually(5 * MINUTE, |world| settled(world, &[0, 1, 2]) || group(world, 0).unwrap().members.len() == 3)
    );
    world.run(5 * MINUTE);
    assert_eq!(group(&mut world, 2).unwrap().standing, Standing::Removed);
}

#[test]
fn who_is_removed_reads_nothing_more_and_who_is_added_nothing_of_before() {
    let seed = 602;
    let (mut world, id) = group_of_all(seed, 4);
    let mut talk = Talk::default();
    talk.say(&mut world, 3, &id, "before".to_owned());
    assert!(world.eventually(3 * MINUTE, |world| talk.delivered(world, &[3])));
    // more than a chain takes at a time: some of it is not sealed yet when the removal comes, and the client goes on
    for n in 0..400 {
        world.send(3, &id, &format!("too late {n}"));
    }
    remove(&mut world, 1, &id, 3);
    assert!(world.eventually(5 * MINUTE, |world| settled(world, &[0, 1, 2])));
    assert!(world.eventually(5 * MINUTE, |world| group(world, 3).unwrap().standing == Standing::Removed));
    talk.say(&mut world, 0, &id, "without the fourth".to_owned());
    assert!(world.eventually(3 * MINUTE, |world| talk.delivered(world, &[0])));
    world.run(2 * MINUTE);
    assert_eq!(Talk::read(&mut world, 3, 0), []);
    let (now, mut rng) = (world.now, world.fork());
    assert!(matches!(world.mail(3).send(&id, "still here", now, &mut rng), Err(MailError::NotAMember(_))));
    assert_eq!(Talk::read(&mut world, 2, 3)[..1], talk.0[&3]);
    assert_eq!(world.mail(3).queue_length().unwrap(), 0, "nothing of it waits any more");
    let friend = world.address(0);
    let elsewhere = world.send(3, &friend, "what happened?");
    assert!(world.eventually(5 * MINUTE, |world| world.shown(0).iter().any(|message| message.id == elsewhere)));
    assert!((0..4).all(|who| world.warnings(who).is_empty()));
}

/// Whoever takes an addition back, or blocks who is being added, is obeyed also when the commit that adds them is on its way;
/// and nobody is ever a member who has no letter.
#[test]
fn an_addition_can_be_taken_back_at_any_moment() {
    let seed = 606;
    let mut world = World::new(seed, 3);
    let id = create(&mut world, 0, "reef crew");
    add(&mut world, 0, &id, 1);
    assert!(world.eventually(20 * MINUTE, |world| group(world, 1).is_some()));
    world.accept(1, &id);
    assert!(world.eventually(20 * MINUTE, |world| settled(world, &[0, 1])));
    let address = world.address(2);
    let (mut too_late, mut in_time) = (0, 0);
    for round in 0..24 {
        let epoch = group(&mut world, 0).unwrap().epoch;
        add(&mut world, 0, &id, 2);
        world.run(Duration::from_secs(round));
        // a member already, and no addition to take back any more
        let here = group(&mut world, 0).unwrap().epoch > epoch;
        if round % 2 == 0 {
            remove(&mut world, 0, &id, 2);
        } else {
            let (now, mut rng) = (world.now, world.fork());
            world.mail(0).block(&address, now, &mut rng).unwrap();
            world.accept(0, &address);
            if here {
                // whom the user blocks stays in their groups
                remove(&mut world, 0, &id, 2);
            }
        }
        world.run(MINUTE);
        assert!(
            world.eventually(20 * MINUTE, |world| settled(world, &[0, 1])),
            "round {round}:\n{}",
            picture(&mut world)
        );
        let epochs = group(&mut world, 0).unwrap().epoch - epoch;
        match (here, epochs) {
            (false, 0) => in_time += 1,
            (false, _) => too_late += 1,
            (true, _) => {}
        }
    }
    assert!(in_time > 0 && too_late > 0, "in time {in_time}, too late {too_late}");
    add(&mut world, 0, &id, 2);
    let joined = |world: &mut World| {
        world.accept_group(&id, &[2]);
        settled(world, &[0, 1, 2])
    };
    assert!(world.eventually(30 * MINUTE, joined), "{}", picture(&mut world));
    let mut talk = Talk::default();
    for who in 0..3 {
        talk.say(&mut world, who, &id, format!("{who} is here"));
    }
    assert!(world.eventually(5 * MINUTE, |world| talk.delivered(world, &[0, 1, 2])), "{}", picture(&mut world));
}

/// The letter is read long before the commit that makes room for it.
#[test]
fn who_is_removed_and_added_again_while_away_comes_back_to_it() {
    let seed = 608;
    let (mut world, id) = group_of_all(seed, 3);
    world.crash(2);
    remove(&mut world, 0, &id, 2);
    assert!(world.eventually(20 * MINUTE, |world| settled(world, &[0, 1])));
    add(&mut world, 0, &id, 2);
    let back = |world: &mut World| {
        let group = group(world, 0).unwrap();
        group.members.iter().filter(|member| member.state == MemberState::Invited).count() == 1
    };
    assert!(world.eventually(20 * MINUTE, back));
    // both replicas have the letter
    world.run(5 * MINUTE);
    world.restart(2);
    let joined = |world: &mut World| {
        world.accept_group(&id, &[2]);
        settled(world, &[0, 1, 2])
    };
    assert!(world.eventually(60 * MINUTE, joined), "{}", picture(&mut world));
    let mut talk = Talk::default();
    for who in 0..3 {
        talk.say(&mut world, who, &id, format!("{who} is here"));
    }
    assert!(world.eventually(10 * MINUTE, |world| talk.delivered(world, &[0, 1, 2])), "{}", picture(&mut world));
    talk.exactly_once(&mut world, &[0, 1, 2], seed);
}

#[test]
fn who_leaves_says_a_last_word() {
    let seed = 603;
    let (mut world, id) = group_of_all(seed, 4);
    let mut talk = Talk::default();
    talk.say(&mut world, 2, &id, "farewell".to_owned());
    leave(&mut world, 2, &id);
    let (now, mut rng) = (world.now, world.fork());
    assert!(matches!(world.mail(2).send(&id, "one more thing", now, &mut rng), Err(MailError::NotAMember(_))));
    assert!(world.eventually(5 * MINUTE, |world| settled(world, &[0, 1, 3])));
    assert!(world.eventually(15 * MINUTE, |world| group(world, 2).unwrap().standing == Standing::Removed));
    for reader in [0, 1, 3] {
        assert_eq!(Talk::read(&mut world, reader, 2), talk.0[&2], "{reader}");
    }
    talk.say(&mut world, 0, &id, "the three of us".to_owned());
    assert!(world.eventually(3 * MINUTE, |world| talk.delivered(world, &[0])));
    // the last one out
    for who in [0, 1, 3] {
        leave(&mut world, who, &id);
    }
    world.run(5 * MINUTE);
    let over = |world: &mut World, who: usize| group(world, who).unwrap().standing != Standing::Member;
    assert!([0, 1, 3].iter().all(|who| over(&mut world, *who)));
}

#[test]
fn everybody_sees_a_new_name() {
    let (mut world, id) = group_of_all(604, 3);
    world.mail(1).group_rename(&id, "night watch").unwrap();
    // whoever gave the name uses it at once, before the others know it
    world.send(1, "night watch", "who is up?");
    world.mail(2).group_rename(&id, "day watch").unwrap();
    let named = |world: &mut World| {
        let names: Vec<String> = (0..3).map(|who| group(world, who).unwrap().name).collect();
        names.iter().all(|name| *name == names[0] && name.ends_with("watch")) && settled(world, &[0, 1, 2])
    };
    world.run(MINUTE);
    assert!(world.eventually(5 * MINUTE, named));
}

/// Ten people, of whom at any time some are in the group: joins, removals, leavings, names, all at once, while clients
/// crash and requests are lost. At the end those in it agree who is in it, and each of them has all that was written while
/// both were members.
fn commotion(seed: u64) {
    let people = 10;
    let (mut world, id) = group_of_all(seed, people);
    world.loss = 0.05;
    let mut talk = Talk::default();
    let all: Vec<usize> = (0..people).collect();
    let (core, outer) = all.split_at(6);
    let mut gone: Vec<usize> = Vec::new();
    for round in 0..12 {
        for who in core {
            if world.rng.random_bool(0.5) {
                talk.say(&mut world, *who, &id, format!("{who}: round {round}"));
            }
        }
        // two at a time, who do not know of each other
        for _ in 0..2 {
            let actor = *core.choose(&mut world.rng).unwrap();
            let other = *outer.choose(&mut world.rng).unwrap();
            let address = world.address(other);
            let now = world.now;
            if world.rng.random_bool(0.3) {
                drop(world.mail(actor).group_rename(&id, &format!("crew {round}")));
            } else if gone.contains(&other) {
                // refused when it is in it again already, as far as the actor knows
                drop(world.mail(actor).group_add(&id, &address, now));
                gone.retain(|who| *who != other);
            } else {
                drop(world.mail(actor).group_remove(&id, &address));
                gone.push(other);
            }
        }
        for _ in 0..6 {
            let time = Duration::from_millis(world.rng.random_range(1..6_000));
            world.run(time);
            let who = world.rng.random_range(0..people);
            world.crash(who);
            world.restart(who);
        }
    }
    world.loss = 0.0;
    let agreed = |world: &mut World| {
        let view = group(world, 0).unwrap();
        let inside: Vec<usize> = all
            .iter()
            .copied()
            .filter(|who| view.members.iter().any(|member| member.address == world.address(*who)))
            .collect();
        core.iter().all(|who| inside.contains(who)) && settled(world, &inside)
    };
    let done = |world: &mut World| {
        world.accept_group(&id, outer);
        agreed(world) && talk.delivered(world, core)
    };
    let done = world.eventually(30 * MINUTE, done);
    assert!(done, "seed {seed}: they do not agree\n{}", picture(&mut world));
    world.run(2 * MINUTE);
    talk.exactly_once(&mut world, core, seed);
    // who comes and goes has no gaps within a membership, and nothing twice
    for reader in outer {
        for sender in core {
            let read = Talk::read(&mut world, *reader, *sender);
            let sent = &talk.0.get(sender).cloned().unwrap_or_default();
            let mut rest = sent.iter();
            assert!(read.iter().all(|message| rest.any(|sent| sent == message)), "seed {seed}: {reader} of {sender}");
        }
    }
    assert!(all.iter().all(|who| world.mail(*who).rolled_back().is_none()), "seed {seed}");
}

#[test]
fn ten_people_agree_whatever_they_do_and_whoever_crashes() {
    let seeds = std::env::var("SHOAL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    for seed in 610..610 + seeds {
        commotion(seed);
    }
}

/// Somebody was away for so long that the stores forgot what they would have to read. They are told so, and are members again
/// when a member's client sees that they are back; what was written meanwhile, on both sides, arrives.
fn back_after_all(seed: u64, people: usize) {
    let (mut world, id) = group_of_all(seed, people);
    let all: Vec<usize> = (0..people).collect();
    let (last, rest) = (people - 1, &all[..people - 1]);
    world.run(MINUTE);
    world.crash(last);
    let mut talk = Talk::default();
    talk.say(&mut world, 0, &id, "while you were away".to_owned());
    let listed = world.consensus.generations.len();
    world.forget_all();
    assert!(listed == 1 && world.consensus.generations.len() < 4);
    assert!(world.eventually(5 * MINUTE, |world| {
        let lost = group(world, 0).unwrap().members.into_iter().filter(|member| member.state == MemberState::Away);
        lost.count() == 1
    }));
    assert!(!talk.delivered(&mut world, &[0]), "nobody says delivered of what is not");
    world.restart(last);
    talk.say(&mut world, last, &id, "I am back".to_owned());
    assert!(world.eventually(5 * MINUTE, |world| world.warnings(last).contains(&"away_too_long")));
    let done = |world: &mut World| settled(world, &all) && talk.delivered(world, &[0, last]);
    let back = world.eventually(40 * MINUTE, done);
    assert!(back, "seed {seed}: not back\n{}", picture(&mut world));
    world.run(MINUTE);
    talk.exactly_once(&mut world, &all, seed);
    assert!(world.warnings(last).contains(&"added_again"));
    assert!(rest.iter().all(|who| world.warnings(*who).is_empty()));
}

#[test]
fn who_was_away_for_too_long_is_added_again() {
    back_after_all(605, 3);
    back_after_all(606, 2);
}

#[test]
fn two_people_find_each_other_again_after_the_stores_forgot_them() {
    let seed = 607;
    let mut world = crate::messages::acquainted(seed);
    world.run(2 * MINUTE);
    world.crash(1);
    let before = world.shown(0).len();
    let sent = world.send(0, "bob", "while you were away");
    world.forget_all();
    world.restart(1);
    let back = world.send(1, "alice", "I am back");
    let done = |world: &mut World| world.all_delivered(0, &[sent]) && world.all_delivered(1, &[back]);
    let found = world.eventually(60 * MINUTE, done);
    assert!(found, "{}", picture(&mut world));
    assert_eq!(world.texts(1).iter().filter(|text| *text == "while you were away").count(), 1);
    assert_eq!(world.shown(0).len(), before + 1);
    assert_eq!(world.mail(0).conversations().unwrap().len(), 1);
}

/// From the moment on in which the user removes somebody nothing that the user writes can be read by them.
#[test]
fn who_is_removed_reads_nothing_that_the_remover_writes_after() {
    for seed in 630..634 {
        let (mut world, id) = group_of_all(seed, 3);
        let wait = world.rng.random_range(0..4_000);
        remove(&mut world, 0, &id, 2);
        world.send(0, &id, "about her");
        world.run(Duration::from_millis(wait));
        world.send(0, &id, "also about her");
        let read = |world: &mut World| world.texts(1).ends_with(&["about her".to_owned(), "also about her".to_owned()]);
        assert!(world.eventually(5 * MINUTE, read), "seed {seed}: {}", picture(&mut world));
        world.run(5 * MINUTE);
        assert!(!world.texts(2).iter().any(|text| text.contains("about her")), "seed {seed}");
    }
}
