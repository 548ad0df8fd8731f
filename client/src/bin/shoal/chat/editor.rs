//! A text that is being written: letters go in at the cursor, which moves by what a reader takes for one character.
//!
//! Written here because a cursor inside an emoji or between a letter and its marks is what the ready-made ones have.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation as _;

use super::wrap::{columns, wrap};
use crate::output::plain;

/// A text and the place in it where one writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Editor {
    text: String,
    /// Byte offset, always between two graphemes.
    cursor: usize,
}

/// Where a cursor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Left,
    Right,
    WordLeft,
    WordRight,
    LineStart,
    LineEnd,
}

impl Editor {
    pub(super) fn with(text: &str) -> Self {
        Self { text: text.to_owned(), cursor: text.len() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Everything that was written; nothing is left.
    pub(super) fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    /// Puts text at the cursor, without what no terminal may be shown. `false`: it would be longer than `bytes_max`, and
    /// nothing was put.
    pub(super) fn insert(&mut self, text: &str, bytes_max: usize) -> bool {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        // what `plain` replaces is not what anybody means to write
        let kept: String = text
            .chars()
            .zip(plain(&text).chars())
            .filter(|(given, shown)| given == shown)
            .map(|(given, _)| given)
            .collect();
        if self.text.len() + kept.len() > bytes_max {
            return false;
        }
        self.text.insert_str(self.cursor, &kept);
        self.cursor += kept.len();
        // a mark joins the letter before it
        self.settle();
        true
    }

    pub(super) fn go(&mut self, to: Move) {
        self.cursor = self.target(to);
    }

    /// Deletes from the cursor to where it would go.
    pub(super) fn delete(&mut self, to: Move) {
        let target = self.target(to);
        let range = target.min(self.cursor)..target.max(self.cursor);
        self.cursor = range.start;
        self.text.replace_range(range, "");
        // what stood apart may be one character now
        self.settle();
    }

    fn settle(&mut self) {
        let ends = self.text.grapheme_indices(true).map(|(at, grapheme)| at + grapheme.len());
        self.cursor =
            if self.cursor == 0 { 0 } else { ends.clone().find(|end| *end >= self.cursor).unwrap_or(self.text.len()) };
    }

    fn before(&self) -> &str {
        self.text.get(..self.cursor).unwrap_or_default()
    }

    fn after(&self) -> &str {
        self.text.get(self.cursor..).unwrap_or_default()
    }

    fn target(&self, to: Move) -> usize {
        let end = self.text.len();
        match to {
            Move::Left => self.before().grapheme_indices(true).next_back().map_or(0, |(at, _)| at),
            Move::Right => self.after().graphemes(true).next().map_or(end, |first| self.cursor + first.len()),
            Move::WordLeft => self.before().unicode_word_indices().next_back().map_or(0, |(at, _)| at),
            Move::WordRight => {
                let first = self.after().unicode_word_indices().next();
                first.map_or(end, |(at, word)| self.cursor + at + word.len())
            }
            Move::LineStart => self.before().rfind('\n').map_or(0, |at| at + 1),
            Move::LineEnd => self.after().find('\n').map_or(end, |at| self.cursor + at),
        }
    }

    /// The lines as they are shown in so many columns. The last column is the cursor's, so that it has a place at the end
    /// of a full line.
    pub(super) fn lines(&self, columns_max: usize) -> Vec<Range<usize>> {
        wrap(&self.text, columns_max.saturating_sub(1))
    }

    /// Line and column of the cursor.
    pub(super) fn place(&self, columns_max: usize) -> (usize, usize) {
        let lines = self.lines(columns_max);
        let line = lines.iter().rposition(|line| line.start <= self.cursor).unwrap_or(0);
        let start = lines.get(line).map_or(0, |line| line.start);
        let column = columns(self.text.get(start..self.cursor).unwrap_or_default());
        (line, column.min(columns_max.saturating_sub(1)))
    }

    /// Moves a line up or down. `false`: there is none.
    pub(super) fn go_line(&mut self, down: bool, columns_max: usize) -> bool {
        let lines = self.lines(columns_max);
        let (line, column) = self.place(columns_max);
        let next = if down { line.checked_add(1) } else { line.checked_sub(1) };
        let Some(range) = next.and_then(|next| lines.get(next)) else { return false };
        let last = next == Some(lines.len() - 1);
        let rest = self.text.get(range.end..).unwrap_or_default();
        let (mut at, mut used) = (range.start, 0);
        for grapheme in self.text.get(range.clone()).unwrap_or_default().graphemes(true) {
            used += columns(grapheme);
            // the end of a line that goes on is the beginning of the next one
            let ends_here = at + grapheme.len() == range.end && !last && !rest.starts_with('\n');
            if used > column || ends_here {
                break;
            }
            at += grapheme.len();
        }
        self.cursor = at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1_000;

    fn written(text: &str) -> Editor {
        let mut editor = Editor::default();
        assert!(editor.insert(text, MAX));
        editor
    }

    #[test]
    fn one_key_deletes_what_a_reader_takes_for_one_character() {
        for text in ["👨‍👩‍👧", "e\u{301}", "🇳🇱", "漢", "ש"] {
            let mut editor = written(&format!("a{text}"));
            editor.delete(Move::Left);
            assert_eq!(editor.text(), "a", "{text}");
        }
    }

    #[test]
    fn words_and_lines() {
        let mut editor = written("the quick fish\nswims");
        editor.go(Move::LineStart);
        editor.go(Move::Left);
        editor.delete(Move::WordLeft);
        assert_eq!(editor.text(), "the quick \nswims");
        editor.delete(Move::LineStart);
        assert_eq!(editor.text(), "\nswims");
        editor.go(Move::WordRight);
        editor.delete(Move::LineStart);
        assert_eq!(editor.text(), "\n");
        assert_eq!(editor.take(), "\n");
        assert!(editor.is_empty());
    }

    #[test]
    fn nothing_goes_in_that_a_terminal_may_not_be_shown_or_that_is_too_long() {
        let mut editor = written("a\u{1b}[31m\u{202e}b\r\nc\rd\te");
        assert_eq!(editor.text(), "a[31mb\nc\nd\te");
        assert!(!editor.insert(&"x".repeat(MAX), MAX));
        assert_eq!(editor.text(), "a[31mb\nc\nd\te");
    }

    #[test]
    fn the_cursor_moves_by_shown_lines() {
        let mut editor = written("aaaa bbbb\n🐟🐟");
        assert_eq!(editor.place(6), (2, 4));
        assert!(editor.go_line(false, 6));
        assert_eq!(editor.place(6), (1, 4));
        assert!(editor.go_line(false, 6) && !editor.go_line(false, 6));
        assert_eq!(editor.place(6), (0, 4));
        assert!(editor.go_line(true, 6) && editor.go_line(true, 6) && !editor.go_line(true, 6));
        assert_eq!(editor.place(6), (2, 4));
    }

    proptest! {
        #[test]
        fn the_cursor_stays_between_characters(
            texts in prop::collection::vec("\\PC{0,6}|[a🐟\u{301}\u{200d} \n]{0,6}", 1..8),
            keys in prop::collection::vec(0..9_usize, 0..40),
        ) {
            let mut editor = Editor::default();
            for (text, key) in texts.iter().cycle().zip(keys) {
                match key {
                    0 => { editor.insert(text, MAX); }
                    1 => editor.go(Move::Left),
                    2 => editor.go(Move::Right),
                    3 => editor.go(Move::WordLeft),
                    4 => editor.go(Move::WordRight),
                    5 => editor.delete(Move::Left),
                    6 => { editor.go_line(true, 7); }
                    7 => { editor.go_line(false, 7); }
                    _ => editor.delete(Move::WordRight),
                }
                prop_assert!(editor.text.is_char_boundary(editor.cursor));
                let (line, column) = editor.place(7);
                prop_assert!(line < editor.lines(7).len() && column < 7);
            }
        }
    }
}
