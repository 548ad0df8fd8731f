//! What the demonstration shows: how far each message came and when, and what each party could see of it.

use std::time::Duration;

use serde::Serialize;

use shoal_protocol::duration::short;

use crate::draw::count;

/// How the transcript is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// With colours, for a terminal.
    Colour,
    /// Letters only.
    Plain,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Plain => text.to_owned(),
        }
    }

    fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn quiet(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn name(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// A heading over a part of the transcript.
    pub(crate) fn heading(self, text: &str) -> String {
        format!("\n{}\n", self.strong(text))
    }

    fn verdict(self, good: bool) -> String {
        if good { self.paint("32", "✓") } else { self.paint("31", "✗") }
    }
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Message {
    /// Its id, the same at writer and reader.
    pub(crate) id: String,
    /// Who wrote it.
    pub(crate) from: String,
    /// For whom.
    pub(crate) to: String,
    /// Its text, or what file it is.
    pub(crate) text: String,
    /// When it was written, counted from the start of the conversation.
    pub(crate) written_at_ms: u64,
    /// The states it reached, with the time from its writing.
    pub(crate) states: Vec<Reached>,
    /// When the reader had it whole, counted from its writing.
    pub(crate) shown_after_ms: Option<u64>,
    /// Whether the reader's `read` gave it once, in its place, byte for byte.
    pub(crate) read_back: bool,
}

/// A state that a message reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Reached {
    /// `queued`, `sent`, `stored` or `delivered`.
    pub(crate) state: String,
    /// Time since the message was written.
    pub(crate) after_ms: u64,
}

impl Message {
    /// Whether its writer knows that it arrived and its reader has it.
    pub(crate) fn delivered(&self) -> bool {
        self.shown_after_ms.is_some() && self.states.iter().any(|reached| reached.state == "delivered")
    }

    /// Its two lines in the transcript.
    pub(crate) fn lines(&self, style: Style) -> String {
        let ms = |ms: u64| short(Duration::from_millis(ms));
        let mut steps: Vec<(u64, String)> = self
            .states
            .iter()
            .map(|reached| (reached.after_ms, format!("{} {}", reached.state, ms(reached.after_ms))))
            .collect();
        match self.shown_after_ms {
            Some(after_ms) => steps.push((after_ms, format!("read by {} {}", self.to, ms(after_ms)))),
            None => steps.push((u64::MAX, format!("not read by {}", self.to))),
        }
        steps.sort();
        let steps: Vec<String> = steps.into_iter().map(|(_, step)| step).collect();
        format!(
            "  {} {} → {}  {}\n      {}\n",
            style.verdict(self.delivered()),
            style.name(&self.from),
            style.name(&self.to),
            self.text,
            style.quiet(&steps.join(" · "))
        )
    }
}

/// What one party could see.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sight {
    /// The party's name, such as `gateway-2`.
    pub(crate) party: String,
    /// The role in which it saw it: `gateway`, `mix`, `courier`, `replica`.
    pub(crate) role: String,
    /// What was observed of it: figures read from the running processes.
    pub(crate) observed: String,
    /// What its role may see, by the design: a fixed sentence, not a measurement.
    pub(crate) may_see: String,
}

/// The whole demonstration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Transcript {
    /// Whether every message was delivered both ways and read back.
    pub(crate) delivered: bool,
    /// The status page.
    pub(crate) status: String,
    /// The messages in the order written.
    pub(crate) messages: Vec<Message>,
    /// What each party saw.
    pub(crate) sights: Vec<Sight>,
    /// What a search through everything that the nodes keep and log found.
    pub(crate) search: Search,
}

/// A search for what must not be found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Search {
    /// Bytes of files that were looked through.
    pub(crate) bytes: u64,
    /// Files that were looked through.
    pub(crate) files: u64,
    /// Files and directories that could not be looked through: too large, too deep, unreadable, or links.
    pub(crate) skipped: u64,
    /// Where something was found that should not be there.
    pub(crate) found: Vec<String>,
}

