//! A group of ten in which eight write all the time: what their receipts cost leaves room for what they say.

use crate::groups::{create, group};
use crate::world::World;
use rand::RngExt as _;
use shoal_client::mail::{Event, MemberState};
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

#[test]
fn receipts_of_a_busy_group_leave_room_for_messages() {
    let mut world = World::new(7, PEOPLE);
    world.consensus.parameters.lambda_p = LAMBDA_P;
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
    let begun = world.eventually(Duration::from_secs(600), |world| (0..PEOPLE).all(|who| all_are_members(world, who)));
    assert!(begun);
    world.people.iter_mut().for_each(|person| {
        person.asked.clear();
        person.heard.clear();
    });

    let (begun, mut wrote) = (world.now, 0);
    while world.now.since(begun) < WRITING {
        for _ in 0..3 {
            let who = world.rng.random_range(0..WRITERS);
            world.send(who, &id, &wrote.to_string());
            wrote += 1;
        }
        world.run(Duration::from_secs(1));
    }
    let puts = world.people.iter().flat_map(|person| &person.asked).filter(|(_, kind)| *kind == "put").count();
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
        "{wrote} messages in {WRITING:?}, {puts} boxes; all read {caught_up:?}, all delivered {told:?} after the last"
    );
    assert!(puts < 3 * wrote, "a receipt and more for each message");
    assert!(caught_up <= Duration::from_secs(25) && told <= Duration::from_secs(60));
}
