//! What can be concluded from the answers of all authorities, as `doctor` asks them: about each of them, and about the clock
//! of this machine.
//!
//! One authority may lie or have a wrong clock, and so may f of them. So the clock is called wrong only when one more than
//! that say so, and right only when as many agree with it.

use crate::advice::CORRECT_THE_ADDRESS;
use crate::answers::needed;
use std::time::Duration;

/// What an authority had for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A document that is in force, and whether it lists this node.
    InForce {
        /// Its epoch.
        epoch: u64,
        /// Whether it lists this node.
        listed: bool,
    },
    /// One that is over by this machine's clock.
    Over {
        /// Since when.
        ago: Duration,
    },
    /// One that has not begun by this machine's clock.
    Ahead {
        /// Until it begins.
        by: Duration,
    },
    /// None yet, and why.
    NotYet(String),
    /// One that a set of authorities certified to which nothing leads from what is known here.
    UnknownSet,
    /// What is no document of this network, and why.
    Unusable(String),
    /// Nothing.
    Silent(String),
}

/// What the running node knows beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Authorities that list the newest descriptor: they found its time right.
    pub accepted: usize,
    /// Authorities that refuse it for its time.
    pub refused_for_clock: usize,
    /// Whether it leaves the network.
    pub leaves: bool,
    /// What helps when no document lists it.
    pub unlisted: String,
}

/// The clock of this machine, beside those of the authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Enough of them agree with it.
    Right,
    /// One more than may lie say that it is wrong.
    Wrong,
    /// Neither.
    Unknown,
}

/// Judges the clock by the answers of all of `n` authorities.
pub fn clock(heard: &[Heard], told: &Told, n: usize) -> Clock {
    let witnesses = needed(n);
    let ahead = heard.iter().filter(|heard| matches!(heard, Heard::Ahead { .. })).count();
    let in_force = heard.iter().filter(|heard| matches!(heard, Heard::InForce { .. })).count();
    if ahead >= witnesses || told.refused_for_clock >= witnesses {
        Clock::Wrong
    } else if in_force >= witnesses || told.accepted >= witnesses {
        Clock::Right
    } else {
        Clock::Unknown
    }
}

/// What is said of one authority: whether it is as it should be, what was found, what to do.
pub fn of_authority(heard: &Heard, clock: Clock, told: &Told) -> (bool, String, String) {
    let bad = |found: String, next: &str| (false, found, next.to_owned());
    match heard {
        Heard::InForce { epoch, listed: true } => (true, format!("lists this node in epoch {epoch}"), String::new()),
        Heard::InForce { epoch, .. } if told.leaves => {
            (true, format!("the consensus of epoch {epoch} does not list this node, which leaves"), String::new())
        }
        Heard::InForce { epoch, .. } => {
            bad(format!("the consensus of epoch {epoch} does not list this node"), &told.unlisted)
        }
        Heard::Over { ago } => bad(
            format!("its newest consensus is over since {} s", ago.as_secs()),
            match clock {
                Clock::Wrong => SET_THE_CLOCK,
                Clock::Right => "this machine's clock is right: ask the operators of the authorities why there is no new one",
                Clock::Unknown => {
                    "compare the clock of this machine (timedatectl); if it is right, the authorities make no documents: ask \
                     their operators"
                }
            },
        ),
        Heard::Ahead { by } => bad(
            format!("its newest consensus begins in {} s", by.as_secs()),
            match clock {
                Clock::Wrong => SET_THE_CLOCK,
                Clock::Right => "the others agree with this machine's clock: tell the operator of this authority",
                Clock::Unknown => "compare the clock of this machine (timedatectl), then tell the operator of this authority",
            },
        ),
        Heard::NotYet(reason) => (true, format!("no consensus yet: {reason}"), String::new()),
        Heard::UnknownSet => bad(
            "its newest consensus is certified by authorities to which no document leads from those that are known here"
                .to_owned(),
            "ask its operator; if all authorities show such a one, get the network file of today, compare its words, and put \
             it in place of network.toml",
        ),
        Heard::Unusable(error) => bad(error.clone(), "ask its operator: it is behind what is known here, serves another network, or is of another version"),
        Heard::Silent(error) => bad(
            error.clone(),
            "ask its operator whether it runs, and check the firewall here: UDP must pass both ways",
        ),
    }
}

/// What to do about a clock that is wrong.
const SET_THE_CLOCK: &str =
    "set the clock of this machine (timedatectl): more authorities than can all be wrong differ from it";

