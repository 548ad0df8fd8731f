//! `keys export` and `keys import`: a [`Bundle`] in an age file (<https://age-encryption.org/v1>).

use crate::bundle::{BUNDLE_MAX, Bundle, NAMES};
use crate::failure::{Failure, Kind};
use crate::io::files;
use crate::io::host::Clock;
use crate::io::restoring::{Restored, lacks, restore};
use crate::io::setup::{self, Setup};
use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, IdentityFile, scrypt, x25519};
use anyhow::{Context as _, Result};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// Most work that opening a passphrase may ask for: 2^20 rounds of scrypt, 1 GiB of memory. age takes what lasts about a
/// second where a file is made, 2^18 and 256 MiB on a machine of today.
const WORK_MAX: u8 = 20;
/// Largest backup: a bundle in base64, and age's own.
const BACKUP_MAX: u64 = 2 * BUNDLE_MAX as u64;

/// What opens or closes a backup.
pub enum Lock {
    /// A passphrase of a person.
    Passphrase(SecretString),
    /// Export: age recipients (`age1…`). Import: not used.
    Recipients(Vec<String>),
    /// Import: the text of an age identity file. Export: not used.
    Identities(SecretString),
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock(redacted)")
    }
}

/// Encrypts what the node in `dir` needs to live on elsewhere into the new file `to`. Says also what it needs and is not in
/// there.
pub fn export(dir: &Path, to: &Path, lock: Lock) -> Result<(Bundle, Vec<String>), Failure> {
    if to.exists() {
        return Err(Failure::new(
            Kind::Usage,
            format!("{} exists; nothing is overwritten", to.display()),
            "give another name with --to",
        ));
    }
    let encryptor = encryptor(lock)?;
    let (bundle, lacking) = gather(dir)?;
    let next = "check the place, the disk and the owner, then export again";
    write_new(to, encryptor, &bundle.to_bytes()).map_err(|error| Failure::io(&error, next))?;
    Ok((bundle, lacking))
}

fn encryptor(lock: Lock) -> Result<Encryptor, Failure> {
    let recipients = match lock {
        Lock::Passphrase(passphrase) => return Ok(Encryptor::with_user_passphrase(passphrase)),
        Lock::Recipients(recipients) => recipients,
        Lock::Identities(_) => Vec::new(),
    };
    let parse = |text: &String| {
        text.parse::<x25519::Recipient>().map_err(|error| {
            let next = "give what `age-keygen` prints as public key (age1…); an identity (AGE-SECRET-KEY-1…) opens, it does not close";
            Failure::new(Kind::Usage, format!("--recipient: {error}"), next)
        })
    };
    let recipients = recipients.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as _))
        .map_err(|error| Failure::new(Kind::Usage, error.to_string(), "give --recipient age1… or a passphrase"))
}

fn gather(dir: &Path) -> Result<(Bundle, Vec<String>), Failure> {
    let Setup { config, network, identity, .. } = setup::load(dir)?;
    let next = "check the node's directory and its owner";
    let mut held = Vec::new();
    for name in NAMES {
        let path = if name == "network.toml" { config.network_path(dir) } else { dir.join(name) };
        if let Some(content) = files::read_optional(&path).map_err(|error| Failure::io(&error, next))? {
            held.push((name, content));
        }
    }
    let me = identity.identity();
    let bundle = Bundle {
        made: Clock::start().wall(),
        role: config.role,
        identity: me,
        network: network.genesis_hash(),
        admission: setup::admission_line(config.role, &me, &config.address, config.family.as_deref()),
        files: held,
    };
    Ok((bundle, lacks(&config)))
}

fn write_new(to: &Path, encryptor: Encryptor, plain: &[u8]) -> Result<()> {
    let describe = || format!("cannot write {}", to.display());
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).with_context(describe)?;
    let write = || -> Result<()> {
        let armoured = ArmoredWriter::wrap_output(&file, Format::AsciiArmor)?;
        let mut writer = encryptor.wrap_output(armoured)?;
        writer.write_all(plain)?;
        writer.finish()?.finish()?;
        file.sync_all()?;
        Ok(())
    };
    write().with_context(describe).inspect_err(|_| {
        // half a backup is none
        let _ = fs::remove_file(to);
    })
}

/// Decrypts the backup `from` and makes the node's directory of it. A directory that holds a node is left alone.
pub fn import(from: &Path, dir: &Path, lock: Lock) -> Result<Restored, Failure> {
    for name in NAMES {
        if dir.join(name).exists() {
            return Err(Failure::new(
                Kind::Usage,
                format!("{} already holds {name}; import changes nothing there", dir.display()),
                "choose another --dir, or move what is there away",
            ));
        }
    }
    restore(from, dir, open(from, lock)?)
}

