//! From ticks to departures: what is made in a tick leaves [`LEAD`](crate::traffic::LEAD) after it, never earlier.
//!
//! A payload tick asks for a want. The answer may take a disk's time; when it has not come while there is just time left
//! to build, a decoy takes its place and the want waits for the next payload tick. So the instants on the wire are those
//! of the schedule, whether there is anything to say or not, and however long it takes to find that out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::requests::Ask;
use crate::traffic::{BUILD_TIME, Kind, Traffic};
use crate::want::Want;

/// Departures that may wait: the lead is 10 ms and ticks come a dozen a second; a clock that carries its lateness over
/// may give ten at once. A tick beyond is passed over.
const DEPARTURES_MAX: usize = 32;

/// What is allowed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// A link stands and a consensus is in force: packets can be made and sent at all.
    pub open: bool,
    /// Wants may be asked for. Otherwise (no profile, or a pause) payload ticks send decoys.
    pub payload: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Step<P> {
    /// Make the packet for this, to leave at that time, and hand it to [`Emission::made`] before anything else.
    Make(Ask, Duration),
    /// Ask for a want; the answer goes to [`Emission::wanted`], whenever it comes.
    AskForWant,
    /// Send this now.
    Depart(P),
    /// A want that came too late for its tick and cannot go now: tell its owner that it was not asked.
    GiveBack(Want),
}

enum Cargo<P> {
    /// Decided, not made yet.
    Decided(Ask),
    /// Being made by the caller.
    InTheMaking,
    Made(P),
    /// Waits for a want.
    Awaiting,
}

struct Departure<P> {
    at: Duration,
    cargo: Cargo<P>,
}

/// The emission of one client; `P` is a packet.
///
/// Contract: sleep until [`Emission::next_wake`], then do what [`Emission::poll`] says until it says `None`. Poll again
/// after [`Emission::wanted`]. When the link is gone, [`Emission::cut`].
pub struct Emission<P> {
    traffic: Traffic,
    departures: VecDeque<Departure<P>>,
    held: Option<Want>,
    asked: bool,
}

impl<P> std::fmt::Debug for Emission<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emission").field("traffic", &self.traffic).finish_non_exhaustive()
    }
}

impl<P> Emission<P> {
    /// The emission that keeps the schedule `traffic`.
    #[must_use]
    pub fn new(traffic: Traffic) -> Self {
        Self { traffic, departures: VecDeque::new(), held: None, asked: false }
    }

    /// The schedule, to give it the parameters of a new consensus.
    pub fn traffic(&mut self) -> &mut Traffic {
        &mut self.traffic
    }

    /// When there is something to do next.
    #[must_use]
    pub fn next_wake(&self) -> Duration {
        let departure = self.departures.front().map(|first| match first.cargo {
            Cargo::Awaiting => first.at.saturating_sub(BUILD_TIME),
            Cargo::Made(_) | Cargo::Decided(_) | Cargo::InTheMaking => first.at,
        });
        departure.map_or(self.traffic.next(), |departure| departure.min(self.traffic.next()))
    }

    /// The next thing to do, if there is one now.
    pub fn poll(&mut self, now: Duration, gate: Gate) -> Option<Step<P>> {
        // what would wait for the end of a pause or for another link may be outdated by then
        if !(gate.open && gate.payload)
            && let Some(want) = self.held.take()
        {
            return Some(Step::GiveBack(want));
        }
        self.take_ticks(now, gate);
        if let Some(first) = self.departures.front_mut()
            && matches!(first.cargo, Cargo::Awaiting)
            && first.at.saturating_sub(BUILD_TIME) <= now
        {
            first.cargo = Cargo::Decided(Ask::Decoy);
        }
        for departure in &mut self.departures {
            if matches!(departure.cargo, Cargo::Decided(_))
                && let Cargo::Decided(ask) = std::mem::replace(&mut departure.cargo, Cargo::InTheMaking)
            {
                return Some(Step::Make(ask, departure.at));
            }
        }
        if !self.asked && self.departures.iter().any(|departure| matches!(departure.cargo, Cargo::Awaiting)) {
            self.asked = true;
            return Some(Step::AskForWant);
        }
        let due = self.departures.front().is_some_and(|first| first.at <= now && matches!(first.cargo, Cargo::Made(_)));
        match due.then(|| self.departures.pop_front()).flatten()?.cargo {
            Cargo::Made(packet) => Some(Step::Depart(packet)),
            // only what is made is due
            Cargo::Decided(_) | Cargo::InTheMaking | Cargo::Awaiting => None,
        }
    }

