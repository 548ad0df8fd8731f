//! Which consensus this client goes by: the newest that its trust anchor certifies, whoever handed it over.

use std::sync::Arc;

use shoal_protocol::consensus::{DocumentError, TrustAnchor, UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::{Epoch, UnixMillis};

/// What an offered document turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Newer than what was held: it is held now.
    Newer(Arc<VerifiedConsensus>),
    /// The one that is held.
    Known,
    /// Certified, but its epoch has not begun: kept, and taken when it has ([`View::ripen`]).
    Early,
}

/// The documents of one client.
///
/// Contract: [`View::offer`] whatever comes down the link; [`View::ripen`] now and then, a few times an epoch.
#[derive(Debug)]
pub struct View {
    anchor: TrustAnchor,
    held: Option<Arc<VerifiedConsensus>>,
    /// At most one, at most 1 MiB.
    early: Option<Vec<u8>>,
}

impl View {
    /// Nothing held yet.
    #[must_use]
    pub fn new(anchor: TrustAnchor) -> Self {
        Self { anchor, held: None, early: None }
    }

    /// Takes up the document that an earlier run kept, however old: it guards against rollback and may name gateways.
    /// What does not verify is as good as none.
    pub fn resume(&mut self, bytes: &[u8]) {
        if let Ok(verified) = UnverifiedConsensus::parse(bytes).and_then(|document| document.verify_any_time(&self.anchor)) {
            self.hold(verified);
        }
    }

    fn hold(&mut self, verified: VerifiedConsensus) -> Arc<VerifiedConsensus> {
        // the set of authorities changes only through documents that the set before has certified
        self.anchor.authorities.clone_from(&verified.authorities);
        let verified = Arc::new(verified);
        self.held = Some(Arc::clone(&verified));
        verified
    }

    /// Verifies a document and takes it if it is newer.
    ///
    /// # Errors
    /// Why it is refused. [`DocumentError::Conflict`] is evidence against the authorities: keep both, report, stop.
    pub fn offer(&mut self, bytes: Vec<u8>, now: UnixMillis) -> Result<Offer, DocumentError> {
        if self.held.as_ref().is_some_and(|held| held.bytes() == bytes) {
            return Ok(Offer::Known);
        }
        let newest = self.held.as_ref().map(|held| held.mark());
        match UnverifiedConsensus::parse(&bytes)?.verify(&self.anchor, now, newest) {
            // the same document under another set of signatures
            Ok(verified) if newest == Some(verified.mark()) => Ok(Offer::Known),
            Ok(verified) => Ok(Offer::Newer(self.hold(verified))),
            Err(DocumentError::NotYetValid { .. }) => {
                self.early = Some(bytes);
                Ok(Offer::Early)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the early document if its epoch has begun.
    pub fn ripen(&mut self, now: UnixMillis) -> Option<Arc<VerifiedConsensus>> {
        let bytes = self.early.take()?;
        match self.offer(bytes, now) {
            Ok(Offer::Newer(verified)) => Some(verified),
            Ok(Offer::Known | Offer::Early) | Err(_) => None,
        }
    }

    /// The newest document held, in force or not.
    #[must_use]
    pub fn held(&self) -> Option<&Arc<VerifiedConsensus>> {
        self.held.as_ref()
    }

    /// The document held and the epoch whose keys to use, if the document is in force now.
    #[must_use]
    pub fn in_force(&self, now: UnixMillis) -> Option<(&Arc<VerifiedConsensus>, Epoch)> {
        let held = self.held.as_ref()?;
        let skew = held.parameters.skew();
        if now.plus(skew) < held.valid_from || now > held.valid_until.plus(skew) {
            return None;
        }
        // a clock within the tolerance may be an epoch off at either end: the document has keys for three
        let epoch = held.schedule().epoch_at(now).clamp(held.epoch, held.epoch.plus(2));
        Some((held, epoch))
    }
}
