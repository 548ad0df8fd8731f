//! Whether the files of the directory belong together: to one authority, of this network.

use super::Authority;
use crate::config::files as names;
use crate::io::failure::{Failure, Kind};

impl Authority {
    /// Why this authority must not run: its key is not that of an authority of this network, or not that of this directory.
    #[must_use]
    pub fn misplaced(&self) -> Option<Failure> {
        let own = self.secret.public();
        let public = self.home.path(names::PUBLIC);
        match self.home.public() {
            Ok(half) if half.key != *own => {
                return Some(Failure::new(
                    Kind::Configuration,
                    format!(
                        "{} holds the key of {}, authority.key beside it that of {}",
                        public.display(),
                        half.key.identity,
                        own.identity
                    ),
                    "one of the two files is another authority's: take the right one from your copy",
                ));
            }
            Err(failure) if public.exists() => return Some(failure),
            // it is for the founder only
            Ok(_) | Err(_) => {}
        }
        let network = &self.network.authorities;
        if self.config.later || network.contains(own) || self.core.set().contains(own) {
            return None;
        }
        let path = self.home.path(names::NETWORK);
        let message = if network.iter().any(|key| key.identity == own.identity) {
            format!("{}: it names {} with another ml_dsa key than authority.key has", path.display(), own.identity)
        } else {
            format!(
                "{}: none of its {} authorities has the key in authority.key, {}",
                path.display(),
                network.len(),
                own.identity
            )
        };
        Some(Failure::new(
            Kind::Configuration,
            message,
            "bring key and network file of one authority together, with --dir or from a copy; if the network runs and is yet \
             to take this authority in: shoal-directory init --dir DIR --network network.toml --later",
        ))
    }
}
