//! The own address is given up: who is in a conversation follows, who only has the old one does not reach anybody.

use crate::groups::{create, group};
use crate::world::World;
use shoal_client::mail::{MailError, MemberState, MessageState};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn new_address(world: &mut World, who: usize) -> String {
    let (now, mut rng) = (world.now, world.fork());
    let address = world.mail(who).new_address(now, &mut rng).unwrap();
    assert_eq!(world.mail(who).address(), address);
    address
}

/// Two who have written to each other, each the other's contact.
fn pair(seed: u64, people: usize) -> World {
    let mut world = World::new(seed, people);
    world.run(MINUTE);
    let invite = world.invite(0, "bob");
    world.add(1, "alice", &invite.text);
    let met = |world: &mut World| (0..2).all(|who| world.mail(who).conversations().unwrap().len() == 1);
    assert!(world.run_until(20 * MINUTE, met));
    let [there, back] = [(1, "alice"), (0, "bob")].map(|(who, to)| (who, world.send(who, to, "hello")));
    let both = |world: &mut World| [there, back].iter().all(|(who, id)| world.all_delivered(*who, &[*id]));
    assert!(world.run_until(20 * MINUTE, both));
    world
}

fn contact(world: &mut World, who: usize) -> shoal_client::mail::ContactInfo {
    let mut contacts = world.mail(who).contacts().unwrap();
    assert_eq!(contacts.len(), 1);
    contacts.remove(0)
}

fn retention(world: &World) -> Duration {
    world.consensus.parameters.retention()
}

#[test]
fn a_contact_follows_and_nothing_that_is_said_meanwhile_is_lost() {
    for seed in 0..6 {
        let mut world = pair(900 + seed, 2);
        let number = world.mail(0).safety_number("bob").unwrap().number;
        world.mail(0).verify("bob", None).unwrap();
        let before = world.mail(1).address();
        let mut sent = vec![(0, world.send(0, "bob", "one")), (1, world.send(1, "alice", "two"))];
        let after = new_address(&mut world, 1);
        assert_ne!(before, after);
        assert_eq!(world.mail(1).moving().unwrap(), 1);
        for n in 0..6 {
            world.run(Duration::from_secs(5));
            let who = n % 2;
            world.crash(who);
            world.restart(who);
            let to = ["bob", "alice"][who];
            sent.push((who, world.send(who, to, &format!("{n}"))));
        }
        let there = |world: &mut World| {
            world.mail(1).moving().unwrap() == 0
                && contact(world, 0).address == after
                && sent.iter().all(|(who, id)| world.all_delivered(*who, &[*id]))
        };
        assert!(world.run_until(30 * MINUTE, there), "seed {seed}");
        let found = contact(&mut world, 0);
        assert_eq!((found.name.as_str(), found.request, found.verified), ("bob", false, true), "seed {seed}");
        assert!(world.warnings(0).contains(&"new_address"));
        assert_eq!(world.mail(0).conversations().unwrap().len(), 1);
        assert_eq!(world.texts(0).len() + world.texts(1).len(), 2 + sent.len(), "seed {seed}: each once");
        // both see the same other number
        let numbers = [(0, "bob"), (1, "alice")].map(|(who, to)| world.mail(who).safety_number(to).unwrap().number);
        assert_eq!(numbers[0], numbers[1]);
        assert_ne!(numbers[0], number);
        // the old address still names the same person, and never oneself
        assert_eq!(world.mail(0).safety_number(&before).unwrap().contact.name, "bob");
        assert!(matches!(world.mail(1).safety_number(&before), Err(MailError::Oneself)));
    }
}

#[test]
fn a_stranger_reaches_the_new_address_and_not_the_old_one() {
    let mut world = pair(910, 4);
    let before = world.mail(1).address();
    world.add(2, "bob", &before);
    let after = new_address(&mut world, 1);
    world.add(3, "bob", &after);
    let [old, new] = [2, 3].map(|who| world.send(who, "bob", "hello"));
    assert!(world.run_until(30 * MINUTE, |world| world.shown(1).len() == 2));
    let shown = world.shown(1).remove(1);
    assert!(shown.request && shown.from == world.address(3), "{shown:?}");
    world.run(15 * MINUTE);
    assert_eq!(world.shown(1).len(), 2, "the other one is not heard");
    assert_eq!(world.state(2, old), MessageState::Stored, "and is not told either");
    assert!(world.state(3, new) >= MessageState::Stored);
}

