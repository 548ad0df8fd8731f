//! What a client keeps at hand to prove that the authorities contradicted themselves: the documents themselves, each as it
//! was handed over, of all that was verified and may be contradicted by the next one.
//!
//! The newest document of the chain is not always the one in use: a skip chain leads over documents that are seen and not
//! taken, and a client that comes from the network file has none in use when the first two contradict each other.

use shoal_protocol::consensus::{DocumentError, Mark, UnverifiedConsensus, VerifiedConsensus};

/// A certified document, as it was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its place in the chain.
    pub mark: Mark,
    /// Document and certificate; at most 1 MiB.
    pub bytes: Vec<u8>,
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
    pub(crate) fn follows(&mut self, mark: Mark, bytes: &[u8]) -> Result<(), DocumentError> {
        let shown = Shown { mark, bytes: bytes.to_vec() };
        self.newest = Some(shown.clone());
        let untimely = self.untimely.take();
        self.compare(untimely, shown)
    }

    /// The same of a document that is known as [`VerifiedConsensus`].
    ///
    /// # Errors
    /// As [`Witness::follows`].
    pub(crate) fn takes(&mut self, document: &VerifiedConsensus) -> Result<(), DocumentError> {
        self.follows(document.mark(), document.bytes())
    }

    /// A document whose certificate was verified, and which was refused for its time alone.
    ///
    /// # Errors
    /// [`DocumentError::Conflict`]: no chain holds it beside the newest one, or the last one of its kind.
    pub(crate) fn untimely(&mut self, bytes: &[u8]) -> Result<(), DocumentError> {
        let Ok(document) = UnverifiedConsensus::parse(bytes) else { return Ok(()) };
        let shown = Shown { mark: document.mark(), bytes: bytes.to_vec() };
        self.compare(self.newest.clone(), shown.clone())?;
        let before = self.untimely.replace(shown.clone());
        self.compare(before, shown)
    }

    /// A document that was refused because it contradicts the newest one.
    pub(crate) fn contradicted(&mut self, bytes: &[u8]) {
        let Ok(document) = UnverifiedConsensus::parse(bytes) else { return };
        if let Some(held) = self.newest.clone() {
            let other = Shown { mark: document.mark(), bytes: bytes.to_vec() };
            self.evidence = Some(Evidence { held, other });
        }
    }

    /// Takes out the last two that contradicted each other.
    pub(crate) fn evidence(&mut self) -> Option<Evidence> {
        self.evidence.take()
    }

    fn compare(&mut self, held: Option<Shown>, other: Shown) -> Result<(), DocumentError> {
        let Some(held) = held.filter(|held| held.mark.contradicts(&other.mark)) else { return Ok(()) };
        let Mark { height, epoch, hash: found } = other.mark;
        let seen = held.mark.hash;
        self.evidence = Some(Evidence { held, other });
        Err(DocumentError::Conflict { height, epoch, seen, found })
    }
}
