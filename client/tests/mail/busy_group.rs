//! A group of ten in which eight write all the time: what their receipts cost leaves room for what they say.

use crate::groups::{create, group};
use crate::world::World;
use rand::RngExt as _;
use shoal_client::mail::{Event, MemberState};
use shoal_client::want::Rank;
use shoal_protocol::parameters::Rate;
use std::time::Duration;

const PEOPLE: usize = 10;
const WRITERS: usize = 8;
/// Ten ticks a second: of the eight other chains' boxes each member reads some five a second.
const LAMBDA_P: Rate = Rate(10_000);
const WRITING: Duration = Duration::from_secs(45);

fn all_are_members(world: &mut World, who: usize) -> bool {
    let Some(group) = group(world, who) else { return false };
    group.members.len() == PEOPLE && group.members.iter().all(|member| member.state == MemberState::Member)
}

/// A group of all, and its id.
fn crew(seed: u64, lambda_p: Rate) -> (World, String) {
    let mut world = World::new(seed, PEOPLE);
    world.consensus.parameters.lambda_p = lambda_p;
    world.consensus.parameters.retention_ms = 3_600_000;
    let id = create(&mut world, 0, "crew");
    for one in 0..PEOPLE {
        for other in (0..PEOPLE).filter(|other| *other != one) {
            let address = world.address(other);
            world.add(one, &format!("person {other}"), &address);
        }
    }
    for other in 1..PEOPLE {
        let (now, address) = (world.now, world.address(other));
        world.mail(0).group_add(&id, &address, now).unwrap();
    }
    let all = world.eventually(Duration::from_secs(600), |world| (0..PEOPLE).all(|who| all_are_members(world, who)));
    assert!(all);
    world.people.iter_mut().for_each(|person| {
        person.asked.clear();
        person.heard.clear();
    });
    (world, id)
}

#[test]
fn receipts_of_a_busy_group_leave_room_for_messages() {
    let (mut world, id) = crew(7, LAMBDA_P);
    let (begun, mut wrote) = (world.now, 0);
    while world.now.since(begun) < WRITING {
        for _ in 0..3 {
            let who = world.rng.random_range(0..WRITERS);
            world.send(who, &id, &wrote.to_string());
            wrote += 1;
        }
        world.run(Duration::from_secs(1));
    }
    let boxes =
        world.people.iter().flat_map(|person| &person.asked).filter(|asked| **asked == (Rank::Send, "put")).count();
    let others = boxes - wrote;
    let read = |world: &World, who: usize| {
        world.people[who].heard.iter().filter(|event| matches!(event, Event::Received(_))).count()
    };
    let ended = world.now;
    // each is read by all but its writer
    let all = |world: &mut World| (0..PEOPLE).map(|who| read(world, who)).sum::<usize>() == (PEOPLE - 1) * wrote;
    assert!(world.eventually(Duration::from_secs(300), all));
    let caught_up = world.now.since(ended);
    let delivered =
        |world: &mut World| (0..WRITERS).all(|who| group(world, who).is_some_and(|group| group.undelivered == 0));
    assert!(world.eventually(Duration::from_secs(300), delivered));
    let told = world.now.since(ended);
    println!(
        "{wrote} messages in {WRITING:?}, {others} other boxes; all read {caught_up:?}, all delivered {told:?} after the last"
    );
    // some 110 receipts, a quarter of the ticks of each of their readers; the others are parts of commits
    assert!(others < 300, "{others}");
    assert!(caught_up <= Duration::from_secs(28) && told <= Duration::from_secs(50));
}

/// What a reader was shown of a writer, whose texts begin with their number.
fn shown(world: &World, reader: usize, writer: usize) -> Vec<String> {
    let of_writer = |event: &Event| match event {
        Event::Received(message) => message.text.starts_with(&format!("{writer} ")).then(|| message.text.clone()),
        Event::State { .. } | Event::Contact(_) | Event::Group(_) | Event::Warning { .. } => None,
    };
    world.people[reader].heard.iter().filter_map(of_writer).collect()
}

/// As `tests/tests/groups.rs`, in virtual time: somebody is killed each second, and one comes and goes. For longer:
/// `SHOAL_BUSY_SECONDS=600`.
#[test]
fn a_busy_group_reads_the_same_whoever_is_killed() {
    let seconds = std::env::var("SHOAL_BUSY_SECONDS").map_or(30, |seconds| seconds.parse().expect("seconds"));
    let (mut world, id) = crew(11, LAMBDA_P);
    let guest = world.address(WRITERS);
    let (begun, mut inside, mut changes) = (world.now, true, 0);
    let mut wrote = vec![Vec::new(); WRITERS];
    while world.now.since(begun) < Duration::from_secs(seconds) {
        for _ in 0..3 {
            let who = world.rng.random_range(0..WRITERS);
            let text = format!("{who} {}", wrote[who].len());
            world.send(who, &id, &text);
            wrote[who].push(text);
        }
        if world.rng.random_bool(0.2) {
            for who in [0, 1] {
                let (now, mail) = (world.now, world.mail(who));
                // it may be so already: the other was faster
                let _: Result<_, _> =
                    if inside { mail.group_remove(&id, &guest) } else { mail.group_add(&id, &guest, now) };
            }
            inside = !inside;
            changes += 1;
        }
        let victim = world.rng.random_range(0..PEOPLE);
        world.crash(victim);
        world.restart(victim);
        world.run(Duration::from_secs(1));
    }
    let ended = world.now;
    let pairs: Vec<(usize, usize)> = (0..WRITERS)
        .flat_map(|one| (0..WRITERS).map(move |other| (one, other)))
        .filter(|(one, other)| one != other)
        .collect();
    let all = |world: &mut World| {
        pairs.iter().all(|(reader, writer)| shown(world, *reader, *writer).len() >= wrote[*writer].len())
    };
    assert!(world.eventually(Duration::from_secs(600), all));
    let texts: usize = wrote.iter().map(Vec::len).sum();
    println!("{texts} messages, {changes} changes: all read {:?} after the last", world.now.since(ended));
    for (reader, writer) in &pairs {
        assert_eq!(shown(&world, *reader, *writer), wrote[*writer], "{reader} of {writer}");
    }
}
