//! How a command fails: an exit code for scripts, a sentence for people, and what to do next.

use serde_json::{Value, json};

/// Why a command failed, by what the caller can do about it. The numbers are those of sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// What was asked for cannot be reached.
    Unreachable,
    /// Reading or writing failed.
    InputOutput,
    /// Try again later.
    Temporary,
    /// The operator lacks a permission.
    Permission,
    /// A file that the operator writes is wrong.
    Configuration,
}

impl Kind {
    /// Exit code of the process.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::InputOutput => 74,
            Self::Temporary => 75,
            Self::Permission => 77,
            Self::Configuration => 78,
        }
    }

    /// `code` in the JSON of a failure.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::InputOutput => "input_output",
            Self::Temporary => "temporary",
            Self::Permission => "permission",
            Self::Configuration => "configuration",
        }
    }
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Kind and exit code.
    pub kind: Kind,
    /// What is wrong, and where.
    pub message: String,
    /// What to do next.
    pub next: String,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next: next.into() }
    }

    /// A failure of an operation on files or sockets: denied access is told apart.
    pub fn io(error: &anyhow::Error, next: &str) -> Self {
        let denied = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied);
        if denied {
            let next = "run as the user who owns the node's directory, or correct its owner";
            Self::new(Kind::Permission, format!("{error:#}"), next)
        } else {
            Self::new(Kind::InputOutput, format!("{error:#}"), next)
        }
    }

    /// `{"error":{"code","message","next"}}`.
    pub fn to_json(&self) -> Value {
        json!({"error": {"code": self.kind.code(), "message": self.message, "next": self.next}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_file_is_told_apart() {
        let denied = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::PermissionDenied)).context("reading");
        assert_eq!(Failure::io(&denied, "").kind, Kind::Permission);
        let missing = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::NotFound));
        assert_eq!(Failure::io(&missing, "").kind, Kind::InputOutput);
    }

    #[test]
    fn the_json_has_its_three_keys() {
        let failure = Failure::new(Kind::Configuration, "what", "then");
        assert_eq!(
            failure.to_json().to_string(),
            r#"{"error":{"code":"configuration","message":"what","next":"then"}}"#
        );
    }
}
