//! The messages of the open conversation: a window of entries that grows to both sides, and how far up one looks.
//!
//! The place is kept by the line at the bottom of the screen, so that what is being read stays where it is when older
//! entries are put before it or new ones come in after it.

use shoal_client::io::{EntryLine, SentLine, TimelinePage, WaitsFor};
use shoal_client::mail::MessageState;

use super::ask::Side;
use super::block::{Row, block};

/// Entries that are asked for at a time.
pub(super) const PAGE: usize = 50;
/// Entries that are kept; others can be had again. Each has a text of at most 1 MiB, and a page has about as much.
pub(super) const KEPT: usize = 500;

/// The bottom line of the screen: a line of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    cursor: u64,
    line: usize,
}

/// An open conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Talk {
    pub(super) key: String,
    entries: Vec<EntryLine>,
    /// The newest page has come.
    pub(super) loaded: bool,
    /// There are older ones to be had.
    pub(super) more: bool,
    /// Newer ones were given up to keep older ones.
    cut: bool,
    /// `None`: at the end, and following it.
    anchor: Option<Anchor>,
    /// Sides that are being asked for.
    pub(super) asked_before: bool,
    pub(super) asked_after: bool,
    /// Something came after newer ones were asked for: the answer may be without it.
    pub(super) after_again: bool,
    /// Up to where the user has seen it, as the daemon knows.
    pub(super) seen: u64,
}