/// What is said of the clock.
pub fn of_clock(clock: Clock) -> (bool, String, String) {
    match clock {
        Clock::Right => (true, "agrees with the authorities".to_owned(), String::new()),
        Clock::Wrong => (false, "differs from the authorities'".to_owned(), SET_THE_CLOCK.to_owned()),
        Clock::Unknown => (true, "too few authorities tell their time".to_owned(), String::new()),
    }
}

/// What is said of the address that the descriptor names: whether all is well, what was found, what to do. `refusals`: how
/// those that dialled the node in vain put it.
pub fn of_address(configured: &str, published: &str, named: &[&str], refusals: &[&str]) -> (bool, String, String) {
    let named = named.join(", ");
    if configured != published {
        let found = format!("node.toml says {configured}, the running node publishes {published} ({named})");
        return (false, found, "send SIGHUP (systemctl reload shoal-node) or restart the node".to_owned());
    }
    if refusals.is_empty() {
        return (true, format!("the descriptor names {named}"), String::new());
    }
    let found = format!("the descriptor names {named}; {}", refusals.join("; "));
    (false, found, CORRECT_THE_ADDRESS.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Heard = Heard::Over { ago: Duration::from_secs(90) };
    const AHEAD: Heard = Heard::Ahead { by: Duration::from_secs(3_600) };

    #[test]
    fn a_clock_is_wrong_only_when_more_say_so_than_may_lie() {
        let silent = Heard::Silent("no answer".to_owned());
        let in_force = Heard::InForce { epoch: 4, listed: true };
        let told = |accepted, refused_for_clock| Told { accepted, refused_for_clock, ..Told::default() };
        let judged = |heard: &[&Heard], told: &Told| {
            clock(&heard.iter().map(|heard| (*heard).clone()).collect::<Vec<_>>(), told, 4)
        };
        assert_eq!(judged(&[&AHEAD, &silent, &silent, &silent], &told(0, 0)), Clock::Unknown, "one may lie");
        assert_eq!(judged(&[&AHEAD, &AHEAD, &silent, &silent], &told(0, 0)), Clock::Wrong);
        // all documents over: the descriptor tells whether it is the clock or the authorities
        let over = [&OVER, &OVER, &OVER, &OVER];
        assert_eq!(judged(&over, &told(0, 0)), Clock::Unknown);
        assert_eq!(judged(&over, &told(0, 1)), Clock::Unknown);
        assert_eq!(judged(&over, &told(0, 2)), Clock::Wrong);
        assert_eq!(judged(&over, &told(2, 0)), Clock::Right);
        assert_eq!(judged(&[&AHEAD, &in_force, &in_force, &OVER], &told(0, 0)), Clock::Right);
    }

    #[test]
    fn the_clock_is_named_only_where_it_may_be_the_cause() {
        let told = Told::default();
        let next = |heard: &Heard, clock| of_authority(heard, clock, &told).2;
        assert!(next(&OVER, Clock::Right).contains("clock is right"));
        assert!(next(&OVER, Clock::Wrong).starts_with("set the clock"));
        assert!(next(&OVER, Clock::Unknown).contains("timedatectl"));
        assert!(next(&AHEAD, Clock::Right).contains("operator of this authority"));
        for clock in [Clock::Right, Clock::Wrong, Clock::Unknown] {
            for heard in
                [Heard::UnknownSet, Heard::Unusable("another network".to_owned()), Heard::Silent(String::new())]
            {
                let (ok, _, next) = of_authority(&heard, clock, &told);
                assert!(!ok && !next.contains("clock") && !next.contains("timedatectl"), "{heard:?}: {next}");
            }
        }
    }

    #[test]
    fn a_node_that_leaves_need_not_be_listed() {
        let out = Heard::InForce { epoch: 4, listed: false };
        let unlisted = Told { unlisted: "send the admission line".to_owned(), ..Told::default() };
        assert_eq!(of_authority(&out, Clock::Right, &unlisted).2, "send the admission line");
        assert!(of_authority(&out, Clock::Right, &Told { leaves: true, ..unlisted }).0);
    }

    #[test]
    fn a_wrong_address_is_shown_with_what_was_said_of_it() {
        let good = of_address("h:1", "h:1", &["192.0.2.1:1"], &[]);
        assert!(good.0 && good.1.contains("192.0.2.1:1"));
        let (ok, found, next) =
            of_address("h:1", "h:1", &["192.0.2.1:1"], &["ab: cannot reach (192.0.2.1:1: refused)"]);
        assert!(!ok && found.contains("refused") && next.contains("node.toml"), "{found} {next}");
        let (ok, found, next) = of_address("h:2", "h:1", &["192.0.2.1:1"], &[]);
        assert!(!ok && found.contains("h:2") && next.contains("SIGHUP"), "{found} {next}");
    }
}