    /// A tick that finds the gate closed passes: there is nothing to catch up later.
    fn take_ticks(&mut self, now: Duration, gate: Gate) {
        while let Some(tick) = self.traffic.due(now) {
            if !gate.open || self.departures.len() >= DEPARTURES_MAX {
                continue;
            }
            let cargo = match tick.kind {
                Kind::Loop => Cargo::Decided(Ask::Loop),
                Kind::Payload if !gate.payload => Cargo::Decided(Ask::Decoy),
                Kind::Payload => match self.held.take() {
                    Some(want) => Cargo::Decided(Ask::Want(want)),
                    None => Cargo::Awaiting,
                },
            };
            // ticks come in order; one that was slept through leaves at once, not in the past
            self.departures.push_back(Departure { at: tick.departs().max(now), cargo });
        }
    }

    /// What came of [`Step::Make`]; `None`: it could not be made, and nothing leaves.
    pub fn made(&mut self, packet: Option<P>) {
        let at = self.departures.iter().position(|departure| matches!(departure.cargo, Cargo::InTheMaking));
        let Some(at) = at else { return };
        match packet {
            Some(packet) => {
                if let Some(departure) = self.departures.get_mut(at) {
                    departure.cargo = Cargo::Made(packet);
                }
            }
            None => drop(self.departures.remove(at)),
        }
    }

    /// What came of [`Step::AskForWant`]; `None`: nothing is wanted. It takes the earliest departure that waits, or is
    /// held for the next payload tick.
    pub fn wanted(&mut self, want: Option<Want>) {
        self.asked = false;
        let waiting = self.departures.iter_mut().find(|departure| matches!(departure.cargo, Cargo::Awaiting));
        match (waiting, want) {
            (Some(departure), Some(want)) => departure.cargo = Cargo::Decided(Ask::Want(want)),
            (Some(departure), None) => departure.cargo = Cargo::Decided(Ask::Decoy),
            (None, Some(want)) => self.held = Some(want),
            (None, None) => {}
        }
    }

