//! What a key does.

#![expect(clippy::wildcard_enum_match_arm, reason = "a keyboard has more keys than have a meaning")]

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::ask::Order;
use super::forms::{Form, Shown, Text, What, edit};
use super::state::{Focus, Link, State, TEXT_MAX};

const TOO_LONG: &str = "This text is too long (1 MiB at most): send it as a file";

impl State {
    pub(super) fn paste(&mut self, text: &str) {
        if let Some(form) = &mut self.form {
            form.paste(text);
        } else if self.focus == Focus::Write
            && let Some(draft) = self.draft_mut()
            && !draft.insert(text, TEXT_MAX)
        {
            self.complain(TOO_LONG);
        }
    }

    pub(super) fn key(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c' | 'q') => return self.quit(),
                KeyCode::Char('l') => return self.order(Order::Redraw),
                KeyCode::Char('r') if matches!(self.link, Link::Down(_)) => {
                    self.link = Link::Starting;
                    return self.order(Order::Start);
                }
                _ => {}
            }
        }
        if let Some(form) = &mut self.form {
            let outcome = form.key(key);
            self.stop_at_the_end();
            return self.outcome(outcome);
        }
        if key.code == KeyCode::Esc && self.notice.take().is_some_and(|notice| notice.urgent) {
            return;
        }
        if self.anywhere(key) {
            return;
        }
        match self.focus {
            Focus::List => self.list_key(key),
            Focus::Write => self.write_key(key),
        }
    }

    /// A text that is read does not scroll beyond its end.
    fn stop_at_the_end(&mut self) {
        if let Some(Form::Text { what, .. }) = self.form {
            let last = self.page(what).top_max();
            if let Some(Form::Text { top, .. }) = &mut self.form {
                *top = last.min(*top);
            }
        }
    }

    /// Keys that do the same in the list and while one writes.
    fn anywhere(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        let (width, height) = self.window();
        match key.code {
            KeyCode::F(1) => self.form = Some(Form::text(Text::Help)),
            KeyCode::F(2) => self.form = Some(Form::text(Text::Status)),
            KeyCode::F(3) => self.form = Some(Form::Shown(Shown::Address)),
            KeyCode::F(4) => self.add_contact(),
            KeyCode::F(5) => self.prompt_open(What::SendFile),
            KeyCode::F(6) => self.new_group(),
            KeyCode::F(7) => self.group_menu(),
            KeyCode::F(8) => self.accept(),
            KeyCode::F(9) => self.block(),
            KeyCode::F(10) => self.invite(),
            KeyCode::Char('x') if control => self.take_back(),
            KeyCode::Up if alt => self.step(false, true),
            KeyCode::Down if alt => self.step(true, true),
            KeyCode::PageUp => self.scroll(height.saturating_sub(1).max(1), true),
            KeyCode::PageDown => self.scroll(height.saturating_sub(1).max(1), false),
            KeyCode::Home if control => {
                if self.talk.as_mut().is_some_and(|talk| talk.top(width, height)) {
                    self.backward();
                }
            }
            KeyCode::End if control => self.end_of_talk(),
            _ => return false,
        }
        true
    }

    fn list_key(&mut self, key: KeyEvent) {
        let plain = !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
        match key.code {
            KeyCode::Up => self.step(false, false),
            KeyCode::Down => self.step(true, false),
            KeyCode::Home => self.picked = self.chats.first().map(|chat| chat.key.clone()),
            KeyCode::End => self.picked = self.chats.last().map(|chat| chat.key.clone()),
            KeyCode::Enter | KeyCode::Right => {
                if let Some(key) = self.picked.clone() {
                    self.open(&key);
                }
            }
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Esc if self.talk.is_some() => self.focus = Focus::Write,
            KeyCode::Char(letter) if plain => match letter {
                'k' => self.step(false, false),
                'j' => self.step(true, false),
                '?' => self.form = Some(Form::text(Text::Help)),
                's' => self.form = Some(Form::text(Text::Status)),
                'm' => self.form = Some(Form::Shown(Shown::Address)),
                'i' => self.invite(),
                'a' => self.add_contact(),
                'n' => self.new_group(),
                'g' => self.group_menu(),
                'y' => self.accept(),
                'b' => self.block(),
                'q' => self.quit(),
                _ => {}
            },
            _ => {}
        }
    }

    fn write_key(&mut self, key: KeyEvent) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let other_enter = key.modifiers.intersects(KeyModifiers::ALT | KeyModifiers::SHIFT);
        let columns = self.areas().map_or(0, |areas| usize::from(areas.draft.width));
        match key.code {
            KeyCode::Enter if other_enter => self.put("\n"),
            KeyCode::Char('j') if control => self.put("\n"),
            KeyCode::Enter => self.send(),
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Esc => self.focus = Focus::List,
            // at the edge of the draft the messages move
            KeyCode::Up | KeyCode::Down => {
                let down = key.code == KeyCode::Down;
                if !self.draft_mut().is_some_and(|draft| draft.go_line(down, columns)) {
                    self.scroll(1, !down);
                }
            }
            _ => {
                if self.draft_mut().and_then(|draft| edit(draft, key, TEXT_MAX)) == Some(false) {
                    self.complain(TOO_LONG);
                }
            }
        }
    }

    fn put(&mut self, text: &str) {
        if self.draft_mut().is_some_and(|draft| !draft.insert(text, TEXT_MAX)) {
            self.complain(TOO_LONG);
        }
    }

    fn scroll(&mut self, lines: usize, up: bool) {
        let (width, height) = self.window();
        let Some(talk) = &mut self.talk else { return };
        if !up {
            talk.down(lines, width);
        } else if talk.up(lines, width, height) {
            self.backward();
        }
    }

    pub(super) fn end_of_talk(&mut self) {
        if self.talk.as_mut().is_some_and(super::talk::Talk::end) {
            self.newest();
        }
    }

    /// To the next conversation of the list, or the one before; `open` opens it at once.
    fn step(&mut self, down: bool, open: bool) {
        let at = self.chats.iter().position(|chat| Some(&chat.key) == self.picked.as_ref());
        let next = match at {
            None => 0,
            Some(at) if down => at + 1,
            Some(at) => at.saturating_sub(1),
        };
        let Some(key) = self.chats.get(next).map(|chat| chat.key.clone()) else { return };
        if open { self.open(&key) } else { self.picked = Some(key) }
    }
}
