//! Kills one process after the other and starts it again at once.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Who may be killed. Each kind has the same chance, then each of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Authority,
    Gateway,
    Mix,
    Store,
    Client,
}

const KINDS: [Kind; 5] = [Kind::Authority, Kind::Gateway, Kind::Mix, Kind::Store, Kind::Client];

/// A process of the network and whether it was started again already.
struct Victim {
    kind: Kind,
    party: Party,
    pid: u32,
    again: bool,
}

/// The killer; it owns everybody who can die.
pub(crate) struct Killer {
    net: Testnet,
    /// The people, whose daemons die like the others.
    pub(crate) people: Vec<Person>,
    victims: Vec<Victim>,
    rng: StdRng,
    tally: BTreeMap<Kind, u32>,
}

impl Killer {
    pub(crate) fn new(net: Testnet, people: Vec<Person>, seed: u64) -> Self {
        let kind = |party: &Party| match party.role.as_deref() {
            None => Kind::Authority,
            Some("gateway") => Kind::Gateway,
            Some("mix") => Kind::Mix,
            Some("store") => Kind::Store,
            Some(other) => panic!("a role of its own: {other}"),
        };
        let parties = net.ready.authorities.iter().chain(&net.ready.nodes);
        let victims = parties
            .map(|party| Victim { kind: kind(party), party: party.clone(), pid: party.pid, again: false })
            .collect();
        Self { net, people, victims, rng: StdRng::seed_from_u64(seed), tally: BTreeMap::new() }
    }

    /// Kills for so long, one process every `period`.
    pub(crate) fn run(&mut self, seconds: Duration, period: Duration) {
        let begin = Instant::now();
        let mut next = begin + period;
        // every kind dies once at least, however short the run is
        let mut first: Vec<Kind> = KINDS.to_vec();
        while begin.elapsed() < seconds || !first.is_empty() {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next += period;
            let kind = if first.is_empty() {
                KINDS[self.rng.random_range(0..KINDS.len())]
            } else {
                first.swap_remove(self.rng.random_range(0..first.len()))
            };
            self.kill(kind);
        }
    }

    fn kill(&mut self, kind: Kind) {
        *self.tally.entry(kind).or_default() += 1;
        if kind == Kind::Client {
            let at = self.rng.random_range(0..self.people.len());
            eprintln!("kill -9 of {}'s daemon", self.people[at].name);
            self.people[at].kill();
            self.people[at].up();
            return;
        }
        let mut of_kind: Vec<&mut Victim> = self.victims.iter_mut().filter(|victim| victim.kind == kind).collect();
        let at = self.rng.random_range(0..of_kind.len());
        let victim = &mut of_kind[at];
        eprintln!("kill -9 of {}", victim.party.dir.file_name().unwrap_or_default().display());
        if victim.again {
            self.net.kill_again(victim.pid);
        } else {
            self.net.kill(victim.pid);
        }
        let program = if kind == Kind::Authority { "shoal-directory" } else { "shoal-node" };
        victim.pid = self.net.run_again(&victim.party.dir, program);
        victim.again = true;
    }

    pub(crate) fn kills(&self) -> u32 {
        self.tally.values().sum()
    }

    pub(crate) fn tally(&self) -> String {
        let each: Vec<String> = self.tally.iter().map(|(kind, kills)| format!("{kind:?} {kills}")).collect();
        each.join(", ").to_lowercase()
    }
}
