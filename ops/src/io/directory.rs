//! Asks an authority for the newest document and verifies it.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use shoal_protocol::{
    consensus::{Mark, UnverifiedConsensus},
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
    have: Option<Mark>,
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
        Ok(Self { network, endpoint, link: None, have: None })
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
        for hint in self.network.hints.authorities.clone() {
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
        let question = DirectoryQuestion::Newest { have: self.have.map(|have| have.hash) }.to_bytes();
        let bytes = timeout(LIMIT, ask(link, &question, ANSWER_SIZE_MAX)).await.context("no answer in time")??;
        match DirectoryAnswer::from_bytes(&bytes)? {
            DirectoryAnswer::Document(bytes) => {
                let anchor = self.network.trust_anchor();
                let verified = UnverifiedConsensus::parse(&bytes)?.verify(&anchor, now, self.have)?;
                self.have = Some(verified.mark());
                Ok(Newest::Document(Box::new(Document {
                    hash: verified.hash().to_string(),
                    signatures: verified.signatures(),
                    consensus: (*verified).clone(),
                })))
            }
            DirectoryAnswer::UpToDate => Ok(Newest::Unchanged),
            DirectoryAnswer::NotYet(reason) => Ok(Newest::NotYet(reason)),
            DirectoryAnswer::Accepted
            | DirectoryAnswer::Refused(_)
            | DirectoryAnswer::BadQuestion
            | DirectoryAnswer::Changes(_) => {
                bail!("the authority gave an answer to another question")
            }
        }
    }
}
