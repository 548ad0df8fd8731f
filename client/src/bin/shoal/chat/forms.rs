//! What is asked of the user in the middle of the screen: fields to fill in, questions, texts to read.

#![expect(clippy::wildcard_enum_match_arm, reason = "a keyboard has more keys than have a meaning")]

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::editor::{Editor, Move};

/// Bytes of a field: an address, a name or a path.
pub(super) const FIELD_MAX: usize = 4_096;

/// What stands over the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A text, from this line on.
    Text {
        what: Text,
        top: usize,
    },
    /// What is given to others, and its code.
    Shown(Shown),
    Prompt(Prompt),
    Question(Question),
    /// What can be done with the open group.
    Group,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// The own address.
    Address,
    /// An invite that was just made: whoever has it uses it.
    Invite(String),
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Address { "Address" } else { "Invite(redacted)" })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Help,
    Status,
}

/// Fields to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) what: What,
    pub(super) fields: Vec<(&'static str, Editor)>,
    /// The one that is written in.
    pub(super) at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    AddContact,
    Invite,
    SendFile,
    NewGroup,
    RenameGroup,
    AddMember,
    RemoveMember,
}

/// Something that is done only when the user says yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) yes: &'static str,
    pub(super) then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Send the draft, for this reason for caution.
    Send {
        waved: String,
    },
    SendFile {
        path: String,
        waved: String,
    },
    Accept {
        key: String,
    },
    Block {
        key: String,
    },
    Leave {
        key: String,
    },
    TakeBack {
        id: String,
    },
    NewAddress,
    Quit,
}

/// What a key brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stay,
    Close,
    /// All fields, as they were filled in.
    Filled(What, Vec<String>),
    Yes(Then),
    Open(What),
    Leave,
    NewAddress,
}

impl Prompt {
    pub(super) fn new(what: What) -> Self {
        let labels: &[&str] = match what {
            What::AddContact => &["Name", "Address or invite"],
            What::Invite => &["Your name for whoever uses it"],
            What::SendFile => &["Path"],
            What::NewGroup | What::RenameGroup => &["Name"],
            What::AddMember | What::RemoveMember => &["Who (a contact, or an address)"],
        };
        Self { what, fields: labels.iter().map(|label| (*label, Editor::default())).collect(), at: 0 }
    }

    pub(super) fn title(&self) -> &'static str {
        match self.what {
            What::AddContact => "Add a contact, or give one another name",
            What::Invite => "Invite somebody",
            What::SendFile => "Send a file",
            What::NewGroup => "Begin a group",
            What::RenameGroup => "Rename the group",
            What::AddMember => "Add to the group",
            What::RemoveMember => "Remove from the group",
        }
    }

    pub(super) fn fill(mut self, at: usize, text: &str) -> Self {
        if let Some((_, field)) = self.fields.get_mut(at) {
            *field = Editor::with(text);
        }
        self
    }

    fn paste(&mut self, text: &str) {
        // addresses come with the line breaks of whatever they were copied from
        let line: String = text.chars().filter(|letter| !matches!(letter, '\n' | '\r')).collect();
        if let Some((_, field)) = self.fields.get_mut(self.at) {
            field.insert(&line, FIELD_MAX);
        }
    }

    fn key(&mut self, key: KeyEvent) -> Outcome {
        let last = self.fields.len().saturating_sub(1);
        match key.code {
            KeyCode::Enter if self.at == last => {
                let filled: Vec<String> = self.fields.iter().map(|(_, field)| field.text().trim().to_owned()).collect();
                return match filled.iter().position(String::is_empty) {
                    None => Outcome::Filled(self.what, filled),
                    Some(empty) => {
                        self.at = empty;
                        Outcome::Stay
                    }
                };
            }
            KeyCode::Enter | KeyCode::Tab | KeyCode::Down => self.at = if self.at == last { 0 } else { self.at + 1 },
            KeyCode::BackTab | KeyCode::Up => self.at = self.at.checked_sub(1).unwrap_or(last),
            _ => {
                if let Some((_, field)) = self.fields.get_mut(self.at) {
                    edit(field, key, FIELD_MAX);
                }
            }
        }
        Outcome::Stay
    }
}

