//! One message as lines: day, head, text or file.

use shoal_client::io::{EntryLine, Parts};

use super::words;
use super::wrap::{one_line, short, shown, wrapped};
use crate::time::readable;

/// Bytes of a text that are shown; the rest is to be had with `shoal read`.
const TEXT_SHOWN_MAX: usize = 32 << 10;
/// Text stands under its head, moved in: nobody can write what looks like another person's line.
const INDENT: &str = "  ";
const BAR: usize = 20;

/// What a line is, for whoever gives it a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Day,
    /// Head of somebody else's message.
    Theirs,
    /// Head of an own message.
    Own,
    Text,
    /// About a text, not of it.
    Note,
}

/// A line of the timeline, fit for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) text: String,
}

impl Row {
    fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// Times are UTC, as in all of `shoal`: the machine's time zone is nobody's business on a shared screen.
fn day_and_clock(entry: &EntryLine) -> (String, String) {
    let time = readable(entry.received_at.unwrap_or(entry.sent_at));
    let part = |range: std::ops::Range<usize>| time.get(range).unwrap_or_default().to_owned();
    (part(0..10), part(11..16))
}

/// The lines of an entry that stands after `before`.
pub(super) fn block(entry: &EntryLine, before: Option<&EntryLine>, width: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let (day, clock) = day_and_clock(entry);
    if before.map(|before| day_and_clock(before).0).as_ref() != Some(&day) {
        rows.push(Row::new(Kind::Day, format!("{day} (UTC)")));
    }
    let head = match (&entry.from, words::state(entry)) {
        (None, state) => format!("{clock} you  {}", state.unwrap_or_default()),
        (Some(from), _) if entry.request => format!("{clock} {} (a stranger)", short(&one_line(from, 100))),
        (Some(from), _) => format!("{clock} {}", short(&one_line(from, 100))),
    };
    rows.push(Row::new(if entry.own { Kind::Own } else { Kind::Theirs }, one_line(&head, width)));
    let inner = width.saturating_sub(INDENT.len());
    let mut put = |kind, text: &str| {
        rows.extend(wrapped(text, inner).into_iter().map(|line| Row::new(kind, format!("{INDENT}{line}"))));
    };
    if let Some(file) = &entry.file {
        let name = one_line(&file.name, 200);
        put(Kind::Text, &format!("[file {name}, {}]", words::size(file.size)));
        if let Some(path) = &file.path {
            put(Kind::Note, &format!("is here: {}", shown(&path.to_string_lossy(), 4_096).0.replace('\n', "\u{fffd}")));
        }
    }
    if entry.text.is_empty() && entry.file.is_none() {
        put(Kind::Note, "(an empty message)");
    } else if !entry.text.is_empty() {
        let (text, cut) = shown(&entry.text, TEXT_SHOWN_MAX);
        put(Kind::Text, &text);
        if cut {
            let rest = words::size((entry.text.len() - TEXT_SHOWN_MAX) as u64);
            put(Kind::Note, &format!("(the text goes on for about {rest}: shoal read prints all of it)"));
        }
    }
    if let (Some(parts), true) =
        (entry.parts, entry.state.is_some_and(|state| state < shoal_client::mail::MessageState::Stored))
    {
        put(Kind::Note, &bar(parts));
    }
    rows
}

/// How far a file is.
fn bar(Parts { written, all }: Parts) -> String {
    let done = usize::try_from(written.min(all) * BAR as u64 / all.max(1)).unwrap_or(BAR);
    format!("[{}{}] {written} of {all} boxes", "#".repeat(done), "-".repeat(BAR - done))
}
