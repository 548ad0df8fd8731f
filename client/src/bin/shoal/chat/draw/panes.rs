//! The list of conversations, and the one that is open.

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;

use super::{Look, put, row_width};
use crate::chat::block::Kind;
use crate::chat::chats::Chat;
use crate::chat::layout::Areas;
use crate::chat::state::{Focus, State};
use crate::chat::wrap::{columns, one_line};

/// Rows of a list from which on a conversation has a second line with its newest message.
const TWO_LINES_FROM: u16 = 8;

pub(super) fn list(frame: &mut Frame<'_>, state: &State, area: Rect) {
    if area.width == 0 {
        return;
    }
    rule(frame, Rect { height: 1, ..area }, "Conversations", state.focus == Focus::List);
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    if state.chats.is_empty() {
        let text = "Nobody here yet.\nm shows your address:\ngive it to somebody.\na adds theirs.";
        for (row, line) in body.rows().zip(text.lines()) {
            put(frame, row.x + 1, row.y, row.width.saturating_sub(1), line, Style::new());
        }
        return;
    }
    let each = if body.height >= TWO_LINES_FROM { 2 } else { 1 };
    let fits = usize::from((body.height / each).max(1));
    let picked = state.chats.iter().position(|chat| Some(&chat.key) == state.picked.as_ref()).unwrap_or(0);
    // the picked one is always on the screen
    let first = (picked + 1).saturating_sub(fits);
    for (chat, place) in state.chats.iter().skip(first).take(fits).zip(0_u16..) {
        let row = Rect { y: body.y + place * each, height: each, ..body }.intersection(body);
        entry(frame, state, chat, row);
    }
}

fn entry(frame: &mut Frame<'_>, state: &State, chat: &Chat, area: Rect) {
    let is_open = state.talk.as_ref().is_some_and(|talk| talk.key == chat.key);
    let is_picked = Some(&chat.key) == state.picked.as_ref() && state.focus == Focus::List;
    let width = row_width(area);
    let mark = chat.mark();
    let sign = match (is_open, chat.group) {
        (true, false) => "> ",
        (true, true) => ">#",
        (false, true) => " #",
        (false, false) => "  ",
    };
    let room = width.saturating_sub(columns(sign) + columns(&mark) + 2);
    let title = one_line(&chat.title, room);
    let gap = " ".repeat(room.saturating_sub(columns(&title)) + 1);
    let style = if is_picked || chat.unseen > 0 || chat.request { Look::strong() } else { Style::new() };
    put(frame, area.x, area.y, area.width, &format!("{sign}{title}{gap}{mark} "), style);
    if area.height > 1 {
        let preview = one_line(&chat.preview(), width.saturating_sub(4));
        put(frame, area.x + 3, area.y + 1, area.width.saturating_sub(3), &preview, Look::faint());
    }
    if is_picked {
        frame.buffer_mut().set_style(area, Look::picked());
    }
}

pub(super) fn edge(frame: &mut Frame<'_>, area: Rect) {
    for row in area.rows() {
        put(frame, row.x, row.y, row.width, if row.y == area.y { "┬" } else { "│" }, Look::faint());
    }
}

/// A line across with words in it.
pub(super) fn rule(frame: &mut Frame<'_>, area: Rect, words: &str, strong: bool) {
    let words = one_line(words, row_width(area).saturating_sub(4));
    put(frame, area.x, area.y, area.width, &"─".repeat(row_width(area)), Look::faint());
    let style = if strong { Look::strong() } else { Style::new() };
    put(frame, area.x + 1, area.y, area.width.saturating_sub(1), &format!(" {words} "), style);
}

pub(super) fn talk(frame: &mut Frame<'_>, state: &State, areas: &Areas) {
    let Some(talk) = &state.talk else {
        rule(frame, areas.title, "Shoal", false);
        let text = "Choose a conversation (arrows, Enter), or press ? for help.";
        for (row, line) in areas.messages.rows().zip(crate::chat::wrap::wrapped(text, row_width(areas.messages) - 2)) {
            put(frame, row.x + 1, row.y, row.width.saturating_sub(1), &line, Style::new());
        }
        return;
    };
    let chat = state.open_chat();
    rule(frame, areas.title, &headline(chat, &talk.key), true);
    messages(frame, state, areas.messages);
    let words = if talk.scrolled() {
        "older messages; Ctrl+End: to the newest"
    } else if state.focus == Focus::Write {
        "Write"
    } else {
        "Tab: write"
    };
    rule(frame, areas.rule, words, state.focus == Focus::Write);
    draft(frame, state, areas.draft);
}

/// Who it is, and what hinders.
fn headline(chat: Option<&Chat>, key: &str) -> String {
    let Some(chat) = chat else { return crate::chat::wrap::short(key) };
    let note = match chat {
        Chat { blocked: true, .. } => " (blocked)".to_owned(),
        Chat { request: true, added_by: Some(who), .. } => format!(" — {who} added you: F8 accept, F9 block"),
        Chat { request: true, .. } => " — a REQUEST: F8 accept, F9 block".to_owned(),
        Chat { broken: true, .. } => " (BROKEN: begin anew)".to_owned(),
        Chat { gone: Some("left"), .. } => " (you left this group)".to_owned(),
        Chat { gone: Some("away"), .. } => " (away for too long: a member adds you again)".to_owned(),
        Chat { gone: Some(_), .. } => " (you were removed from this group)".to_owned(),
        Chat { group: true, members, .. } => format!(" (group of {}; F7)", members.len()),
        Chat { waiting: true, .. } => " (they have not run Shoal here yet)".to_owned(),
        _ => String::new(),
    };
    format!("{}{note}", chat.title)
}

fn messages(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let Some(talk) = &state.talk else { return };
    if talk.entries().is_empty() {
        let text = if talk.loaded { "No message yet" } else { "Looking…" };
        put(frame, area.x + 1, area.y, area.width.saturating_sub(1), text, Look::faint());
        return;
    }
    let rows = talk.rows(row_width(area), area.height.into());
    // the newest stands at the bottom
    let free = area.height.saturating_sub(u16::try_from(rows.len()).unwrap_or(area.height));
    for (place, row) in area.rows().skip(free.into()).zip(rows) {
        match row.kind {
            Kind::Day => {
                let line = format!("── {} ", row.text);
                put(frame, place.x, place.y, place.width, &line, Look::faint());
            }
            Kind::Theirs | Kind::Own => put(frame, place.x, place.y, place.width, &row.text, Look::strong()),
            Kind::Text => put(frame, place.x, place.y, place.width, &row.text, Style::new()),
            Kind::Note => put(frame, place.x, place.y, place.width, &row.text, Look::faint()),
        }
    }
}

fn draft(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let width = row_width(area);
    let writing = state.focus == Focus::Write && state.form.is_none();
    let Some(draft) = state.draft() else {
        if writing && area.height > 0 {
            frame.set_cursor_position(Position::new(area.x, area.y));
        }
        return;
    };
    let (line, column) = draft.place(width);
    let height = usize::from(area.height);
    // the cursor's line is always on the screen
    let first = (line + 1).saturating_sub(height);
    for (row, range) in area.rows().zip(draft.lines(width).into_iter().skip(first)) {
        let text = draft.text().get(range).unwrap_or_default().replace('\t', " ");
        put(frame, row.x, row.y, row.width, &text, Style::new());
    }
    if let (true, Ok(x), Ok(y)) = (writing && height > 0, u16::try_from(column), u16::try_from(line - first)) {
        frame.set_cursor_position(Position::new(area.x + x, area.y + y));
    }
}
