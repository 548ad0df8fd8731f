//! Sentences about the network's health, made from what is known now.

use serde::Serialize;
use shoal_protocol::types::UnixMillis;

use crate::{
    history::Summary,
    view::{Certificate, Party, Probing, State},
};

/// How much a line of the findings matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Good,
    /// Worth a look.
    Notice,
    /// Messages may not arrive.
    Alarm,
}

/// One sentence about the network's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How much it matters.
    pub(crate) level: Level,
    /// The sentence.
    pub(crate) text: String,
}

/// Says what there is to say, the worst first.
pub(crate) fn findings(
    certificate: Option<&Certificate>,
    parties: &[Party],
    loops: &Summary,
    probing: &Probing,
    epoch_ms: u64,
    now: UnixMillis,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |level, text: String| findings.push(Finding { level, text });
    match certificate {
        None => say(Level::Alarm, "No certified document yet: nobody can build a route.".into()),
        Some(certificate) => {
            let age_ms = now.0.saturating_sub(certificate.valid_from_ms);
            if now.0 > certificate.valid_until_ms {
                say(Level::Alarm, format!("The document of epoch {} has expired.", certificate.epoch));
            } else if age_ms > epoch_ms.saturating_mul(5) / 4 {
                say(
                    Level::Notice,
                    "The document of this epoch is missing; traffic goes on with the one before.".into(),
                );
            } else {
                say(Level::Good, format!("Document of epoch {} certified and in force.", certificate.epoch));
            }
        }
    }
    let named = |state: State| {
        let names: Vec<&str> = parties.iter().filter(|party| party.state == state).map(|party| &*party.name).collect();
        names.join(", ")
    };
    let down = named(State::Down);
    if !down.is_empty() {
        say(Level::Alarm, format!("No answer from {down}."));
    }
    let waiting = named(State::Waiting);
    if !waiting.is_empty() {
        say(Level::Notice, format!("Not ready: {waiting}."));
    }
    let unlisted: Vec<&str> = parties.iter().filter(|party| !party.in_consensus).map(|party| &*party.name).collect();
    if certificate.is_some() && !unlisted.is_empty() {
        say(Level::Notice, format!("Not in the newest document: {}.", unlisted.join(", ")));
    }
    if down.is_empty() && waiting.is_empty() && parties.iter().any(|party| party.state == State::Ready) {
        say(Level::Good, "Every party that can be asked is ready.".into());
    }
    if probing.running {
        match loops.recent_survival {
            _ if !probing.connected => {
                let why = probing.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
                say(Level::Alarm, format!("The prober is not connected to a gateway{why}."));
            }
            None if loops.survival.is_some() => say(Level::Alarm, "No loop was sent lately.".into()),
            None => say(Level::Notice, "The prober's first loops are under way.".into()),
            Some(part) if part < 0.5 => say(Level::Alarm, format!("Only {} of the loops come back.", percent(part))),
            Some(part) if part < 0.97 => say(Level::Notice, format!("{} of the loops come back.", percent(part))),
            Some(part) => say(Level::Good, format!("{} of the loops come back.", percent(part))),
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

/// A part of one as a percentage; never rounded up to a hundred.
pub(crate) fn percent(part: f64) -> String {
    if part >= 1.0 { "100 %".to_owned() } else { format!("{:.1} %", (part * 1_000.0).floor() / 10.0) }
}
