//! What the state machine wants done, in its order: log, messages, documents, evidence.

use std::sync::Arc;

use shoal_protocol::consensus::{DocumentError, VerifiedConsensus};
use shoal_protocol::link::DirectoryQuestion;
use shoal_protocol::{Hash, UnixMillis};

use super::Authority;
use crate::authority::Act;
use crate::config::files as names;
use crate::io::failure::{Failure, Kind};
use crate::io::files;
use crate::io::votes::VoteLog;

impl Authority {
    pub(super) fn carry_out(&mut self, acts: Vec<Act>, now: UnixMillis) {
        for act in acts {
            if self.failed.is_some() {
                return;
            }
            let done = match act {
                Act::Log(entry) => match self.votes.as_mut().map_or(Ok(true), |votes| votes.append(&entry)) {
                    Ok(true) => Ok(()),
                    Ok(false) => {
                        tracing::error!("the vote log is full: this authority watches until there is a new document");
                        self.votes = None;
                        self.core.watch(now);
                        return;
                    }
                    Err(failure) => Err(failure),
                },
                Act::Agree(message) => self.broadcast(&DirectoryQuestion::Agree(message)),
                Act::List(message) => self.broadcast(&DirectoryQuestion::List(message)),
                Act::Certified(document) => self.keep(document),
                Act::Completed(document) => {
                    if let Err(failure) = self.chain.complete(document) {
                        tracing::warn!(error = %failure, "the certificate that all authorities come to is not kept");
                    }
                    Ok(())
                }
                // the document is kept: until here the log before is known to be over
                Act::BeginLog => VoteLog::begin(&self.home.path(names::VOTES)).map(|votes| self.votes = Some(votes)),
                Act::Ask => {
                    self.ask = true;
                    Ok(())
                }
                Act::Misbehaviour(evidence) => {
                    let authority = evidence.authority();
                    tracing::error!(
                        authority,
                        "an authority signed two things that contradict each other: evidence kept"
                    );
                    let bytes = evidence.encode();
                    let name = format!("misbehaviour-{}", Hash::of("shoal evidence file", &bytes));
                    // the network goes on without it
                    let _ = files::replace(&self.home.path(&name), &bytes, files::PUBLIC, true);
                    Ok(())
                }
            };
            if let Err(failure) = done {
                self.failed = Some(failure);
            }
        }
    }

    fn broadcast(&self, message: &DirectoryQuestion) -> Result<(), Failure> {
        self.peers.broadcast(message, self.core.set());
        Ok(())
    }

    fn keep(&mut self, document: Arc<VerifiedConsensus>) -> Result<(), Failure> {
        let (epoch, height, nodes) = (document.epoch.0, document.height, document.nodes.len());
        tracing::info!(epoch, height, nodes, signatures = document.signatures(), "a document is certified");
        self.chain.append(document)?;
        self.find_peers();
        Ok(())
    }

    pub(super) fn keep_evidence(&mut self, bytes: &[u8], error: &DocumentError) {
        let path = self.home.path(names::CONFLICT);
        tracing::error!(%error, file = %path.display(), "the authorities contradict themselves");
        let kept = files::replace(&path, bytes, files::PUBLIC, true);
        self.failed = Some(Failure::new(
            Kind::Configuration,
            format!("{error}; the other document is kept in {}", path.display()),
            "more than f authorities are dishonest or were copied: compare with their operators before you run again",
        ));
        if let Err(failure) = kept {
            tracing::error!(error = %failure, "the other document cannot be kept");
        }
    }
}