/// Decrypts and reads a backup.
pub fn open(from: &Path, lock: Lock) -> Result<Bundle, Failure> {
    let next = "give the path of a file that `shoal-node keys export` made";
    let bytes = read(from).map_err(|error| Failure::io(&error, next))?;
    let bad =
        |message: String, next: &str| Failure::new(Kind::Configuration, format!("{}: {message}", from.display()), next);
    // both forms of an age file begin with a word of their own
    if !["-----BEGIN AGE", "age-encryption.org/"].iter().any(|head| bytes.starts_with(head.as_bytes())) {
        return Err(bad("it is no age file".to_owned(), next));
    }
    let plain = decrypt(&bytes, lock).map_err(|refused| match refused {
        Refused::Lock(failure) => failure,
        Refused::Age(error) => {
            let (message, next) = explain(&error);
            bad(message, next)
        }
    })?;
    Bundle::from_bytes(&plain).map_err(|error| {
        bad(error.to_string(), "use the shoal-node that made it, or one that is newer; else take another backup")
    })
}

fn read(from: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let describe = || format!("cannot read {}", from.display());
    let file = fs::File::open(from).with_context(describe)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(BACKUP_MAX).read_to_end(&mut bytes).with_context(describe)?;
    Ok(bytes)
}

enum Refused {
    Lock(Failure),
    Age(DecryptError),
}

fn decrypt(bytes: &[u8], lock: Lock) -> Result<Zeroizing<Vec<u8>>, Refused> {
    use age::secrecy::ExposeSecret as _;
    let decryptor = Decryptor::new_buffered(ArmoredReader::new(bytes)).map_err(Refused::Age)?;
    let no_passphrase = decryptor.is_scrypt() && !matches!(lock, Lock::Passphrase(_));
    let identities: Vec<Box<dyn age::Identity>> = match lock {
        Lock::Passphrase(passphrase) => {
            let mut identity = scrypt::Identity::new(passphrase);
            identity.set_max_work_factor(WORK_MAX);
            vec![Box::new(identity)]
        }
        Lock::Identities(text) => IdentityFile::from_buffer(text.expose_secret().as_bytes())
            .map_err(|error| {
                let next = "give the file that `age-keygen` wrote (AGE-SECRET-KEY-1…)";
                Refused::Lock(Failure::new(Kind::Configuration, format!("--identity: {error}"), next))
            })?
            .into_identities()
            .map_err(Refused::Age)?,
        Lock::Recipients(_) => Vec::new(),
    };
    if no_passphrase {
        let next = "leave --identity out, or give --passphrase-file";
        return Err(Refused::Lock(Failure::new(Kind::Usage, "the backup was closed with a passphrase", next)));
    }
    let reader = decryptor.decrypt(identities.iter().map(|identity| &**identity)).map_err(Refused::Age)?;
    // room for all of it at once: a buffer that grows leaves parts of the key behind
    let mut plain = Zeroizing::new(Vec::with_capacity(bytes.len()));
    reader.take(BUNDLE_MAX as u64).read_to_end(&mut plain).map_err(|error| Refused::Age(DecryptError::Io(error)))?;
    Ok(plain)
}

