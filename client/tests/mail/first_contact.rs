//! Strangers, requests, blocks, cards.

use crate::world::{GENERATION, World};
use shoal_client::blobs::Manifest;
use shoal_client::card::{CardChain, CardPlace};
use shoal_client::inbox_letter::{Pointer, seal_letter};
use shoal_client::mail::MessageState::{Delivered, Stored};
use shoal_client::mail::{Event, MailError};
use shoal_protocol::boxes::BoxBody;
use shoal_protocol::inbox::{card_period, inbox_id};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_stranger_learns_nothing_before_acceptance() {
    let mut world = World::new(11, 2);
    let (alice, bob) = (world.address(0), world.address(1));
    let ids = [world.send(0, &bob, "you do not know me"), world.send(0, &bob, "please answer")];
    assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() == 2));
    let shown = world.shown(1);
    assert!(shown.iter().all(|message| message.request && message.from == alice));
    assert!(world.mail(1).contacts().unwrap().iter().all(|contact| contact.request));
    // Bob's card is written by now; from here on his client only reads
    let before = world.people[1].asked.len();
    world.run(2 * MINUTE);
    let asked = &world.people[1].asked[before..];
    assert!(asked.iter().all(|(_, kind)| *kind == "get" || *kind == "read"), "{asked:?}");
    assert!(asked.iter().any(|(_, kind)| *kind == "get"));
    assert!(ids.iter().all(|id| world.state(0, *id) == Stored));

    world.accept(1, &alice);
    assert!(world.run_until(MINUTE, |world| world.all_delivered(0, &ids)));
    assert!(world.shown(1).iter().all(|message| !message.request));
    // the answer uses the same conversation
    let answer = world.send(1, &alice, "now I do");
    assert!(world.run_until(MINUTE, |world| world.all_delivered(1, &[answer])));
    assert_eq!(world.shown(0)[0].conversation, shown[0].conversation);
    assert_eq!(world.mail(0).conversations().unwrap().len(), 1);
}

#[test]
fn answering_accepts() {
    let mut world = World::new(12, 2);
    let (alice, bob) = (world.address(0), world.address(1));
    let id = world.send(0, &bob, "hello");
    assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() == 1));
    let conversation = world.shown(1)[0].conversation.to_string();
    let answer = world.send(1, &conversation, "hello yourself");
    assert!(world.run_until(MINUTE, |world| { world.all_delivered(0, &[id]) && world.all_delivered(1, &[answer]) }));
    assert!(!world.shown(0)[0].request, "Alice wrote first, so Bob is no stranger to her");
    assert_eq!(world.shown(1)[0].from, alice);
}

#[test]
fn a_message_waits_queued_until_the_card_is_there() {
    let mut world = World::new(13, 2);
    let bob = world.address(1);
    world.crash(1);
    let id = world.send(0, &bob, "are you there?");
    world.run(2 * MINUTE);
    assert_eq!(world.state(0, id), shoal_client::mail::MessageState::Queued);
    assert_eq!(world.mail(0).queue_length().unwrap(), 1);
    world.restart(1);
    assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() == 1));
}

#[test]
fn both_write_first_and_both_arrive() {
    let mut world = World::new(14, 2);
    let (alice, bob) = (world.address(0), world.address(1));
    let one = world.send(0, &bob, "from Alice");
    let two = world.send(1, &alice, "from Bob");
    assert!(world.run_until(5 * MINUTE, |world| { world.all_delivered(0, &[one]) && world.all_delivered(1, &[two]) }));
    // from now on both use the same conversation
    let three = world.send(0, &bob, "again from Alice");
    let four = world.send(1, &alice, "again from Bob");
    assert!(world.run_until(MINUTE, |world| { world.all_delivered(0, &[three]) && world.all_delivered(1, &[four]) }));
    let last = |world: &mut World, who| world.shown(who).last().unwrap().conversation;
    assert_eq!(last(&mut world, 0), last(&mut world, 1));
    let mut names = Vec::new();
    for (who, texts) in [(0, ["from Bob", "again from Bob"]), (1, ["from Alice", "again from Alice"])] {
        assert_eq!(world.texts(who), texts, "nothing is lost, nothing comes twice");
        assert!(world.shown(who).iter().all(|message| !message.request));
        let mut both: Vec<_> = world.mail(who).conversations().unwrap().iter().map(|found| found.id).collect();
        both.sort();
        let contact = world.mail(who).contacts().unwrap().remove(0);
        assert_eq!(contact.conversation, both.first().copied(), "the one to write to, named alike at both");
        names.push(both);
    }
    assert_eq!(names[0], names[1]);
    assert_eq!(names[0].len(), 2);
    // the other one stays open to whoever names it
    let other = names[0][1];
    let five = world.send(0, &other.to_string(), "in the other one");
    assert!(world.run_until(MINUTE, |world| world.all_delivered(0, &[five])));
    assert_eq!(last(&mut world, 1), other);
}

