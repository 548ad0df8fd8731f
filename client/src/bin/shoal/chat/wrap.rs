//! Text in columns: what a terminal may be shown, how wide it is, and where its lines end.
//!
//! Width is counted by what a reader takes for one character (a grapheme): a letter with its marks is one column, a fish
//! is two. Text that runs from right to left is given in the order of its letters; turning it round is the terminal's
//! business.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::output::plain;

/// Marks in a row that are shown. Languages need three, flags of regions seven; a sender could pile thousands on one letter.
const MARKS_MAX: usize = 8;
/// What a tab is shown as in a message.
const TAB: &str = "    ";

/// Text of anybody, fit for a terminal and at most so many bytes of it; whether that is not all.
pub(super) fn shown(text: &str, bytes_max: usize) -> (String, bool) {
    let end = text.floor_char_boundary(bytes_max);
    let mut marks = 0;
    let kept = plain(text.get(..end).unwrap_or_default())
        .chars()
        .filter(|letter| {
            marks = if letter.width() == Some(0) { marks + 1 } else { 0 };
            marks <= MARKS_MAX
        })
        .collect::<String>();
    (kept.replace('\t', TAB), end < text.len())
}

/// Columns of one grapheme. A tab, which only own drafts have, is one.
pub(super) fn columns_of(grapheme: &str) -> usize {
    if grapheme == "\t" { 1 } else { grapheme.width() }
}

/// Columns of a line.
pub(super) fn columns(line: &str) -> usize {
    line.graphemes(true).map(columns_of).sum()
}

/// Text of anybody on one line, cut with an ellipsis when there is more.
pub(super) fn one_line(text: &str, columns_max: usize) -> String {
    // a column has rarely more than four bytes; what is cut here is cut below too
    let (text, cut) = shown(text, columns_max.saturating_mul(16).saturating_add(64));
    let text = text.replace('\n', " ");
    if !cut && columns(&text) <= columns_max {
        return text;
    }
    let (mut line, mut used) = (String::new(), 0);
    for grapheme in text.graphemes(true) {
        used += columns_of(grapheme);
        if used >= columns_max {
            break;
        }
        line.push_str(grapheme);
    }
    if columns_max > 0 {
        line.push('…');
    }
    line
}

/// The beginning and the end of an address: enough to tell it from others at a glance, not enough to trust it.
pub(super) fn short(address: &str) -> String {
    let (begin, end) = (address.get(..12), address.get(address.len().saturating_sub(6)..));
    match (begin, end) {
        (Some(begin), Some(end)) if address.len() > 24 => format!("{begin}…{end}"),
        _ => address.to_owned(),
    }
}

/// Where the lines of a text begin and end when they have so many columns: after a space if there is one, else between
/// graphemes. A line break belongs to no line; a space that does not fit stays at the end of its line, unseen. There is
/// one line at least.
pub(super) fn wrap(text: &str, columns_max: usize) -> Vec<Range<usize>> {
    let columns_max = columns_max.max(2);
    let mut lines = Vec::new();
    let (mut start, mut used) = (0, 0);
    // after the last space of the line, and the columns that are used up to there
    let mut space: Option<(usize, usize)> = None;
    for (at, grapheme) in text.grapheme_indices(true) {
        let after = at + grapheme.len();
        if matches!(grapheme, "\n" | "\r\n") {
            lines.push(start..at);
            (start, used, space) = (after, 0, None);
            continue;
        }
        let wide = columns_of(grapheme);
        let is_space = matches!(grapheme, " " | "\t");
        // what stands after the space may be too wide for a line of its own
        while used + wide > columns_max && used > 0 && !is_space {
            let (end, kept) = space.take().unwrap_or((at, used));
            lines.push(start..end);
            (start, used) = (end, used - kept);
        }
        used += wide;
        if is_space {
            space = Some((after, used));
        }
    }
    lines.push(start..text.len());
    lines
}

/// The lines of a text as texts of their own.
pub(super) fn wrapped(text: &str, columns_max: usize) -> Vec<String> {
    wrap(text, columns_max).into_iter().map(|line| text.get(line).unwrap_or_default().trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_one_character_to_a_reader_has_one_width() {
        for (text, width) in
            [("ab", 2), ("🐟", 2), ("e\u{301}", 1), ("漢字", 4), ("שלום", 4), ("👨‍👩‍👧", 2), ("🇳🇱", 2), ("", 0)]
        {
            assert_eq!(columns(text), width, "{text}");
        }
    }

    #[test]
    fn lines_end_at_spaces_else_between_characters() {
        assert_eq!(wrapped("the quick brown fish", 10), ["the quick", "brown fish"]);
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("🐟🐟🐟", 5), ["🐟🐟", "🐟"]);
        assert_eq!(wrapped("a\n\nb\n", 9), ["a", "", "b", ""]);
        assert_eq!(wrapped("", 9), [""]);
        assert_eq!(wrapped("ab cd", 2), ["ab", "cd"]);
        assert_eq!(wrapped(" 漢a🐟漢a漢", 9), ["", "漢a🐟漢a", "漢"]);
    }

    #[test]
    fn senders_cannot_pile_marks_or_move_the_cursor() {
        let (text, cut) = shown(&format!("a{}\u{1b}[2Jb\tc", "\u{301}".repeat(5_000)), 1 << 20);
        assert_eq!((text.chars().count(), cut), (1 + MARKS_MAX + 5 + TAB.len() + 1, false));
        assert!(text.contains("\u{fffd}[2J"), "{text}");
        assert_eq!(shown("🐟🐟", 5), ("🐟".to_owned(), true));
        assert_eq!(one_line("a\nb", 9), "a b");
        assert_eq!(one_line("🐟🐟🐟", 4), "🐟…");
        assert_eq!(one_line("abc", 0), "");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_too_wide(text in "\\PC{0,60}|[a-z🐟漢 \n]{0,80}", width in 2_usize..30) {
            let lines = wrap(&text, width);
            let mut from = 0;
            for line in &lines {
                prop_assert!(text.get(from..line.start).is_some_and(|between| matches!(between, "" | "\n" | "\r\n")));
                let shown = text.get(line.clone()).unwrap_or_default();
                prop_assert!(columns(shown.trim_end()) <= width || shown.graphemes(true).count() == 1);
                from = line.end;
            }
            prop_assert_eq!(from, text.len());
        }
    }
}
