//! Files that arrive in a profile that a passphrase closes: sealed on disk, handed out on demand.

use std::path::Path;
use std::time::Duration;

use shoal_client::mail::{Mail, MailError, MessageId};
use shoal_client::profile::{Cost, Opener, Passphrase, Protector, change_protector};

use crate::messages::{MINUTE, acquainted};

/// All bytes below a folder, but those that are handed out.
fn everything(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(everything(&path));
        } else {
            bytes.extend(path.to_string_lossy().as_bytes());
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
    bytes
}

#[test]
fn files_are_sealed_when_a_passphrase_is_set_and_lie_open_when_it_goes() {
    let mut world = acquainted(41);
    let (before, during) = (b"a photo of the reef".repeat(200), b"a map of the coast".repeat(200));
    let first = world.send_file(0, "bob", "reef.png", &before);
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &[first])));
    let path_of = |mail: &Mail, id: MessageId| {
        let messages = mail.messages(0, 100).unwrap();
        messages.into_iter().find(|message| message.id == id).unwrap().file.unwrap().path
    };
    let plain = path_of(world.mail(1), first);
    assert_eq!(world.mail(1).open_file(first).unwrap(), plain);

    world.crash(1);
    let dir = world.people[1].dir.clone();
    let passphrase = Passphrase::first_line(b"correct horse").unwrap();
    let closed = Protector::Passphrase(passphrase.clone(), Cost::LEAST);
    let mut rng = world.fork();
    change_protector(&dir, &Opener::File, &closed, &mut rng, |_, _| {}).unwrap();
    assert!(matches!(Mail::open(&dir), Err(MailError::Sealed { .. })));
    world.people[1].mail = Some(Mail::open_with(&dir, &closed.opener()).unwrap());
    let second = world.send_file(0, "bob", "coast.png", &during);
    assert!(world.run_until(5 * MINUTE, |world| world.all_delivered(0, &[second])));
    assert!(!plain.exists());
    let lying = String::from_utf8_lossy(&everything(&dir)).into_owned();
    for secret in ["photo of the reef", "map of the coast", "reef.png", "coast.png"] {
        assert!(!lying.contains(secret), "{secret}");
    }
    for (id, content) in [(first, &before), (second, &during)] {
        let mail = world.mail(1);
        assert!(!path_of(mail, id).exists(), "nothing is laid out before somebody asks");
        let copy = mail.open_file(id).unwrap();
        assert_eq!(&std::fs::read(&copy).unwrap(), content);
        assert_eq!(path_of(mail, id), copy);
    }
    let unknown = MessageId([9; 16]);
    assert!(matches!(world.mail(1).open_file(unknown), Err(MailError::NoMessage(id)) if id == unknown));

    world.crash(1);
    assert!(!dir.join("open").exists(), "copies go with the daemon");
    let mut rng = world.fork();
    change_protector(&dir, &closed.opener(), &Protector::File, &mut rng, |_, _| {}).unwrap();
    world.restart(1);
    for (id, content) in [(first, &before), (second, &during)] {
        assert_eq!(&std::fs::read(path_of(world.mail(1), id)).unwrap(), content);
    }
    world.run(Duration::from_secs(1));
}
