//! What a client keeps at hand to prove that the authorities contradicted themselves: the documents themselves, each as it
//! was handed over, of all that was verified and may be contradicted by the next one. Nothing gets here but
//! [`VerifiedConsensus`]: anybody can write two documents that contradict each other, and who is shown evidence stops.
//!
//! The newest document of the chain is not always the one in use: a skip chain leads over documents that are seen and not
//! taken, and a client that comes from the network file has none in use when the first two contradict each other.

use shoal_protocol::Hash;
use shoal_protocol::consensus::{DocumentError, Mark, VerifiedConsensus};

/// A certified document, as it was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    mark: Mark,
    /// Hash of the document before it.
    previous: Hash,
    /// Document and certificate; at most 1 MiB.
    bytes: Vec<u8>,
}

impl Shown {
    /// Its place in the chain.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Document and certificate.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether no chain holds both: by their places, or because the next one names another document before it.
    fn contradicts(&self, other: &Self) -> bool {
        let names_another = |next: &Self, before: &Self| {
            before.mark.height.checked_add(1) == Some(next.mark.height) && next.previous != before.mark.hash
        };
        self.mark.contradicts(&other.mark) || names_another(self, other) || names_another(other, self)
    }
}

impl From<&VerifiedConsensus> for Shown {
    fn from(document: &VerifiedConsensus) -> Self {
        Self { mark: document.mark(), previous: document.previous, bytes: document.bytes().to_vec() }
    }
}

/// Two certified documents that no chain holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The one that was verified first.
    pub held: Shown,
    /// The one that contradicts it.
    pub other: Shown,
}

/// The documents that the next one is held against; at most two, at most 2 MiB.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// The newest of the chain, in use or not.
    newest: Option<Shown>,
    /// The last one that was certified, but over or not begun when it came.
    untimely: Option<Shown>,
    evidence: Option<Evidence>,
}

impl Witness {
    /// A document that was verified, and is the newest of the chain now.
    ///
    /// # Errors
    /// [`DocumentError::Conflict`]: with one that was certified and did not come in its time.
    pub(crate) fn follows(&mut self, document: &VerifiedConsensus) -> Result<(), DocumentError> {
        let shown = Shown::from(document);
        self.newest = Some(shown.clone());
        let untimely = self.untimely.take();
        self.compare(untimely, shown)
    }

    /// A document which was refused for its time alone.
    ///
    /// # Errors
    /// [`DocumentError::Conflict`]: no chain holds it beside the newest one, or the last one of its kind.
    pub(crate) fn untimely(&mut self, document: &VerifiedConsensus) -> Result<(), DocumentError> {
        let shown = Shown::from(document);
        self.compare(self.newest.clone(), shown.clone())?;
        let before = self.untimely.replace(shown.clone());
        self.compare(before, shown)
    }

    /// A document that was refused because it contradicts the newest one.
    pub(crate) fn contradicted(&mut self, document: &VerifiedConsensus) {
        if let Some(held) = self.newest.clone() {
            self.evidence = Some(Evidence { held, other: document.into() });
        }
    }

    /// Takes out the last two that contradicted each other.
    pub(crate) fn evidence(&mut self) -> Option<Evidence> {
        self.evidence.take()
    }

    fn compare(&mut self, held: Option<Shown>, other: Shown) -> Result<(), DocumentError> {
        let Some(held) = held.filter(|held| held.contradicts(&other)) else { return Ok(()) };
        let Mark { height, epoch, hash: found } = other.mark;
        let seen = held.mark.hash;
        self.evidence = Some(Evidence { held, other });
        Err(DocumentError::Conflict { height, epoch, seen, found })
    }
}
