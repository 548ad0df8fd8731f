//! Asking: questions to authorities and gateways, and what one of them has for a reader.

use anyhow::{Context as _, Result, anyhow};
use shoal_protocol::consensus::{DocumentError, Follower, VerifiedConsensus, authorities_reached, documents_reached};
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::{Hint, NetworkFile};
use shoal_protocol::quic::{Endpoint, Link, Protocol, QuicError, ask};
use shoal_protocol::types::{Identity, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Changes of the authorities that are taken in at one time: 64 MiB with one answer more. Who was away for longer goes on
/// from there at the next question.
const LED_MAX: usize = 64;

/// How long an authority's one address may take before the other one is tried as well: some round trips.
const OTHER_ADDRESS_AFTER: Duration = Duration::from_secs(1);

/// Asks authorities and gateways, over one link each that is kept while it is open. Authorities are where the newest
/// document says or where the network file hints: either may be old, and each link proves who is there.
pub struct Authorities {
    endpoint: Arc<Endpoint>,
    hints: Vec<Hint>,
    newest: Mutex<Option<Arc<VerifiedConsensus>>>,
    gateways: Vec<Hint>,
    links: Mutex<BTreeMap<Identity, Link>>,
    /// Authorities of `hints` to be tried at the hinted address first.
    at_hint: Mutex<BTreeSet<Identity>>,
}

impl Authorities {
    /// Asks the authorities that the network file names.
    pub fn new(endpoint: Arc<Endpoint>, network: &NetworkFile) -> Self {
        let hints = network.hints.clone();
        let (newest, links, at_hint) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { endpoint, hints: hints.authorities, newest, gateways: hints.gateways, links, at_hint }
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
                let link = self.connect(hint).await.with_context(|| self.name(hint))?;
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

    /// A link to a server, at the address given or at the one that the network file hints for it, whichever answers. The one
    /// that did is tried first the next time; after an attempt that failed or was given up, the other one.
    async fn connect(&self, server: &Hint) -> Result<Link, QuicError> {
        let Hint { identity, address } = *server;
        let to = |address| self.endpoint.connect(address, &server.identity, Protocol::Directory);
        let Some(hinted) = self.other_address(server) else { return to(address).await };
        let hint_first = self.at_hint().contains(&identity);
        // whoever gives up drops this future
        self.prefer_hint(identity, !hint_first);
        let (first, second) = if hint_first { (hinted, address) } else { (address, hinted) };
        let won = |by_hint: bool| {
            move |link: Link| {
                self.prefer_hint(identity, by_hint);
                link
            }
        };
        let (won_first, won_second) = (won(hint_first), won(!hint_first));
        let mut first = pin!(to(first));
        let early = tokio::time::timeout(OTHER_ADDRESS_AFTER, &mut first).await;
        match early {
            Ok(Ok(link)) => return Ok(won_first(link)),
            Ok(Err(_)) => return to(second).await.map(won_second),
            Err(_) => {}
        }
        let mut second = pin!(to(second));
        tokio::select! {
            link = &mut first => match link {
                Ok(link) => Ok(won_first(link)),
                Err(_) => second.await.map(won_second),
            },
            link = &mut second => match link {
                Ok(link) => Ok(won_second(link)),
                Err(_) => first.await.map(won_first),
            },
        }
    }

    /// Where the network file hints that an authority is, if that is somewhere else.
    fn other_address(&self, server: &Hint) -> Option<SocketAddr> {
        let hint = self.hints.iter().find(|hint| hint.identity == server.identity)?;
        (hint.address != server.address).then_some(hint.address)
    }

    fn at_hint(&self) -> MutexGuard<'_, BTreeSet<Identity>> {
        // every operation on the set is one step
        self.at_hint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefer_hint(&self, authority: Identity, prefer: bool) {
        if prefer {
            self.at_hint().insert(authority);
        } else {
            self.at_hint().remove(&authority);
        }
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
    use crate::testing::network;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::link::QUESTION_SIZE_MAX;
    use shoal_protocol::quic::{QUESTION_TIMEOUT, read_question};
    use shoal_protocol::types::IdentityKey;
    use std::net::{Ipv4Addr, UdpSocket};

    #[test]
    fn an_authoritys_text_cannot_forge_a_log() {
        let hostile = format!("wait\n2026-01-01 ERROR all is lost\u{1b}[2J{}", "x".repeat(100_000));
        let text = printable(&hostile);
        assert!(text.starts_with("wait2026") && !text.contains(char::is_control) && text.len() == 400);
    }

    #[tokio::test]
    async fn an_authority_is_asked_where_it_is_whichever_address_is_old() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let key = IdentityKey::generate(&mut StdRng::seed_from_u64(1));
        let listening = Endpoint::bind(any, &key, &[Protocol::Directory]).expect("a port");
        let live = Hint { identity: key.identity(), address: listening.local_addr().expect("bound") };
        // one who is somebody else there, and one where nobody answers
        let other = IdentityKey::generate(&mut StdRng::seed_from_u64(2));
        let other = Endpoint::bind(any, &other, &[Protocol::Directory]).expect("a port");
        let nobody = UdpSocket::bind(any).expect("a port");
        let old = [other.local_addr(), nobody.local_addr().map_err(Into::into)];
        let old = old.map(|address| Hint { address: address.expect("bound"), ..live });
        for endpoint in [listening, other] {
            tokio::spawn(async move {
                while let Some(arrival) = endpoint.accept().await {
                    let Ok(link) = arrival.admit().await else { continue };
                    tokio::spawn(async move {
                        while let Ok(Some((_, answerer))) =
                            read_question(&link, QUESTION_SIZE_MAX, QUESTION_TIMEOUT).await
                        {
                            let _ = answerer.answer(&DirectoryAnswer::Accepted).await;
                        }
                    });
                }
            });
        }
        let question = DirectoryQuestion::Newest { have: None };
        let endpoint = Arc::new(Endpoint::dialler(None, any).expect("a port"));
        for old in old {
            for (hinted, said) in [(live, old), (old, live)] {
                let authorities = Authorities::new(Arc::clone(&endpoint), &network(vec![hinted]));
                for _ in 0..2 {
                    assert_eq!(authorities.ask(&said, &question).await.ok(), Some(DirectoryAnswer::Accepted));
                    // the right one is tried first from now on
                    assert_eq!(authorities.at_hint().contains(&live.identity), hinted == live);
                    authorities.links.lock().expect("whole").clear();
                }
            }
            // without a right one: the other one first the next time
            let authorities = Authorities::new(Arc::clone(&endpoint), &network(vec![old]));
            let wrong = Hint { address: SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 9)), ..live };
            for hint_first in [true, false] {
                let given_up = tokio::time::timeout(Duration::from_millis(50), authorities.ask(&wrong, &question));
                assert!(!given_up.await.is_ok_and(|answer| answer.is_ok()));
                assert_eq!(authorities.at_hint().contains(&live.identity), hint_first);
            }
        }
    }
}