/// The table of what each party saw.
pub(crate) fn sights(sights: &[Sight], search: &Search, style: Style) -> String {
    let mut text = style.heading("What each party saw");
    let names = sights.iter().map(|sight| sight.party.chars().count()).max().unwrap_or(0);
    let roles = sights.iter().map(|sight| sight.role.chars().count()).max().unwrap_or(0);
    for sight in sights {
        let party = format!("{:<names$}", sight.party);
        let role = format!("{:<roles$}", sight.role);
        text.push_str(&format!(
            "  {}  {}  observed: {}\n  {:names$}  {:roles$}  {}\n",
            style.name(&party),
            style.quiet(&role),
            sight.observed,
            "",
            "",
            style.quiet(&format!("its role may see: {}", sight.may_see))
        ));
    }
    let looked = format!("{} files of all nodes, {} kB", count(search.files), count(search.bytes / 1_000));
    let looked = match search.skipped {
        0 => looked,
        skipped => format!("{looked}, and NOT {} that could not be searched", count(skipped)),
    };
    let line = match search.found.as_slice() {
        [] => format!(
            "  {} searched {looked}: no text, no part of the file, no address, key, message or conversation of Alice or \
             Bob, and not where they connect from\n",
            style.verdict(search.skipped == 0)
        ),
        found => format!("  {} searched {looked}: found {}\n", style.verdict(false), found.join(", ")),
    };
    text.push('\n');
    text.push_str(&line);
    text
}

/// The last line.
pub(crate) fn conclusion(messages: &[Message], delivered: bool, style: Style) -> String {
    let arrived = messages.iter().filter(|message| message.delivered() && message.read_back).count();
    format!(
        "\n{} {} of {} delivered and read back, each once, in order, byte for byte\n",
        style.verdict(delivered),
        arrived,
        messages.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let reached = |state: &str, after_ms| Reached { state: state.into(), after_ms };
        Message {
            id: "1".into(),
            from: "Alice".into(),
            to: "Bob".into(),
            text: "hello".into(),
            written_at_ms: 0,
            states: vec![
                reached("queued", 3),
                reached("sent", 110),
                reached("stored", 700),
                reached("delivered", 2_400),
            ],
            shown_after_ms: Some(1_200),
            read_back: true,
        }
    }

    #[test]
    fn states_stand_in_the_order_of_time() {
        let lines = message().lines(Style::Plain);
        assert_eq!(
            lines,
            "  ✓ Alice → Bob  hello\n      queued 3ms · sent 110ms · stored 700ms · read by Bob 1.2s · delivered 2.4s\n"
        );
    }

    #[test]
    fn what_did_not_arrive_is_said() {
        let lost = Message { shown_after_ms: None, ..message() };
        assert!(!lost.delivered());
        assert!(lost.lines(Style::Plain).contains("✗ Alice") && lost.lines(Style::Plain).contains("not read by Bob"));
        let end = conclusion(&[message(), lost], false, Style::Plain);
        assert!(end.contains("✗ 1 of 2 delivered"));
    }

    #[test]
    fn plain_style_has_no_escapes() {
        let sight =
            Sight { party: "mix-1".into(), role: "mix".into(), observed: "4 packets".into(), may_see: "sizes".into() };
        let text = sights(&[sight], &Search::default(), Style::Plain);
        assert!(!text.contains('\u{1b}') && text.contains("mix-1  mix  observed: 4 packets"));
        assert!(text.contains("its role may see: sizes"));
        let partly = Search { skipped: 2, ..Search::default() };
        assert!(sights(&[], &partly, Style::Plain).contains("✗ searched"));
        assert!(
            sights(&[], &Search { found: vec!["x".into()], ..Search::default() }, Style::Colour).contains("\u{1b}[31m")
        );
    }
}
