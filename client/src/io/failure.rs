//! Why something failed, and what the caller can do about it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use shoal_protocol::address::Address;

use crate::mail::{MailError, NotAnId};

/// How a process ends, by what the caller can do (values of `sysexits.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// 64: asked wrongly; asking again the same way is no use.
    Usage,
    /// 69: daemon or network cannot be reached.
    Unreachable,
    /// 74: a file or profile is missing or cannot be read, disk or pipe failed.
    Io,
    /// 75: not now; try again later.
    Temporary,
    /// 77: not allowed.
    Permission,
    /// 78: profile or network file says what cannot be used.
    Configuration,
}

impl Exit {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Usage, Self::Unreachable, Self::Io, Self::Temporary, Self::Permission, Self::Configuration];

    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::Permission => 77,
            Self::Configuration => 78,
        }
    }
}

/// Why something failed, for programs (`code`) and people (`message`, `next`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable, lower case, words joined by `_`.
    pub code: String,
    /// What is wrong, and where.
    pub message: String,
    /// What to do next.
    pub next: String,
    /// How a command that meets it ends. Not printed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit: Option<Exit>,
}

impl Failure {
    /// A failure with all its parts.
    #[must_use]
    pub fn new(exit: Exit, code: &str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), next: next.into(), exit: Some(exit) }
    }

    /// As it is printed: `{"error":{"code","message","next"}}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::json!({ "error": { "code": self.code, "message": self.message, "next": self.next } })
    }
}

impl From<NotAnId> for Failure {
    fn from(error: NotAnId) -> Self {
        Self::new(Exit::Usage, "bad_id", error.to_string(), "take the id as `send` or `read` printed it")
    }
}

impl From<MailError> for Failure {
    fn from(error: MailError) -> Self {
        // what begins like an address was meant as one: say what is wrong with it
        if let MailError::Unknown(text) = &error
            && text.trim().to_lowercase().starts_with("shoal1")
            && let Err(mistake) = text.parse::<Address>()
        {
            let next = "copy the whole address from whoever gave it to you";
            return Self::new(Exit::Usage, "bad_address", mistake.to_string(), next);
        }
        let message = error.to_string();
        let (exit, code, next) = match &error {
            MailError::Locked(_) => (Exit::Temporary, "profile_in_use", "stop the other process: shoal down"),
            MailError::Exists(_) => {
                (Exit::Configuration, "profile_exists", "use it, or name another folder with --profile DIR")
            }
            MailError::Missing(_) => (Exit::Io, "no_profile", "make one: shoal init --network FILE"),
            MailError::Newer { .. } => (Exit::Configuration, "profile_too_new", "install the newer version of shoal"),
            MailError::Damaged(_) => (Exit::Io, "profile_damaged", "check the disk; restore the profile's folder"),
            MailError::RolledBack(_) => {
                (Exit::Temporary, "rolled_back", "ask the contact to add you again; this copy must not send")
            }
            MailError::Broken(_) => {
                (Exit::Temporary, "conversation_broken", "agree with the contact on a new beginning")
            }
            MailError::NotAMember(_) => {
                (Exit::Permission, "not_a_member", "ask a member to add you again, or create a new group")
            }
            MailError::NoDocument => (Exit::Unreachable, "no_document", "try again when shoal status says connected"),
            MailError::Group(_) => (Exit::Usage, "bad_group", "shoal group list shows groups and their members"),
            MailError::Unknown(_) => (
                Exit::Usage,
                "unknown_contact",
                "shoal contacts lists names, and strangers by their addresses; somebody new: shoal add NAME ADDRESS",
            ),
            MailError::Name(..) => (Exit::Usage, "bad_name", "choose another name"),
            MailError::Blocked(_) => (Exit::Permission, "blocked", "unblock with shoal accept first"),
            MailError::Oneself => (Exit::Usage, "own_address", "give the address of another person"),
            MailError::TooLong { .. } => (Exit::Usage, "too_long", "send it in parts"),
            MailError::QueueFull { .. } => (Exit::Temporary, "queue_full", "wait until some of it has arrived"),
            MailError::NoMessage(_) => (Exit::Usage, "unknown_message", "take the id as it was printed"),
            MailError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                (Exit::Permission, "permission_denied", "run as the owner of the profile")
            }
            MailError::Database(_) | MailError::Io { .. } => {
                (Exit::Io, "io", "check the disk's space and the profile's folder")
            }
            MailError::Mls(_) => (Exit::Io, "conversation_state", "run again with SHOAL_LOG=debug and report it"),
            MailError::Network(_) => {
                (Exit::Configuration, "bad_network_file", "ask whoever gave it to you for another")
            }
        };
        Self::new(exit, code, message, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_prints_three_fields_and_knows_its_exit_code() {
        let failure = Failure::from(MailError::Unknown("zoe".into()));
        let printed = failure.to_json();
        let fields: Vec<&String> = printed["error"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["code", "message", "next"]);
        assert_eq!(failure.exit.unwrap().code(), 64);
        assert_eq!(Failure::from(MailError::Missing("/x".into())).exit.unwrap().code(), 74);
    }
}
