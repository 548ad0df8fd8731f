//! Proposals, the bytes that came with them, and what the judge said of them.
//!
//! A document is valid when some bytes are known from which it follows. Whoever proposes it with other bytes convicts
//! himself, but cannot make a valid document invalid.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::Hash;

use super::evidence::Evidence;
use super::message::Message;
use super::scheme::{DocumentId, Headline, Sig, payload_hash};
use super::{Judge, Value, Verdict};

/// Proposals kept of one round: the first, and one that contradicts it.
const PER_ROUND: usize = 2;
/// Rounds ahead of the current one whose proposals are taken. With the last round and the current one at most
/// 4 × [`PER_ROUND`] proposals of 19 MiB wait for their verdict: 152 MiB, when a faulty
/// proposer sends the largest there can be; usual ones have 1 to 2 MB.
pub(crate) const PROPOSALS_AHEAD: u32 = 2;
/// Valid documents whose bytes are kept, 300 MiB at most, when every one is the largest there can be.
const VALID_MAX: usize = 16;

/// A proposal whose document is not known to be valid yet.
#[derive(Debug)]
struct Candidate {
    headline: Headline,
    signature: Sig,
    bytes: Arc<[u8]>,
    /// Refused without, and with the argument that a quorum voted for it.
    refused: (bool, bool),
}

/// The bytes of a valid document.
#[derive(Debug)]
struct Valid {
    round: u32,
    payload: Hash,
    bytes: Arc<[u8]>,
}

/// What to tell the core: first the verdict on the document, if it is news, then the proposal. The other way round, the
/// core would act on an older verdict, which a faulty proposer caused with bytes that do not belong to the document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) headline: Headline,
    pub(crate) signature: Sig,
    pub(crate) news: Option<bool>,
}

/// What became of a proposal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    /// Nothing new, or no room.
    Nothing,
    /// Known, and now its bytes are too.
    Bytes,
    /// Not known: its signature is to be checked.
    Unknown,
}

/// Proposals of one height.
#[derive(Debug, Default)]
pub(crate) struct Values {
    headlines: BTreeMap<u32, Vec<(Headline, Sig)>>,
    candidates: Vec<Candidate>,
    valid: BTreeMap<DocumentId, Valid>,
    told_invalid: BTreeMap<DocumentId, u32>,
}

impl Values {
    /// Looks a received proposal up; its bytes are known to match the headline.
    pub(crate) fn look_up(&mut self, headline: &Headline, bytes: &Arc<[u8]>, signature: &Sig) -> Intake {
        let known = self.headlines.get(&headline.round).map_or(&[][..], Vec::as_slice);
        if known.iter().any(|(h, s)| h == headline && s == signature) {
            let held =
                self.valid.contains_key(&headline.document) || self.candidates.iter().any(|c| c.headline == *headline);
            if held {
                return Intake::Nothing;
            }
            self.hold(*headline, signature.clone(), bytes.clone());
            return Intake::Bytes;
        }
        if known.len() >= PER_ROUND || known.iter().any(|(h, _)| h == headline) {
            return Intake::Nothing;
        }
        Intake::Unknown
    }

    /// Enters a proposal whose signature holds.
    pub(crate) fn enter(&mut self, headline: Headline, signature: Sig) -> Option<Evidence> {
        let known = self.headlines.entry(headline.round).or_default();
        if known.len() >= PER_ROUND || known.iter().any(|(h, _)| *h == headline) {
            return None;
        }
        known.push((headline, signature.clone()));
        let first = known.first()?.clone();
        Evidence::of_proposals(first, (headline, signature))
    }

    /// Keeps the bytes of an entered proposal until they are judged.
    pub(crate) fn hold(&mut self, headline: Headline, signature: Sig, bytes: Arc<[u8]>) {
        self.candidates.push(Candidate { headline, signature, bytes, refused: (false, false) });
    }

    /// Whether exactly this proposal with this signature was checked.
    pub(crate) fn knows(&self, round: u32, lock: Option<u32>, document: &DocumentId, signature: &Sig) -> bool {
        let matches = |(h, s): &(Headline, Sig)| h.lock_round == lock && h.document == *document && s == signature;
        self.headlines.get(&round).is_some_and(|known| known.iter().any(matches))
    }

    /// The proposal of a round for a document.
    pub(crate) fn headline(&self, round: u32, lock: Option<u32>, document: &DocumentId) -> Option<&(Headline, Sig)> {
        self.headlines.get(&round)?.iter().find(|(h, _)| h.lock_round == lock && h.document == *document)
    }

