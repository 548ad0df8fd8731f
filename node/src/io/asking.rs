//! Asking: questions to authorities and gateways, and what one of them has for a reader.

use anyhow::{Context as _, Result, anyhow};
use shoal_protocol::consensus::{DocumentError, Follower, VerifiedConsensus, authorities_reached, documents_reached};
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::quic::{Endpoint, Link, Protocol, ask};
use shoal_protocol::types::{Identity, UnixMillis};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Changes of the authorities that are taken in at one time: 64 MiB with one answer more. Who was away for longer goes on
/// from there at the next question.
const LED_MAX: usize = 64;

/// Asks authorities and gateways, over one link each that is kept while it is open. Authorities are where the newest
/// document says, else where the network file hints.
pub struct Authorities {
    endpoint: Arc<Endpoint>,
    hints: Vec<Hint>,
    newest: Mutex<Option<Arc<VerifiedConsensus>>>,
    gateways: Vec<Hint>,
    links: Mutex<BTreeMap<Identity, Link>>,
}

impl Authorities {
    /// Asks the authorities that the network file names.
    pub fn new(endpoint: Arc<Endpoint>, network: &NetworkFile) -> Self {
        let hints = network.hints.clone();
        let (newest, links) = (Mutex::default(), Mutex::default());
        Self { endpoint, hints: hints.authorities, newest, gateways: hints.gateways, links }
    }

    /// From now on the authorities are those that `newest` names.
    pub fn follow(&self, newest: Arc<VerifiedConsensus>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(newest);
    }

    fn newest(&self) -> Option<Arc<VerifiedConsensus>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gateways that the network file names.
    pub fn gateways(&self) -> &[Hint] {
        &self.gateways
    }

    /// The authorities that make the next document: they are told of this node.
    pub fn reached(&self) -> Vec<Hint> {
        authorities_reached(self.newest().as_ref().map(|newest| &***newest), &self.hints)
    }

    /// All authorities that may have a document.
    pub fn asked(&self) -> Vec<Hint> {
        documents_reached(self.newest().as_ref().map(|newest| &***newest), &self.hints)
    }

    /// What a server is called in messages.
    fn name(&self, server: &Hint) -> String {
        let newest = self.newest();
        let gateway = newest.is_some_and(|newest| newest.gateways().any(|node| node.identity == server.identity))
            || self.gateways.iter().any(|hint| hint.identity == server.identity);
        let kind = if gateway { "gateway" } else { "authority" };
        format!("{kind} {}", server.identity)
    }

    /// Asks one server. The error names it without its address, because errors end in logs.
    pub async fn ask(&self, hint: &Hint, question: &DirectoryQuestion) -> Result<DirectoryAnswer> {
        let kept = self.links.lock().unwrap_or_else(PoisonError::into_inner).get(&hint.identity).cloned();
        let link = match kept.filter(Link::is_open) {
            Some(link) => link,
            None => {
                let link = self
                    .endpoint
                    .connect(hint.address, &hint.identity, Protocol::Directory)
                    .await
                    .with_context(|| self.name(hint))?;
                let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
                // gateways come and go
                links.retain(|_, link| link.is_open());
                links.insert(hint.identity, link.clone());
                link
            }
        };
        let answer = ask(&link, &question.to_bytes(), ANSWER_SIZE_MAX).await.with_context(|| self.name(hint))?;
        DirectoryAnswer::from_bytes(&answer).with_context(|| self.name(hint))
    }

    /// What one server has for a reader who stands where `follower` stands and holds `held`. What comes back is verified by
    /// a follower that is thrown away; whoever uses it offers it to his own.
    pub async fn find(
        &self,
        server: &Hint,
        mut follower: Follower,
        held: Option<Arc<VerifiedConsensus>>,
        now: UnixMillis,
    ) -> Result<Option<Found>, NotFound> {
        let have = held.as_ref().map(|held| held.hash());
        let useless = |error: anyhow::Error| NotFound::Useless(error.context(self.name(server)));
        let unexpected = || useless(anyhow!("it does not answer the question asked"));
        let answer = self.ask(server, &DirectoryQuestion::Newest { have }).await.map_err(NotFound::Silent)?;
        let document = match (answer, held) {
            (DirectoryAnswer::UpToDate, Some(_)) => return Ok(None),
            (DirectoryAnswer::Document(bytes), _) => bytes,
            (DirectoryAnswer::Difference(difference), Some(held)) => {
                held.apply(&difference).map_err(|error| useless(error.into()))?
            }
            (DirectoryAnswer::NotYet(reason), _) => {
                return Err(NotFound::NotYet(printable(&reason)));
            }
            (
                DirectoryAnswer::UpToDate
                | DirectoryAnswer::Difference(_)
                | DirectoryAnswer::Accepted
                | DirectoryAnswer::Refused(_)
                | DirectoryAnswer::BadQuestion
                | DirectoryAnswer::Changes(_),
                _,
            ) => return Err(unexpected()),
        };
        let mut led: Vec<Vec<u8>> = Vec::new();
        // the authorities may have changed while this node was away. Every turn leads further, or is the last
        while let Err(error) = follower.clone().offer(&document, now)
            && error.may_be_another_set()
            && led.len() < LED_MAX
        {
            let question = DirectoryQuestion::Changes { after: follower.set() };
            let answer = self.ask(server, &question).await.map_err(NotFound::Silent)?;
            let DirectoryAnswer::Changes(changes) = answer else { return Err(unexpected()) };
            let changes: Vec<Vec<u8>> = changes.into_iter().map(Vec::from).collect();
            match follower.advance(&changes) {
                Ok(0) => return Err(useless(error.into())),
                Ok(_) => led.extend(changes),
                // for whoever keeps the evidence
                Err(DocumentError::Conflict { .. }) => {
                    led.extend(changes);
                    break;
                }
                Err(error) => return Err(useless(error.into())),
            }
        }
        Ok(Some(Found { changes: led, document }))
    }
}

/// What a server had.
#[derive(Debug)]
pub struct Found {
    /// Documents that changed the set of authorities, in order; needed before the document can be offered.
    pub changes: Vec<Vec<u8>>,
    /// The newest it has.
    pub document: Vec<u8>,
}

/// Why there is nothing to offer.
#[derive(Debug)]
pub enum NotFound {
    /// The server has given nothing: no link, no answer.
    Silent(anyhow::Error),
    /// It has no document in force, and says why.
    NotYet(String),
    /// It has given what is of no use.
    Useless(anyhow::Error),
}

/// A server's text, as it may go to a log and a terminal: one short line without control characters.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authoritys_text_cannot_forge_a_log() {
        let hostile = format!("wait\n2026-01-01 ERROR all is lost\u{1b}[2J{}", "x".repeat(100_000));
        let text = printable(&hostile);
        assert!(text.starts_with("wait2026") && !text.contains(char::is_control) && text.len() == 400);
    }
}
