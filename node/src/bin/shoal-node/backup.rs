//! `keys export`, `keys import` and `keys erase` at the terminal.

use crate::args::{Dir, Erase, Export, Import, Keys};
use crate::output::{self, say};
use age::secrecy::SecretString;
use serde_json::json;
use shoal_node::bundle::Bundle;
use shoal_node::failure::{Failure, Kind};
use shoal_node::io::backup::{self, Lock};
use shoal_node::io::restoring::Restored;
use shoal_node::io::stopped::{self, Stopped};
use shoal_node::io::{files, passphrase};
use shoal_node::report::utc;
use std::io::Write as _;
use std::path::Path;

pub(crate) fn run(keys: Keys, json: bool) -> Result<(), Failure> {
    match keys {
        Keys::Export(Export { to, passphrase_file, recipient, dir: Dir { dir } }) => {
            let lock = match passphrase_file {
                Some(file) => Lock::Passphrase(passphrase::from_file(&file)?),
                None if recipient.is_empty() => Lock::Passphrase(passphrase::from_terminal(true)?),
                None => Lock::Recipients(recipient),
            };
            let (bundle, lacking) = backup::export(&dir, &to, lock)?;
            exported(&bundle, &lacking, &to, json);
        }
        Keys::Import(Import { from, passphrase_file, identity, dir: Dir { dir } }) => {
            let lock = match (passphrase_file, identity) {
                (Some(file), _) => Lock::Passphrase(passphrase::from_file(&file)?),
                (None, Some(file)) => Lock::Identities(identities(&file)?),
                (None, None) => Lock::Passphrase(passphrase::from_terminal(false)?),
            };
            let Restored { bundle, setup, notes } = backup::import(&from, &dir, lock)?;
            if !json {
                say(&format!("from the backup of {}", utc(bundle.made)));
            }
            // nothing can be done about a standard error that is closed
            notes.iter().for_each(|note| drop(writeln!(std::io::stderr(), "note: {note}")));
            let then = "next: stop this node on the other machine for good; correct `address` and `listen` in node.toml\n\
                        then: shoal-node doctor, which finds who else answers with its identity; then: ";
            output::admission(&setup, json, "restored", then);
        }
        Keys::Erase(Erase { all, dir: Dir { dir } }) => erase(&dir, all, json)?,
    }
    Ok(())
}

fn erase(dir: &Path, all: bool, json: bool) -> Result<(), Failure> {
    let (erased, nothing) = match Stopped::of(dir) {
        Ok(stopped) => (stopped.erase(stopped::now(), all)?, "nothing to erase"),
        Err(failure) if failure.kind == Kind::Temporary && !all => (Vec::new(), "the node runs, and erases by itself"),
        Err(failure) => return Err(failure),
    };
    let epochs: Vec<String> = erased.iter().map(ToString::to_string).collect();
    if json {
        say(&json!({ "erased": erased.iter().map(|epoch| epoch.0).collect::<Vec<_>>() }).to_string());
    } else if epochs.is_empty() {
        say(nothing);
    } else {
        say(&format!("erased: the keys and logs of epochs {}", epochs.join(", ")));
    }
    Ok(())
}

fn exported(bundle: &Bundle, lacking: &[String], to: &Path, json: bool) {
    let names: Vec<&str> = bundle.files.iter().map(|(name, _)| *name).collect();
    if json {
        let answer = json!({
            "file": to.display().to_string(),
            "identity": bundle.identity.to_string(),
            "role": bundle.role.to_string(),
            "holds": names,
            "lacks": lacking,
        });
        say(&answer.to_string());
        return;
    }
    say(&format!("the {} {} is in {}", bundle.role, bundle.identity, to.display()));
    say(&format!("it holds {}; no mix keys, no boxes", names.join(", ")));
    if !lacking.is_empty() {
        say(&format!("it does not hold the files of {}: keep them yourself", lacking.join(" and ")));
    }
    say("keep it off this machine, and the passphrase or age identity elsewhere; try it once:");
    say(&format!(
        "  shoal-node keys import {} --dir SOME_EMPTY_DIR && shoal-node check-config --dir SOME_EMPTY_DIR",
        to.display()
    ));
}

fn identities(file: &Path) -> Result<SecretString, Failure> {
    let next = "give the file that `age-keygen` wrote";
    let bytes = files::read(file).map_err(|error| Failure::io(&error, next))?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::new(Kind::Configuration, format!("{} is not text", file.display()), next))?;
    Ok(SecretString::from(text.to_owned()))
}