impl Talk {
    pub(super) fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            entries: Vec::new(),
            loaded: false,
            more: false,
            cut: false,
            anchor: None,
            asked_before: false,
            asked_after: false,
            after_again: false,
            seen: 0,
        }
    }

    pub(super) fn entries(&self) -> &[EntryLine] {
        &self.entries
    }

    /// The newest entry that is on the screen, when one looks at the end.
    pub(super) fn watched(&self) -> Option<u64> {
        if self.anchor.is_some() || self.cut { None } else { self.newest() }
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.cursor)
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.entries.first().map(|entry| entry.cursor)
    }

    /// Whether one looks at older messages.
    pub(super) fn scrolled(&self) -> bool {
        self.anchor.is_some() || self.cut
    }

    /// What to ask for to become current; `None`: newer entries were given up, so that nothing is to be put after them.
    pub(super) fn onward(&self) -> Option<Side> {
        match self.newest() {
            _ if self.cut => None,
            Some(newest) => Some(Side::After(newest)),
            None => Some(Side::Newest),
        }
    }

    /// Takes a page in.
    pub(super) fn put(&mut self, page: TimelinePage, side: Side) {
        self.seen = self.seen.max(page.seen);
        match side {
            Side::Newest => {
                *self = Self { seen: self.seen, ..Self::new(&self.key) };
                (self.loaded, self.more) = (true, page.more);
            }
            Side::Before(_) => (self.asked_before, self.more) = (false, page.more),
            // entries beyond a gap would stand at the wrong place
            Side::After(_) if self.cut => return,
            Side::After(_) => self.asked_after = false,
        }
        for entry in page.entries {
            match self.entries.binary_search_by_key(&entry.cursor, |entry| entry.cursor) {
                Ok(at) => self.entries[at] = entry,
                Err(at) => self.entries.insert(at, entry),
            }
        }
        let surplus = self.entries.len().saturating_sub(KEPT);
        if surplus == 0 {
            return;
        }
        if matches!(side, Side::Before(_)) {
            self.entries.truncate(KEPT);
            self.cut = true;
        } else {
            self.entries.drain(..surplus);
            self.more = true;
        }
    }

    /// An own message came further. `false`: it is none of these.
    pub(super) fn state(&mut self, line: &SentLine) -> bool {
        let Some(entry) = self.entries.iter_mut().rfind(|entry| entry.own && entry.id == line.id) else { return false };
        // events and answers may overtake each other; states only rise
        if entry.state.is_none_or(|state| line.state >= state) {
            entry.state = Some(line.state);
            entry.waits_for = match line.state {
                MessageState::Queued => line.waits_for.or(entry.waits_for),
                MessageState::Sent => Some(WaitsFor::Stores),
                MessageState::Stored => Some(WaitsFor::Reader),
                MessageState::Delivered | MessageState::Cancelled => None,
            };
            entry.parts = line.parts.or(entry.parts);
        }
        true
    }

    /// Own files and long texts under way, the newest few: their progress is not told in events.
    pub(super) fn under_way(&self) -> impl Iterator<Item = &EntryLine> {
        let moving = |entry: &&EntryLine| {
            entry.own && entry.parts.is_some() && entry.state.is_some_and(|state| state < MessageState::Stored)
        };
        self.entries.iter().rev().filter(moving).take(3)
    }

    fn block(&self, at: usize, width: usize) -> Vec<Row> {
        let before = at.checked_sub(1).and_then(|before| self.entries.get(before));
        self.entries.get(at).map(|entry| block(entry, before, width)).unwrap_or_default()
    }

    /// Index of the bottom entry, and its last line on the screen.
    fn bottom(&self, width: usize) -> Option<(usize, usize)> {
        let last = self.entries.len().checked_sub(1)?;
        let (at, line) = match self.anchor {
            None => (last, usize::MAX),
            Some(Anchor { cursor, line }) => {
                (self.entries.partition_point(|entry| entry.cursor < cursor).min(last), line)
            }
        };
        Some((at, line.min(self.block(at, width).len().saturating_sub(1))))
    }

    /// The lines on the screen, from the top.
    pub(super) fn rows(&self, width: usize, height: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let Some((bottom, line)) = self.bottom(width) else { return rows };
        for at in (0..=bottom).rev() {
            let mut block = self.block(at, width);
            if at == bottom {
                block.truncate(line + 1);
            }
            rows.extend(block.into_iter().rev());
            if rows.len() >= height {
                rows.truncate(height);
                break;
            }
        }
        rows.reverse();
        rows
    }

    /// Looks so many lines further up; whether older entries are wanted.
    pub(super) fn up(&mut self, lines: usize, width: usize, height: usize) -> bool {
        let Some((mut at, mut line)) = self.bottom(width) else { return false };
        let mut left = lines;
        while left > 0 {
            if line >= left {
                line -= left;
                break;
            }
            let Some(above) = at.checked_sub(1) else {
                line = 0;
                break;
            };
            left -= line + 1;
            at = above;
            line = self.block(at, width).len().saturating_sub(1);
        }
        // the screen stays full: the first line is never below its top
        let mut above = line + 1;
        for earlier in (0..at).rev() {
            if above >= height {
                break;
            }
            above += self.block(earlier, width).len();
        }
        self.set(at, line, width);
        let short = above < height;
        if short {
            self.down(height - above, width);
        }
        self.more && (short || at < PAGE / 5)
    }

    /// Looks so many lines further down.
    pub(super) fn down(&mut self, lines: usize, width: usize) {
        let Some((mut at, mut line)) = self.bottom(width) else { return };
        let mut left = lines;
        while left > 0 {
            let rest = self.block(at, width).len().saturating_sub(line + 1);
            if rest >= left {
                line += left;
                break;
            }
            if at + 1 >= self.entries.len() {
                line += rest;
                break;
            }
            left -= rest + 1;
            (at, line) = (at + 1, 0);
        }
        self.set(at, line, width);
    }

    fn set(&mut self, at: usize, line: usize, width: usize) {
        let ends = at + 1 == self.entries.len() && line + 1 >= self.block(at, width).len();
        self.anchor = match self.entries.get(at) {
            Some(entry) if !ends => Some(Anchor { cursor: entry.cursor, line }),
            _ => None,
        };
    }

    /// The oldest that is there.
    pub(super) fn top(&mut self, width: usize, height: usize) -> bool {
        self.up(usize::MAX / 2, width, height)
    }

    /// The end; whether its entries have to be asked for anew.
    pub(super) fn end(&mut self) -> bool {
        self.anchor = None;
        self.cut
    }
}
