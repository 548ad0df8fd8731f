//! What `shoal-ops` ends with when something does not work: an exit code, what is wrong, what to do next.

use std::fmt;

use serde_json::json;

/// The exit codes that all Shoal commands share (after `sysexits.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitKind {
    /// The command ran and the answer is no: a demo whose messages did not arrive.
    Failed,
    /// A signal ended it before it was through; everything it started has been stopped.
    Interrupted,
    /// The command line asks for something that does not exist.
    Usage,
    /// A process or a network that is needed cannot be reached.
    Unreachable,
    /// A file cannot be read or written, a process cannot be started.
    InputOutput,
    /// Not now, perhaps later.
    Temporary,
    /// A file says something that cannot be used.
    Configuration,
}

impl ExitKind {
    /// The process exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            // as a shell reports a program that Ctrl-C ended
            Self::Interrupted => 130,
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::InputOutput => 74,
            Self::Temporary => 75,
            Self::Configuration => 78,
        }
    }

    /// The word that stands for the code in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::InputOutput => "io",
            Self::Temporary => "temporary",
            Self::Configuration => "configuration",
        }
    }
}

/// A failure that a person can act on.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the process ends.
    pub(crate) kind: ExitKind,
    /// What is wrong, and where.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) next: String,
}

impl Failure {
    /// A failure with its message and the next step.
    pub(crate) fn new(kind: ExitKind, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next: next.into() }
    }

    /// The failure as the JSON object that every command prints with `--json`.
    pub(crate) fn to_json(&self) -> String {
        json!({"error": {"code": self.kind.name(), "message": self.message, "next": self.next}}).to_string()
    }

    /// Finds the failure inside an error, or makes one of it.
    pub(crate) fn from_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Self>() {
            Some(failure) => Self::new(failure.kind, format!("{error:#}"), failure.next.clone()),
            None => {
                Self::new(ExitKind::InputOutput, format!("{error:#}"), "run again with SHOAL_LOG=debug to see more")
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_failure_is_found_under_its_context() {
        let inner = Failure::new(ExitKind::Unreachable, "store-2 does not answer", "look at its log");
        let error = Err::<(), _>(inner).context("starting the test network").expect_err("is an error");
        let failure = Failure::from_error(&error);
        assert_eq!(failure.kind.code(), 69);
        assert_eq!(failure.message, "starting the test network: store-2 does not answer");
        assert_eq!(failure.next, "look at its log");
    }

    #[test]
    fn json_has_code_message_and_next() {
        let line = Failure::new(ExitKind::Usage, "no \"such\" thing", "try another").to_json();
        let value: serde_json::Value = serde_json::from_str(&line).expect("is JSON");
        assert_eq!(value["error"]["code"], "usage");
        assert_eq!(value["error"]["message"], "no \"such\" thing");
        assert_eq!(value["error"]["next"], "try another");
    }
}