#[test]
fn a_contact_who_writes_first_to_the_old_address_is_heard() {
    // each knows the other, and there is no conversation yet
    let mut world = World::new(915, 2);
    world.run(MINUTE);
    let [alice, bob] = [0, 1].map(|who| world.address(who));
    world.add(0, "bob", &bob);
    world.add(1, "alice", &alice);
    // her letter lies in the inbox of the address that is given up before it is read
    world.crash(1);
    let id = world.send(0, "bob", "hello");
    assert!(world.run_until(20 * MINUTE, |world| world.people[0].asked.iter().any(|(_, kind)| *kind == "append")));
    world.run(MINUTE / 4);
    world.restart(1);
    let after = new_address(&mut world, 1);
    assert!(world.run_until(60 * MINUTE, |world| world.all_delivered(0, &[id])));
    assert!(!world.shown(1)[0].request);
    assert!(world.run_until(30 * MINUTE, |world| contact(world, 0).address == after));
}

#[test]
fn a_request_that_was_there_before_is_accepted_under_the_old_address_and_moves() {
    let mut world = World::new(920, 2);
    let before = world.address(1);
    world.add(0, "bob", &before);
    let first = world.send(0, "bob", "hello");
    assert!(world.run_until(30 * MINUTE, |world| world.shown(1).len() == 1));
    let after = new_address(&mut world, 1);
    world.run(5 * MINUTE);
    assert_eq!(world.mail(1).moving().unwrap(), 0, "a stranger is told nothing");
    assert_eq!(contact(&mut world, 0).address, before);
    let whom = world.address(0);
    world.accept(1, &whom);
    let done = |world: &mut World| world.all_delivered(0, &[first]) && contact(world, 0).address == after;
    assert!(world.run_until(30 * MINUTE, done));
}

#[test]
fn an_invite_of_the_old_address_can_be_used() {
    let mut world = World::new(925, 2);
    world.run(MINUTE);
    let invite = world.invite(0, "bob");
    world.run(MINUTE);
    let after = new_address(&mut world, 0);
    let now = world.now;
    assert_eq!(world.mail(0).invites(now).unwrap()[0].text, invite.text);
    world.add(1, "alice", &invite.text);
    let id = world.send(1, "alice", "hello");
    let done = |world: &mut World| world.all_delivered(1, &[id]) && contact(world, 1).address == after;
    assert!(world.run_until(30 * MINUTE, done));
    assert!(!world.shown(0)[0].request);
}

#[test]
fn all_of_a_group_move_at_once_and_somebody_is_added_meanwhile() {
    for seed in 0..4 {
        let mut world = World::new(930 + seed, 4);
        let id = create(&mut world, 0, "reef crew");
        for whom in 1..3 {
            let (now, address) = (world.now, world.address(whom));
            world.mail(0).group_add(&id, &address, now).unwrap();
        }
        let joined = |world: &mut World| {
            for who in 1..3 {
                if group(world, who).is_some_and(|group| group.request) {
                    world.accept(who, &id);
                }
            }
            (0..3).all(|who| group(world, who).is_some_and(|group| group.members.len() == 3))
        };
        assert!(world.run_until(30 * MINUTE, joined), "seed {seed}");
        world.run(10 * MINUTE);
        for who in 0..3 {
            new_address(&mut world, who);
            world.send(who, &id, &format!("from {who}"));
        }
        let (now, address) = (world.now, world.address(3));
        world.mail(1).group_add(&id, &address, now).unwrap();
        world.run(Duration::from_secs(10));
        world.crash(1);
        world.restart(1);
        let moved = |world: &mut World| {
            if group(world, 3).is_some_and(|group| group.request) {
                world.accept(3, &id);
            }
            let mut addresses: Vec<String> = (0..4).map(|who| world.mail(who).address()).collect();
            addresses.sort();
            (0..4).all(|who| {
                group(world, who).is_some_and(|group| {
                    let mut here: Vec<String> = group.members.iter().map(|member| member.address.clone()).collect();
                    here.sort();
                    let sound = |state: MemberState| matches!(state, MemberState::Member | MemberState::Invited);
                    here == addresses && group.members.iter().all(|member| sound(member.state)) && !group.broken
                })
            }) && (0..3).all(|who| world.texts(who).len() == 2 && world.mail(who).moving().unwrap() == 0)
        };
        assert!(world.run_until(60 * MINUTE, moved), "seed {seed}");
        let last = world.send(3, &id, "all of you");
        assert!(world.run_until(20 * MINUTE, |world| world.all_delivered(3, &[last])), "seed {seed}");
    }
}

