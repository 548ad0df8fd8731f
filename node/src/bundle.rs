//! What a node needs to live on elsewhere, as one piece of bytes: what `shoal-node keys export` encrypts.
//!
//! A first line with the version of the format, then CBOR: an array of when it was made, role, identity, genesis hash,
//! admission line and the files. A file has a name of [`NAMES`] and nothing else: what is read back is written to these
//! places only, whoever made the bundle. Mix keys and boxes have no name here.

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use shoal_protocol::types::{Hash, Identity, Role, UnixMillis};
use zeroize::{Zeroize as _, Zeroizing};

/// Version of the format written and read by this program.
pub const BUNDLE_VERSION: u32 = 1;
/// How the first line begins; the version follows.
const HEAD: &str = "shoal-node-bundle-";
/// Largest bundle: a consensus of 1 MiB, the two documents of a contradiction, and a network file.
pub const BUNDLE_MAX: usize = 8 << 20;

/// What may be in a bundle, relative to the node's directory. The first three are in every one.
pub const NAMES: [&str; 6] =
    ["identity.key", "network.toml", "node.toml", "consensus", "evidence/first", "evidence/second"];
const NEEDED: usize = 3;

/// A node's backup. Its files are zeroized on drop; `Debug` shows their names only.
pub struct Bundle {
    /// When it was made.
    pub made: UnixMillis,
    /// Role of the node.
    pub role: Role,
    /// Its identity.
    pub identity: Identity,
    /// Genesis hash of its network.
    pub network: Hash,
    /// What authorities admitted, or are to admit.
    pub admission: String,
    /// Names and contents.
    pub files: Vec<(&'static str, Zeroizing<Vec<u8>>)>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.files.iter().map(|(name, _)| *name).collect();
        f.debug_struct("Bundle").field("identity", &self.identity).field("files", &names).finish_non_exhaustive()
    }
}

/// Why bytes are no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Something else.
    #[error("it holds no backup of a Shoal node")]
    Foreign,
    /// Made by a program of another age.
    #[error("it is of version {0} of the format, and this program reads version {BUNDLE_VERSION}")]
    Version(u32),
    /// The right beginning, and not the rest.
    #[error("it is damaged")]
    Damaged,
    /// A needed file is not in it.
    #[error("there is no {0} in it")]
    Lacks(&'static str),
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Stored {
    #[n(0)]
    made_ms: u64,
    #[n(1)]
    role: String,
    #[n(2)]
    identity: ByteArray<32>,
    #[n(3)]
    network: ByteArray<32>,
    #[n(4)]
    admission: String,
    #[n(5)]
    files: Vec<StoredFile>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct StoredFile {
    #[n(0)]
    name: String,
    #[n(1)]
    content: ByteVec,
}

impl Bundle {
    /// The bytes to encrypt.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let file = |(name, content): &(&'static str, Zeroizing<Vec<u8>>)| StoredFile {
            name: (*name).to_owned(),
            content: ByteVec::from(content.to_vec()),
        };
        let mut stored = Stored {
            made_ms: self.made.0,
            role: self.role.to_string(),
            identity: ByteArray::from(*self.identity.as_bytes()),
            network: ByteArray::from(*self.network.as_bytes()),
            admission: self.admission.clone(),
            files: self.files.iter().map(file).collect(),
        };
        // room for all of it, so that no part is left behind where a smaller buffer was
        let room = self.files.iter().map(|(_, content)| content.len() + 64).sum::<usize>() + self.admission.len() + 256;
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        bytes.extend_from_slice(format!("{HEAD}{BUNDLE_VERSION}\n").as_bytes());
        // writing into memory cannot fail
        let _ = minicbor::encode(&stored, &mut *bytes);
        stored.files.iter_mut().for_each(|file| file.content.zeroize());
        bytes
    }

    /// Reads [`Bundle::to_bytes`] back.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let end = bytes.iter().take(64).position(|byte| *byte == b'\n').ok_or(BundleError::Foreign)?;
        let (head, rest) = bytes.split_at(end);
        let version = std::str::from_utf8(head).ok().and_then(|head| head.strip_prefix(HEAD));
        match version.and_then(|version| version.parse().ok()).ok_or(BundleError::Foreign)? {
            BUNDLE_VERSION => {}
            other => return Err(BundleError::Version(other)),
        }
        let mut decoder = minicbor::Decoder::new(rest.get(1..).unwrap_or_default());
        let mut stored: Stored = decoder.decode().map_err(|_| BundleError::Damaged)?;
        let whole = decoder.position() + end + 1 == bytes.len();
        let taken = take(&mut stored.files);
        let (role, files) = match (whole, stored.role.parse::<Role>(), taken) {
            (true, Ok(role), Some(files)) => (role, files),
            (_, _, _) => return Err(BundleError::Damaged),
        };
        if let Some(missing) = NAMES.iter().take(NEEDED).find(|name| files.iter().all(|(held, _)| held != *name)) {
            return Err(BundleError::Lacks(missing));
        }
        Ok(Self {
            made: UnixMillis(stored.made_ms),
            role,
            identity: Identity::from_bytes(*stored.identity),
            network: Hash::from_bytes(*stored.network),
            admission: stored.admission,
            files,
        })
    }

    /// One of the files.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(held, _)| *held == name).map(|(_, content)| content.as_slice())
    }
}

