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

/// As `tests/tests/groups.rs`, in virtual time: somebody is killed each second, and the last one comes and goes.
/// `SHOAL_BUSY_SECONDS=600` for longer.
#[test]
fn a_busy_group_reads_the_same_whoever_is_killed() {
    let get = |name: &str, or: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(or);
    let seconds = get("SHOAL_BUSY_SECONDS", 30);
    let (mut world, id) = crew(get("SHOAL_SEED", 11), Rate(get("LAMBDA", 12_000) as u32));
    let (begun, mut wrote, mut inside, mut changes) = (world.now, vec![Vec::new(); WRITERS], true, 0);
    while world.now.since(begun) < Duration::from_secs(seconds) {
        for _ in 0..3 {
            let who = world.rng.random_range(0..WRITERS);
            let text = format!("{who} {}", wrote[who].len());
            world.send(who, &id, &text);
            wrote[who].push(text);
        }
        if world.rng.random_bool(0.2) {
            let guest = world.address(WRITERS);
            for who in [0, 1] {
                let now = world.now;
                let _it_is_so_already = match inside {
                    true => world.mail(who).group_remove(&id, &guest).map(drop),
                    false => world.mail(who).group_add(&id, &guest, now).map(drop),
                };
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
    let texts = |world: &World, reader: usize, writer: usize| -> Vec<String> {
        let start = format!("{writer} ");
        let heard = world.people[reader].heard.iter().filter_map(|event| match event {
            Event::Received(message) if message.text.starts_with(&start) => Some(message.text.clone()),
            _ => None,
        });
        heard.collect()
    };
    let pairs =
        || (0..WRITERS).flat_map(|reader| (0..WRITERS).map(move |writer| (reader, writer))).filter(|(a, b)| a != b);
    let mut last = 0;
    let all = world.eventually(Duration::from_secs(600), |world| {
        let now = world.now.since(ended).as_secs() / 20;
        if now != last {
            last = now;
            let missing: Vec<usize> = (0..WRITERS)
                .map(|reader| {
                    (0..WRITERS)
                        .filter(|w| *w != reader)
                        .map(|w| wrote[w].len() - texts(world, reader, w).len().min(wrote[w].len()))
                        .sum()
                })
                .collect();
            println!("{} s: missing {missing:?}", now * 20);
        }
        pairs().all(|(reader, writer)| texts(world, reader, writer).len() >= wrote[writer].len())
    });
    println!(
        "{} messages, {changes} changes: all read {:?} after the last",
        wrote.iter().map(Vec::len).sum::<usize>(),
        world.now.since(ended)
    );
    assert!(all);
    for (reader, writer) in pairs() {
        assert_eq!(texts(&world, reader, writer), wrote[writer], "{reader} of {writer}");
    }
}
