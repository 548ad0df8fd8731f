//! Changes of the authorities that a gateway keeps no more: authorities know them, and are asked for those who were away
//! that long.
//!
//! There are as many such sets as there were changes, each has one answer, and an answer is kept for whoever asks next. So
//! questions cost the authorities one a second of every gateway, whoever asks how often.
//!
//! What an authority answers is handed out as far as it leads from set to set as this gateway knows them: a lie of one must
//! not make readers leave whoever passes it on. Signatures are the reader's business: the keys of those sets are forgotten here.

use crate::io::asking::Authorities;
use crate::io::changes::Changes;
use crate::io::directory::SERVER_PATIENCE;
use crate::io::host::{Clock, generator};
use rand::seq::SliceRandom as _;
use shoal_protocol::consensus::UnverifiedConsensus;
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::quic::Pieces;
use shoal_protocol::types::Hash;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::timeout;

/// Time between two questions to the authorities.
const EVERY: Duration = Duration::from_secs(1);
/// Those who wait for an answer. Who comes when there are as many is told to come later.
const WAITING_MAX: usize = 16;
/// How long one waits, and how long all authorities together may take: within the 40 s that a client waits.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers kept, of 1 MiB at most. They are shared with those on their way; one that is forgotten meanwhile lives until the
/// slowest reader has it, 40 s at most, and there is a new one a second at most: 44 MiB.
const KEPT_MAX: usize = 4;
/// How long an answer is kept. Nobody here has verified its signatures: the next one may come from another authority.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// What authorities said, and when they may be asked again.
pub struct Older {
    authorities: Arc<Authorities>,
    changes: watch::Receiver<Arc<Changes>>,
    clock: Clock,
    waiting: Semaphore,
    /// Served in the order in which they came.
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    next: Duration,
    /// Set, answer, and when it came; the latest last.
    answers: VecDeque<(Hash, Pieces, Duration)>,
}

impl Older {
    /// Asks these. `changes` tells which sets followed each other.
    pub fn new(authorities: Arc<Authorities>, changes: watch::Receiver<Arc<Changes>>, clock: Clock) -> Self {
        Self { authorities, changes, clock, waiting: Semaphore::new(WAITING_MAX), said: Mutex::default() }
    }

    /// What authorities say of a set that was in force once. `None`: too many ask, or no authority has said in time what
    /// leads on from it.
    pub async fn after(&self, set: Hash) -> Option<Pieces> {
        let _place = self.waiting.try_acquire().ok()?;
        timeout(PATIENCE, async {
            let mut said = self.said.lock().await;
            let now = self.clock.monotonic();
            said.answers.retain(|(_, _, came)| now.saturating_sub(*came) < KEPT_FOR);
            if let Some((_, answer, _)) = said.answers.iter().find(|(of, _, _)| *of == set) {
                return Some(answer.clone());
            }
            tokio::time::sleep(said.next.saturating_sub(now)).await;
            // also if this question is given up
            said.next = self.clock.monotonic().saturating_add(EVERY);
            let answer = self.ask(set).await?;
            if said.answers.len() >= KEPT_MAX {
                said.answers.pop_front();
            }
            said.answers.push_back((set, answer.clone(), self.clock.monotonic()));
            Some(answer)
        })
        .await
        .ok()
        .flatten()
    }

    async fn ask(&self, after: Hash) -> Option<Pieces> {
        let mut hints = self.authorities.asked();
        hints.shuffle(&mut generator());
        let question = DirectoryQuestion::Changes { after };
        for hint in hints {
            let asked = timeout(SERVER_PATIENCE, self.authorities.ask(&hint, &question)).await;
            let Ok(Ok(DirectoryAnswer::Changes(mut changes))) = asked else { continue };
            let named = changes.iter().map_while(|change| Some(UnverifiedConsensus::parse(change).ok()?.set()));
            let led = self.changes.borrow().led(&after, named);
            if led > 0 {
                changes.truncate(led);
                return Some((&DirectoryAnswer::Changes(changes)).into());
            }
        }
        None
    }
}
