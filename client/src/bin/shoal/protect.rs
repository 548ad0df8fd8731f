//! `shoal passphrase`: what protects the profile's key.

use std::path::{Path, PathBuf};

use serde_json::json;
use shoal_client::io::{forget_in_keyring, keep_in_keyring, system_rng};
use shoal_client::mail::MailError;
use shoal_client::profile::{Cost, KeyFile, NotOpened, Opener, Protection, Protector, change_protector};

use crate::asking::{self, Opening};
use crate::daemon::{start_again, stop};
use crate::output::{Out, Problem};

/// What `init` and `passphrase set` are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    File,
    Passphrase,
    Keyring,
}

pub(crate) async fn set(profile: &Path, new_file: Option<PathBuf>, keyring: bool, out: &Out) -> Result<(), Problem> {
    let before = KeyFile::read(profile)?;
    let Opening { opener, .. } = asking::opening(profile, out).await?;
    check(profile, &before, &opener)?;
    if keyring {
        let (entry, key) = Protector::fresh_keyring(&mut system_rng());
        // before it protects anything
        keep_in_keyring(before.id(), entry, &key).await.map_err(shoal_client::io::Failure::from)?;
        return change(profile, &before, &opener, &Protector::Keyring(entry, key), out).await;
    }
    let file = match new_file {
        Some(file) => Some(asking::from_file(&file)?),
        // without an old passphrase the one given can only be the new one
        None if before.protection() != Protection::Passphrase => asking::given(out)?,
        None => None,
    };
    let passphrase = asking::new(file, "New passphrase", "--new-passphrase-file", out)?;
    change(profile, &before, &opener, &Protector::Passphrase(passphrase, Cost::NEW), out).await
}

pub(crate) async fn remove(profile: &Path, out: &Out) -> Result<(), Problem> {
    let before = KeyFile::read(profile)?;
    let Opening { opener, .. } = asking::opening(profile, out).await?;
    check(profile, &before, &opener)?;
    change(profile, &before, &opener, &Protector::File, out).await
}

/// A daemon is not stopped for a passphrase that is wrong.
pub(crate) fn check(profile: &Path, before: &KeyFile, opener: &Opener) -> Result<(), MailError> {
    before.open(opener).map(drop).map_err(|error| match error {
        NotOpened::Memory => MailError::NoMemory,
        NotOpened::Wrong | NotOpened::Protection(_) => {
            MailError::WrongKey { profile: profile.to_owned(), protection: before.protection() }
        }
    })
}

async fn change(
    profile: &Path,
    before: &KeyFile,
    opener: &Opener,
    protector: &Protector,
    out: &Out,
) -> Result<(), Problem> {
    let ran = stop(profile, out).await?;
    let bar = out.count("received files", "files");
    let changed = change_protector(profile, opener, protector, &mut system_rng(), |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let changed = changed?;
    let kept = match protector {
        Protector::Keyring(entry, _) => Some(*entry),
        Protector::File | Protector::Passphrase(..) => None,
    };
    if changed.keyring_entry().is_some()
        && let Err(error) = forget_in_keyring(before.id(), kept).await
    {
        tracing::warn!("the old key is still in the keyring, of no use to anybody: {error}");
    }
    if ran {
        start_again(profile, &protector.opener(), out).await?;
    }
    let protection = protector.opener().protection();
    out.either(&json!({ "protection": protection, "restarted": ran }), || {
        let now = match protection {
            Protection::File => "the profile opens without a passphrase now: whoever copies its folder can read it",
            Protection::Passphrase => {
                "the profile opens with the new passphrase only. There is no way back without it. Old backups of its \
                 folder open as before"
            }
            Protection::Keyring => "the profile opens with the key in this session's keyring only",
        };
        if ran { format!("{now}\n(the daemon was started again)") } else { now.to_owned() }
    })
}
