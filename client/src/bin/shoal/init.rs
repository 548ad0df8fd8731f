//! `shoal init`: a new profile.

use std::io;
use std::path::Path;

use serde_json::json;
use shoal_client::estimate::costs;
use shoal_client::io::{
    Exit, Failure, forget_in_keyring, keep_in_keyring, parse_network_file, system_rng, usable_network_file,
};
use shoal_client::mail::{Mail, MailError, RateClass};
use shoal_client::profile::{Cost, ProfileId, Protection, Protector};
use shoal_client::traffic::monthly_bytes;
use shoal_protocol::duration;
use shoal_protocol::network::NetworkFile;

use crate::asking;
use crate::output::{Out, Problem, plain, size};
use crate::protect::Wish;

/// A network file of 64 authorities is about 180 kB.
const NETWORK_FILE_MAX: u64 = 1 << 20;

pub(crate) async fn init(profile: &Path, network: &Path, low: bool, wish: Wish, out: &Out) -> Result<(), Problem> {
    let file = read_network(network)?;
    // said before the lock is tried: a daemon may be using it
    if profile.join("profile.key").exists() {
        return Err(taken(profile, &file).into());
    }
    usable_network_file(&file).map_err(|failure| at(network, failure))?;
    let protector = match wish {
        Wish::File => Protector::File,
        Wish::Passphrase => Protector::Passphrase(
            asking::new(asking::given(out)?, "Passphrase of the new profile", "--passphrase-file", out)?,
            Cost::NEW,
        ),
        Wish::Keyring => {
            let (entry, key) = Protector::fresh_keyring(&mut system_rng());
            Protector::Keyring(entry, key)
        }
    };
    if let Some(parent) = profile.parent() {
        std::fs::create_dir_all(parent).map_err(|error| disk(parent, &error))?;
    }
    let class = if low { RateClass::Low } else { RateClass::Normal };
    let mail = make(profile, &file, class, &protector).await?;
    let address = mail.address();
    let words = file.fingerprint_words();
    let normal_bytes = monthly_bytes(RateClass::Normal, &file.parameters);
    let low_bytes = monthly_bytes(RateClass::Low, &file.parameters);
    let value = json!({
        "address": address,
        "class": class,
        "fingerprint": words,
        "monthly_bytes": { "normal": normal_bytes, "low": low_bytes },
        "network": file.name,
        "profile": profile,
        "protection": protector.opener().protection(),
    });
    out.either(&value, || {
        let (mine, other) = if low { (low_bytes, normal_bytes) } else { (normal_bytes, low_bytes) };
        let text = |class| costs(class, &file.parameters).text_stored;
        let other_class = if low { RateClass::Normal } else { RateClass::Low };
        let (mine_text, other_text) = (text(class), text(other_class));
        let (mine_name, other_name) = if low { ("low", "normal") } else { ("normal", "low") };
        format!(
            "Your address, to give to others:\n\n  {address}\n\n\
             Network      {}\n\
             Fingerprint  {words}\n\
             \x20            (compare these words with whoever gave you the network file)\n\
             Traffic      rate class {mine_name}: about {} a month each way while the daemon runs, used or not\n\
             \x20            ({other_name} would be {}; everybody on the way can see which class you use)\n\
             Time         about {} until stores have a text ({other_name}: {}); see shoal rate\n\
             Profile      {}\n\
             Key          {}\n\n\
             Next: shoal invite NAME, or shoal add NAME ADDRESS; then shoal send NAME TEXT",
            plain(&file.name),
            size(mine),
            size(other),
            duration::short(mine_text),
            duration::short(other_text),
            profile.display(),
            match protector.opener().protection() {
                Protection::File => "in the profile's folder, which only you can read (shoal passphrase set closes it)",
                Protection::Passphrase => "closed by your passphrase; there is no way in without it",
                Protection::Keyring => "in the keyring of this desktop session",
            },
        )
    })
}