/// Looks into own inboxes while so much time goes by.
fn reads(world: &mut World, during: Duration) -> usize {
    let count = |world: &World| world.people[1].asked.iter().filter(|(_, kind)| *kind == "read").count();
    let before = count(world);
    world.run(during);
    count(world) - before
}

#[test]
fn who_watches_inboxes_sees_none_end_where_another_begins() {
    let (mut one, mut two, mut half) = (0, 0, 0);
    for seed in 0..6 {
        let mut world = pair(940 + seed, 2);
        let retention = retention(&world);
        let first = reads(&mut world, retention / 2);
        one += first;
        new_address(&mut world, 1);
        two += reads(&mut world, retention / 2);
        half += reads(&mut world, retention / 2);
        let over = reads(&mut world, retention / 2);
        assert!(over * 3 < first * 5, "only one is read: {first}, then {over}");
    }
    assert!(two * 10 > one * 16, "both inboxes are read for half a retention: {one}, then {two}");
    // and then each to another end: some of them soon, others late
    assert!(half * 100 > one * 105 && half * 10 < one * 20, "{one}, {half}");
}

#[test]
fn in_the_end_the_old_key_is_gone() {
    let mut world = pair(955, 2);
    new_address(&mut world, 1);
    let time = retention(&world) * 4;
    world.run(time);
    world.crash(1);
    let db = rusqlite::Connection::open(world.people[1].dir.join("profile.db")).unwrap();
    let keys: u64 = db.query_row("SELECT count(*) FROM own_key", [], |row| row.get(0)).unwrap();
    assert_eq!(keys, 1);
    drop(db);
    world.restart(1);
    let id = world.send(0, "bob", "still there?");
    assert!(world.run_until(30 * MINUTE, |world| world.all_delivered(0, &[id])));
}

#[test]
fn somebody_added_by_hand_under_the_new_address_is_the_same_person() {
    let mut world = pair(950, 2);
    let after = new_address(&mut world, 1);
    world.add(0, "bob again", &after);
    assert!(world.run_until(30 * MINUTE, |world| world.mail(1).moving().unwrap() == 0));
    assert!(world.run_until(30 * MINUTE, |world| world.mail(0).contacts().unwrap().len() == 1));
    let found = contact(&mut world, 0);
    assert_eq!((found.name.as_str(), found.address.as_str()), ("bob", after.as_str()));
    let id = world.send(0, "bob", "hello again");
    assert!(world.run_until(20 * MINUTE, |world| world.all_delivered(0, &[id])));
}

#[test]
fn whom_one_knows_by_both_addresses_is_one_person_with_all_that_was_said() {
    // unnamed in a group by the old address; named, verified and written to by the new one
    let mut world = World::new(965, 3);
    let id = create(&mut world, 2, "reef crew");
    for whom in 0..2 {
        let (now, address) = (world.now, world.address(whom));
        world.mail(2).group_add(&id, &address, now).unwrap();
    }
    let joined = |world: &mut World| {
        for who in 0..2 {
            if group(world, who).is_some_and(|group| group.request) {
                world.accept(who, &id);
            }
        }
        (0..3).all(|who| group(world, who).is_some_and(|group| group.members.len() == 3))
    };
    assert!(world.run_until(30 * MINUTE, joined));
    let first = world.send(1, &id, "hello all");
    assert!(world.run_until(20 * MINUTE, |world| world.all_delivered(1, &[first])));
    let after = new_address(&mut world, 1);
    world.add(0, "bob", &after);
    world.mail(0).verify("bob", None).unwrap();
    let second = world.send(0, "bob", "hello bob");
    let moved = |world: &mut World| {
        let found = world.mail(1).conversations().unwrap();
        if let Some(request) = found.iter().find(|one| one.request) {
            let whom = request.id.to_string();
            world.accept(1, &whom);
        }
        world.mail(1).moving().unwrap() == 0 && world.all_delivered(0, &[second])
    };
    assert!(world.run_until(60 * MINUTE, moved));
    let one = |world: &mut World| {
        let named: Vec<_> = world.mail(0).contacts().unwrap().into_iter().filter(|one| one.address == after).collect();
        let here = group(world, 0).unwrap().members.iter().filter(|member| member.name == "bob").count();
        here == 1 && matches!(named.as_slice(), [bob] if bob.name == "bob" && bob.verified)
    };
    assert!(world.run_until(30 * MINUTE, one));
    assert!(world.mail(0).overview().unwrap().len() >= 2);
    let shown = world.shown(0);
    assert!(shown.iter().any(|message| message.text == "hello all" && message.from == "bob"), "{shown:?}");
    let ids = [world.send(0, "bob", "and again"), world.send(0, &id, "to all")];
    assert!(world.run_until(20 * MINUTE, |world| world.all_delivered(0, &ids)));
}

