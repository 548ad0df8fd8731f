//! Invites: for one person, once.

use crate::world::World;
use shoal_client::mail::{INVITES_MAX, InviteInfo, MailError, MessageState};
use shoal_protocol::invite::Invite;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// A world in which all have seen a document.
fn world(seed: u64, people: usize) -> World {
    let mut world = World::new(seed, people);
    world.run(MINUTE);
    world
}

fn invites(world: &mut World) -> Vec<InviteInfo> {
    let now = world.now;
    world.mail(0).invites(now).unwrap()
}

fn letters(world: &World, who: usize) -> usize {
    world.people[who].asked.iter().filter(|(_, kind)| *kind == "append").count()
}

#[test]
fn who_is_invited_is_no_stranger_and_leaves_nothing_in_an_inbox() {
    let mut world = world(71, 2);
    let invite = world.invite(0, "bob");
    assert!(world.run_until(5 * MINUTE, |world| invites(world).len() == 1));
    world.add(1, "alice", &invite.text);
    // nothing was written yet: both see each other all the same
    let both = |world: &mut World| (0..2).all(|who| world.mail(who).conversations().unwrap().len() == 1);
    assert!(world.run_until(10 * MINUTE, both));
    let contact = world.mail(0).contacts().unwrap().remove(0);
    assert_eq!((contact.name.as_str(), contact.request), ("bob", false));
    assert_eq!(invites(&mut world), [], "it is used up");
    let ids = [world.send(1, "alice", "thank you"), world.send(1, "alice", "for the invite")];
    let answer = world.send(0, "bob", "welcome");
    assert!(world.run_until(10 * MINUTE, |world| world.all_delivered(1, &ids) && world.all_delivered(0, &[answer])));
    assert_eq!(world.texts(0), ["thank you", "for the invite"]);
    assert!(world.shown(0).iter().all(|message| !message.request && message.from == "bob"));
    assert_eq!((letters(&world, 0), letters(&world, 1)), (0, 0));
    let conversations = [0, 1].map(|who| world.mail(who).conversations().unwrap().remove(0).id);
    assert_eq!(conversations[0], conversations[1]);
}

#[test]
fn an_invite_survives_crashes_of_both_at_any_point() {
    for seed in 0..12 {
        let mut world = world(720 + seed, 2);
        let invite = world.invite(0, "bob");
        world.crash(0);
        world.restart(0);
        world.add(1, "alice", &invite.text);
        let id = world.send(1, "alice", "hello");
        for _ in 0..60 {
            let who = usize::from(rand::RngExt::random::<bool>(&mut world.rng));
            world.run(Duration::from_secs(3));
            world.crash(who);
            world.restart(who);
        }
        assert!(world.run_until(20 * MINUTE, |world| world.all_delivered(1, &[id])), "seed {seed}");
        assert_eq!(world.texts(0), ["hello"], "seed {seed}");
        assert!(!world.shown(0)[0].request, "seed {seed}");
        assert_eq!(letters(&world, 1), 0, "seed {seed}");
        assert_eq!(world.mail(0).conversations().unwrap().len(), 1, "seed {seed}");
    }
}

#[test]
fn a_second_person_is_told_and_writes_as_a_stranger() {
    let mut world = world(73, 3);
    let invite = world.invite(0, "bob");
    world.add(1, "alice", &invite.text);
    assert!(world.run_until(10 * MINUTE, |world| world.mail(0).conversations().unwrap().len() == 1));
    world.add(2, "alice", &invite.text);
    let id = world.send(2, "alice", "me too");
    assert!(world.run_until(20 * MINUTE, |world| world.shown(0).len() == 1));
    assert!(world.warnings(2).contains(&"invite_failed"));
    let shown = world.shown(0).remove(0);
    assert!(shown.request && shown.text == "me too", "{shown:?}");
    assert_eq!(world.state(2, id), MessageState::Stored);
    assert_eq!(letters(&world, 2), 1);
}

