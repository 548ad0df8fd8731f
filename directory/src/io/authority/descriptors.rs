//! What nodes say of themselves: judged, listed, kept across a restart, forgotten.

use std::path::PathBuf;

use shoal_protocol::{Identity, UnixMillis};

use super::Authority;
use crate::config::files as names;
use crate::document::known_role;
use crate::io::failure::Failure;
use crate::io::files;
use crate::lists::{Examined, Judge, Offered, Refusal};

impl Authority {
    /// Verifies a descriptor and says whether it would be listed, before anybody dials its node.
    ///
    /// # Errors
    /// What its operator has to know.
    pub fn examine(&self, bytes: &[u8], now: UnixMillis) -> Result<Examined, Refusal> {
        let newest = self.chain.newest();
        let known = |identity: &Identity| newest.and_then(|newest| known_role(newest, identity));
        self.listing.examine(bytes, now, &self.judge(), known)
    }

    fn judge(&self) -> Judge<'_> {
        Judge {
            network: self.id,
            schedule: self.schedule,
            skew: self.network.parameters.skew(),
            admitted: (!self.config.open).then_some(&self.admitted),
        }
    }

    /// Takes a descriptor, or says why not. A listed one is kept across a restart.
    ///
    /// # Errors
    /// What its operator has to know.
    pub fn offer(&mut self, bytes: &[u8], now: UnixMillis) -> Result<Offered, Refusal> {
        let result = self.offer_quietly(bytes, now);
        match &result {
            Ok(Offered::Listed(identity)) => {
                self.refusals.settle(identity);
                // not fsynced: a lost descriptor comes again within an epoch
                if let Err(failure) = files::replace(&self.descriptor_path(identity), bytes, files::PUBLIC, false) {
                    tracing::warn!(error = %failure, "a descriptor is listed but not kept for a restart");
                }
            }
            Ok(Offered::Known(_)) => {}
            Err(refusal) => self.refuse(refusal.to_string(), now),
        }
        result
    }

    fn offer_quietly(&mut self, bytes: &[u8], now: UnixMillis) -> Result<Offered, Refusal> {
        let judge = Judge {
            network: self.id,
            schedule: self.schedule,
            skew: self.network.parameters.skew(),
            admitted: (!self.config.open).then_some(&self.admitted),
        };
        let newest = self.chain.newest();
        self.listing.offer(bytes, now, &judge, |identity| newest.and_then(|newest| known_role(newest, identity)))
    }

    /// Keys run out with an epoch, and who is admitted changes with a reload.
    pub(super) fn prune(&mut self, now: UnixMillis) {
        let epoch = self.schedule.epoch_at(now);
        if self.pruned == Some(epoch) {
            return;
        }
        self.pruned = Some(epoch);
        let admitted = (!self.config.open).then_some(&self.admitted);
        for identity in self.listing.prune(epoch, admitted) {
            if let Err(error) = std::fs::remove_file(self.descriptor_path(&identity)) {
                tracing::debug!(%identity, %error, "a descriptor's file cannot be removed");
            }
        }
    }

    /// Lists what was listed before the restart and still verifies.
    pub(super) fn load_descriptors(&mut self, now: UnixMillis) -> Result<(), Failure> {
        let dir = self.home.path(names::DESCRIPTORS);
        if !dir.exists() {
            return Ok(());
        }
        let entries = std::fs::read_dir(&dir).map_err(|error| Failure::file("read", &dir, &error))?;
        let (mut left_out, mut why) = (0_usize, None);
        for entry in entries {
            let path = entry.map_err(|error| Failure::file("read", &dir, &error))?.path();
            let loaded = files::read(&path)
                .map_err(|failure| failure.to_string())
                .and_then(|bytes| self.offer_quietly(&bytes, now).map_err(|refusal| refusal.to_string()));
            if let Err(problem) = loaded {
                tracing::debug!(file = %path.display(), problem, "a kept descriptor is not listed again");
                left_out += 1;
                why.get_or_insert(problem);
            }
        }
        if let Some(first) = why {
            tracing::info!(left_out, first, "kept descriptors are not listed again; nodes publish every epoch");
        }
        Ok(())
    }

    fn descriptor_path(&self, identity: &Identity) -> PathBuf {
        self.home.path(names::DESCRIPTORS).join(identity.to_string())
    }

    /// Remembers a refusal for `status`. The log is silent about it: whoever reaches the port can cause one, of another
    /// identity each time, and it names where a node is.
    pub fn refuse(&mut self, reason: String, now: UnixMillis) {
        let epoch = self.schedule.epoch_at(now);
        self.refusals.note(reason, now, epoch);
    }
}
