//! Whose a runtime directory is. Mix keys, replay logs and the control socket of two nodes in one directory would destroy
//! each other, or two nodes would use one key with a memory each, and a packet would pass twice.

use crate::failure::{Failure, Kind};
use crate::io::files;
use crate::io::setup::DirectoryLock;
use anyhow::Context as _;
use shoal_protocol::types::Identity;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// File in a runtime directory that says whose it is: the identity, in hexadecimal digits. Locked while the node runs.
pub const OWNER_FILE: &str = "owner";
/// File in a runtime directory that says that its node leaves the network: after a crash it goes on with that.
const LEAVING_FILE: &str = "leaving";
/// More than an identity in digits has.
const OWNER_MAX: u64 = 200;

/// Claims a runtime directory for a node: makes it if it is not there, refuses it while another process uses it or when it
/// is another node's. Held as long as the node runs.
///
/// # Errors
/// What is in the way, and what to do about it.
pub fn claim(runtime_dir: &Path, me: &Identity) -> Result<DirectoryLock, Failure> {
    let retry = "check the runtime directory (key `runtime_dir` of node.toml) and its owner";
    let io = |error: anyhow::Error| Failure::io(&error, retry);
    files::private_dir(runtime_dir).map_err(io)?;
    let path = runtime_dir.join(OWNER_FILE);
    let describe = || format!("cannot use {}", path.display());
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = opened.with_context(describe).map_err(io)?;
    let owner = owner(&mut file).with_context(describe).map_err(io)?;
    refuse_another(runtime_dir, &owner, me)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!("the node runs: it uses {}", runtime_dir.display());
            return Err(Failure::new(Kind::Temporary, message, "stop it first"));
        }
        Err(TryLockError::Error(error)) => return Err(io(anyhow::Error::from(error).context(describe()))),
    }
    if owner.is_empty() {
        file.write_all(me.to_string().as_bytes()).with_context(describe).map_err(io)?;
    }
    Ok(DirectoryLock::held(file))
}

/// Refuses a runtime directory that is another node's: whoever asks there is answered by that node, and would drain it.
///
/// # Errors
/// It is another node's, or who owns it cannot be read.
pub fn is_mine(runtime_dir: &Path, me: &Identity) -> Result<(), Failure> {
    let path = runtime_dir.join(OWNER_FILE);
    let owner = match File::open(&path) {
        Ok(mut file) => owner(&mut file),
        // nobody's yet, or nobody runs
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    let retry = "run this as root, or as the user that the node runs as";
    let owner = owner.with_context(|| format!("cannot read {}", path.display())).map_err(|e| Failure::io(&e, retry))?;
    refuse_another(runtime_dir, &owner, me)
}

fn refuse_another(runtime_dir: &Path, owner: &str, me: &Identity) -> Result<(), Failure> {
    if owner.is_empty() || owner == me.to_string() {
        return Ok(());
    }
    let message = format!("{} is the runtime directory of another node, {owner}", runtime_dir.display());
    let next = format!(
        "give each node of this machine a runtime_dir of its own in node.toml, such as /run/shoal-mix; if the other one is \
         gone for good, remove {}",
        runtime_dir.display()
    );
    Err(Failure::new(Kind::Configuration, message, next))
}

/// Whether the node of this directory was leaving the network when its process ended without being told to.
pub fn is_leaving(runtime_dir: &Path) -> bool {
    runtime_dir.join(LEAVING_FILE).exists()
}

/// Notes that the node leaves, or that it does not any more.
///
/// # Errors
/// The file cannot be written or removed.
pub fn note_leaving(runtime_dir: &Path, leaving: bool) -> anyhow::Result<()> {
    let path = runtime_dir.join(LEAVING_FILE);
    if leaving { files::write_private(&path, b"") } else { files::erase(&path) }
}

fn owner(file: &mut File) -> std::io::Result<String> {
    let mut text = String::new();
    file.take(OWNER_MAX).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_directory_is_one_nodes_and_one_processes() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = dir.path().join("run");
        let (me, other) = (Identity::from_bytes([1; 32]), Identity::from_bytes([2; 32]));
        let kind = |who| claim(&run, who).map(drop).map_err(|failure| failure.kind);
        let held = claim(&run, &me).expect("nobody's");
        assert_eq!(kind(&me), Err(Kind::Temporary), "it is in use");
        assert_eq!(kind(&other), Err(Kind::Configuration), "another node's");
        let asks = |who| is_mine(&run, who).map_err(|failure| failure.kind);
        assert_eq!((asks(&me), asks(&other)), (Ok(()), Err(Kind::Configuration)));
        drop(held);
        assert_eq!(kind(&me), Ok(()), "its own again");
        assert_eq!(kind(&other), Err(Kind::Configuration), "another node's keys");
        std::fs::remove_dir_all(&run).expect("removed");
        assert_eq!(kind(&other), Ok(()));
    }
}
