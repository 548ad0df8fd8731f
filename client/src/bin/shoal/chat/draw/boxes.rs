//! What stands over the conversation: questions, fields, texts, what is given to others.

use qrcode::{Color as Module, EcLevel, QrCode};
use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Style};
use ratatui::widgets::{Block, Clear, Widget as _};

use super::panes::rule;
use super::{Look, put, row_width};
use crate::chat::forms::{Form, Prompt, Question, Shown, Text};
use crate::chat::help::{BOX_COLUMNS, Page};
use crate::chat::state::State;
use crate::chat::wrap::{columns, one_line, shown, wrapped};

/// Modules around a code that stay light (ISO 18004).
const QUIET: usize = 4;
const NO_CODE: &str = "Give it to whom you want to hear from. In a larger terminal there is a code to scan.";
const ONCE: &str = "For one person, once: give it over a channel that you trust. They add a contact with it.";

pub(super) fn form(frame: &mut Frame<'_>, state: &State, form: &Form, look: Look, area: Rect) {
    match form {
        Form::Text { what, top } => {
            let title = match what {
                Text::Help => "Help",
                Text::Status => "Status",
            };
            page(frame, area, title, &state.page(*what), *top);
        }
        Form::Question(asked) => question(frame, area, asked),
        Form::Group => text(frame, area, "Group", &group(state)),
        Form::Shown(Shown::Address) => {
            let title = "My address (i invite somebody · n another address · Esc closes)";
            code(frame, look, area, title, state.address.as_deref(), NO_CODE);
        }
        Form::Shown(Shown::Invite(invite)) => code(frame, look, area, "Invite (Esc closes)", Some(invite), ONCE),
        Form::Prompt(prompt) => fields(frame, area, prompt),
    }
}

fn group(state: &State) -> String {
    let members = state.open_chat().map(|chat| chat.members.as_slice()).unwrap_or_default();
    let mut lines: Vec<String> = members
        .iter()
        .take(200)
        .map(|member| {
            let you = if member.own { " (you)" } else { "" };
            let standing =
                member.state.as_deref().map(|state| format!(", {}", one_line(state, 20))).unwrap_or_default();
            format!("  {}{you}{standing}", crate::chat::wrap::short(&one_line(&member.name, 100)))
        })
        .collect();
    lines.insert(
        0,
        "a  add somebody      r  remove somebody\nn  another name      l  leave the group\n\nMembers".to_owned(),
    );
    lines.join("\n")
}

/// A box of so many lines in the middle; where its text goes.
fn open(frame: &mut Frame<'_>, area: Rect, title: &str, lines: usize) -> Rect {
    let width = BOX_COLUMNS.min(area.width);
    let height = u16::try_from(lines + 2).unwrap_or(u16::MAX).clamp(3, area.height.max(3)).min(area.height);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, frame.buffer_mut());
    // of a wide character that the box covers half of, nothing stays
    if place.x > area.x {
        for y in place.top()..place.bottom() {
            if let Some(cell) = frame.buffer_mut().cell_mut((place.x - 1, y)).filter(|cell| columns(cell.symbol()) > 1)
            {
                cell.set_symbol(" ");
            }
        }
    }
    let block = Block::bordered().title(format!(" {} ", one_line(title, row_width(place).saturating_sub(6))));
    let block = block.title_style(Look::strong());
    let inner = block.inner(place);
    block.render(place, frame.buffer_mut());
    Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner }
}

/// What can be answered stands in the last line, however long the question is.
fn question(frame: &mut Frame<'_>, area: Rect, Question { text, yes, .. }: &Question) {
    let inner = usize::from(BOX_COLUMNS.min(area.width).saturating_sub(4));
    let lines = wrapped(&shown(text, 4_096).0, inner);
    let place = open(frame, area, "Really?", lines.len() + 2);
    let answers = Rect { y: place.bottom().saturating_sub(1), height: 1, ..place };
    let above = Rect { height: place.height.saturating_sub(1), ..place };
    for (row, line) in above.rows().zip(lines) {
        put(frame, row.x, row.y, row.width, &line, Style::new());
    }
    put(frame, answers.x, answers.y, answers.width, &format!("y  {yes}    n  no"), Look::strong());
}

fn page(frame: &mut Frame<'_>, area: Rect, title: &str, page: &Page, top: usize) {
    let title = if page.top_max() > 0 { format!("{title} (arrows scroll)") } else { title.to_owned() };
    let place = open(frame, area, &title, page.lines.len());
    for (row, line) in place.rows().zip(page.lines.iter().skip(top.min(page.top_max()))) {
        put(frame, row.x, row.y, row.width, line, Style::new());
    }
}