#[test]
fn of_two_at_once_at_most_one_is_let_in() {
    for seed in 0..8 {
        let mut world = world(740 + seed, 3);
        let invite = world.invite(0, "bob");
        world.run(MINUTE);
        for who in [1, 2] {
            world.add(who, "alice", &invite.text);
            world.send(who, "alice", &format!("from {who}"));
        }
        assert!(world.run_until(60 * MINUTE, |world| world.shown(0).len() == 2), "seed {seed}: {:?}", world.texts(0));
        let wanted = world.shown(0).iter().filter(|message| !message.request).count();
        assert!(wanted <= 1, "seed {seed}");
        let told = [1, 2].iter().filter(|who| world.warnings(**who).contains(&"invite_failed")).count();
        assert_eq!(told, 2 - wanted, "seed {seed}: whoever was not let in is told");
    }
}

#[test]
fn one_that_is_withdrawn_or_over_gives_nothing() {
    let mut world = world(75, 3);
    let [withdrawn, over] = ["bob", "cleo"].map(|name| world.invite(0, name));
    world.run(MINUTE);
    let mut rng = world.fork();
    world.mail(0).withdraw(withdrawn.number, &mut rng).unwrap();
    assert!(matches!(world.mail(0).withdraw(withdrawn.number, &mut rng), Err(MailError::NoInvite(_))));
    world.run(MINUTE);
    // its key package still lies there, and is claimed
    world.add(1, "alice", &withdrawn.text);
    world.send(1, "alice", "hello?");
    assert!(world.run_until(20 * MINUTE, |world| world.shown(0).len() == 1));
    assert!(world.shown(0)[0].request, "as a stranger");
    assert!(world.warnings(1).contains(&"invite_failed"));

    world.crash(2);
    world.run(world.consensus.parameters.retention() / 2);
    world.restart(2);
    let (now, mut rng) = (world.now, world.fork());
    assert!(matches!(world.mail(2).add("alice", &over.text, now, &mut rng), Err(MailError::Invite(_))));
    world.run(world.consensus.parameters.retention() / 2);
    assert_eq!(invites(&mut world), [], "forgotten");
}

#[test]
fn one_that_is_withdrawn_before_it_is_written_is_found_withdrawn() {
    let mut world = world(802, 2);
    let invite = world.invite(0, "bob");
    let mut rng = world.fork();
    world.mail(0).withdraw(invite.number, &mut rng).unwrap();
    world.crash(0);
    world.restart(0);
    world.add(1, "alice", &invite.text);
    assert!(world.run_until(2 * MINUTE, |world| world.warnings(1).contains(&"invite_failed")));
    assert_eq!((letters(&world, 1), invites(&mut world)), (0, vec![]));
}

#[test]
fn a_claim_that_never_got_its_key_package_ends_with_the_invite() {
    let mut world = world(76, 2);
    let invite = world.invite(0, "bob");
    // she is gone before her client could write it
    world.crash(0);
    world.add(1, "alice", &invite.text);
    world.run(30 * MINUTE);
    assert!(world.mail(1).conversations().unwrap().is_empty());
    // nothing to say: nobody is asked as a stranger
    world.run(world.consensus.parameters.retention());
    assert!(world.warnings(1).contains(&"invite_failed"));
    assert_eq!(letters(&world, 1), 0);
    assert_eq!(world.mail(1).waiting_for_cards().unwrap(), []);
}

