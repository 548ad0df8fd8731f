//! Asks an authority for the newest document and verifies it, following the set of authorities as it changes.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use shoal_protocol::{
    consensus::{Follower, Offered, VerifiedConsensus, documents_reached},
    link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion},
    network::{Hint, NetworkFile},
    quic::{Endpoint, Link, Protocol, ask},
    types::UnixMillis,
};
use tokio::time::timeout;

use crate::{
    failure::{ExitKind, Failure},
    view::Document,
};

/// How long one authority gets to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// What the authorities say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Newest {
    /// A document that verified; newer than the one before.
    Document(Box<Document>),
    /// The document that was given last time is still the newest.
    Unchanged,
    /// There is none yet; why.
    NotYet(String),
}

/// A standing connection to the authorities of one network.
#[derive(Debug)]
pub(crate) struct Directory {
    network: NetworkFile,
    endpoint: Endpoint,
    link: Option<Link>,
    follower: Follower,
    held: Option<Arc<VerifiedConsensus>>,
}

impl Directory {
    /// Opens a socket to ask from. Nothing is asked yet.
    pub(crate) fn open(network: NetworkFile) -> anyhow::Result<Self> {
        let first = network.hints.authorities.first().map(|hint| hint.address);
        let bind = match first {
            Some(SocketAddr::V6(_)) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            Some(SocketAddr::V4(address)) if address.ip().is_loopback() => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            Some(SocketAddr::V4(_)) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            None => bail!(Failure::new(
                ExitKind::Configuration,
                "the network file names no address of an authority",
                "add one under [[hints.authorities]]",
            )),
        };
        let endpoint = Endpoint::dialler(None, bind).context("cannot open a socket to ask the authorities from")?;
        let follower = Follower::new(network.trust_anchor());
        Ok(Self { network, endpoint, link: None, follower, held: None })
    }

    /// Asks for the newest document, at the authority that answered last or else at each in turn.
    pub(crate) async fn newest(&mut self, now: UnixMillis) -> anyhow::Result<Newest> {
        if let Some(link) = self.link.take_if(|link| link.is_open())
            && let Ok(answer) = self.ask(&link, now).await
        {
            self.link = Some(link);
            return Ok(answer);
        }
        let mut last = None;
        for hint in documents_reached(self.held.as_ref().map(|held| &***held), &self.network.hints.authorities) {
            match self.ask_at(&hint, now).await {
                Ok((answer, link)) => {
                    self.link = Some(link);
                    return Ok(answer);
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| anyhow::anyhow!("the network file names no authority's address"));
        bail!(Failure::new(
            ExitKind::Unreachable,
            format!("no authority gives a document: {error:#}"),
            "see whether one of them runs: shoal-directory status --dir DIR",
        ))
    }

    async fn ask_at(&mut self, hint: &Hint, now: UnixMillis) -> anyhow::Result<(Newest, Link)> {
        let link = self.endpoint.connect(hint.address, &hint.identity, Protocol::Directory).await?;
        let answer = self.ask(&link, now).await?;
        Ok((answer, link))
    }

    async fn ask(&mut self, link: &Link, now: UnixMillis) -> anyhow::Result<Newest> {
        let have = self.held.as_ref().map(|held| held.hash());
        let bytes = match (question(link, &DirectoryQuestion::Newest { have }).await?, &self.held) {
            (DirectoryAnswer::Document(bytes), _) => bytes,
            (DirectoryAnswer::Difference(difference), Some(held)) => held.apply(&difference)?,
            (DirectoryAnswer::UpToDate, Some(_)) => return Ok(Newest::Unchanged),
            (DirectoryAnswer::NotYet(reason), _) => return Ok(Newest::NotYet(reason)),
            _ => bail!("the authority gave an answer to another question"),
        };
        loop {
            match self.follower.offer(&bytes, now) {
                Ok(Offered::Known) => return Ok(Newest::Unchanged),
                Ok(Offered::Newer(verified)) => {
                    let document = Document {
                        hash: verified.hash().to_string(),
                        signatures: verified.signatures(),
                        consensus: (**verified).clone(),
                    };
                    self.held = Some(Arc::new(*verified));
                    return Ok(Newest::Document(Box::new(document)));
                }
                // the authorities changed since this network file, or since it was asked last. Every turn leads further
                Err(error) if error.may_be_another_set() => {
                    let after = self.follower.set();
                    let answer = question(link, &DirectoryQuestion::Changes { after }).await?;
                    let DirectoryAnswer::Changes(changes) = answer else {
                        bail!("the authority gave an answer to another question")
                    };
                    let changes: Vec<Vec<u8>> = changes.into_iter().map(Vec::from).collect();
                    if self.follower.advance(&changes)? == 0 {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn question(link: &Link, question: &DirectoryQuestion) -> anyhow::Result<DirectoryAnswer> {
    let answer =
        timeout(LIMIT, ask(link, &question.to_bytes(), ANSWER_SIZE_MAX)).await.context("no answer in time")??;
    Ok(DirectoryAnswer::from_bytes(&answer)?)
}

#[cfg(test)]
mod tests;