    /// The link is gone: nothing that was made for it may leave. Wants that were held, or decided on and not made, come
    /// back: their owner is to be told that they were not asked.
    pub fn cut(&mut self) -> Vec<Want> {
        let cut = self.departures.drain(..).filter_map(|departure| match departure.cargo {
            Cargo::Decided(Ask::Want(want)) => Some(want),
            Cargo::Decided(Ask::Decoy | Ask::Loop) | Cargo::InTheMaking | Cargo::Made(_) | Cargo::Awaiting => None,
        });
        cut.chain(self.held.take()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::RateClass;
    use crate::want::{Rank, Ticket};
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
    use shoal_protocol::StoreIndex;
    use shoal_protocol::boxes::BoxId;
    use shoal_protocol::parameters::Parameters;
    use shoal_protocol::request::Operation;

    const OPEN: Gate = Gate { open: true, payload: true };

    fn want(ticket: u64) -> Want {
        Want {
            ticket: Ticket(ticket),
            rank: Rank::Send,
            generation: 1,
            replicas: [StoreIndex(0), StoreIndex(1)],
            operation: Operation::Get { id: BoxId::from_bytes([0; 32]) },
        }
    }

    /// What left when, and which wants among it.
    #[derive(Debug, Default, PartialEq)]
    struct Trace {
        departures: Vec<Duration>,
        wants: Vec<u64>,
    }

    /// Runs an emission for `until`. `answer`: after how long a question for a want is answered, and with what.
    fn run(
        class: RateClass,
        parameters: &Parameters,
        until: Duration,
        mut answer: impl FnMut(u64) -> (Duration, Option<Want>),
    ) -> Trace {
        let mut emission: Emission<Option<u64>> =
            Emission::new(Traffic::new(class, parameters, Duration::ZERO, [5; 32]));
        let mut trace = Trace::default();
        let mut answers: VecDeque<(Duration, Option<Want>)> = VecDeque::new();
        let mut questions = 0;
        let mut now = Duration::ZERO;
        while now < until {
            let answered = answers.front().map(|(at, _)| *at);
            now = answered.map_or(emission.next_wake(), |at| at.min(emission.next_wake())).max(now);
            if answered.is_some_and(|at| at <= now) {
                emission.wanted(answers.pop_front().unwrap().1);
            }
            while let Some(step) = emission.poll(now, OPEN) {
                match step {
                    Step::Make(ask, departs) => {
                        assert!(departs >= now);
                        emission.made(Some(if let Ask::Want(want) = ask { Some(want.ticket.0) } else { None }));
                    }
                    Step::AskForWant => {
                        assert!(answers.is_empty(), "one question at a time");
                        let (after, want) = answer(questions);
                        questions += 1;
                        answers.push_back((now + after, want));
                    }
                    Step::Depart(packet) => {
                        trace.departures.push(now);
                        trace.wants.extend(packet);
                    }
                    Step::GiveBack(_) => panic!("the gate is open"),
                }
            }
        }
        trace
    }

    /// The strongest form of "idle and busy look the same": with one seed, every packet leaves at the same nanosecond,
    /// whether the client is idle, sends with every tick, or has a disk that takes longer than a tick may wait.
    #[test]
    fn idle_and_busy_clients_emit_at_the_same_instants() {
        let until = Duration::from_secs(3_600);
        for (class, parameters) in [
            (RateClass::Normal, Parameters::production()),
            (RateClass::Low, Parameters::production()),
            (RateClass::Normal, Parameters::test_network()),
        ] {
            let idle = run(class, &parameters, until, |_| (Duration::from_micros(200), None));
            assert!(idle.wants.is_empty() && idle.departures.len() > 100);

            let busy = run(class, &parameters, until, |n| (Duration::from_millis(2), Some(want(n))));
            assert_eq!(busy.departures, idle.departures);
            // everything wanted went, once, in order, but perhaps for the last
            let expected: Vec<u64> = (0..busy.wants.len() as u64).collect();
            assert_eq!(busy.wants, expected);
            assert!(busy.wants.len() * 10 > busy.departures.len() * 7);

            let mut rng = StdRng::seed_from_u64(8);
            let slow = run(class, &parameters, until, |n| {
                let after = Duration::from_micros(rng.random_range(0..40_000));
                (after, (n % 3 != 0).then(|| want(n)))
            });
            assert_eq!(slow.departures, idle.departures);
            assert!(slow.wants.is_sorted() && !slow.wants.is_empty());
        }
    }

    #[test]
    fn a_want_that_comes_too_late_takes_the_next_tick() {
        let parameters = Parameters::production();
        let mut emission: Emission<&str> =
            Emission::new(Traffic::new(RateClass::Low, &parameters, Duration::ZERO, [6; 32]));
        let mut asks = 0;
        let mut left = Vec::new();
        while left.len() < 60 {
            let now = emission.next_wake();
            while let Some(step) = emission.poll(now, OPEN) {
                match step {
                    Step::Make(ask, _) => emission.made(Some(match ask {
                        Ask::Want(_) => "want",
                        Ask::Decoy => "decoy",
                        Ask::Loop => "loop",
                    })),
                    Step::AskForWant => asks += 1,
                    Step::Depart(packet) => {
                        left.push(packet);
                        if packet == "decoy" {
                            // the answer to what was asked for this departure
                            emission.wanted(Some(want(1)));
                        }
                    }
                    Step::GiveBack(_) => panic!("the gate is open"),
                }
            }
        }
        let payload: Vec<&str> = left.into_iter().filter(|packet| *packet != "loop").collect();
        assert!(payload.chunks_exact(2).all(|pair| pair == ["decoy", "want"]), "{payload:?}");
        assert_eq!(asks, payload.len().div_ceil(2));
    }

    #[test]
    fn a_closed_gate_lets_ticks_pass_and_saves_none() {
        let parameters = Parameters::production();
        let mut emission: Emission<()> =
            Emission::new(Traffic::new(RateClass::Normal, &parameters, Duration::ZERO, [7; 32]));
        let shut = Gate { open: false, payload: true };
        for second in 0..600 {
            assert!(emission.poll(Duration::from_secs(second), shut).is_none());
        }
        let now = Duration::from_secs(600);
        let mut steps = 0;
        while let Some(step) = emission.poll(now, OPEN) {
            if let Step::Make(..) = step {
                emission.made(Some(()));
            }
            steps += 1;
        }
        assert!(steps <= 4, "{steps} steps at once after ten minutes without a link");
    }

    #[test]
    fn a_pause_sends_decoys_and_asks_for_nothing() {
        let parameters = Parameters::production();
        let mut emission: Emission<bool> =
            Emission::new(Traffic::new(RateClass::Normal, &parameters, Duration::ZERO, [8; 32]));
        let paused = Gate { open: true, payload: false };
        let mut left = 0;
        while left < 100 {
            let now = emission.next_wake();
            while let Some(step) = emission.poll(now, paused) {
                match step {
                    Step::Make(ask, _) => emission.made(Some(matches!(ask, Ask::Want(_)))),
                    Step::AskForWant => panic!("a pause asks for nothing"),
                    Step::Depart(payload) => {
                        assert!(!payload);
                        left += 1;
                    }
                    Step::GiveBack(_) => panic!("nothing was asked for"),
                }
            }
        }
    }

    #[test]
    fn a_cut_gives_undecided_wants_back() {
        let parameters = Parameters::test_network();
        let mut emission: Emission<()> =
            Emission::new(Traffic::new(RateClass::Normal, &parameters, Duration::ZERO, [9; 32]));
        loop {
            let now = emission.next_wake();
            match emission.poll(now, OPEN) {
                Some(Step::AskForWant) => break,
                Some(Step::Make(..)) => emission.made(Some(())),
                Some(Step::Depart(()) | Step::GiveBack(_)) | None => {}
            }
        }
        emission.wanted(Some(want(3)));
        let cut = emission.cut();
        assert_eq!(cut.into_iter().map(|want| want.ticket).collect::<Vec<_>>(), [Ticket(3)]);
    }

    #[test]
    fn a_want_that_is_held_comes_back_at_a_cut_a_pause_and_a_closed_gate() {
        let parameters = Parameters::test_network();
        let mut emission: Emission<()> =
            Emission::new(Traffic::new(RateClass::Normal, &parameters, Duration::ZERO, [10; 32]));
        // nothing waits for a want: it is held
        emission.wanted(Some(want(4)));
        let cut: Vec<Ticket> = emission.cut().into_iter().map(|want| want.ticket).collect();
        assert_eq!(cut, [Ticket(4)]);
        assert!(emission.cut().is_empty());
        for gate in [Gate { open: false, payload: true }, Gate { open: true, payload: false }] {
            emission.wanted(Some(want(5)));
            let step = emission.poll(Duration::ZERO, gate);
            assert!(matches!(step, Some(Step::GiveBack(Want { ticket: Ticket(5), .. }))), "{gate:?}: {step:?}");
            assert!(emission.poll(Duration::ZERO, gate).is_none());
        }
    }
}