/// What is wrong with a backup, and what to do.
fn explain(error: &DecryptError) -> (String, &'static str) {
    const DAMAGED: &str = "the file is torn or changed: take another copy of the backup";
    match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => (
            "the passphrase is wrong, or the file was changed".to_owned(),
            "try the passphrase again (--passphrase-file: its first line counts), or another copy of the backup",
        ),
        DecryptError::NoMatchingKeys => (
            "it was closed for somebody else".to_owned(),
            "give the identity file of one of its recipients with --identity, or the passphrase if it has one",
        ),
        DecryptError::ExcessiveWork { required, .. } => (
            format!("opening it takes 2^{required} rounds of work"),
            "no `shoal-node keys export` makes such a file; open it with `age` on a machine with much memory",
        ),
        DecryptError::InvalidHeader | DecryptError::InvalidMac => ("it is no age file, or torn".to_owned(), DAMAGED),
        DecryptError::Io(error) if error.kind() == ErrorKind::PermissionDenied => (error.to_string(), DAMAGED),
        DecryptError::Io(_) => ("it ends too early, or was changed".to_owned(), DAMAGED),
        DecryptError::UnknownFormat => {
            ("it is of a version of age that this program does not know".to_owned(), "use a newer shoal-node")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::setup::InitRequest;
    use age::secrecy::ExposeSecret as _;
    use shoal_protocol::types::Role;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a directory");
            let network = folder.path().join("given.toml");
            fs::write(&network, crate::testing::network(Vec::new()).to_toml()).expect("written");
            let request = InitRequest {
                network,
                role: Role::Mix,
                address: "127.0.0.1:4433".into(),
                listen: None,
                metrics: None,
                family: None,
                dir: folder.path().join("node"),
            };
            setup::init(&request).expect("made");
            fs::write(folder.path().join("node/consensus"), b"pinned").expect("written");
            // what must never be in a backup
            fs::create_dir_all(folder.path().join("node/run")).expect("made");
            fs::write(folder.path().join("node/run/mix-5.key"), [0x5a; 145]).expect("written");
            Self { folder }
        }
        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }
    }

    fn passphrase(text: &str) -> Lock {
        Lock::Passphrase(SecretString::from(text.to_owned()))
    }

    fn recipient() -> (Lock, SecretString) {
        let identity = x25519::Identity::generate();
        (Lock::Recipients(vec![identity.to_public().to_string()]), identity.to_string())
    }

    #[test]
    fn a_node_comes_back_from_its_backup_and_nothing_is_overwritten() {
        let machine = Machine::new();
        let (close, key) = recipient();
        let backup = machine.at("node.age");
        let (made, lacking) = export(&machine.at("node"), &backup, close).expect("exported");
        assert_eq!((made.files.len(), lacking.len()), (4, 0));
        assert_eq!(fs::metadata(&backup).expect("there").permissions().mode() & 0o777, 0o600);
        let again = export(&machine.at("node"), &backup, recipient().0).map(drop).expect_err("it is there");
        assert_eq!(again.kind, Kind::Usage);

        let elsewhere = machine.at("elsewhere");
        let restored = import(&backup, &elsewhere, Lock::Identities(key.clone())).expect("imported");
        let Restored { bundle: back, setup, notes } = restored;
        assert!(notes.is_empty() && setup.dir == elsewhere, "{notes:?}");
        assert_eq!(setup.identity.identity(), made.identity);
        assert_eq!((back.made, back.admission.as_str()), (made.made, made.admission.as_str()));
        for name in ["identity.key", "node.toml", "network.toml", "consensus"] {
            let read = |at: &str| fs::read(machine.at(at).join(name)).expect(name);
            assert_eq!(read("elsewhere"), read("node"), "{name}");
            assert!(!files::is_exposed(&elsewhere.join(name)).expect("looks"), "{name}");
        }
        assert!(!elsewhere.join("run").exists(), "no mix key leaves the machine");
        let twice = import(&backup, &elsewhere, Lock::Identities(key)).map(drop).expect_err("a node is there");
        assert_eq!(twice.kind, Kind::Usage);
        assert!(twice.message.contains("identity.key"), "{twice}");
    }

    /// What was changed in a bundle before it is imported into `dir`.
    fn import_changed(machine: &Machine, dir: &Path, change: impl FnOnce(&mut Bundle)) -> Result<Restored, Failure> {
        let (mut bundle, _) = gather(&machine.at("node")).expect("a node");
        change(&mut bundle);
        let (close, key) = recipient();
        let backup = machine.at("changed.age");
        let _ = fs::remove_file(&backup);
        write_new(&backup, encryptor(close).expect("a recipient"), &bundle.to_bytes()).expect("written");
        import(&backup, dir, Lock::Identities(key))
    }

    fn replace(bundle: &mut Bundle, name: &str, content: Vec<u8>) {
        let file = bundle.files.iter_mut().find(|(held, _)| *held == name).expect("is in it");
        file.1 = Zeroizing::new(content);
    }

    #[test]
    fn what_does_not_make_the_node_that_it_says_leaves_nothing_behind() {
        let machine = Machine::new();
        let there = machine.at("there");
        fs::create_dir(&there).expect("made");
        for dir in [machine.at("elsewhere"), there] {
            let before = fs::read_dir(&dir).map(|entries| entries.count()).ok();
            let said = |change: fn(&mut Bundle)| {
                let failure = import_changed(&machine, &dir, change).map(drop).expect_err("refused");
                assert_eq!(fs::read_dir(&dir).map(|entries| entries.count()).ok(), before, "{failure}");
                assert!(!machine.at("elsewhere.restoring").exists());
                failure.to_string()
            };
            let other_key = said(|bundle| replace(bundle, "identity.key", b"ab".repeat(32)));
            assert!(other_key.contains("identity key is not the one"), "{other_key}");
            assert!(said(|bundle| replace(bundle, "identity.key", b"torn".to_vec())).contains("identity.key"));
            assert!(said(|bundle| replace(bundle, "network.toml", b"torn".to_vec())).contains("network.toml"));
            assert!(said(|bundle| replace(bundle, "node.toml", b"torn".to_vec())).contains("node.toml"));
            assert!(
                said(|bundle| bundle.network = shoal_protocol::types::Hash::from_bytes([9; 32]))
                    .contains("network file")
            );
            import_changed(&machine, &dir, |_| {}).expect("and this one is whole");
            assert!(!dir.join(".restoring").exists());
            assert_eq!(setup::load(&dir).expect("a node").dir, dir);
        }
    }

    #[test]
    fn a_network_file_of_another_name_is_found_and_what_is_missing_is_said() {
        let machine = Machine::new();
        let node = machine.at("node");
        fs::rename(node.join("network.toml"), machine.at("shared.toml")).expect("moved");
        let text = fs::read_to_string(node.join("node.toml")).expect("reads");
        let text = text.replace("network = \"network.toml\"", "network = \"../shared.toml\" # for all of them");
        let text = text
            + "\n[store.postgres]\nurl = \"postgres://shoal@db.example.org/shoal\"\n\
                           password_file = \"/etc/shoal/password\"\nca_file = \"ca.pem\"\n";
        fs::write(node.join("node.toml"), &text).expect("written");
        let (close, key) = recipient();
        let (_, lacking) = export(&node, &machine.at("node.age"), close).expect("exported");
        assert_eq!(lacking, ["store.postgres.password_file (/etc/shoal/password)", "store.postgres.ca_file (ca.pem)"]);
        // another machine, where that file is not
        fs::remove_file(machine.at("shared.toml")).expect("removed");
        let elsewhere = machine.at("elsewhere");
        let restored = import(&machine.at("node.age"), &elsewhere, Lock::Identities(key)).expect("imported");
        assert_eq!(restored.notes.len(), 3, "{:?}", restored.notes);
        for part in ["../shared.toml", "/etc/shoal/password", "ca.pem"] {
            assert!(restored.notes.iter().any(|note| note.contains(part)), "{part}: {:?}", restored.notes);
        }
        let setup = setup::load(&elsewhere).expect("a node");
        assert_eq!(setup.config.network, Path::new("network.toml"));
        assert!(fs::read_to_string(elsewhere.join("node.toml")).expect("reads").contains("# for all of them"));
    }

    #[test]
    fn a_wrong_key_a_torn_file_and_another_thing_are_said_to_be_so() {
        let machine = Machine::new();
        let backup = machine.at("node.age");
        export(&machine.at("node"), &backup, passphrase("correct horse")).expect("exported");
        let whole = fs::read(&backup).expect("there");
        let said = |lock| {
            let failure = import(&backup, &machine.at("elsewhere"), lock).map(drop).expect_err("refused");
            assert!(!machine.at("elsewhere").exists(), "nothing is written");
            failure.to_string()
        };
        assert!(said(passphrase("wrong horse")).contains("passphrase is wrong"));
        assert!(said(Lock::Identities(recipient().1)).contains("closed with a passphrase"));
        assert!(said(Lock::Identities(SecretString::from("nonsense".to_owned()))).contains("--identity"));
        fs::write(&backup, &whole[..whole.len() / 2]).expect("written");
        assert!(said(passphrase("correct horse")).contains("ends too early"), "{}", said(passphrase("correct horse")));
        fs::write(&backup, b"a letter to somebody").expect("written");
        assert!(said(passphrase("correct horse")).contains("no age file"));

        // what another program closed, and a bundle of another version
        let (close, key) = recipient();
        fs::remove_file(&backup).expect("removed");
        write_new(&backup, encryptor(close).expect("a recipient"), b"shoal-node-bundle-7\n").expect("written");
        assert!(said(Lock::Identities(recipient().1)).contains("somebody else"));
        let failure = open(&backup, Lock::Identities(key)).map(drop).expect_err("refused");
        assert!(failure.message.contains("version 7") && failure.next.contains("newer"), "{failure}");
    }

    #[test]
    fn a_recipient_that_is_a_secret_is_not_taken() {
        let machine = Machine::new();
        let secret = recipient().1.expose_secret().to_owned();
        let failure = export(&machine.at("node"), &machine.at("x.age"), Lock::Recipients(vec![secret.clone()]));
        let failure = failure.map(drop).expect_err("refused");
        assert!(failure.next.contains("age1") && !failure.message.contains(&secret), "{failure}");
        assert!(!machine.at("x.age").exists());
    }
}
