//! Which consensus this client goes by: the newest that its trust anchor certifies, whoever handed it over.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_protocol::consensus::{DocumentError, Follower, Offered, TrustAnchor, VerifiedConsensus};
use shoal_protocol::{Epoch, Hash, UnixMillis};

use crate::witness::{Evidence, Witness};

/// What an offered document turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Newer than what was held: it is held now.
    Newer(Arc<VerifiedConsensus>),
    /// The one that is held.
    Known,
    /// Certified, but its epoch has not begun: kept, to be offered again ([`View::ripen`]).
    Early {
        /// Until it begins by this machine's clock, in ms.
        in_ms: u64,
    },
}

/// How fresh the newest document held is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// No document was ever held.
    None,
    /// It is the one of this epoch, or the next one is late by less than the skew tolerance.
    Current,
    /// It is of an epoch before, and serves until it expires.
    Stale,
    /// It is over, or not begun by this machine's clock: nothing can be sent by it.
    Expired,
}

impl Freshness {
    /// Of the newest document held, by the time now.
    #[must_use]
    pub fn of(held: Option<&VerifiedConsensus>, now: UnixMillis) -> Self {
        let Some(held) = held else { return Self::None };
        let skew = held.parameters.skew();
        if !in_force(held, now) {
            return Self::Expired;
        }
        let next_begins = held.valid_from.plus(held.parameters.epoch());
        if now <= next_begins.plus(skew) { Self::Current } else { Self::Stale }
    }
}

fn in_force(held: &VerifiedConsensus, now: UnixMillis) -> bool {
    let skew = held.parameters.skew();
    now.plus(skew) >= held.valid_from && now <= held.valid_until.plus(skew)
}

/// The documents of one client.
///
/// Contract: [`View::offer`] whatever comes down the link, and what [`View::ripen`] gives a few times an epoch.
#[derive(Debug)]
pub struct View {
    follower: Follower,
    held: Option<Arc<VerifiedConsensus>>,
    /// At most one, at most 1 MiB.
    early: Option<Vec<u8>>,
    /// The last document that other authorities may have certified than those known here; at most 1 MiB.
    unproved: Option<Vec<u8>>,
    witness: Witness,
}

impl View {
    /// Nothing held yet.
    #[must_use]
    pub fn new(anchor: TrustAnchor) -> Self {
        let witness = Witness::default();
        Self { follower: Follower::new(anchor), held: None, early: None, unproved: None, witness }
    }

    /// Takes up the document that an earlier run took and kept in this profile, however old: it guards against rollback,
    /// names the authorities to believe next, and may name gateways. What cannot be read is as good as none.
    pub fn resume(&mut self, bytes: &[u8]) {
        if let Ok(document) = self.follower.resume(bytes) {
            // nothing came before it
            let _ = self.witness.follows(&document);
            self.held = Some(Arc::new(document));
        }
    }

    /// Verifies a document and takes it if it is newer.
    ///
    /// # Errors
    /// Why it is refused. [`DocumentError::Conflict`] is evidence against the authorities: keep both ([`View::evidence`]),
    /// report, stop. If [`DocumentError::may_be_another_set`], it is kept, and the changes after [`View::set`] lead further
    /// ([`View::advance`]).
    pub fn offer(&mut self, bytes: Vec<u8>, now: UnixMillis) -> Result<Offer, DocumentError> {
        if self.held.as_ref().is_some_and(|held| held.bytes() == bytes) {
            return Ok(Offer::Known);
        }
        match self.follower.offer(&bytes, now) {
            Ok(Offered::Known) => Ok(Offer::Known),
            Ok(Offered::Newer(document)) => {
                let document = Arc::new(*document);
                self.held = Some(Arc::clone(&document));
                self.witness.follows(&document)?;
                Ok(Offer::Newer(document))
            }
            Err(DocumentError::NotYetValid { in_ms, .. }) => {
                self.witness.untimely(&self.follower.certified(&bytes)?)?;
                self.early = Some(bytes);
                Ok(Offer::Early { in_ms })
            }
            Err(error) => {
                if matches!(error, DocumentError::Expired { .. }) {
                    self.witness.untimely(&self.follower.certified(&bytes)?)?;
                } else if matches!(error, DocumentError::Conflict { .. }) {
                    self.witness.contradicted(&self.follower.certified(&bytes)?);
                } else if error.may_be_another_set() {
                    self.unproved = Some(bytes);
                }
                Err(error)
            }
        }
    }

    /// Hash of the set of authorities believed: all that a client says of itself when it asks for changes.
    #[must_use]
    pub fn set(&self) -> Hash {
        self.follower.set()
    }

    /// Follows a document at which the set of authorities changed ([`Follower::advance`]); says whether it led further.
    /// After the last one, offer again what was refused ([`View::unproved`]).
    ///
    /// # Errors
    /// It does not lead on; as for [`View::offer`].
    pub fn advance(&mut self, change: &[u8]) -> Result<bool, DocumentError> {
        match self.follower.advance(&[change]) {
            Ok(0) => Ok(false),
            Ok(_) => {
                self.witness.follows(&self.follower.certified(change)?)?;
                Ok(true)
            }
            Err(error) => {
                if matches!(error, DocumentError::Conflict { .. }) {
                    self.witness.contradicted(&self.follower.certified(change)?);
                }
                Err(error)
            }
        }
    }

    /// Takes out the two documents of the last [`DocumentError::Conflict`].
    pub fn evidence(&mut self) -> Option<Evidence> {
        self.witness.evidence()
    }

    /// Takes out the document that was refused because its authorities were not known, to be offered again.
    pub fn unproved(&mut self) -> Option<Vec<u8>> {
        self.unproved.take()
    }

    /// Takes out the early document if there is one, to be offered again: it is kept anew if it is early still.
    pub fn ripen(&mut self) -> Option<Vec<u8>> {
        self.early.take()
    }

    /// The newest document held, in force or not.
    #[must_use]
    pub fn held(&self) -> Option<&Arc<VerifiedConsensus>> {
        self.held.as_ref()
    }

    /// The document held and the epoch whose keys to use, if the document is in force now.
    #[must_use]
    pub fn in_force(&self, now: UnixMillis) -> Option<(&Arc<VerifiedConsensus>, Epoch)> {
        let held = self.held.as_ref().filter(|held| in_force(held, now))?;
        // a clock within the tolerance may be an epoch off at either end: the document has keys for three
        let epoch = held.schedule().epoch_at(now).clamp(held.epoch, held.epoch.plus(2));
        Some((held, epoch))
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
