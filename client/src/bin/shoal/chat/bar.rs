//! What the bar at the top says: always the same facts, in long or short words.

use super::state::{Link, State};
use super::words;
use super::wrap::{columns, one_line};

/// How urgent the first word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Calm,
    Warning,
    Alarm,
}

/// The first word, and how urgent it is.
pub(super) fn word(state: &State) -> (&'static str, Urgency) {
    use shoal_client::io::Condition;
    match (&state.link, &state.status) {
        (Link::Starting, _) | (Link::Up, None) => ("STARTING", Urgency::Calm),
        (Link::Down(_), _) => ("NOT RUNNING", Urgency::Alarm),
        (Link::Up, Some(status)) => {
            let urgency = match status.state {
                Condition::Good | Condition::Starting => Urgency::Calm,
                Condition::Warn => Urgency::Warning,
                Condition::Pause | Condition::Offline | Condition::Stopped => Urgency::Alarm,
            };
            (words::condition(status.state), urgency)
        }
    }
}

/// What is wrong and what it means for what is about to be sent; `None`: nothing is.
pub(super) fn caution(state: &State) -> Option<String> {
    if let Link::Down(why) = &state.link {
        return Some(format!("Nothing is sent or received, no cover traffic either: {why}. Ctrl+R starts the daemon."));
    }
    let status = state.status.as_ref()?;
    let meaning = words::caution(status)?;
    // in good states there is no next step; F2 has the whole of it
    let next = one_line(&status.next, 400);
    Some(if next.is_empty() { meaning } else { format!("{meaning} Next: {next}") })
}

/// The facts after the first word.
fn facts(state: &State, short: bool) -> Vec<String> {
    let pick = |long: String, brief: String| if short { brief } else { long };
    let Some(status) = &state.status else {
        let down = matches!(state.link, Link::Down(_));
        return vec![if down { "the daemon has ended".into() } else { "no status yet".into() }];
    };
    let hiding = match (status.anonymity_bits, status.hiding_among) {
        _ if status.test_network => {
            pick("hiding among nobody: a test network".into(), "no anonymity: test network".into())
        }
        (Some(bits), Some(among)) => pick(
            format!("hiding among about {among}, at most {bits:.1} bits"),
            format!("hides ~{among}, max {bits:.1} bits"),
        ),
        (_, _) => pick("hiding among: unknown".into(), "hides: unknown".into()),
    };
    let loops = match status.loop_survival {
        Some(share) => format!("loops {:.0}%", share * 100.0),
        None => "loops -".into(),
    };
    let epoch = status.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
    let gateway = match &status.gateway {
        Some(gateway) => gateway.to_string().chars().take(if short { 4 } else { 8 }).collect(),
        None => "none".to_owned(),
    };
    let arrives = match (&state.talk, state.estimate.and_then(|estimate| estimate.arrives_ms)) {
        (None, _) => None,
        (Some(_), Some(takes)) => {
            Some(pick(format!("arrives in about {}", words::span(takes)), format!("~{}", words::span(takes))))
        }
        (Some(_), None) => Some(pick("arrival unknown".into(), "~?".into())),
    };
    let queue = status.queue;
    let mut facts = vec![
        hiding,
        loops,
        pick(format!("epoch {epoch}"), format!("ep {epoch}")),
        pick(format!("gateway {gateway}"), format!("gw {gateway}")),
        pick(format!("queue {queue}"), format!("q {queue}")),
    ];
    facts.extend(arrives);
    facts
}

/// The facts in lines; the first leaves room for the word.
pub(super) fn lines(state: &State, width: usize) -> Vec<String> {
    let first = columns(word(state).0) + 3;
    let long = flow(facts(state, false), first, width, " · ");
    if long.len() <= 2 { long } else { flow(facts(state, true), first, width, "  ") }
}

fn flow(facts: Vec<String>, first: usize, width: usize, between: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = first;
    for fact in facts {
        let line = lines.last_mut();
        let Some(line) = line else { break };
        let gap = if line.is_empty() { 0 } else { columns(between) };
        if used + gap + columns(&fact) > width && !(line.is_empty() && used <= 1) {
            used = 1 + columns(&fact);
            lines.push(fact);
            continue;
        }
        if gap > 0 {
            line.push_str(between);
        }
        line.push_str(&fact);
        used += gap + columns(&fact);
    }
    lines
}
