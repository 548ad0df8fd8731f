//! A group over a real network: people write all the time, guests are added and removed by two members who do not agree, and
//! every few seconds a client is killed with SIGKILL and started again. In the end those who stay have read the same, nothing
//! twice, nothing lost, each sender's messages in their order.
//!
//! Bounded by default. Full size (a group of ten, ten minutes):
//! `SHOAL_PEOPLE=10 SHOAL_SECONDS=600 cargo test --workspace --test groups -- --nocapture`. `SHOAL_SEED` repeats the choices.

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use shoal_tests::person::Person;
use shoal_tests::testnet::Testnet;
use shoal_tests::until_every;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

const NAMES: [&str; 10] = ["ann", "ben", "cat", "dan", "eve", "fay", "gus", "hal", "ida", "jon"];
/// The last of them come and go.
const GUESTS: usize = 1;
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(500);
/// One kill and three texts in so long, however fast the machine is: what ten people write and read must fit into their budgets.
const PACE: Duration = Duration::from_millis(1_000);

fn set<T: FromStr>(name: &str, bounded: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(bounded)
}

/// The group as somebody's client has it.
fn group(person: &Person) -> Option<Value> {
    let listed = person.run(["group", "list"]);
    assert_eq!(listed.code, 0, "{}: {listed:?}", person.name);
    listed.lines.into_iter().next()
}

/// Who is in it for somebody, and that nothing of it is under way.
fn members(person: &Person) -> Option<Vec<String>> {
    let group = group(person)?;
    assert_eq!(group["broken"], false, "{}", person.name);
    let members = group["members"].as_array()?;
    let settled = members.iter().all(|member| member["state"] == "member" || member["state"] == "invited");
    let mut addresses: Vec<String> =
        members.iter().filter_map(|member| Some(member["address"].as_str()?.to_owned())).collect();
    addresses.sort();
    (settled && group["standing"] == "member").then_some(addresses)
}

struct Crew {
    people: Vec<Person>,
    group: String,
    /// What each wrote: id and text.
    wrote: Vec<Vec<(String, String)>>,
    /// What each was shown, over all lives of the client.
    shown: Vec<Vec<(String, String, String)>>,
    rng: StdRng,
}

impl Crew {
    fn say(&mut self, who: usize) {
        let text = format!("{} {}", self.people[who].name, self.wrote[who].len());
        let id = self.people[who].send(&self.group, &text);
        self.wrote[who].push((id, text));
    }

    fn look(&mut self, who: usize) {
        for line in self.people[who].read() {
            let part = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            self.shown[who].push((part("id"), part("from"), part("text")));
        }
    }

    /// What a reader was shown of a sender, in this order.
    fn read_of(&self, reader: usize, sender: usize) -> Vec<(String, String)> {
        let name = format!("{} ", self.people[sender].name);
        let of = self.shown[reader].iter().filter(|(_, _, text)| text.starts_with(&name));
        of.map(|(id, _, text)| (id.clone(), text.clone())).collect()
    }
}

