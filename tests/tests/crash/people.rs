//! Who writes and who reads, over the daemon's socket: no command is run that would start a daemon by itself.

use serde_json::Value;
use shoal_client::io::{Call, Caller, CallerError, Page, SentLine};
use shoal_client::mail::MessageState;
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::sleep;

/// Pause before somebody looks again.
const PAUSE: Duration = Duration::from_millis(50);

/// Connects to a daemon, as soon as it runs.
async fn connect(profile: &Path) -> Caller {
    loop {
        match Caller::connect(profile) {
            Ok(caller) => return caller,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// What one person wrote to another: text is the number.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    written: Mutex<Vec<(u64, Fate)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// The daemon said that it is queued, under this id.
    Acknowledged(String),
    /// The daemon died while it was asked: nobody knows.
    Unknown,
}

/// A comparison that found nothing wrong.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    pub(crate) shown: usize,
}

impl Ledger {
    fn note(&self, number: u64, fate: Fate) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push((number, fate));
    }

    /// Compares what was written with what the reader was shown while it came (`live`) and with what its profile holds in
    /// the end.
    pub(crate) fn compare(&self, live: &[(String, String)], held: Vec<(String, String)>) -> Tally {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(live, held, "what was shown stays as it was shown");
        let ids: BTreeSet<&String> = held.iter().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), held.len(), "an id was shown twice");
        let numbers: Vec<u64> = held.iter().map(|(_, text)| text.parse().expect("a number")).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "twice, or out of order: {numbers:?}");
        let mut acknowledged = 0;
        for (number, fate) in written.iter() {
            if let Fate::Acknowledged(id) = fate {
                acknowledged += 1;
                assert!(held.contains(&(id.clone(), number.to_string())), "message {number} is lost");
            }
        }
        // the greeting was written before
        let known: BTreeSet<u64> = written.iter().map(|(number, _)| *number).chain([0]).collect();
        assert!(numbers.iter().all(|number| known.contains(number)), "a message that nobody wrote");
        Tally { acknowledged, unknown: written.len() - acknowledged, shown: held.len() }
    }
}

/// Writes as fast as the other side confirms.
pub(crate) struct Writer {
    pub(crate) profile: PathBuf,
    pub(crate) to: &'static str,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) stop: Arc<AtomicBool>,
    /// Own messages on their way at a time.
    pub(crate) window: usize,
}

impl Writer {
    /// Writes until it is stopped, then waits until everything is delivered.
    pub(crate) async fn run(self) {
        let mut caller = connect(&self.profile).await;
        let mut under_way: VecDeque<String> = VecDeque::new();
        let mut number = 0;
        loop {
            let stopped = self.stop.load(Ordering::Relaxed);
            if stopped && under_way.is_empty() {
                return;
            }
            if !stopped && under_way.len() < self.window {
                number += 1;
                match caller.call::<SentLine>(Call::Send { to: self.to.into(), text: number.to_string() }).await {
                    Ok(sent) => {
                        under_way.push_back(sent.id.clone());
                        self.ledger.note(number, Fate::Acknowledged(sent.id));
                    }
                    Err(CallerError::Broken(_)) => {
                        self.ledger.note(number, Fate::Unknown);
                        caller = connect(&self.profile).await;
                    }
                    Err(error) => panic!("send: {error}"),
                }
                continue;
            }
            // in the order of sending; the first that is not delivered says enough
            let mut moved = false;
            while let Some(id) = under_way.front().cloned() {
                match caller.call::<SentLine>(Call::State { id }).await {
                    Ok(sent) if sent.state == MessageState::Delivered => {
                        under_way.pop_front();
                        moved = true;
                    }
                    Ok(_) => break,
                    Err(CallerError::Broken(_)) => {
                        caller = connect(&self.profile).await;
                        break;
                    }
                    Err(error) => panic!("state: {error}"),
                }
            }
            if !moved {
                sleep(PAUSE).await;
            }
        }
    }
}

/// Reads what comes, with a cursor of its own.
pub(crate) struct Reader {
    pub(crate) profile: PathBuf,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Reader {
    /// Reads until it is stopped and nothing new has come for a while; id and text of everything.
    pub(crate) async fn run(self) -> Vec<(String, String)> {
        // the writers wait for all receipts when they are stopped: what is delivered then can be read
        const QUIET: u32 = 40;
        let (mut shown, mut after, mut quiet) = (Vec::new(), 0, 0);
        let mut caller = connect(&self.profile).await;
        while quiet < QUIET {
            match page(&mut caller, &mut after, &mut shown).await {
                Ok(0) => {
                    quiet = if self.stop.load(Ordering::Relaxed) { quiet + 1 } else { 0 };
                    sleep(PAUSE).await;
                }
                Ok(_) => quiet = 0,
                Err(CallerError::Broken(_)) => caller = connect(&self.profile).await,
                Err(error) => panic!("read: {error}"),
            }
        }
        shown
    }
}

async fn page(caller: &mut Caller, after: &mut u64, shown: &mut Vec<(String, String)>) -> Result<usize, CallerError> {
    let page: Page = caller.call(Call::Read { since: None, after: Some(*after) }).await?;
    let count = page.entries.len();
    for entry in page.entries {
        assert!(entry.cursor > *after, "the cursor rises");
        *after = entry.cursor;
        shown.push((entry.message.id, entry.message.text));
    }
    Ok(count)
}

/// Everything that a profile shows, from the first message on.
pub(crate) fn everything(runtime: &Runtime, profile: &Path) -> Vec<(String, String)> {
    runtime.block_on(async {
        let (mut shown, mut after) = (Vec::new(), 0);
        let mut caller = connect(profile).await;
        while page(&mut caller, &mut after, &mut shown).await.expect("the daemon runs") > 0 {}
        let _: Value = caller.call(Call::Address).await.expect("the daemon runs");
        shown
    })
}
