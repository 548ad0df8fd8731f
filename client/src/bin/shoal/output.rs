//! What is printed: JSON for programs, text for people, errors for both.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use shoal_client::io::{CallerError, Exit, Failure, SentLine};
use shoal_client::mail::MailError;

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    pub(crate) json: bool,
    /// Where the passphrase is, if it is not to be asked for. Lives as long as the process.
    pub(crate) passphrase_file: Option<&'static Path>,
}

/// Why a command failed, and what it had achieved by then.
#[derive(Debug)]
pub(crate) struct Problem {
    failure: Failure,
    sent: Option<Box<SentLine>>,
}

impl Problem {
    /// A message was queued, but did not get as far as it should.
    pub(crate) fn after(failure: Failure, sent: SentLine) -> Self {
        Self { failure, sent: Some(Box::new(sent)) }
    }

    /// The object for programs: the error, and the message as far as it got.
    pub(crate) fn to_json(&self) -> Value {
        let mut value = self.failure.to_json();
        if let (Value::Object(fields), Some(sent)) = (&mut value, &self.sent) {
            fields.insert("id".to_owned(), sent.id.clone().into());
            fields.insert("state".to_owned(), serde_json::to_value(sent.state).unwrap_or_default());
            if let Some(waits_for) = sent.waits_for {
                fields.insert("waits_for".to_owned(), serde_json::to_value(waits_for).unwrap_or_default());
            }
        }
        value
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self { failure, sent: None }
    }
}

impl From<MailError> for Problem {
    fn from(error: MailError) -> Self {
        Failure::from(error).into()
    }
}

impl From<CallerError> for Problem {
    fn from(error: CallerError) -> Self {
        match error {
            CallerError::Refused(failure) => failure.into(),
            error @ CallerError::Broken(_) => {
                Failure::new(Exit::Unreachable, "daemon_gone", error.to_string(), "run the command again").into()
            }
            error @ CallerError::Version(_) => {
                let next = "stop the old daemon: shoal down";
                Failure::new(Exit::Unreachable, "daemon_version", error.to_string(), next).into()
            }
        }
    }
}

fn broken_output(error: std::io::Error) -> Problem {
    let next = "let whoever reads it read to the end; messages that were not printed are not marked as read";
    let message = if error.kind() == std::io::ErrorKind::BrokenPipe {
        "whoever reads the output has stopped before its end".to_owned()
    } else {
        format!("standard output: {error}")
    };
    Failure::new(Exit::Io, "output", message, next).into()
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, passphrase_file: None }
    }

    /// The same, with the file that the option names.
    pub(crate) fn with_passphrase_file(self, file: Option<PathBuf>) -> Self {
        let file = file.map(|file| &*Box::leak(file.into_boxed_path()));
        Self { passphrase_file: file, ..self }
    }

    /// One object on a line of its own.
    pub(crate) fn object(self, value: &impl Serialize) -> Result<(), Problem> {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::new(Exit::Io, "encoding", error.to_string(), "report this as a fault"))?;
        writeln!(std::io::stdout().lock(), "{text}").map_err(broken_output)
    }

    /// Lines for people.
    pub(crate) fn text(self, text: &str) -> Result<(), Problem> {
        writeln!(std::io::stdout().lock(), "{text}").map_err(broken_output)
    }

    /// `value` as JSON, or `text` for people.
    pub(crate) fn either(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Problem> {
        if self.json { self.object(value) } else { self.text(&text()) }
    }

    pub(crate) fn flush(self) -> Result<(), Problem> {
        std::io::stdout().lock().flush().map_err(broken_output)
    }

    /// Says what went wrong and gives the exit code.
    pub(crate) fn fail(self, problem: &Problem) -> ExitCode {
        let failure = &problem.failure;
        // if nobody listens, the exit code still tells
        let _ = if self.json {
            writeln!(std::io::stdout().lock(), "{}", problem.to_json())
        } else {
            let Failure { message, next, .. } = failure;
            writeln!(std::io::stderr().lock(), "shoal: {}\n  next: {}", plain(message), plain(next))
        };
        ExitCode::from(failure.exit.unwrap_or(Exit::Temporary).code())
    }

    /// A bar for something of `total` parts that takes longer than a second; silent for programs and pipes.
    pub(crate) fn bar(self, what: &str, total: u64) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        shown(ProgressBar::new(total), what, "{spinner} {msg} {bar:30} {pos}/{len} boxes ({elapsed})")
    }

    /// A bar for bytes, whose sum is not known yet.
    pub(crate) fn bytes(self, what: &str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = "{spinner} {msg} {bar:30} {bytes}/{total_bytes} ({elapsed}, {eta} left)";
        shown(ProgressBar::no_length(), what, template)
    }

    /// A bar for things, whose number is not known yet.
    pub(crate) fn count(self, what: &str, things: &str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        shown(ProgressBar::no_length(), what, &format!("{{spinner}} {{msg}} {{pos}}/{{len}} {things} ({{elapsed}})"))
    }

    /// A spinner for what may take longer than a second; silent for programs and pipes.
    pub(crate) fn spinner(self, what: &str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        shown(ProgressBar::new_spinner(), what, "{spinner} {msg} ({elapsed})")
    }
}

fn shown(bar: ProgressBar, what: &str, template: &str) -> ProgressBar {
    let bar = bar.with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = if bytes >= 1_000_000_000 { (1e9, "GB") } else { (1e6, "MB") };
    format!("{:.1} {name}", bytes as f64 / unit)
}

/// Text of others for a terminal: without control characters, which could move the cursor, change colours or answer for
/// the user. Line breaks and tabs stay.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\t' => character,
            character if character.is_control() => '\u{fffd}',
            // direction overrides can make a text read as another
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            character => character,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(390_700_000), "390.7 MB");
        assert_eq!(size(19_500_000_000), "19.5 GB");
    }

    #[test]
    fn terminals_are_not_at_the_mercy_of_senders() {
        assert_eq!(plain("\u{1b}[31mred\u{7}\r\n"), "\u{fffd}[31mred\u{fffd}\u{fffd}\n");
        assert_eq!(plain("a\u{202e}b\u{9b}1m"), "a\u{fffd}b\u{fffd}1m");
        assert_eq!(plain("שלום 🐟\tok"), "שלום 🐟\tok");
    }
}