/// Files of a backup: the name of each and what is in it.
type Taken = Vec<(&'static str, Zeroizing<Vec<u8>>)>;

/// The files under names that may be in a bundle, each once; `None` if there is another one.
fn take(stored: &mut Vec<StoredFile>) -> Option<Taken> {
    // all are taken over before any is judged, so that all are zeroized
    let mut all: Vec<(String, Zeroizing<Vec<u8>>)> =
        stored.drain(..).map(|file| (file.name, Zeroizing::new(Vec::from(file.content)))).collect();
    let mut files: Vec<(&'static str, Zeroizing<Vec<u8>>)> = Vec::new();
    for (name, content) in all.drain(..) {
        let known = NAMES.into_iter().find(|known| *known == name)?;
        if files.iter().any(|(held, _)| *held == known) {
            return None;
        }
        files.push((known, content));
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(names: &[&'static str]) -> Bundle {
        Bundle {
            made: UnixMillis(1_750_000_000_000),
            role: Role::Store,
            identity: Identity::from_bytes([1; 32]),
            network: Hash::from_bytes([2; 32]),
            admission: "shoal-node-1 store …".to_owned(),
            files: names.iter().map(|name| (*name, Zeroizing::new(name.as_bytes().to_vec()))).collect(),
        }
    }

    #[test]
    fn a_bundle_comes_back_whole_or_not_at_all() {
        for names in [&NAMES[..], &NAMES[..NEEDED]] {
            let bytes = bundle(names).to_bytes();
            let back = Bundle::from_bytes(&bytes).expect("reads back");
            assert_eq!(
                (back.role, back.made.0, back.admission.as_str()),
                (Role::Store, 1_750_000_000_000, "shoal-node-1 store …")
            );
            assert_eq!(back.identity, Identity::from_bytes([1; 32]));
            for name in names {
                assert_eq!(back.file(name), Some(name.as_bytes()));
            }
            for length in 0..bytes.len() {
                assert!(Bundle::from_bytes(&bytes[..length]).is_err(), "{length}");
            }
            let longer = [bytes.as_slice(), b"x"].concat();
            assert_eq!(Bundle::from_bytes(&longer).err(), Some(BundleError::Damaged));
        }
    }

    #[test]
    fn other_versions_other_things_and_other_files_are_told_apart() {
        let text = |bytes: &[u8]| Bundle::from_bytes(bytes).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text(b"shoal-node-bundle-2\nanything").contains("version 2"));
        assert!(text(b"\x89PNG\r\n").contains("no backup"));
        assert!(text(b"shoal-node-bundle-1\nanything").contains("damaged"));
        assert_eq!(Bundle::from_bytes(&bundle(&NAMES[..2]).to_bytes()).err(), Some(BundleError::Lacks("node.toml")));
        // nothing but the names of a node's own files can be written anywhere
        let mut foreign = bundle(&NAMES);
        foreign.files.push(("../../etc/passwd", Zeroizing::new(vec![])));
        assert_eq!(Bundle::from_bytes(&foreign.to_bytes()).err(), Some(BundleError::Damaged));
        let twice = bundle(&[NAMES[0], NAMES[1], NAMES[2], NAMES[0]]);
        assert_eq!(Bundle::from_bytes(&twice.to_bytes()).err(), Some(BundleError::Damaged));
    }
}