#[test]
fn who_is_blocked_is_not_read_and_not_answered() {
    let mut world = World::new(15, 2);
    let (alice, bob) = (world.address(0), world.address(1));
    world.send(0, &bob, "buy my fish");
    assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() == 1));
    let now = world.now;
    let mut rng = world.fork();
    world.mail(1).block(&alice, now, &mut rng).unwrap();
    let id = world.send(0, &bob, "buy more fish");
    world.run(MINUTE);
    assert_eq!(world.shown(1).len(), 1);
    assert_ne!(world.state(0, id), Delivered);
    let mut rng = world.fork();
    assert!(matches!(world.mail(1).send(&alice, "no", now, &mut rng), Err(MailError::Blocked(_))));
    // also after a restart; and an unblocked peer's messages come after all
    world.crash(1);
    world.restart(1);
    world.run(MINUTE);
    assert_eq!(world.shown(1).len(), 1);
    world.accept(1, &alice);
    assert!(world.run_until(MINUTE, |world| world.all_delivered(0, &[id])));
}

#[test]
fn letters_of_rubbish_do_no_harm() {
    let mut world = World::new(16, 2);
    let bob = world.address(1);
    let inbox = bob.parse::<shoal_protocol::address::Address>().unwrap();
    let id = inbox_id(inbox.inbox(), GENERATION);
    for _ in 0..20 {
        let body = BoxBody::random(&mut world.rng);
        for store in world.stores.values_mut() {
            store.put_letter(id, body.clone());
        }
    }
    world.send(0, &bob, "a real one behind them");
    assert!(world.run_until(10 * MINUTE, |world| world.shown(1).len() == 1));
    assert_eq!(world.mail(1).contacts().unwrap().len(), 1);
}

#[test]
fn an_inbox_that_asks_for_more_work_gets_it() {
    let mut world = World::new(17, 2);
    world.stores.values_mut().for_each(|store| store.bits = 14);
    let bob = world.address(1);
    world.send(0, &bob, "worth the work");
    assert!(world.run_until(5 * MINUTE, |world| world.shown(1).len() == 1));
}

#[test]
fn addresses_and_names_are_checked() {
    let mut world = World::new(18, 2);
    let (own, bob, now) = (world.address(0), world.address(1), world.now);
    let mut rng = world.fork();
    let mail = world.mail(0);
    assert!(matches!(mail.send("nobody", "text", now, &mut rng), Err(MailError::Unknown(_))));
    assert!(matches!(mail.send(&own, "text", now, &mut rng), Err(MailError::Oneself)));
    assert!(matches!(mail.add("", &bob, now, &mut rng), Err(MailError::Name(..))));
    assert!(matches!(mail.add(&own, &bob, now, &mut rng), Err(MailError::Name(..))));
    mail.add("bob", &bob, now, &mut rng).unwrap();
    mail.add("robert", &bob, now, &mut rng).unwrap();
    assert!(matches!(mail.send("bob", "text", now, &mut rng), Err(MailError::Unknown(_))));
    assert!(mail.send("robert", "text", now, &mut rng).is_ok());
    let too_long = "x".repeat((1 << 20) + 1);
    assert!(matches!(mail.send("robert", &too_long, now, &mut rng), Err(MailError::TooLong { .. })));
    assert!(mail.take_events().iter().any(|event| matches!(event, Event::Contact(_))));
}

