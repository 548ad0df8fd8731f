//! `shoal export` and `shoal import`: the profile moves to another machine.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::json;
use shoal_client::io::{Clock, Exit, Failure, fetch_from_keyring, keep_in_keyring, system_rng};
use shoal_client::mail::MailError;
use shoal_client::profile::{
    ExportError, Exported, Import, ImportError, KeyFile, Moved, Passphrase, Protection, Protector, export,
    finish_export, use_up,
};

use crate::asking;
use crate::daemon::stop;
use crate::output::{Out, Problem, size};
use crate::time::readable;

pub(crate) async fn send_away(profile: &Path, file: &Path, out: &Out) -> Result<(), Problem> {
    let to = std::path::absolute(file)
        .map_err(|error| Failure::new(Exit::Usage, "file", format!("{}: {error}", file.display()), "check the path"))?;
    let key_file = KeyFile::read(profile)?;
    if Moved::read(profile)?.is_some() {
        return match finish_export(profile, &to).map_err(Failure::from)? {
            Some(exported) => told(profile, &exported, out),
            None => Err(MailError::Missing(profile.to_owned()).into()),
        };
    }
    if to.exists() {
        return Err(Failure::from(ExportError::Exists(to)).into());
    }
    // nobody thinks of a passphrase for a file that cannot be made
    if let Some(folder) = to.parent().filter(|folder| !folder.is_dir()) {
        let message = format!("{}: there is no such folder", folder.display());
        return Err(Failure::new(Exit::Io, "file", message, "make it, or give another place").into());
    }
    let keyring = match key_file.keyring_entry() {
        Some(entry) => Some(fetch_from_keyring(key_file.id(), entry).await.map_err(Failure::from)?),
        None => None,
    };
    let passphrase = asking::new(closing(out)?, "Passphrase for the exported file", "--passphrase-file", out)?;
    stop(profile, out).await?;
    let bar = out.bytes("exporting");
    let now = Clock::start().unix();
    let exported = export(profile, &to, &passphrase, keyring.as_ref(), now, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    told(profile, &exported.map_err(Failure::from)?, out)
}

/// The passphrase of an exported file is its own: what opens the profile every day does not stand in for it.
fn closing(out: &Out) -> Result<Option<Passphrase>, Failure> {
    out.passphrase_file.map(asking::from_file).transpose()
}

fn told(profile: &Path, exported: &Exported, out: &Out) -> Result<(), Problem> {
    let value = json!({ "file": exported.to, "size": exported.size, "profile": profile, "moved": true });
    out.either(&value, || {
        format!(
            "exported to {} ({})\n\n\
             The profile in {} is not used any more: it lives in that file now.\n\
             Next: on the other machine, shoal import FILE. Import it once only; it is used up then.\n\
             Keep its passphrase: without it the profile is lost, for you too.\n\
             When it works there, remove {}",
            exported.to.display(),
            size(exported.size),
            profile.display(),
            profile.display(),
        )
    })
}

pub(crate) async fn take_in(profile: &Path, file: &Path, without_keyring: bool, out: &Out) -> Result<(), Problem> {
    if profile.join("profile.key").exists() {
        return Err(MailError::Exists(profile.to_owned()).into());
    }
    let import = opened(file, out)?;
    let (made, protection) = (import.made(), import.protection());
    let instead = match import.keyring() {
        Some(_) if without_keyring => Some(Protector::File),
        Some((id, entry, key)) => {
            keep_in_keyring(id, entry, &key).await.map_err(|error| {
                let failure = Failure::from(error);
                let next = "run it in a desktop session with a keyring, or give --without-keyring: the key then lies in \
                            the profile's folder, and shoal passphrase set closes it";
                Failure { next: next.to_owned(), ..failure }
            })?;
            None
        }
        None => None,
    };
    let protection = instead.as_ref().map_or(protection, |_| Protection::File);
    let bar = out.bytes("importing");
    let unpacked = import.unpack(profile, instead.as_ref(), &mut system_rng(), |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    unpacked.map_err(Failure::from)?;
    let used_up = use_up(file);
    if !used_up {
        tracing::warn!("{} could not be made unusable: destroy it, and never import it again", file.display());
    }
    let value = json!({
        "profile": profile, "protection": protection, "exported_at": made.0, "used_up": used_up,
    });
    out.either(&value, || {
        let open = match protection {
            Protection::File => "",
            Protection::Passphrase => " (it opens with the passphrase that it had)",
            Protection::Keyring => " (its key is in the keyring)",
        };
        format!(
            "imported to {}{open}, as it was on {}\n{}\n\nNext: shoal up, or shoal read",
            profile.display(),
            readable(made.0),
            if used_up { "the exported file is used up: it opens no more" } else { "destroy the exported file" },
        )
    })
}

fn opened(file: &Path, out: &Out) -> Result<Import, Failure> {
    // nobody is asked for the passphrase of a file that is not there
    std::fs::File::open(file).map_err(|error| {
        let exit = if error.kind() == ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Io };
        let next = "give the file that shoal export wrote";
        Failure::new(exit, "file", format!("{}: {error}", file.display()), next)
    })?;
    if let Some(passphrase) = closing(out)? {
        return Ok(Import::open(file, &passphrase)?);
    }
    if !asking::can_ask(out) {
        let message = format!("{} is closed by the passphrase that it was exported with", file.display());
        let next = "give --passphrase-file FILE, or run it in a terminal without --json";
        return Err(Failure::new(Exit::Permission, "passphrase_needed", message, next));
    }
    for left in (0..asking::TRIES).rev() {
        let passphrase = asking::ask(&format!("Passphrase of {}: ", file.display()))?;
        match Import::open(file, &passphrase) {
            Err(ImportError::Passphrase(_)) if left > 0 => {
                tracing::warn!("that was not the passphrase");
            }
            opened => return Ok(opened?),
        }
    }
    Err(ImportError::Passphrase(file.to_owned()).into())
}