#[test]
fn who_is_added_a_second_time_by_the_other_address_takes_the_first_place_away() {
    let mut world = World::new(970, 3);
    let id = create(&mut world, 0, "reef crew");
    let (now, before) = (world.now, world.address(1));
    world.mail(0).group_add(&id, &before, now).unwrap();
    // a request: nobody learns of the new address before it is accepted
    assert!(world.run_until(30 * MINUTE, |world| group(world, 1).is_some_and(|group| group.request)));
    let after = new_address(&mut world, 1);
    world.run(2 * MINUTE);
    let now = world.now;
    world.mail(0).group_add(&id, &after, now).unwrap();
    assert!(world.run_until(30 * MINUTE, |world| group(world, 0).is_some_and(|group| group.members.len() == 3)));
    world.accept(1, &id);
    let once = |world: &mut World| {
        (0..2).all(|who| {
            group(world, who).is_some_and(|group| {
                group.members.len() == 2 && !group.broken && group.members.iter().any(|member| member.address == after)
            })
        })
    };
    assert!(world.run_until(60 * MINUTE, once), "{:?}", group(&mut world, 1));
    let sent = [(0, "one"), (1, "two")].map(|(who, text)| (who, world.send(who, &id, text)));
    assert!(world.run_until(30 * MINUTE, |world| sent.iter().all(|(who, id)| world.all_delivered(*who, &[*id]))));
}

#[test]
fn so_many_addresses_can_be_given_up_and_all_who_know_one_follow() {
    let mut world = pair(960, 2);
    for _ in 0..16 {
        new_address(&mut world, 1);
    }
    let (now, mut rng) = (world.now, world.fork());
    assert!(matches!(world.mail(1).new_address(now, &mut rng), Err(MailError::Address(_))));
    let last = world.mail(1).address();
    assert!(world.run_until(30 * MINUTE, |world| contact(world, 0).address == last), "in one step");
}

/// Who is 1 is away until the stores have forgotten what it would have to read. Both have written meanwhile.
fn back_after_all(world: &mut World, moved: usize, after: &str) {
    world.crash(1);
    let sent = world.send(0, "bob", "while you were away");
    world.forget_all();
    world.restart(1);
    let back = world.send(1, "alice", "I am back");
    let done = |world: &mut World| {
        world.all_delivered(0, &[sent]) && world.all_delivered(1, &[back]) && contact(world, 1 - moved).address == after
    };
    assert!(world.run_until(90 * MINUTE, done), "{:?} {:?}", world.warnings(0), world.warnings(1));
    assert_eq!((0..2).map(|who| world.mail(who).conversations().unwrap().len()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(world.texts(1).iter().filter(|text| *text == "while you were away").count(), 1);
}

#[test]
fn who_gives_the_address_up_and_is_away_for_too_long_is_added_again() {
    let mut world = pair(980, 2);
    let after = new_address(&mut world, 1);
    back_after_all(&mut world, 1, &after);
}

#[test]
fn who_was_away_for_too_long_hears_of_a_move() {
    let mut world = pair(985, 2);
    let after = new_address(&mut world, 0);
    back_after_all(&mut world, 0, &after);
}
