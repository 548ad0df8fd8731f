//! What may go wrong in a schedule, by its seed.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_protocol::{Role, UnixMillis};

use crate::forger::Forger;
use crate::lies::invented;
use crate::members::Face;
use crate::nodes::Node;
use crate::world::{Event, Net, Tally, World, short};

/// How an authority misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Says nothing.
    Silent,
    /// Keeps lists and votes to itself as it likes.
    Withholding,
    /// Leaves nodes out and names invented ones, otherwise by the rules.
    Censor,
    /// Two machines with one key and other lists, each talking to a part of the others.
    TwoFaced,
    /// Signs whatever may hurt.
    Forger,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) count: usize,
    pub(crate) liars: Vec<Style>,
    /// Of those that are honest, how many lose their whole disk but not their key.
    pub(crate) wiped: usize,
    /// How many lose their vote log.
    pub(crate) logs_lost: usize,
    /// An admitted node that tells every authority another version of itself.
    pub(crate) many_versions: bool,
    pub(crate) loss: u32,
    pub(crate) duplication: u32,
    pub(crate) crashes: u32,
    pub(crate) delay_max: u64,
    pub(crate) partitions: u32,
    pub(crate) epochs: u64,
}

impl Plan {
    pub(crate) fn of(count: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5ea_f00d);
        let f = (count - 1) / 3;
        // mostly as many as may be
        let liars = rng.random_range(0..=2 * f).min(f);
        let styles = [Style::Silent, Style::Withholding, Style::Censor, Style::TwoFaced, Style::Forger, Style::Forger];
        let liars: Vec<_> = (0..liars).map(|_| styles[rng.random_range(0..styles.len())]).collect();
        // who does not know what it signed counts among the faulty until it knows again
        let left = f - liars.len();
        let wiped = rng.random_range(0..=left);
        Self {
            seed,
            count,
            wiped,
            liars,
            logs_lost: rng.random_range(0..=left - wiped),
            many_versions: rng.random(),
            loss: [0, 0, 5, 30][rng.random_range(0..4)],
            duplication: [0, 20][rng.random_range(0..2)],
            crashes: [0, 0, 100, 300][rng.random_range(0..4)],
            delay_max: [60, 400, 1_500][rng.random_range(0..3)],
            partitions: rng.random_range(0..4),
            epochs: rng.random_range(2..=4),
        }
    }

    /// The world in which it happens, and who is honest and will lose something.
    fn world(&self) -> World {
        let mut world = World::new(self.count, 0, short(), self.seed);
        world.title = format!("{self:?}");
        let mut seats: Vec<usize> = (0..self.count).collect();
        for i in (1..seats.len()).rev() {
            seats.swap(i, world.rng.random_range(0..=i));
        }
        for (who, style) in seats.iter().zip(&self.liars) {
            world.corrupt(*who, *style);
        }
        let honest = &seats[self.liars.len()..];
        let end = self.epochs * world.epoch_ms();
        for who in honest.iter().take(self.wiped) {
            let at = world.rng.random_range(1..end);
            world.after(at, Event::Wipe(*who, true));
        }
        for who in honest.iter().skip(self.wiped).take(self.logs_lost) {
            let at = world.rng.random_range(1..end);
            world.after(at, Event::Wipe(*who, false));
        }
        let cuts = (0..self.partitions)
            .map(|_| {
                let from = world.now + world.rng.random_range(0..end);
                (from, from + world.rng.random_range(500..15_000), world.rng.random())
            })
            .collect();
        let Self { loss, duplication, crashes, delay_max, .. } = *self;
        world.net = Net { delay: 5..delay_max, loss, duplication, crashes, cuts };
        if self.many_versions {
            let node = Node::new(Role::Mix, 300);
            world.admitted.admit(node.admitted()).unwrap();
            world.versions = Some(node);
            world.after(5, Event::Versions);
        }
        world
    }

    /// Runs it: chaos, healing, and that everything is well afterwards.
    pub(crate) fn run(self) -> Tally {
        let mut world = self.world();
        let epoch_ms = world.epoch_ms();
        world.start_all();
        world.run(self.epochs * epoch_ms);
        world.net = Net::calm();
        for who in world.honest() {
            world.restart(who);
        }
        let healed = world.now;
        let due = world.epoch() + 2;
        let done = |world: &World| world.honest().iter().all(|who| world.newest_epoch(*who) >= Some(due));
        // the agreement may be in a late round: it has 240 s, as in the simulation of the agreement alone
        let recovered = world.run_until(12 * epoch_ms, done);
        let held: Vec<_> = world.honest().iter().map(|who| world.newest_epoch(*who)).collect();
        world.check(recovered, || format!("no document of epoch {due} everywhere long after healing: {held:?}"));
        world.tally.recovery_ms = world.now - healed;
        world.tally
    }
}

impl World {
    /// Makes a liar of an authority.
    fn corrupt(&mut self, who: usize, style: Style) {
        let others: Vec<usize> = (0..self.members.len()).filter(|other| *other != who).collect();
        self.members[who].liar = true;
        match style {
            Style::Silent => self.members[who].faces[0].withholds = (100, 100),
            Style::Withholding => {
                let often = |world: &mut Self| [0, 30, 70, 100][world.rng.random_range(0..4)];
                self.members[who].faces[0].withholds = (often(self), often(self));
            }
            Style::Censor => self.doctor(who, 0),
            Style::TwoFaced => {
                self.members[who].faces.push(Face::fresh());
                for other in others {
                    match self.rng.random_range(0..3) {
                        0 => drop(self.members[who].faces[0].shuns.insert(other)),
                        1 => drop(self.members[who].faces[1].shuns.insert(other)),
                        _ => {}
                    }
                }
                self.doctor(who, 1);
            }
            Style::Forger => {
                let forger = Forger::new(who, self);
                self.members[who].forger = Some(Box::new(forger));
                self.members[who].faces.clear();
                self.after(10, Event::Mischief(who));
            }
        }
    }

    /// Has a machine leave out half of the nodes and name invented ones.
    fn doctor(&mut self, who: usize, face: usize) {
        let censored: Vec<_> = self.nodes.iter().map(Node::identity).collect();
        let censored = censored.into_iter().filter(|_| self.rng.random()).collect();
        let schedule = self.genesis.schedule;
        let now = UnixMillis(self.now);
        let judge = shoal_directory::lists::Judge {
            network: self.genesis.network,
            schedule,
            skew: self.genesis.parameters.skew(),
            admitted: None,
        };
        let face = &mut self.members[who].faces[face];
        face.censors = censored;
        for node in invented(20) {
            face.listing.offer(&node.descriptor(&schedule, now, "0.1.0"), now, &judge, |_| None).unwrap();
        }
    }

    /// An honest authority loses its disk, or its vote log only, and starts again.
    pub(crate) fn wipe(&mut self, who: usize, all: bool) {
        self.crash(who);
        let face = &mut self.members[who].faces[0];
        if all {
            *face = Face::default();
        }
        face.votes = None;
        let back = self.rng.random_range(50..4_000);
        self.after(back, Event::Restart(who));
    }

    /// The hostile node tells everybody something else.
    pub(crate) fn tell_versions(&mut self) {
        let Some(node) = self.versions.take() else { return };
        let schedule = self.genesis.schedule;
        for who in 0..self.members.len() {
            let at = UnixMillis(self.now - self.rng.random_range(0..1_000));
            let version = format!("version-{}", self.rng.random::<u16>());
            self.offer(who, node.identity(), &node.descriptor(&schedule, at, &version));
        }
        self.versions = Some(node);
        self.after(2_500, Event::Versions);
    }
}