/// Keys of any text that is written. `None`: the key is none of them; `Some(false)`: the text is full.
pub(super) fn edit(editor: &mut Editor, key: KeyEvent, bytes_max: usize) -> Option<bool> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    match key.code {
        KeyCode::Left if control || alt => editor.go(Move::WordLeft),
        KeyCode::Right if control || alt => editor.go(Move::WordRight),
        KeyCode::Char('b') if alt => editor.go(Move::WordLeft),
        KeyCode::Char('f') if alt => editor.go(Move::WordRight),
        KeyCode::Left => editor.go(Move::Left),
        KeyCode::Right => editor.go(Move::Right),
        KeyCode::Home => editor.go(Move::LineStart),
        KeyCode::End => editor.go(Move::LineEnd),
        KeyCode::Char('a') if control => editor.go(Move::LineStart),
        KeyCode::Char('e') if control => editor.go(Move::LineEnd),
        KeyCode::Char('w') if control => editor.delete(Move::WordLeft),
        KeyCode::Char('u') if control => editor.delete(Move::LineStart),
        KeyCode::Char('k') if control => editor.delete(Move::LineEnd),
        KeyCode::Backspace if control || alt => editor.delete(Move::WordLeft),
        // what some terminals send for Backspace
        KeyCode::Char('h') if control => editor.delete(Move::Left),
        KeyCode::Backspace => editor.delete(Move::Left),
        KeyCode::Delete => editor.delete(Move::Right),
        KeyCode::Char(letter) if !control && !alt => {
            return Some(editor.insert(letter.encode_utf8(&mut [0; 4]), bytes_max));
        }
        _ => return None,
    }
    Some(true)
}

impl Form {
    pub(super) fn text(what: Text) -> Self {
        Self::Text { what, top: 0 }
    }

    pub(super) fn paste(&mut self, text: &str) {
        if let Self::Prompt(prompt) = self {
            prompt.paste(text);
        }
    }

    /// What a key does; Escape closes everything.
    pub(super) fn key(&mut self, key: KeyEvent) -> Outcome {
        if key.code == KeyCode::Esc {
            return Outcome::Close;
        }
        match self {
            Self::Prompt(prompt) => prompt.key(key),
            Self::Question(question) => match key.code {
                // not Enter: who hits it twice has not read the question
                KeyCode::Char('y' | 'Y') => Outcome::Yes(question.then.clone()),
                KeyCode::Char('n' | 'N') => Outcome::Close,
                _ => Outcome::Stay,
            },
            Self::Group => match key.code {
                KeyCode::Char('a') => Outcome::Open(What::AddMember),
                KeyCode::Char('r') => Outcome::Open(What::RemoveMember),
                KeyCode::Char('n') => Outcome::Open(What::RenameGroup),
                KeyCode::Char('l') => Outcome::Leave,
                _ => Outcome::Stay,
            },
            Self::Shown(shown) => match key.code {
                KeyCode::Char('i') if *shown == Shown::Address => Outcome::Open(What::Invite),
                KeyCode::Char('n') if *shown == Shown::Address => Outcome::NewAddress,
                KeyCode::Enter | KeyCode::Char('q' | 'm') | KeyCode::F(3) => Outcome::Close,
                _ => Outcome::Stay,
            },
            Self::Text { top, .. } => {
                match key.code {
                    KeyCode::Down | KeyCode::Char('j') => *top = top.saturating_add(1),
                    KeyCode::Up | KeyCode::Char('k') => *top = top.saturating_sub(1),
                    KeyCode::PageDown | KeyCode::Char(' ') => *top = top.saturating_add(10),
                    KeyCode::PageUp => *top = top.saturating_sub(10),
                    KeyCode::Home => *top = 0,
                    KeyCode::Enter | KeyCode::Char('q' | '?' | 's') | KeyCode::F(1 | 2) => return Outcome::Close,
                    _ => {}
                }
                Outcome::Stay
            }
        }
    }
}