#[test]
fn a_group_agrees_whoever_is_killed() {
    let count = set("SHOAL_PEOPLE", 4usize).clamp(3, NAMES.len());
    let seconds = Duration::from_secs(set("SHOAL_SECONDS", 40));
    let seed: u64 = set("SHOAL_SEED", u64::from(std::process::id()));
    eprintln!("SHOAL_SEED={seed}: a group of {count}, {seconds:?}");
    let net = Testnet::start(&["--epoch", "20s", "--lambda-p", "10", "--retention", "1h"]);
    let folder = tempfile::tempdir().expect("folder");
    let people: Vec<Person> =
        NAMES.iter().take(count).map(|name| Person::new(name, folder.path(), &net.ready.network)).collect();
    for one in &people {
        for other in people.iter().filter(|other| other.name != one.name) {
            assert_eq!(one.run(["add", other.name, &other.address]).code, 0);
        }
    }

    let begun = Instant::now();
    let created = people[0].run(["group", "create", "crew"]);
    assert_eq!(created.code, 0, "{created:?}");
    let id = created.lines[0]["conversation"].as_str().expect("an id").to_owned();
    for other in &people[1..] {
        let added = people[0].run(["group", "add", "crew", other.name, "--timeout", "120s"]);
        assert_eq!(added.code, 0, "{added:?}");
    }
    let mut everybody: Vec<String> = people.iter().map(|person| person.address.clone()).collect();
    everybody.sort();
    for person in &people {
        until_every(PAUSE, &format!("{} sees all", person.name), PATIENCE, || {
            (members(person)? == everybody).then_some(())
        });
    }
    eprintln!("all {count} are in it after {:.1} s", begun.elapsed().as_secs_f64());

    let nothing = || vec![Vec::new(); count];
    let shown = vec![Vec::new(); count];
    let mut crew = Crew { people, group: id, wrote: nothing(), shown, rng: StdRng::seed_from_u64(seed) };
    let stay = count - GUESTS;
    let (mut kills, mut inside) = (BTreeMap::<&str, u32>::new(), true);
    let (begun, mut changes) = (Instant::now(), 0);
    while begun.elapsed() < seconds {
        let next = Instant::now() + PACE;
        for _ in 0..3 {
            let who = crew.rng.random_range(0..stay);
            crew.say(who);
        }
        let reader = crew.rng.random_range(0..count);
        crew.look(reader);
        if crew.rng.random_bool(0.2) {
            // two who do not know of each other
            let guest = crew.people[stay].name;
            let what = if inside { "remove" } else { "add" };
            for who in [0, 1] {
                let mut arguments = vec!["group", what, "crew", guest];
                if what == "add" {
                    arguments.extend(["--timeout", "0s"]);
                }
                // 64: it is so already, for the other was faster; 75: it is on its way
                let ended = crew.people[who].run(arguments);
                assert!([0, 64, 75].contains(&ended.code), "{ended:?}");
            }
            inside = !inside;
            changes += 1;
        }
        let victim = crew.rng.random_range(0..count);
        *kills.entry(crew.people[victim].name).or_default() += 1;
        crew.people[victim].kill();
        crew.people[victim].up();
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let written: usize = crew.wrote.iter().map(Vec::len).sum();
    eprintln!("{written} messages, {changes} changes, kills: {kills:?}");

    let ended = Instant::now();
    let core: Vec<usize> = (0..stay).collect();
    let mut said = Duration::ZERO;
    until_every(PAUSE, "all have read all", PATIENCE, || {
        core.iter().for_each(|who| crew.look(*who));
        if ended.elapsed() > said + Duration::from_secs(20) {
            said = ended.elapsed();
            let unread = |reader: &usize| {
                let of = core.iter().filter(|sender| *sender != reader);
                of.map(|sender| crew.wrote[*sender].len().saturating_sub(crew.read_of(*reader, *sender).len()))
                    .collect()
            };
            let unread: Vec<Vec<usize>> = core.iter().map(unread).collect();
            eprintln!("{:.0} s after the last kill, unread by each of each other: {unread:?}", said.as_secs_f64());
        }
        let all = |reader: &usize| {
            core.iter()
                .filter(|sender| *sender != reader)
                .all(|sender| crew.read_of(*reader, *sender).len() >= crew.wrote[*sender].len())
        };
        core.iter().all(all).then_some(())
    });
    eprintln!("all have read all {:.1} s after the last kill", ended.elapsed().as_secs_f64());
    for reader in &core {
        for sender in core.iter().filter(|sender| *sender != reader) {
            let (read, wrote) = (crew.read_of(*reader, *sender), &crew.wrote[*sender]);
            assert_eq!(&read, wrote, "{} of {}", NAMES[*reader], NAMES[*sender]);
        }
    }
    // they agree on who is in it
    until_every(PAUSE, "all agree on the members", PATIENCE, || {
        let views: Vec<_> = core.iter().map(|who| members(&crew.people[*who])).collect();
        (views[0].is_some() && views.iter().all(|view| *view == views[0])).then_some(())
    });
    for (who, wrote) in crew.wrote.iter().enumerate().take(stay) {
        for (id, _) in wrote {
            let person = &crew.people[who];
            until_every(PAUSE, "all is delivered", PATIENCE, || {
                let undelivered = group(person)?["undelivered"].as_u64()?;
                (undelivered == 0).then_some(id)
            });
        }
    }
    eprintln!("all is delivered {:.1} s after the last kill", ended.elapsed().as_secs_f64());
}