#[test]
fn one_store_that_lies_or_is_gone_does_not_stop_an_invite() {
    for (seed, lies) in [(770, true), (771, false), (772, true), (773, false), (774, true), (775, false)] {
        let mut world = world(seed, 2);
        let invite = world.invite(0, "bob");
        let which = usize::try_from(seed % 5).unwrap();
        let store = world.stores.values_mut().nth(which).unwrap();
        (store.lies, store.down) = (lies, !lies);
        world.add(1, "alice", &invite.text);
        let id = world.send(1, "alice", "hello");
        assert!(world.run_until(90 * MINUTE, |world| world.all_delivered(1, &[id])), "seed {seed}, lies: {lies}");
        assert_eq!(letters(&world, 1), 0, "seed {seed}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    let mut world = world(78, 2);
    let invite = world.invite(0, "bob");
    let (now, mut rng) = (world.now, world.fork());
    assert!(matches!(world.mail(0).add("me", &invite.text, now, &mut rng), Err(MailError::Oneself)));
    assert!(matches!(world.mail(1).send(&invite.text, "hi", now, &mut rng), Err(MailError::Unknown(_))));
    let read: Invite = invite.text.parse().unwrap();
    let network = world.network.genesis_hash();
    let changed = |end, network| {
        Invite::new(*read.inbox(), read.seed().to_owned().into(), read.generation(), end, network).text()
    };
    let other = shoal_protocol::Hash::of("test", b"elsewhere");
    let elsewhere = changed(read.end(), &other);
    let endless = changed(now.plus(Duration::from_secs(1 << 32)), &network);
    for text in [elsewhere, endless] {
        assert!(matches!(world.mail(1).add("alice", &text, now, &mut rng), Err(MailError::Invite(_))));
    }
    for _ in 1..INVITES_MAX {
        world.mail(0).invite(None, now, &mut rng).unwrap();
    }
    assert!(matches!(world.mail(0).invite(None, now, &mut rng), Err(MailError::QueueFull { .. })));
    // a contact by another way is only named, and accepted
    world.send(0, &world.address(1), "by address");
    assert!(world.run_until(10 * MINUTE, |world| world.shown(1).len() == 1));
    assert!(world.shown(1)[0].request);
    world.mail(0).withdraw(invite.number, &mut rng).unwrap();
    let fresh = world.invite(0, "bob");
    world.add(1, "alice", &fresh.text);
    assert!(world.run_until(5 * MINUTE, |world| world.mail(0).queue_length().unwrap() == 0));
    assert_eq!(world.mail(1).conversations().unwrap().len(), 1);
    assert!(!world.shown(1)[0].request);
    assert!(invites(&mut world).iter().any(|open| open.number == fresh.number), "not used");
}

#[test]
fn one_that_is_typed_twice_is_used_once() {
    for seed in 0..6 {
        let mut world = world(790 + seed, 2);
        let invite = world.invite(0, "bob");
        world.add(1, "alcie", &invite.text);
        world.run(Duration::from_secs(4 * seed));
        world.add(1, "alice", &invite.text);
        let id = world.send(1, "alice", "hello");
        assert!(world.run_until(20 * MINUTE, |world| world.all_delivered(1, &[id])), "seed {seed}");
        assert!(!world.shown(0)[0].request);
        assert_eq!((letters(&world, 1), world.warnings(1)), (0, vec![]));
    }
}

#[test]
fn an_inviter_who_was_away_for_most_of_the_retention_finds_who_came() {
    let mut world = world(800, 2);
    let retention = world.consensus.parameters.retention();
    let invite = world.invite(0, "bob");
    world.run(MINUTE);
    world.crash(0);
    world.add(1, "alice", &invite.text);
    let id = world.send(1, "alice", "are you there?");
    world.run(retention.mul_f64(0.7));
    world.restart(0);
    assert!(world.run_until(retention / 4, |world| world.all_delivered(1, &[id])));
    assert!(!world.shown(0)[0].request);
}

#[test]
fn what_was_written_to_an_inviter_who_never_answers_goes_to_the_address() {
    let mut world = world(801, 2);
    let retention = world.consensus.parameters.retention();
    let invite = world.invite(0, "bob");
    world.run(MINUTE);
    world.crash(0);
    world.add(1, "alice", &invite.text);
    let ids = [world.send(1, "alice", "one"), world.send_file(1, "alice", "two.png", &[2; 9_000])];
    assert!(world.run_until(20 * MINUTE, |world| world.state(1, ids[1]) == MessageState::Stored));
    // she takes it back, not knowing that it is used
    world.restart(0);
    let mut rng = world.fork();
    world.mail(0).withdraw(invite.number, &mut rng).unwrap();
    assert!(world.run_until(retention * 3, |world| world.shown(0).len() == 2));
    assert!(world.shown(0).iter().all(|message| message.request && message.from == world.address(1)));
    assert!(world.warnings(1).contains(&"invite_failed"));
    assert_eq!(world.mail(1).conversations().unwrap().len(), 1);
    world.accept(0, &world.address(1));
    assert!(world.run_until(20 * MINUTE, |world| world.all_delivered(1, &ids)));
}