    /// The message that proposed a document in a round.
    pub(crate) fn proposal(&self, round: u32, document: &DocumentId) -> Option<Message> {
        let known = self.headlines.get(&round)?.iter().filter(|(headline, _)| headline.document == *document);
        known.into_iter().find_map(|(headline, signature)| {
            let bytes = self.bytes_of(headline)?;
            Some(Message::Proposal { headline: *headline, bytes, signature: signature.clone() })
        })
    }

    /// The bytes that belong to a proposal.
    pub(crate) fn bytes_of(&self, headline: &Headline) -> Option<Arc<[u8]>> {
        let valid = self.valid.get(&headline.document).filter(|valid| valid.payload == headline.payload);
        let waiting = || self.candidates.iter().find(|c| c.headline == *headline).map(|c| c.bytes.clone());
        valid.map(|valid| valid.bytes.clone()).or_else(waiting)
    }

    /// A valid document with its bytes.
    pub(crate) fn value(&self, document: &DocumentId) -> Option<Value> {
        self.valid.get(document).map(|valid| Value { document: *document, proposal: valid.bytes.clone() })
    }

    /// The payload under which a valid document can be proposed.
    pub(crate) fn payload(&self, document: &DocumentId) -> Option<Hash> {
        self.valid.get(document).map(|valid| valid.payload)
    }

    /// Takes a document as valid: our own, or one from the log.
    pub(crate) fn accept(&mut self, round: u32, document: DocumentId, bytes: Arc<[u8]>) {
        let payload = payload_hash(&bytes);
        self.valid.insert(document, Valid { round, payload, bytes });
    }

    /// Takes over from the log that the core was told of an invalid document.
    pub(crate) fn was_told_invalid(&mut self, round: u32, document: DocumentId) {
        self.told_invalid.insert(document, round);
    }

    /// Whether some proposal is without a final verdict.
    pub(crate) fn waits(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.refused == (false, false))
    }

    /// Asks the judge about what is open; `proven` says of a document whether a quorum of votes for it is known.
    pub(crate) fn judge(&mut self, judge: &impl Judge, proven: impl Fn(&DocumentId) -> bool) -> Vec<Judged> {
        let mut told = Vec::new();
        let mut open = std::mem::take(&mut self.candidates);
        open.retain_mut(|candidate| {
            let headline = candidate.headline;
            let judged = |news| Judged { headline, signature: candidate.signature.clone(), news };
            if let Some(valid) = self.valid.get_mut(&headline.document) {
                valid.round = valid.round.max(headline.round);
                told.push(judged(None));
                return false;
            }
            let locked = proven(&headline.document);
            // A document that claims a lock counts only once the lock is proven (line 28 of the algorithm).
            let asked = if locked { candidate.refused.1 } else { candidate.refused.0 };
            if asked || (!locked && headline.lock_round.is_some()) {
                return true;
            }
            let value = Value { document: headline.document, proposal: candidate.bytes.clone() };
            match judge.judge(headline.height, &value, locked) {
                Verdict::Later => true,
                Verdict::Valid => {
                    self.valid.insert(
                        headline.document,
                        Valid { round: headline.round, payload: headline.payload, bytes: candidate.bytes.clone() },
                    );
                    told.push(judged(Some(true)));
                    false
                }
                Verdict::Invalid => {
                    let first = self.told_invalid.insert(headline.document, headline.round).is_none();
                    told.push(judged(first.then_some(false)));
                    candidate.refused = if locked { (true, true) } else { (true, candidate.refused.1) };
                    true
                }
            }
        });
        self.candidates = open;
        told
    }

    /// Forgets what is too old to matter: candidates before the last round, everything before `floor`, and valid
    /// documents beyond the bound, oldest first, but none that `needed` names.
    pub(crate) fn prune(&mut self, round: u32, floor: u32, needed: impl Fn(&DocumentId) -> bool) {
        self.candidates.retain(|candidate| candidate.headline.round.saturating_add(1) >= round);
        self.headlines = self.headlines.split_off(&floor);
        self.told_invalid.retain(|_, told| *told >= floor);
        while self.valid.len() > VALID_MAX {
            let oldest = self.valid.iter().filter(|(d, _)| !needed(d)).min_by_key(|(_, valid)| valid.round);
            let Some(document) = oldest.map(|(document, _)| *document) else {
                return;
            };
            self.valid.remove(&document);
        }
    }
}