/// Makes the profile. A keyring has its key before there is a profile that needs it.
async fn make(profile: &Path, file: &NetworkFile, class: RateClass, protector: &Protector) -> Result<Mail, Failure> {
    let Protector::Keyring(entry, key) = protector else {
        return Ok(Mail::create_with(profile, file, class, protector, &mut system_rng())?);
    };
    // one that does not answer is found out before anything is made
    let id = ProfileId::random(&mut system_rng());
    keep_in_keyring(id, *entry, key).await?;
    let made = Mail::create_as(profile, id, file, class, protector, &mut system_rng());
    if made.is_err() {
        // an entry that nothing needs does no harm
        let _ = forget_in_keyring(id, None).await;
    }
    Ok(made?)
}

/// The failure, with the file that it is about.
pub(crate) fn at(path: &Path, failure: Failure) -> Failure {
    Failure { message: format!("{}: {}", path.display(), failure.message), ..failure }
}

pub(crate) fn read_network(path: &Path) -> Result<NetworkFile, Failure> {
    parse_network_file(&read_text(path)?).map_err(|failure| at(path, failure))
}

/// The text of what should be a network file.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let length = std::fs::metadata(path).map_err(|error| disk(path, &error))?.len();
    let refused = |message: String| {
        let next = "ask whoever gave it to you for the right one";
        Failure::new(Exit::Configuration, "bad_network_file", format!("{}: {message}", path.display()), next)
    };
    if length > NETWORK_FILE_MAX {
        return Err(refused("too large for a network file".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|error| disk(path, &error))?;
    String::from_utf8(bytes).map_err(|_| refused("not a text file".to_owned()))
}

/// There is a profile already: of this network, or of another one (a test network made anew is another one).
fn taken(profile: &Path, file: &NetworkFile) -> Failure {
    match read_network(&profile.join("network.toml")) {
        Ok(theirs) if theirs.genesis_hash() != file.genesis_hash() => {
            let message = format!(
                "the profile {} belongs to another network: {} ({}); the file is of {} ({})",
                profile.display(),
                plain(&theirs.name),
                theirs.fingerprint_words(),
                plain(&file.name),
                file.fingerprint_words()
            );
            let next =
                "name another folder: --profile DIR. If the old network is gone for good, remove the old profile";
            Failure::new(Exit::Configuration, "other_network", message, next)
        }
        Ok(theirs) if theirs.hints != file.hints => {
            let next = "use it; if the file is newer than the profile's: shoal network update FILE";
            Failure { next: next.to_owned(), ..MailError::Exists(profile.to_owned()).into() }
        }
        Ok(_) | Err(_) => MailError::Exists(profile.to_owned()).into(),
    }
}

fn disk(path: &Path, error: &io::Error) -> Failure {
    let is = |kind| error.kind() == kind;
    let exit = if is(io::ErrorKind::PermissionDenied) { Exit::Permission } else { Exit::Io };
    Failure::new(exit, "file", format!("{}: {error}", path.display()), "check the path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_network_file_is_a_configuration_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.toml");
        assert_eq!(read_network(&path).unwrap_err().exit, Some(Exit::Io));
        for content in [&b"\xff\xfe"[..], b"", b"name = 1"] {
            std::fs::write(&path, content).unwrap();
            let failure = read_network(&path).unwrap_err();
            assert_eq!((failure.code.as_str(), failure.exit), ("bad_network_file", Some(Exit::Configuration)));
        }
    }

    #[test]
    fn a_profile_of_a_network_that_was_made_anew_says_so() {
        use rand::{SeedableRng as _, rngs::StdRng};
        let network = |seed| NetworkFile {
            name: "testnet".to_owned(),
            genesis_time: shoal_protocol::UnixMillis(1_750_000_000_000),
            authorities: vec![
                shoal_protocol::authority::AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed)).public().clone(),
            ],
            parameters: shoal_protocol::parameters::Parameters::test_network(),
            founding: shoal_protocol::network::Founding::default(),
            hints: shoal_protocol::network::Hints::default(),
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("network.toml"), network(1).to_toml()).unwrap();
        let said = taken(dir.path(), &network(2));
        assert_eq!((said.code.as_str(), said.exit), ("other_network", Some(Exit::Configuration)));
        assert!(said.message.contains(&network(1).fingerprint_words()), "{}", said.message);
        assert!(said.message.contains(&network(2).fingerprint_words()), "{}", said.message);
        assert_eq!(taken(dir.path(), &network(1)).code, "profile_exists");
    }
}
