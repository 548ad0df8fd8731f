//! Which consensus this client goes by: the newest that its trust anchor certifies, whoever handed it over.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_protocol::consensus::{DocumentError, Follower, Offered, TrustAnchor, VerifiedConsensus};
use shoal_protocol::{Epoch, Hash, UnixMillis};

/// What an offered document turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Newer than what was held: it is held now.
    Newer(Arc<VerifiedConsensus>),
    /// The one that is held.
    Known,
    /// Certified, but its epoch has not begun: kept, to be offered again ([`View::ripen`]).
    Early,
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
}

impl View {
    /// Nothing held yet.
    #[must_use]
    pub fn new(anchor: TrustAnchor) -> Self {
        Self { follower: Follower::new(anchor), held: None, early: None, unproved: None }
    }

    /// Takes up the document that an earlier run took and kept in this profile, however old: it guards against rollback,
    /// names the authorities to believe next, and may name gateways. What cannot be read is as good as none.
    pub fn resume(&mut self, bytes: &[u8]) {
        if let Ok(document) = self.follower.resume(bytes) {
            self.held = Some(Arc::new(document));
        }
    }

    /// Verifies a document and takes it if it is newer.
    ///
    /// # Errors
    /// Why it is refused. [`DocumentError::Conflict`] is evidence against the authorities: keep both, report, stop. If
    /// [`DocumentError::may_be_another_set`], it is kept, and the changes after [`View::set`] lead further
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
                Ok(Offer::Newer(document))
            }
            Err(DocumentError::NotYetValid { .. }) => {
                self.early = Some(bytes);
                Ok(Offer::Early)
            }
            Err(error) => {
                if error.may_be_another_set() {
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
        Ok(self.follower.advance(&[change])? > 0)
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
mod tests {
    use super::*;
    use crate::testing::{START, consensus};
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::authority::AuthoritySecret;
    use shoal_protocol::consensus::{Consensus, certify};

    fn authority() -> AuthoritySecret {
        AuthoritySecret::generate(&mut StdRng::seed_from_u64(77))
    }

    fn document(epochs_later: u64, previous: u8) -> Consensus {
        let (mut document, _) = consensus(1, 2, 3);
        let shift = epochs_later * document.parameters.epoch_ms;
        document.authorities = vec![authority().public().clone()];
        document.epoch = document.epoch.plus(epochs_later);
        document.height += epochs_later;
        document.previous = Hash::from_bytes([previous; 32]);
        document.valid_from.0 += shift;
        document.valid_until.0 += shift;
        for node in &mut document.nodes {
            node.mix_keys.iter_mut().chain(&mut node.envelope_keys).for_each(|(epoch, _)| *epoch = document.epoch);
        }
        document
    }

    fn certified(document: &Consensus) -> Vec<u8> {
        certify(document, 0, &[(0, &authority())])
    }

    fn view() -> View {
        let first = document(0, 2);
        View::new(TrustAnchor { network: first.network, authorities: first.authorities })
    }

    #[test]
    fn newer_documents_are_taken_and_older_ones_never() {
        let mut view = view();
        let first = certified(&document(0, 2));
        assert!(view.in_force(START).is_none());
        assert!(matches!(view.offer(first.clone(), START), Ok(Offer::Newer(_))));
        assert_eq!(view.offer(first.clone(), START), Ok(Offer::Known));
        let second = Consensus { previous: view.held().unwrap().hash(), ..document(1, 2) };
        let later = second.valid_from;
        assert!(matches!(view.offer(certified(&second), later), Ok(Offer::Newer(_))));
        assert!(matches!(view.offer(first, later), Err(DocumentError::Rollback { .. })));
        assert_eq!(view.held().unwrap().epoch, second.epoch);
    }

    #[test]
    fn a_next_document_of_another_chain_is_a_conflict() {
        let mut view = view();
        view.offer(certified(&document(0, 2)), START).unwrap();
        let stranger = document(1, 2);
        let offered = view.offer(certified(&stranger), stranger.valid_from);
        assert!(matches!(offered, Err(DocumentError::Conflict { .. })));
        let later = document(2, 2);
        assert!(matches!(view.offer(certified(&later), later.valid_from), Ok(Offer::Newer(_))), "one was missed");
    }

    #[test]
    fn two_documents_of_one_epoch_are_a_conflict() {
        let mut view = view();
        view.offer(certified(&document(0, 2)), START).unwrap();
        assert!(matches!(view.offer(certified(&document(0, 3)), START), Err(DocumentError::Conflict { .. })));
    }

    #[test]
    fn an_early_document_waits_for_its_epoch() {
        let mut view = view();
        let bytes = certified(&document(1, 2));
        assert_eq!(view.offer(bytes, UnixMillis(START.0 - 60_000)), Ok(Offer::Early));
        let early = view.ripen().unwrap();
        assert_eq!(view.offer(early, UnixMillis(START.0 - 50_000)), Ok(Offer::Early));
        assert!(view.held().is_none());
        let early = view.ripen().unwrap();
        assert!(matches!(view.offer(early, document(1, 2).valid_from), Ok(Offer::Newer(_))));
        assert!(view.ripen().is_none());
    }

    #[test]
    fn an_early_document_can_turn_out_to_contradict() {
        let mut view = view();
        view.offer(certified(&document(1, 3)), UnixMillis(START.0 - 60_000)).unwrap();
        view.offer(certified(&document(1, 2)), document(1, 2).valid_from).unwrap();
        let early = view.ripen().unwrap();
        assert!(matches!(view.offer(early, document(1, 2).valid_from), Err(DocumentError::Conflict { .. })));
    }

    #[test]
    fn who_was_away_is_led_by_the_changes() {
        let mut view = view();
        view.offer(certified(&document(0, 2)), START).unwrap();
        let mut sets: Vec<_> =
            (80..82).map(|seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed))).collect();
        let (second, third) = (sets.remove(0), sets.remove(0));
        let to = |mut document: Consensus, next: &AuthoritySecret, by: &AuthoritySecret| {
            document.authorities = vec![next.public().clone()];
            (certify(&document, 0, &[(0, by)]), document)
        };
        let (first_change, _) = to(document(3, 7), &second, &authority());
        let (second_change, _) = to(document(5, 7), &third, &second);
        let (newest, content) = to(document(8, 7), &third, &third);
        let now = content.valid_from;
        let known = view.set();
        assert!(view.offer(newest.clone(), now).is_err_and(|error| error.may_be_another_set()));
        assert!(view.advance(&second_change).is_err(), "not without the first");
        assert_eq!(view.set(), known);
        assert_eq!((view.advance(&first_change), view.advance(&first_change)), (Ok(true), Ok(false)));
        assert_eq!(view.advance(&second_change), Ok(true));
        assert_ne!(view.set(), known);
        assert_eq!(view.unproved(), Some(newest.clone()), "kept until then");
        assert!(matches!(view.offer(newest, now), Ok(Offer::Newer(_))));
        assert_eq!(view.unproved(), None);
    }

    #[test]
    fn strangers_documents_are_refused() {
        let mut view = view();
        let unsigned = certify(&document(0, 2), 0, &[]);
        assert_eq!(view.offer(unsigned, START), Err(DocumentError::Unsigned));
        let mallory = AuthoritySecret::generate(&mut StdRng::seed_from_u64(78));
        let forged = certify(&document(0, 2), 0, &[(0, &mallory)]);
        assert!(matches!(view.offer(forged, START), Err(DocumentError::BadSignature { .. })));
        let mut elsewhere = document(0, 2);
        elsewhere.network = Hash::from_bytes([9; 32]);
        assert!(matches!(view.offer(certified(&elsewhere), START), Err(DocumentError::WrongNetwork { .. })));
        let over = UnixMillis(document(0, 2).valid_until.0 + 60_000);
        assert!(matches!(view.offer(certified(&document(0, 2)), over), Err(DocumentError::Expired { .. })));
        assert!(view.held().is_none());
    }

    #[test]
    fn a_document_serves_for_three_epochs_and_guards_after_a_restart() {
        let mut first = view();
        let bytes = certified(&document(0, 2));
        first.offer(bytes.clone(), START).unwrap();
        let epoch = document(0, 2).epoch;
        let epoch_ms = document(0, 2).parameters.epoch_ms;
        for (later, expected) in [(0, 0), (1, 1), (2, 2)] {
            let now = UnixMillis(START.0 + later * epoch_ms + 10);
            assert_eq!(first.in_force(now).map(|(_, epoch)| epoch), Some(epoch.plus(expected)));
            let fresh = if later == 0 { Freshness::Current } else { Freshness::Stale };
            let later_still = UnixMillis(now.0 + document(0, 2).parameters.skew_ms);
            assert_eq!(Freshness::of(first.held().map(|held| &**held), later_still), fresh, "epoch {later}");
        }
        let over = UnixMillis(START.0 + 4 * epoch_ms);
        assert!(first.in_force(over).is_none());
        assert_eq!(Freshness::of(first.held().map(|held| &**held), over), Freshness::Expired);
        assert_eq!(Freshness::of(None, over), Freshness::None);

        let mut resumed = view();
        resumed.resume(b"rubbish");
        assert!(resumed.held().is_none());
        resumed.resume(&bytes);
        assert!(resumed.held().is_some());
        assert!(matches!(resumed.offer(certified(&document(0, 3)), START), Err(DocumentError::Conflict { .. })));
    }
}