/// Where a person's card lies now.
fn card_chain(world: &World, who: usize) -> (CardChain, CardPlace) {
    let period = card_period(world.now, &world.consensus.parameters);
    let place = CardPlace { generation: GENERATION, period };
    let address = world.address(who).parse::<shoal_protocol::address::Address>().unwrap();
    (CardChain::new(*address.inbox(), place), place)
}

#[test]
fn letters_that_lead_nowhere_do_not_close_the_inbox() {
    let mut world = World::new(40, 2);
    world.run(MINUTE);
    let bob = world.address(1).parse::<shoal_protocol::address::Address>().unwrap();
    let (chain, place) = card_chain(&world, 1);
    let body = |j| world.stores.values().find_map(|store| store.boxes.get(&chain.id(j)));
    let parts: Vec<_> = (0..).map_while(body).zip(0..).map(|((body, _), j)| chain.open(j, body).unwrap()).collect();
    let card = shoal_client::card::read(bob.inbox(), place, &parts).unwrap();
    let inbox = inbox_id(bob.inbox(), GENERATION);
    for n in 0..40 {
        let manifest = Manifest::new([n; 32], 5_000, shoal_protocol::Hash::from_bytes([n; 32]));
        let letter = seal_letter(&card.pointer, &Pointer::new(GENERATION, manifest), &mut world.rng).unwrap();
        world.stores.values_mut().for_each(|store| store.put_letter(inbox, letter.clone()));
    }
    world.run(2 * MINUTE);
    let bob = world.address(1);
    world.send(0, &bob, "a real one behind them");
    assert!(world.run_until(3 * MINUTE, |world| world.shown(1).len() == 1));
}

#[test]
fn a_card_without_one_of_its_boxes_is_sought_elsewhere() {
    let mut world = World::new(41, 2);
    world.run(Duration::from_secs(10));
    let (_, before) = card_chain(&world, 1);
    assert!(world.run_until(6 * MINUTE, |world| card_chain(world, 1).1 != before));
    world.run(Duration::from_secs(10));
    let (chain, _) = card_chain(&world, 1);
    let removed = world.stores.values_mut().filter_map(|store| store.boxes.remove(&chain.id(1))).count();
    assert_eq!(removed, 2, "both replicas had it");
    let bob = world.address(1);
    world.send(0, &bob, "through the card of the period before");
    assert!(world.run_until(2 * MINUTE, |world| world.shown(1).len() == 1));
}

#[test]
fn a_letter_whose_work_takes_long_holds_nothing_up() {
    let mut world = World::new(42, 3);
    let (alice, bob, carol) = (world.address(0), world.address(1), world.address(2));
    world.send(0, &bob, "hello");
    assert!(world.run_until(MINUTE, |world| world.shown(1).len() == 1));
    world.accept(1, &alice);
    // 2^28 hashes: hours of this clock, and found in one of them by luck alone in a few runs of a hundred
    world.consensus.parameters.append_bits = 28;
    world.stores.values_mut().for_each(|store| store.bits = 28);
    world.send(0, &carol, "hello");
    world.run(Duration::from_secs(15));
    let file = world.send_file(0, &bob, "picture", &[7; 20_000]);
    assert!(world.run_until(MINUTE, |world| world.all_delivered(0, &[file])));
    assert!(world.shown(2).is_empty());
}

#[test]
fn a_card_is_written_until_both_its_stores_have_it() {
    for seed in 0..5 {
        let mut world = World::new(190 + seed, 1);
        world.half_loss = 0.9;
        world.run(30 * MINUTE / 4);
        let chain = card_chain(&world, 0).0;
        let copies = |world: &World| {
            let held = |id| world.stores.values().filter(|store| store.boxes.contains_key(&id)).count();
            (0..).map(|index| held(chain.id(index))).take_while(|copies| *copies > 0).collect::<Vec<_>>()
        };
        let copies = copies(&world);
        assert!(copies.len() >= 2 && copies.iter().all(|copies| *copies == 2), "seed {seed}: {copies:?}");
    }
}
