//! Whatever interrupts an export or an import: the state lives in one place, and is whole there.

use super::super::importing::{Import, ImportError, use_up};
use super::super::key_file::Protector;
use super::super::key_file::tests::{passphrase, protectors};
use super::*;
use crate::mail::{ConversationId, Mail, MessageId, RateClass};
use crate::profile::received_files::Place;
use rand::{SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

/// A profile with a file, a message in its queue, and evidence; and a place for exported files.
struct Source {
    folder: TempDir,
    dir: PathBuf,
    to: PathBuf,
    address: String,
    protector: Protector,
}

fn closing() -> Passphrase {
    passphrase("battery staple")
}

fn place() -> Place {
    Place { conversation: ConversationId([1; 16]), message: MessageId([2; 16]), name: "photo of us.jpg".to_owned() }
}

impl Source {
    fn new(protector: Protector) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (dir, to) = (folder.path().join("ann"), folder.path().join("stick/me.shoal"));
        fs::create_dir(folder.path().join("stick")).unwrap();
        let (network, mut rng) = (crate::testing::network(), StdRng::seed_from_u64(1));
        let bob = Mail::create(&folder.path().join("bob"), &network, RateClass::Normal, &mut rng).unwrap().address();
        let mut mail = Mail::create_with(&dir, &network, RateClass::Low, &protector, &mut rng).unwrap();
        let address = mail.address();
        mail.send(&bob, "written before", NOW, &mut rng).unwrap();
        drop(mail);
        let profile = Profile::open(&dir, &protector.opener()).unwrap();
        profile.files.keep(&place(), &profile.vault, b"jpeg").unwrap();
        fs::create_dir(dir.join("conflict")).unwrap();
        fs::write(dir.join("conflict/held-1-00"), b"proof").unwrap();
        drop(profile);
        Self { folder, dir, to, address, protector }
    }

    fn write(&self) -> Written {
        let keyring = match &self.protector {
            Protector::Keyring(_, key) => Some(key),
            Protector::File | Protector::Passphrase(..) => None,
        };
        write(&self.dir, &self.to, &closing(), keyring, NOW, |_, _| {}).unwrap()
    }

    /// Whether the profile can be used here.
    fn works(&self) -> bool {
        match Mail::open_with(&self.dir, &self.protector.opener()) {
            Ok(mail) => mail.address() == self.address,
            Err(MailError::Moved { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn elsewhere(&self) -> PathBuf {
        self.folder.path().join("elsewhere/ann")
    }

    fn import(&self, from: &Path) -> Result<(), ImportError> {
        let mut rng = StdRng::seed_from_u64(2);
        Import::open(from, &closing())?.unpack(&self.elsewhere(), None, &mut rng, |_, _| {})
    }

    /// The profile is whole where it was imported.
    fn arrived(&self, opener: &Opener) {
        let mail = Mail::open_with(&self.elsewhere(), opener).unwrap();
        assert_eq!((mail.address(), mail.rate_class()), (self.address.clone(), RateClass::Low));
        assert_eq!(mail.queue_length().unwrap(), 1);
        assert!(evidence::kept(&self.elsewhere()).is_some());
        drop(mail);
        let profile = Profile::open(&self.elsewhere(), opener).unwrap();
        let path = profile.files.hand_out(&place(), &profile.vault).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"jpeg");
    }
}

/// What lies in a folder, by name.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_profile_moves_with_whatever_protects_it() {
    for protector in protectors() {
        let source = Source::new(protector);
        let exported = source.write().mark(NOW).unwrap().finish().unwrap();
        assert_eq!(exported.size, fs::metadata(&source.to).unwrap().len());
        assert_eq!(names(source.to.parent().unwrap()), ["me.shoal"]);
        assert!(!source.works());
        let import = Import::open(&source.to, &closing()).unwrap();
        assert_eq!((import.made(), import.protection()), (NOW, source.protector.opener().protection()));
        assert_eq!(import.keyring().is_some(), import.protection() == Protection::Keyring);
        source.import(&source.to).unwrap();
        source.arrived(&source.protector.opener());
        // nothing of it is left over, and it is imported once only
        assert_eq!(names(source.elsewhere().parent().unwrap()), ["ann"]);
        assert!(matches!(source.import(&source.to), Err(ImportError::Profile(MailError::Exists(_)))));
        assert!(use_up(&source.to));
        assert!(matches!(source.import(&source.to), Err(ImportError::UsedUp(_))));
        // the source says where it went, and cannot be exported again
        let again = write(&source.dir, &source.to.with_extension("2"), &closing(), None, NOW, |_, _| {});
        assert!(matches!(again, Err(ExportError::Profile(MailError::Moved { moved, .. })) if moved.to == source.to));
    }
}

#[test]
fn without_its_keyring_a_profile_can_be_imported_with_another_protector() {
    let source = Source::new(protectors().remove(2));
    source.write().mark(NOW).unwrap().finish().unwrap();
    let import = Import::open(&source.to, &closing()).unwrap();
    import.unpack(&source.elsewhere(), Some(&Protector::File), &mut StdRng::seed_from_u64(3), |_, _| {}).unwrap();
    source.arrived(&Opener::File);
}

#[test]
fn a_crash_before_the_mark_leaves_a_profile_that_works_and_a_file_that_opens_for_nobody() {
    let source = Source::new(Protector::File);
    let part = part_of(&source.to);
    drop(source.write());
    assert!(source.works());
    assert_eq!(names(source.to.parent().unwrap()), ["me.shoal.part"]);
    // even under its final name
    let stolen = source.folder.path().join("stolen");
    fs::copy(&part, &stolen).unwrap();
    assert!(matches!(source.import(&stolen), Err(ImportError::UsedUp(_))));
    // however much of it was written, the next export takes its place
    for length in [0, 10, 256, 300] {
        let whole = fs::read(&part).unwrap();
        fs::write(&part, &whole[..length]).unwrap();
        drop(source.write());
        assert!(fs::metadata(&part).unwrap().len() >= whole.len() as u64 / 2);
    }
    source.write().mark(NOW).unwrap().finish().unwrap();
    source.import(&source.to).unwrap();
    source.arrived(&Opener::File);
}

#[test]
fn a_crash_after_the_mark_is_finished_by_asking_again() {
    let source = Source::new(Protector::File);
    let part = part_of(&source.to);
    drop(source.write().mark(NOW).unwrap());
    assert!(!source.works(), "it may have been opened already, as far as anybody knows");
    assert!(!source.to.exists());
    let other = source.to.with_extension("other");
    assert!(matches!(finish_export(&source.dir, &other), Err(ExportError::Other(to)) if to == source.to));
    // torn in the middle of the last write
    let withheld = Moved::read(&source.dir).unwrap().unwrap().withheld.unwrap();
    let mut whole = fs::read(&part).unwrap();
    whole[..100].copy_from_slice(&withheld[..100]);
    fs::write(&part, &whole).unwrap();
    assert!(source.import(&part).is_err());
    // after the rename, before the mark is closed: the same again
    for _ in 0..2 {
        let lock = disk::lock(&source.dir).unwrap();
        let moved = Moved::read(&source.dir).unwrap().unwrap();
        let withheld = moved.withheld.clone().unwrap();
        Marked { profile: source.dir.clone(), moved, withheld, _lock: lock }.release().unwrap();
        assert!(source.to.exists() && !part.exists() && !source.works());
    }
    assert!(finish_export(&source.dir, &source.to).unwrap().is_some());
    assert!(Moved::read(&source.dir).unwrap().is_some_and(|moved| !moved.is_unfinished()));
    assert!(matches!(finish_export(&source.dir, &source.to), Err(ExportError::Profile(MailError::Moved { .. }))));
    source.import(&source.to).unwrap();
    source.arrived(&Opener::File);
}

#[test]
fn nothing_is_overwritten_and_a_profile_that_is_open_is_left_alone() {
    let source = Source::new(Protector::File);
    let export = |to: &Path| write(&source.dir, to, &closing(), None, NOW, |_, _| {}).map(drop);
    fs::write(&source.to, b"holiday").unwrap();
    assert!(matches!(export(&source.to), Err(ExportError::Exists(_))));
    fs::remove_file(&source.to).unwrap();
    fs::write(part_of(&source.to), b"holiday").unwrap();
    assert!(matches!(export(&source.to), Err(ExportError::Exists(_))), "somebody's file");
    assert!(matches!(export(&source.dir.join("me.shoal")), Err(ExportError::Inside(_))));
    let open = Mail::open(&source.dir).unwrap();
    assert!(matches!(export(&source.folder.path().join("x")), Err(ExportError::Profile(MailError::Locked(_)))));
    drop(open);
    assert!(export(&source.folder.path().join("no/such/folder")).is_err());
    assert!(source.works());
}

#[test]
fn a_file_that_is_damaged_changes_nothing() {
    let source = Source::new(Protector::File);
    source.write().mark(NOW).unwrap().finish().unwrap();
    let whole = fs::read(&source.to).unwrap();
    let damaged = source.folder.path().join("damaged");
    let try_import = |bytes: &[u8]| {
        fs::write(&damaged, bytes).unwrap();
        let error = source.import(&damaged).unwrap_err();
        let left = source.elsewhere().parent().map(|parent| if parent.exists() { names(parent) } else { vec![] });
        assert_eq!(left, Some(vec![]), "{error}");
        error
    };
    // opening takes a second of work where the head is whole: a few places
    for cut in [0, 10, 100, 1_000, whole.len() / 2, whole.len() - 1] {
        try_import(&whole[..cut]);
    }
    for position in [0, 60, 140, 160, 200, 66_000, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        try_import(&changed);
    }
    try_import(&[whole.as_slice(), b"more"].concat());
    assert!(matches!(try_import(b"a text of more than twenty-two bytes"), ImportError::NotExported(_)));
    fs::write(&damaged, &whole).unwrap();
    assert!(matches!(Import::open(&damaged, &passphrase("battery")), Err(ImportError::Passphrase(_))));
    // a place with something in it
    fs::create_dir_all(source.elsewhere()).unwrap();
    fs::write(source.elsewhere().join("diary"), b"mine").unwrap();
    assert!(matches!(source.import(&damaged), Err(ImportError::Occupied(_))));
    assert_eq!(names(&source.elsewhere()), ["diary"]);
}

#[test]
fn an_import_that_was_killed_leaves_no_key_and_does_not_hinder_the_next() {
    let source = Source::new(Protector::File);
    source.write().mark(NOW).unwrap().finish().unwrap();
    // killed in the middle: the hidden folder is there, with everything but the key
    let staging = source.elsewhere().with_file_name(".ann.importing");
    fs::create_dir_all(staging.join("files/sealed")).unwrap();
    fs::write(staging.join("profile.db"), b"half").unwrap();
    fs::write(staging.join("files/sealed/00"), b"half").unwrap();
    assert!(matches!(Mail::open(&source.elsewhere()), Err(MailError::Missing(_))));
    // an empty folder is no obstacle either
    fs::create_dir_all(source.elsewhere()).unwrap();
    source.import(&source.to).unwrap();
    source.arrived(&Opener::File);
    assert_eq!(names(source.elsewhere().parent().unwrap()), ["ann"]);
}

#[test]
fn what_a_newer_version_made_is_refused() {
    let source = Source::new(Protector::File);
    // as a newer version would have written it
    Connection::open(source.dir.join(DATABASE)).unwrap().pragma_update(None, "user_version", 1_000).unwrap();
    source.write().mark(NOW).unwrap().finish().unwrap();
    let refused = source.import(&source.to).unwrap_err();
    assert!(matches!(refused, ImportError::Profile(MailError::Newer { found: 1_000, .. })), "{refused}");
    assert!(!source.elsewhere().exists());
}
