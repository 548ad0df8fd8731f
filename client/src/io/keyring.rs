//! The keyring of the desktop session: the Secret Service on the session bus, as GNOME Keyring, KWallet and KeePassXC offer
//! it. It keeps the keys that wrap the keys of profiles, each under the profile's id.

use std::collections::HashMap;
use std::time::Duration;

use secret_service::{EncryptionType, Error, Item, SecretService};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use crate::profile::{KeyringEntry, ProfileId, WrappingKey};

/// How long a person may take to unlock the keyring.
const PATIENCE: Duration = Duration::from_secs(120);
const CONTENT_TYPE: &str = "application/octet-stream";
/// Most entries of one profile that are looked at: one, and what interrupted changes left.
const ENTRIES_MAX: usize = 64;

/// Why a keyring was of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Nobody answers.
    #[error("no keyring answers: {0}")]
    NoService(String),
    /// It stayed locked.
    #[error("the keyring stayed locked")]
    Locked,
    /// It has no key for the profile.
    #[error("the keyring has no key for this profile")]
    NoEntry,
    /// It refused for another reason.
    #[error("the keyring refused: {0}")]
    Refused(String),
}

impl From<KeyringError> for Failure {
    fn from(error: KeyringError) -> Self {
        let message = error.to_string();
        let (exit, code, next) = match error {
            KeyringError::NoService(_) => (
                Exit::Unreachable,
                "no_keyring",
                "run it in a desktop session with a Secret Service (GNOME Keyring, KWallet, KeePassXC), or use a \
                 passphrase instead",
            ),
            KeyringError::Locked => (Exit::Permission, "keyring_locked", "unlock the keyring, and run it again"),
            KeyringError::NoEntry => (
                Exit::Permission,
                "keyring_needed",
                "use the session in which the profile was made; a copied folder does not open without its keyring",
            ),
            KeyringError::Refused(_) => (Exit::Temporary, "keyring_refused", "look at the keyring, and run it again"),
        };
        Self::new(exit, code, message, next)
    }
}

impl From<Error> for KeyringError {
    fn from(error: Error) -> Self {
        // what else the library may say, now or later, is passed on as it says it
        if matches!(error, Error::Locked | Error::Prompt | Error::PromptDisconnected) {
            Self::Locked
        } else if matches!(error, Error::NoResult) {
            Self::NoEntry
        } else if matches!(error, Error::Unavailable) {
            Self::NoService("there is no session bus with a Secret Service".to_owned())
        } else {
            Self::Refused(error.to_string())
        }
    }
}

/// Has the keyring keep a key; it does when this returns.
///
/// # Errors
/// Why it does not.
pub async fn keep(profile: ProfileId, entry: KeyringEntry, key: &WrappingKey) -> Result<(), KeyringError> {
    let keep = async {
        let service = connect().await?;
        // never another one: that of the session alone forgets the key when the person logs out
        let collection = service.get_default_collection().await.map_err(|error| match KeyringError::from(error) {
            KeyringError::NoEntry => KeyringError::Refused("it has no default collection".to_owned()),
            known @ (KeyringError::NoService(_) | KeyringError::Locked | KeyringError::Refused(_)) => known,
        })?;
        if collection.is_locked().await? {
            collection.unlock().await?;
        }
        let (profile, entry) = (profile.to_string(), entry.to_string());
        let attributes =
            HashMap::from([("application", "shoal"), ("profile", profile.as_str()), ("entry", entry.as_str())]);
        collection.create_item("Shoal profile", attributes, key.reveal(), true, CONTENT_TYPE).await?;
        Ok(())
    };
    patiently(keep).await
}

/// The key that the keyring keeps under an entry. Asks the person to unlock it, if need be.
///
/// # Errors
/// Why there is none.
pub async fn fetch(profile: ProfileId, entry: KeyringEntry) -> Result<WrappingKey, KeyringError> {
    let fetch = async {
        let service = connect().await?;
        let (profile, entry) = (profile.to_string(), entry.to_string());
        let attributes =
            HashMap::from([("application", "shoal"), ("profile", profile.as_str()), ("entry", entry.as_str())]);
        let found = service.search_items(attributes).await?;
        let (unlocked, locked) = (found.unlocked.into_iter().next(), found.locked.into_iter().next());
        let item = match (unlocked, locked) {
            (Some(item), _) => item,
            (None, Some(item)) => {
                item.unlock().await?;
                item
            }
            (None, None) => return Err(KeyringError::NoEntry),
        };
        let secret = Zeroizing::new(item.get_secret().await?);
        let key = secret.as_slice().try_into().map_err(|_| KeyringError::Refused("its key is no key".to_owned()))?;
        Ok(WrappingKey::from_bytes(key))
    };
    patiently(fetch).await
}

/// Removes all keys of a profile but one.
///
/// # Errors
/// Why it cannot.
pub async fn forget(profile: ProfileId, but: Option<KeyringEntry>) -> Result<(), KeyringError> {
    let forget = async {
        let service = connect().await?;
        let profile = profile.to_string();
        let found = service.search_items(HashMap::from([("application", "shoal"), ("profile", &profile)])).await?;
        for item in found.unlocked.iter().chain(&found.locked).take(ENTRIES_MAX) {
            if but.is_none() || entry_of(item).await? != but.map(|entry| entry.to_string()) {
                item.delete().await?;
            }
        }
        Ok(())
    };
    patiently(forget).await
}

async fn entry_of(item: &Item<'_>) -> Result<Option<String>, KeyringError> {
    Ok(item.get_attributes().await?.remove("entry"))
}

/// The session with the service encrypts what goes over the bus.
async fn connect<'a>() -> Result<SecretService<'a>, KeyringError> {
    SecretService::connect(EncryptionType::Dh).await.map_err(|error| match KeyringError::from(error) {
        KeyringError::Refused(why) => KeyringError::NoService(why),
        known @ (KeyringError::NoService(_) | KeyringError::Locked | KeyringError::NoEntry) => known,
    })
}

async fn patiently<T>(what: impl Future<Output = Result<T, KeyringError>>) -> Result<T, KeyringError> {
    timeout(PATIENCE, what).await.unwrap_or(Err(KeyringError::Locked))
}
