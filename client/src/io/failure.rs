//! Why something failed, and what the caller can do about it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use shoal_protocol::invite::Introduction;
use shoal_protocol::safety_number::SafetyNumberError;

use crate::mail::{MailError, NotAnId};
use crate::profile::{BadParcel, ExportError, ImportError, Moved, Protection};

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

impl From<SafetyNumberError> for Failure {
    fn from(error: SafetyNumberError) -> Self {
        let next =
            "give all digits, all words, or the content of the QR code, as the other side's shoal verify shows it";
        Self::new(Exit::Usage, "bad_safety_number", error.to_string(), next)
    }
}

impl From<NotAnId> for Failure {
    fn from(error: NotAnId) -> Self {
        Self::new(Exit::Usage, "bad_id", error.to_string(), "take the id as `send` or `read` printed it")
    }
}

/// How a closed profile is opened.
const PASSPHRASE_NEXT: &str =
    "run shoal in a terminal, which asks for it, or give --passphrase-file FILE (or SHOAL_PASSPHRASE_FILE)";

/// A profile that was left: whoever meets it needs to know where it went.
fn moved_away(message: String, moved: &Moved) -> Failure {
    let to = moved.to.display();
    let next = if moved.is_unfinished() {
        format!("the export was interrupted: finish it with shoal export {to}")
    } else {
        format!("import it where it shall live: shoal import {to}. Here it is not used again (see client/README.md)")
    };
    Failure::new(Exit::Configuration, "profile_moved", message, next)
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let message = error.to_string();
        match error {
            ExportError::Profile(error) => error.into(),
            ExportError::Exists(_) => Self::new(Exit::Usage, "file_exists", message, "give the name of a new file"),
            ExportError::Inside(_) => {
                Self::new(Exit::Usage, "inside_profile", message, "give the name of a file outside of it")
            }
            ExportError::Other(to) => {
                let next = format!("finish that one: shoal export {}", to.display());
                Self::new(Exit::Usage, "other_export", message, next)
            }
            ExportError::TooMuch { .. } => {
                let next = "move what you do not need out of files/ in the profile's folder";
                Self::new(Exit::Usage, "too_large", message, next)
            }
        }
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        let message = error.to_string();
        let (exit, code, next) = match error {
            ImportError::Profile(error) => return error.into(),
            ImportError::Occupied(_) => {
                (Exit::Usage, "folder_not_empty", "name another folder with --profile DIR, or empty that one")
            }
            ImportError::Busy(_) => (Exit::Temporary, "import_running", "wait for it to end"),
            ImportError::NotExported(_) => {
                (Exit::Configuration, "not_exported", "give the file that shoal export wrote")
            }
            ImportError::UsedUp(_) => (
                Exit::Configuration,
                "export_used_up",
                "the profile is where it was imported; if the export was interrupted, run it again where it began",
            ),
            ImportError::Passphrase(_) => (
                Exit::Permission,
                "wrong_passphrase",
                "nothing is lost; try again (of a file the first line counts), or take another copy of the file",
            ),
            ImportError::Work(_) => {
                (Exit::Configuration, "bad_export", "no shoal export makes such a file: take another copy of it")
            }
            ImportError::Bad { why: BadParcel::Newer(_), .. } => {
                (Exit::Configuration, "export_too_new", "install the newer version of shoal")
            }
            ImportError::Bad { .. } => (Exit::Io, "bad_export", "copy the file again, from where it was made"),
        };
        Self::new(exit, code, message, next)
    }
}

impl From<MailError> for Failure {
    fn from(error: MailError) -> Self {
        // what begins like an address or an invite was meant as one: say what is wrong with it
        if let MailError::Unknown(text) = &error
            && ["shoal1", "shoal-invite"].iter().any(|start| text.trim().to_lowercase().starts_with(start))
        {
            match text.parse::<Introduction>() {
                Err(mistake) => {
                    let next = "copy it as a whole from whoever gave it to you";
                    return Self::new(Exit::Usage, "bad_address", mistake.to_string(), next);
                }
                Ok(Introduction::Invite(_)) => {
                    let next = "use it first: shoal add NAME INVITE; then write to NAME";
                    return Self::new(Exit::Usage, "invite_not_used", "an invite is not an address", next);
                }
                Ok(Introduction::Address(_)) => {}
            }
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
            MailError::Sealed { protection: Protection::Keyring, .. } => {
                (Exit::Permission, "keyring_needed", "log in to the desktop session whose keyring has the key")
            }
            MailError::Sealed { .. } => (Exit::Permission, "passphrase_needed", PASSPHRASE_NEXT),
            MailError::WrongKey { protection: Protection::Keyring, .. } => (
                Exit::Permission,
                "wrong_keyring_key",
                "nothing is lost; use the keyring of the session in which the profile was made, or import an export",
            ),
            MailError::WrongKey { .. } => {
                (Exit::Permission, "wrong_passphrase", "nothing is lost; try again (of a file the first line counts)")
            }
            MailError::BadKey { .. } => (
                Exit::Io,
                "bad_key_file",
                "restore profile.key from a backup; a profile made before the first release has to be made anew",
            ),
            MailError::NoMemory => (Exit::Temporary, "no_memory", "close other programs; 256 MiB are needed"),
            MailError::Moved { moved, .. } => return moved_away(message, moved),
            MailError::Mismatch(_) => (
                Exit::Permission,
                "safety_number_differs",
                "do not trust this contact: get the address again, in person, and compare the network's words too",
            ),
            MailError::RolledBack(_) => {
                (Exit::Temporary, "rolled_back", "ask the contact to add you again; this copy must not send")
            }
            MailError::Broken(_) => (
                Exit::Temporary,
                "conversation_broken",
                "agree on a new beginning; a group: leave it, and ask a member who can write to add you again",
            ),
            MailError::NotAMember(_) => {
                (Exit::Permission, "not_a_member", "ask a member to add you again, or create a new group")
            }
            MailError::NoDocument => (Exit::Unreachable, "no_document", "try again when shoal status says connected"),
            MailError::Group(_) => (Exit::Usage, "bad_group", "shoal group list shows groups and their members"),
            MailError::Address(_) => {
                (Exit::Temporary, "address_stays", "their inboxes are read for a while yet: try again later")
            }
            MailError::Invited(_) => (
                Exit::Temporary,
                "invited",
                "the contact is here some seconds after they have used it: try again then; shoal invite --list shows it",
            ),
            MailError::Unknown(_) => (
                Exit::Usage,
                "unknown_contact",
                "shoal contacts and shoal group list show names, and strangers by their addresses; somebody new: shoal add NAME ADDRESS",
            ),
            MailError::Name(..) => (Exit::Usage, "bad_name", "choose another name"),
            MailError::Blocked(_) => (Exit::Permission, "blocked", "unblock with shoal accept first"),
            MailError::Invite(_) => (Exit::Usage, "bad_invite", "ask for another invite, or for the address"),
            MailError::NoInvite(_) => (
                Exit::Usage,
                "unknown_invite",
                "it was used, is over, or was withdrawn; shoal invite --list shows those that wait",
            ),
            MailError::Oneself => (Exit::Usage, "own_address", "give the address of another person"),
            MailError::TooLong { .. } => (Exit::Usage, "too_long", "send it in parts"),
            MailError::QueueFull { .. } => (Exit::Temporary, "queue_full", "wait until some of it has arrived"),
            MailError::TooLate(_) => {
                (Exit::Usage, "too_late", "only a file on its way, or what has not left yet, can be taken back")
            }
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
