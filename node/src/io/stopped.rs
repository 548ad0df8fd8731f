//! A node that does not run: what secrets are left in its directories, and erasing those whose time is over. While it runs
//! it does so itself; a process that was killed, or stopped for a restart that never came, cannot.

use crate::failure::Failure;
use crate::io::host::Clock;
use crate::io::key_files::KeyFiles;
use crate::io::runtime_dir;
use crate::io::secrets::{identity, of_epoch};
use crate::io::setup::{self, DirectoryLock, IDENTITY_FILE, Setup};
use crate::io::store_engine;
use crate::keys::{Window, is_over};
use crate::report::utc;
use serde_json::{Value, json};
use shoal_protocol::types::{Epoch, Role, UnixMillis};
use std::path::Path;

/// A node's directory, held so that it cannot be started meanwhile.
pub struct Stopped {
    setup: Setup,
    files: Option<KeyFiles>,
    _claim: Option<DirectoryLock>,
}

impl Stopped {
    /// Takes the runtime directory of a node that does not run.
    ///
    /// # Errors
    /// The node runs, or its directory cannot be read.
    pub fn of(dir: &Path) -> Result<Self, Failure> {
        let setup = setup::load(dir)?;
        let runtime_dir = setup.config.runtime_path(&setup.dir);
        if !runtime_dir.exists() {
            return Ok(Self { setup, files: None, _claim: None });
        }
        let claim = runtime_dir::claim(&runtime_dir, &setup.identity.identity())?;
        let capacity = setup.config.limits.replay_capacity_packets;
        let files = KeyFiles::new(&runtime_dir, setup.network.genesis_hash(), capacity);
        Ok(Self { setup, files: Some(files), _claim: Some(claim) })
    }

    fn epochs(&self) -> Result<Vec<Epoch>, Failure> {
        let listed = self.files.as_ref().map_or(Ok(Vec::new()), KeyFiles::epochs);
        listed.map_err(|error| Failure::io(&error, "check the runtime directory and its owner"))
    }

    /// Erases the keys and logs whose time is over at `now`, or `all` of them. Says which epochs are gone.
    ///
    /// # Errors
    /// The first that could not be erased, after the others were.
    pub fn erase(&self, now: UnixMillis, all: bool) -> Result<Vec<Epoch>, Failure> {
        let (schedule, grace) = (self.setup.network.schedule(), self.setup.network.parameters.grace());
        let (mut erased, mut failed) = (Vec::new(), None);
        for epoch in self.epochs()? {
            if !all && !is_over(epoch, now, &schedule, grace) {
                continue;
            }
            match self.files.as_ref().map_or(Ok(()), |files| files.erase(epoch)) {
                Ok(()) => erased.push(epoch),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(erased), |error| Err(Failure::io(&error, "check the runtime directory and its owner")))
    }

    /// As `shoal-node secrets` of a running node: every secret that lies in its directories.
    ///
    /// # Errors
    /// The runtime directory cannot be read.
    pub fn secrets(&self, now: UnixMillis) -> Result<Value, Failure> {
        let Setup { dir, config, network, identity: key, .. } = &self.setup;
        let (schedule, parameters) = (network.schedule(), &network.parameters);
        let mut secrets = vec![identity(&dir.join(IDENTITY_FILE), &[])];
        let run = config.runtime_path(dir);
        for epoch in self.epochs()? {
            let until = Window::of(epoch, &schedule, parameters.grace(), parameters.skew()).until;
            let erased = if until <= now {
                format!("overdue since {}: run `shoal-node keys erase`", utc(until))
            } else {
                format!("at {} by the node if it runs then, else by the next `shoal-node keys erase`", utc(until))
            };
            secrets.extend(of_epoch(&run, epoch, config.role == Role::Store, &[], until, &erased));
        }
        if config.role == Role::Store {
            secrets.push(json!({
                "secret": "boxes and inboxes",
                "where": store_engine::location(&config.store, dir, key.identity().as_bytes()),
                "erased": "after the retention time, by the node when it runs",
                "tells": "random-looking ids and bodies; nothing about who wrote or reads them",
            }));
        }
        Ok(json!({ "running": false, "secrets": secrets }))
    }
}

/// Now, as the keys of a stopped node are held against.
pub fn now() -> UnixMillis {
    Clock::start().wall()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyRing;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::types::IdentityKey;

    /// A mix that was killed in epoch 5, with the keys of 5 to 8.
    fn stopped(dir: &Path) -> Stopped {
        let run = dir.join("run");
        crate::io::files::private_dir(&run).expect("made");
        let network = crate::testing::network(Vec::new());
        let files = KeyFiles::new(&run, network.genesis_hash(), 100);
        for keys in KeyRing::new(false).fill(Epoch(5), &mut StdRng::seed_from_u64(1)) {
            files.create(&keys).expect("written");
        }
        let text = "config_version = 2\nrole = \"mix\"\nlisten = \"127.0.0.1:4433\"\naddress = \"127.0.0.1:4433\"\nmetrics \
                    = \"127.0.0.1:9464\"\n";
        let config = crate::config::Config::parse(text).expect("parses");
        let identity = IdentityKey::generate(&mut StdRng::seed_from_u64(2));
        let setup = Setup { dir: dir.to_owned(), config, upgrade: None, network, identity };
        Stopped { setup, files: Some(files), _claim: None }
    }

    #[test]
    fn keys_of_a_node_that_was_killed_are_listed_and_erased_in_their_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let stopped = stopped(dir.path());
        let network = &stopped.setup.network;
        let end = |epoch: u64| network.schedule().start(Epoch(epoch + 1)).plus(network.parameters.grace());
        let left = |now| {
            let secrets = stopped.secrets(now).expect("listed");
            let all = secrets.get("secrets").and_then(Value::as_array).expect("a list").clone();
            all.iter()
                .filter(|secret| secret["secret"].as_str().is_some_and(|name| name.starts_with("mix key")))
                .count()
        };
        let now = UnixMillis(end(5).0 - 1);
        assert_eq!((stopped.erase(now, false).expect("erased"), left(now)), (vec![], 4));
        let now = end(6);
        let text = stopped.secrets(now).expect("listed").to_string();
        assert!(text.contains("overdue since"), "{text}");
        assert_eq!((stopped.erase(now, false).expect("erased"), left(now)), (vec![Epoch(5), Epoch(6)], 2));
        assert_eq!((stopped.erase(now, true).expect("erased"), left(now)), (vec![Epoch(7), Epoch(8)], 0));
    }
}
