//! The state on the screen: every cell of every frame is decided here.

mod boxes;
mod panes;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::bar::{self, Urgency};
use super::layout::{COLUMNS_MIN, ROWS_MIN};
use super::state::{Focus, State};
use super::wrap::{one_line, wrapped};

/// What things look like. The background is the terminal's own, light or dark: colours come in pairs or not at all, and
/// never say what no word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    colours: bool,
}

impl Look {
    pub(super) fn of(no_colour: bool) -> Self {
        Self { colours: !no_colour }
    }

    fn urgent(self, urgency: Urgency) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match (self.colours, urgency) {
            (true, Urgency::Calm) => bold.fg(Color::Black).bg(Color::Green),
            (true, Urgency::Warning) => bold.fg(Color::Black).bg(Color::Yellow),
            (true, Urgency::Alarm) => bold.fg(Color::White).bg(Color::Red),
            (false, _) => bold.add_modifier(Modifier::REVERSED),
        }
    }

    fn strong() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn faint() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn picked() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, look: Look) {
    let whole = frame.area();
    let Some(areas) = state.areas().filter(|_| (whole.width, whole.height) == state.size) else {
        return too_small(frame, state, look);
    };
    top(frame, state, look, areas.bar, areas.caution);
    panes::list(frame, state, areas.list);
    panes::edge(frame, areas.edge);
    if areas.messages.width > 0 {
        panes::talk(frame, state, &areas);
    }
    notice(frame, state, look, areas.notice);
    hint(frame, state, areas.hint);
    if let Some(form) = &state.form {
        boxes::form(frame, state, form, look, areas.body);
    }
}

/// A line at a place, cut where the place ends.
fn put(frame: &mut Frame<'_>, x: u16, y: u16, width: u16, text: &str, style: Style) {
    frame.buffer_mut().set_stringn(x, y, text, width.into(), style);
}

/// The state in a word, and that there is no room.
fn too_small(frame: &mut Frame<'_>, state: &State, look: Look) {
    let Rect { width, height, .. } = frame.area();
    let (word, urgency) = bar::word(state);
    let text = format!("Too small: {width} x {height}. Shoal needs {COLUMNS_MIN} columns and {ROWS_MIN} rows.");
    put(frame, 0, 0, width, word, look.urgent(urgency));
    for (row, line) in (1..height).zip(wrapped(&text, width.into())) {
        put(frame, 0, row, width, &line, Style::new());
    }
}

fn top(frame: &mut Frame<'_>, state: &State, look: Look, bar_area: Rect, caution: Rect) {
    let (word, urgency) = bar::word(state);
    let chip = Span::styled(format!(" {word} "), look.urgent(urgency));
    for (row, facts) in bar_area.rows().zip(bar::lines(state, row_width(bar_area))) {
        let line = if row.y == bar_area.y {
            Line::from(vec![chip.clone(), Span::raw(format!(" {facts}"))])
        } else {
            Line::from(format!(" {facts}"))
        };
        frame.buffer_mut().set_line(row.x, row.y, &line, row.width);
    }
    if let Some(text) = bar::caution(state) {
        let urgency = if urgency == Urgency::Calm { Urgency::Warning } else { urgency };
        filled(frame, caution, &text, look.urgent(urgency));
    }
}

fn row_width(area: Rect) -> usize {
    area.width.into()
}

/// A text on ground of its own; of one that is too long, the last line says so.
fn filled(frame: &mut Frame<'_>, area: Rect, text: &str, style: Style) {
    frame.buffer_mut().set_style(area, style);
    let inner = row_width(area).saturating_sub(2);
    let lines = wrapped(text, inner);
    let shown = usize::from(area.height);
    for (at, (row, line)) in area.rows().zip(&lines).enumerate() {
        let line = if at + 1 == shown && lines.len() > shown {
            format!("{} … F2", one_line(line, inner.saturating_sub(5)).trim_end_matches('…'))
        } else {
            line.clone()
        };
        put(frame, row.x + 1, row.y, row.width.saturating_sub(1), &line, style);
    }
}

fn notice(frame: &mut Frame<'_>, state: &State, look: Look, area: Rect) {
    let Some(notice) = &state.notice else { return };
    let style = if notice.urgent { look.urgent(Urgency::Warning) } else { Look::strong() };
    filled(frame, area, &notice.text, style);
}

fn hint(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let text = match (&state.form, state.focus) {
        (Some(_), _) => "Esc closes",
        (None, Focus::List) => "Enter open · a add · m my address · y accept · b block · ? help · q leave",
        (None, Focus::Write) => "Enter send · Alt+Enter new line · Tab list · F5 file · F1 help · Ctrl+Q leave",
    };
    let width = row_width(area).saturating_sub(1);
    put(frame, area.x + 1, area.y, area.width.saturating_sub(1), &one_line(text, width), Look::faint());
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