fn text(frame: &mut Frame<'_>, area: Rect, title: &str, text: &str) {
    let inner = usize::from(BOX_COLUMNS.min(area.width).saturating_sub(4));
    let lines = wrapped(&shown(text, 4_096).0, inner);
    let place = open(frame, area, title, lines.len());
    for (row, line) in place.rows().zip(lines) {
        put(frame, row.x, row.y, row.width, &line, Style::new());
    }
}

fn fields(frame: &mut Frame<'_>, area: Rect, prompt: &Prompt) {
    let place = open(frame, area, prompt.title(), prompt.fields.len() * 2 + 1);
    let width = row_width(place);
    let mut rows = place.rows();
    for (at, (label, field)) in prompt.fields.iter().enumerate() {
        let here = at == prompt.at;
        let style = if here { Look::strong() } else { Style::new() };
        if let Some(row) = rows.next() {
            put(frame, row.x, row.y, row.width, &format!("{}{label}", if here { "> " } else { "  " }), style);
        }
        let Some(row) = rows.next() else { continue };
        // the part with the cursor is shown
        let room = width.saturating_sub(2);
        let (line, column) = field.place(room);
        let range = field.lines(room).into_iter().nth(line).unwrap_or_default();
        let text = field.text().get(range).unwrap_or_default();
        put(frame, row.x + 2, row.y, row.width.saturating_sub(2), text, Style::new());
        if here && let Ok(column) = u16::try_from(column) {
            frame.set_cursor_position(Position::new(row.x + 2 + column, row.y));
        }
    }
    if let Some(row) = rows.next() {
        let hint = if prompt.fields.len() > 1 { "Enter: next field, then done" } else { "Enter: done" };
        put(frame, row.x, row.y, row.width, hint, Look::faint());
    }
}

/// On all of the area and without a frame: at 80 × 24 a code fits, and just so.
fn code(frame: &mut Frame<'_>, look: Look, area: Rect, title: &str, text: Option<&str>, without: &str) {
    Clear.render(area, frame.buffer_mut());
    let mut rows = area.rows();
    if let Some(row) = rows.next() {
        rule(frame, row, title, true);
    }
    let Some(text) = text else { return };
    let inner = row_width(area).saturating_sub(2);
    let mut lines = wrapped(text, inner);
    // in capitals it needs a third less: codes have a mode for those
    let code = QrCode::with_error_correction_level(text.to_uppercase(), EcLevel::L).ok();
    let code = code.map(|code| halves(&code)).filter(|code| {
        let wide = code.first().map_or(0, |line| columns(line));
        wide <= inner && code.len() + lines.len() < usize::from(area.height)
    });
    if code.is_none() {
        lines.push(String::new());
        lines.extend(wrapped(without, inner));
    }
    for (row, line) in rows.by_ref().zip(&lines) {
        put(frame, row.x + 1, row.y, row.width.saturating_sub(1), line, Style::new());
    }
    // dark on light, whatever the terminal is: not every camera reads it the other way round
    let style = if look.colours { Style::new().fg(Color::Black).bg(Color::White) } else { Style::new() };
    let first = area.y + 1 + u16::try_from(lines.len()).unwrap_or(area.height);
    for (y, line) in (first..area.bottom()).zip(code.unwrap_or_default()) {
        let indent = (row_width(area) - columns(&line)) / 2;
        put(frame, area.x + u16::try_from(indent).unwrap_or(0), y, area.width, &line, style);
    }
}

/// A code with two modules, one above the other, in a cell. Dark modules are drawn with ink on light ground.
fn halves(code: &QrCode) -> Vec<String> {
    let width = code.width();
    let dark = |x: usize, y: usize| {
        let inside = (QUIET..QUIET + width).contains(&x) && (QUIET..QUIET + width).contains(&y);
        inside && code[(x - QUIET, y - QUIET)] == Module::Dark
    };
    let size = width + 2 * QUIET;
    (0..size)
        .step_by(2)
        .map(|y| {
            (0..size)
                .map(|x| match (dark(x, y), dark(x, y + 1)) {
                    (false, false) => ' ',
                    (true, false) => '▀',
                    (false, true) => '▄',
                    (true, true) => '█',
                })
                .collect()
        })
        .collect()
}
