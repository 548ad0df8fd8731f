//! What a command ends with when something does not work: an exit code, what is wrong and where, what to do next.

use std::fmt;
use std::path::Path;

/// The exit codes of all Shoal commands (after `sysexits.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line asks for something that does not exist.
    Usage,
    /// An authority cannot be reached.
    Unreachable,
    /// A file or socket cannot be read, written or bound.
    InputOutput,
    /// Not now, perhaps later.
    Temporary,
    /// The system forbids it.
    Permission,
    /// A file says something that cannot be used.
    Configuration,
}

impl Kind {
    /// The process exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::InputOutput => 74,
            Self::Temporary => 75,
            Self::Permission => 77,
            Self::Configuration => 78,
        }
    }

    /// The word that stands for the code in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::InputOutput => "io",
            Self::Temporary => "temporary",
            Self::Permission => "permission",
            Self::Configuration => "configuration",
        }
    }
}

/// A failure that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub kind: Kind,
    /// What is wrong, and where.
    pub message: String,
    /// What to do next.
    pub next: String,
}

impl Failure {
    /// A failure with its message and the next step.
    pub fn new(kind: Kind, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next: next.into() }
    }

    /// A file or directory that could not be used as `action` ("read", "written") needs.
    #[must_use]
    pub fn file(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let message = format!("{} cannot be {action}: {error}", path.display());
        let kind = error.kind();
        if kind == std::io::ErrorKind::PermissionDenied {
            Self::new(Kind::Permission, message, "run as the user that owns the directory")
        } else if kind == std::io::ErrorKind::NotFound {
            let next = "check --dir, or make the directory with: shoal-directory init --dir DIR";
            Self::new(Kind::InputOutput, message, next)
        } else {
            Self::new(Kind::InputOutput, message, "check the disk and the path")
        }
    }

    /// A file whose content cannot be used.
    #[must_use]
    pub fn content(path: &Path, problem: &dyn fmt::Display) -> Self {
        Self::new(Kind::Configuration, format!("{}: {problem}", path.display()), "correct the file")
    }

    /// The object that every command prints with `--json`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"error": {"code": self.kind.name(), "message": self.message, "next": self.next}})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn codes_follow_the_cause() {
        let path = Path::new("/somewhere/authority.toml");
        let kind = |kind| Failure::file("read", path, &Error::from(kind)).kind.code();
        assert_eq!(kind(ErrorKind::PermissionDenied), 77);
        assert_eq!(kind(ErrorKind::NotFound), 74);
        assert_eq!(kind(ErrorKind::StorageFull), 74);
        let json = Failure::content(path, &"no listen").to_json();
        assert_eq!(json["error"]["code"], "configuration");
        assert_eq!(json["error"]["message"], "/somewhere/authority.toml: no listen");
    }
}
