//! The reader's side of a chain of documents: which authorities it believes now, and what it has seen.
//!
//! A reader begins with the set of the network file. Every document names the set that certifies the next one, so whoever
//! takes each document follows every change. One that was away longer is led by a *skip chain*: the documents at which the
//! set changed, each certified by the set before.

use super::set_hash;
use super::verify::{DocumentError, Mark, TrustAnchor, UnverifiedConsensus, VerifiedConsensus};
use crate::authority::AuthorityKey;
use crate::types::{Hash, UnixMillis};

/// What an offered document turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Newer than what was taken before: keep its bytes before it is used.
    Newer(Box<VerifiedConsensus>),
    /// The one that was taken last.
    Known,
}

/// Follows one network's documents.
///
/// Contract: [`Follower::offer`] whatever arrives. When it answers an error for which
/// [`DocumentError::may_be_another_set`] holds, ask a directory for the changes after [`Follower::set`], give them to
/// [`Follower::advance`], and offer the document again; ask again as long as they lead further.
#[derive(Clone, Debug)]
pub struct Follower {
    network: Hash,
    /// Certifies the next document.
    current: Vec<AuthorityKey>,
    /// Certified the newest document seen: a second one of its height is judged by it.
    before: Vec<AuthorityKey>,
    newest: Option<Mark>,
    /// Hash of the document handed out last. Behind `newest` after a skip chain.
    taken: Option<Hash>,
}

impl Follower {
    /// Begins at `anchor`, which has seen no document.
    #[must_use]
    pub fn new(anchor: TrustAnchor) -> Self {
        let TrustAnchor { network, authorities } = anchor;
        Self { network, before: authorities.clone(), current: authorities, newest: None, taken: None }
    }

    /// Takes up the document that this reader took in an earlier run and kept itself, however old: it guards against
    /// rollback and names the set that certifies the next one. The bytes must come from where nobody else writes; its
    /// certificate is not checked again, because the set that made it may be forgotten.
    ///
    /// # Errors
    /// Malformed bytes, or another network's.
    pub fn resume(&mut self, own_copy: &[u8]) -> Result<VerifiedConsensus, DocumentError> {
        let verified = UnverifiedConsensus::parse(own_copy)?.dangerously_trust_own_copy(&self.network)?;
        self.saw(&verified);
        // who certified it is not known any more; most likely those who certify the next one
        self.before.clone_from(&verified.authorities);
        self.taken = Some(verified.hash());
        Ok(verified)
    }

    /// Height of the newest document seen; 0 before the first.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.newest.map_or(0, |newest| newest.height)
    }

    /// Hash of the set that certifies the next document, as far as this reader knows: what it says when it asks for the
    /// changes since. It tells where between two changes the reader stopped, not at which document.
    #[must_use]
    pub fn set(&self) -> Hash {
        set_hash(&self.current)
    }

    /// The newest document seen.
    #[must_use]
    pub fn newest(&self) -> Option<Mark> {
        self.newest
    }

    /// Who certifies the next document, as far as this reader knows.
    #[must_use]
    pub fn anchor(&self) -> TrustAnchor {
        TrustAnchor { network: self.network, authorities: self.current.clone() }
    }

    /// Verifies a document and takes it if it is newer.
    ///
    /// # Errors
    /// Why it is refused; nothing changes then. [`DocumentError::Conflict`] is evidence against the authorities: keep
    /// both documents, report, stop.
    pub fn offer(&mut self, bytes: &[u8], now: UnixMillis) -> Result<Offered, DocumentError> {
        let offered = UnverifiedConsensus::parse(bytes)?;
        let mark = offered.mark();
        if self.taken == Some(mark.hash) {
            return Ok(Offered::Known);
        }
        let verified = offered.verify(&self.anchor_for(mark.height), now, self.newest)?;
        self.saw(&verified);
        self.taken = Some(mark.hash);
        Ok(Offered::Newer(Box::new(verified)))
    }

    /// A document certified by the set that must have certified its height, whatever its time, and whether it follows or
    /// contradicts the newest: for whoever keeps evidence. Never a reason to use it; nothing of it is taken or seen.
    ///
    /// # Errors
    /// Malformed, of another network, or not certified by that set.
    pub fn certified(&self, bytes: &[u8]) -> Result<VerifiedConsensus, DocumentError> {
        let document = UnverifiedConsensus::parse(bytes)?;
        let anchor = self.anchor_for(document.height());
        document.verify_any_time(&anchor)
    }

    /// Follows documents that changed the set of authorities, oldest first, whatever their time. They are only seen, not
    /// taken: the newest document still has to be offered. Returns how many led further; all before an error did.
    ///
    /// # Errors
    /// The first that does not lead on: not certified by the set before, of another chain, or not changing the set.
    /// [`DocumentError::Conflict`] comes only of one that the authorities have certified, as in [`Self::offer`].
    pub fn advance<B: AsRef<[u8]>>(&mut self, changes: &[B]) -> Result<usize, DocumentError> {
        let mut led = 0;
        for bytes in changes {
            let change = UnverifiedConsensus::parse(bytes.as_ref())?;
            let mark = change.mark();
            if self.newest.is_some_and(|newest| newest.hash == mark.hash) {
                continue;
            }
            // the certificate first: anybody can write what would contradict the document held, and a contradiction stops
            let verified = change.verify_after(&self.anchor_for(mark.height), self.newest)?;
            if verified.authorities == self.current {
                return Err(DocumentError::Malformed("skip chain (a document that does not change the authorities)"));
            }
            self.saw(&verified);
            led += 1;
        }
        Ok(led)
    }

    /// Who must have certified a document of `height`.
    fn anchor_for(&self, height: u64) -> TrustAnchor {
        let known = self.newest.is_some_and(|newest| height <= newest.height);
        let authorities = if known { &self.before } else { &self.current };
        TrustAnchor { network: self.network, authorities: authorities.clone() }
    }

    fn saw(&mut self, document: &VerifiedConsensus) {
        if self.newest != Some(document.mark()) {
            self.before.clone_from(&self.current);
            self.current.clone_from(&document.authorities);
            self.newest = Some(document.mark());
        }
    }
}

#[cfg(test)]
mod tests;
