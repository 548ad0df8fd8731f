//! Blobs coming in: parts in random order, verified as a whole by the manifest's hash; files land at their place by one
//! rename.

use super::parts::{BlobIn, Brings};
use super::slots::SlotReader;
use super::stored::Received;
use super::writing::each;
use super::{Mail, MailError, conversations, stored};
use crate::blobs_store::{self, Observed, Purpose};
use crate::group_epochs;
use crate::profile::received_files::Place;
use crate::want::Rank;
use rand::CryptoRng;
use rusqlite::OptionalExtension as _;
use shoal_protocol::UnixMillis;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::request::{Answers, Status};
use std::time::Duration;
use zeroize::Zeroizing;

/// Parts of another length than the manifest says before the blob is given up: its writer lies.
const LIES_MAX: u32 = 3;
/// A Welcome of which both replicas say for so long that nothing is there is given up.
const WELCOME_PATIENCE: Duration = Duration::from_secs(600);
/// A blob that cannot be taken up rests for so long, then for twice as long, up to four hours.
const REST_FIRST: Duration = Duration::from_secs(60);
const REST_DOUBLINGS: u32 = 8;

/// Why nothing more of a blob is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// All of it is here.
    Whole,
    /// Its writer says of it what is not so.
    Untrue,
    /// It does not come, or there is no room for it.
    Late,
}

/// What became of a blob that is here, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It did what it was for, or is dropped.
    Done,
    /// Something else has to be read first: it rests, and is tried again.
    NotYet {
        /// Where it brings us.
        brings: Brings,
    },
}

impl Mail {
    pub(super) fn part_read(
        &mut self,
        row: i64,
        j: u64,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(blob) = self.memory.blobs_in.get_mut(&row) else { return Ok(()) };
        let part = each(answers)
            .filter(|(_, answer)| answer.status == Status::Found)
            .find_map(|(_, answer)| blob.keys.open(j, answer.body.as_ref()?).ok().map(Zeroizing::new));
        let retention = consensus.parameters.retention();
        if answers.is_some() {
            blob.asked = Some(Observed::again(blob.asked, now, retention / 4));
        }
        let Some(part) = part else {
            blob.barren = blob.barren.saturating_add(u32::from(answers.is_some()));
            blob.empty_seen |= each(answers).any(|(_, answer)| answer.status == Status::Empty);
            // nobody's writer is in a hurry for whom nothing was stored
            let absent = each(answers).filter(|(_, answer)| answer.status == Status::Empty).count() == 2;
            // what is not asked for in a quarter of the retention may have come and gone
            let again = || Some(Observed::again(blob.incoming.absent, now, retention / 4));
            let seen = match blob.incoming.purpose {
                Purpose::Message => None,
                Purpose::Welcome if answers.is_none() => blob.incoming.absent,
                Purpose::Welcome if absent => again(),
                Purpose::Welcome => None,
                // replicas that are gone, or mute, or lie, keep nobody from going on
                Purpose::Commit if answers.is_some() => again(),
                Purpose::Commit => blob.incoming.absent,
            };
            if blob.absence(seen, now, retention / 16) {
                blobs_store::set_absent(&self.profile.db, row, seen)?;
            }
            let gone = blob.incoming.purpose == Purpose::Commit && blob.incoming.absent.is_some();
            let slowest = if absent && (gone || blob.incoming.stranger) { Rank::Idle } else { Rank::Warm };
            blob.queue.later(j, slowest, now, &consensus.parameters, rng);
            return Ok(());
        };
        blob.barren = 0;
        // a commit is whole before its entry is written: a writer that lets it come by drops gains no time
        if blob.incoming.purpose == Purpose::Welcome && blob.absence(None, now, Duration::ZERO) {
            blobs_store::set_absent(&self.profile.db, row, None)?;
        }
        if part.len() != blob.manifest().part_length(j) {
            blob.lies += 1;
            if blob.lies >= LIES_MAX {
                return self.end_blob(row, Fetched::Untrue, now, rng);
            }
            blob.queue.later(j, Rank::Warm, now, &consensus.parameters, rng);
            return Ok(());
        }
        if blob.queue.done(j) {
            blobs_store::insert_part(&self.profile.db, &self.profile.vault, row, j, &part)?;
        }
        if blob.queue.open() == 0 {
            // from now on it is tried
            blob.incoming.since = now;
            blobs_store::set_since(&self.profile.db, row, now)?;
            return self.end_blob(row, Fetched::Whole, now, rng);
        }
        // what comes, however slowly, is not given up: its writer pays for each part. Strangers have one retention
        let steady = blob.incoming.purpose == Purpose::Message && !blob.incoming.stranger;
        if steady && blob.incoming.since.plus(retention / 8) < now {
            // nor is what the same writer has announced and comes to later
            for row in blobs_store::set_since_of_writer(&self.profile.db, row, now)? {
                if let Some(blob) = self.memory.blobs_in.get_mut(&row) {
                    blob.incoming.since = now;
                }
            }
        }
        Ok(())
    }

    /// The blob is whole, or is given up. Whatever goes wrong with it stays with it: it rests and is tried again,
    /// slower each time, while everything else goes on.
    pub(super) fn end_blob(
        &mut self,
        row: i64,
        fetched: Fetched,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(mut blob) = self.memory.blobs_in.remove(&row) else { return Ok(()) };
        let ended = match fetched {
            Fetched::Whole => self.blob_whole(&blob, now, rng),
            Fetched::Untrue | Fetched::Late => {
                self.drop_blob(row, blob.incoming.purpose, fetched, now, rng).map(|()| Taken::Done)
            }
        };
        match ended {
            Ok(Taken::Done) => return Ok(()),
            Ok(Taken::NotYet { brings }) => blob.brings = Some(brings),
            Err(_) => {}
        }
        blob.resting = now.plus(REST_FIRST.saturating_mul(1 << blob.failures.min(REST_DOUBLINGS)));
        blob.failures += 1;
        self.memory.upkeep_at = self.memory.upkeep_at.min(blob.resting);
        self.memory.blobs_in.insert(row, blob);
        let Err(error) = ended else { return Ok(()) };
        // memory may be ahead of the disk, or behind it
        self.reload()?;
        self.warn(
            "blob_failed",
            format!("something that arrived cannot be taken up and is tried again later: {error}"),
        );
        Ok(())
    }

    /// All parts are here: verify, and do what the blob is for.
    fn blob_whole(&mut self, blob: &BlobIn, now: UnixMillis, rng: &mut impl CryptoRng) -> Result<Taken, MailError> {
        let row = blob.incoming.row;
        let content = blobs_store::assemble(&self.profile.db, &self.profile.vault, &blob.incoming)?;
        if !blob.manifest().names(&content) {
            return self.drop_blob(row, blob.incoming.purpose, Fetched::Untrue, now, rng).map(|()| Taken::Done);
        }
        match blob.incoming.purpose {
            Purpose::Welcome => return self.join_conversation(blob, &content, now),
            Purpose::Message => self.message_whole(row, content, now, rng)?,
            Purpose::Commit => self.commit_whole(row, &content, now, rng)?,
        }
        Ok(Taken::Done)
    }

    /// Welcomes that wait for something else are tried again at once.
    pub(super) fn wake_welcomes(&mut self) {
        for blob in self.memory.blobs_in.values_mut().filter(|blob| blob.incoming.purpose == Purpose::Welcome) {
            blob.resting = UnixMillis::default();
            // not never: what is done only after a start is done
            self.memory.upkeep_at = self.memory.upkeep_at.min(UnixMillis(1));
        }
    }

    fn message_whole(
        &mut self,
        row: i64,
        content: Zeroizing<Vec<u8>>,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        type Held = (i64, (i64, i64), Vec<u8>, Vec<u8>);
        let found: Option<Held> = db
            .prepare_cached("SELECT message, conversation, contact, id, content FROM message_in WHERE blob = ?1")?
            .query_row([row], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?), row.get(3)?, row.get(4)?)))
            .optional()?;
        let Some((message, (conversation, contact), id, held)) = found else { return blobs_store::delete_in(db, row) };
        let conversation = conversations::by_row(db, vault, conversation)?;
        let received = match stored::open_in(vault, &held)? {
            Received::HeldText { sent_at } => match String::from_utf8(content.to_vec()) {
                Ok(text) => Received::Text { sent_at, text },
                Err(_) => return self.drop_blob(row, Purpose::Message, Fetched::Untrue, now, rng),
            },
            Received::File { sent_at, name, mime, size } => {
                // the file is in its place before the message says so; a crash in between repeats the same rename
                let place = Place { conversation: conversation.id, message: stored::open_in_id(vault, &id)?, name };
                self.profile.files.keep(&place, vault, &content)?;
                Received::File { sent_at, name: place.name, mime, size }
            }
            whole @ Received::Text { .. } => whole,
        };
        let transaction = self.profile.db.unchecked_transaction()?;
        transaction
            .prepare_cached("UPDATE message_in SET content = ?2, blob = NULL WHERE message = ?1")?
            .execute((message, stored::seal_in(&self.profile.vault, &received)))?;
        blobs_store::delete_in(&transaction, row)?;
        let released = self.release(&transaction, &conversation, contact, now)?;
        transaction.commit()?;
        self.released(&conversation, released)
    }

    /// After the commit: memory follows, listeners hear.
    fn released(&mut self, conversation: &conversations::Conversation, released: Vec<i64>) -> Result<(), MailError> {
        self.owe(conversation.row, &released);
        self.repause(conversation.row)?;
        self.announce(released)
    }

    /// The blob is not what its manifest says, or never came: its message is dropped, what it held back is shown.
    fn drop_blob(
        &mut self,
        row: i64,
        purpose: Purpose,
        why: Fetched,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        if purpose == Purpose::Commit {
            return self.commit_given_up(row, now, rng);
        }
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let conversation: Option<(i64, i64)> = db
            .prepare_cached("SELECT conversation, contact FROM message_in WHERE blob = ?1")?
            .query_row([row], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let transaction = db.unchecked_transaction()?;
        transaction.prepare_cached("DELETE FROM message_in WHERE blob = ?1")?.execute([row])?;
        blobs_store::delete_in(&transaction, row)?;
        let Some((conversation, contact)) = conversation.filter(|_| purpose == Purpose::Message) else {
            return Ok(transaction.commit()?);
        };
        let conversation = conversations::by_row(&transaction, vault, conversation)?;
        let released = self.release(&transaction, &conversation, contact, now)?;
        transaction.commit()?;
        let id = conversation.id;
        match why {
            Fetched::Late => self.warn(
                "blob_lost",
                format!("a file or long text in conversation {id} did not arrive: stores keep it no longer; ask for it again"),
            ),
            Fetched::Whole | Fetched::Untrue => self.warn(
                "blob_refused",
                format!("a file or long text in conversation {id} was not what its writer had announced, and was dropped"),
            ),
        }
        self.released(&conversation, released)
    }

    /// Gives up blobs that nobody can complete any more, and completes those whose last step a crash interrupted.
    pub(super) fn settle_blobs(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let retention = consensus.parameters.retention();
        // who was away asks first, for a while
        let old = |blob: &BlobIn, age: Duration| {
            let asked = blob.asked.is_some_and(|asked| {
                asked.since.plus(retention / 32) < asked.seen && asked.seen.plus(retention / 4) >= now
            });
            // where it has no place any more nobody can ask
            let placed = consensus.generation(blob.incoming.generation).is_some();
            blob.incoming.since.plus(age) < now && (blob.queue.open() == 0 || !placed || (asked && !blob.waits))
        };
        let ending: Vec<(i64, Fetched)> = self
            .memory
            .blobs_in
            .iter()
            .filter(|(_, blob)| blob.resting <= now)
            .filter_map(|(row, blob)| {
                // a Welcome is stored before its letter: what is not there for so long never was
                // one that was invited comes in its own time
                let never = blob.incoming.purpose == Purpose::Welcome
                    && blob.incoming.stranger
                    && blob.incoming.absent.is_some_and(|absent| absent.since.plus(WELCOME_PATIENCE) < absent.seen);
                let late = match blob.incoming.purpose {
                    // one that cannot be applied is tried for as long
                    Purpose::Commit if blob.queue.open() == 0 => {
                        blob.failures > 0 && blob.incoming.since.plus(retention) < now
                    }
                    // to skip a commit that others follow parts us from them: only what was seen not to be there counts, and
                    // not that we did not come to read it. Its writer writes it again after half of the retention
                    Purpose::Commit => {
                        let of = group_epochs::of_blob(&self.profile.db, *row);
                        let slot = of.as_ref().ok().and_then(|of| self.memory.slots.get(&of.as_ref()?.0));
                        let long = match slot.is_some_and(SlotReader::behind) {
                            // the empty slot before it decides as long as it is not there
                            true => retention / 64,
                            false if blob.empty_seen => retention * 3 / 4,
                            false => retention,
                        };
                        let gone = blob.incoming.absent.is_some_and(|gone| gone.since.plus(long) <= gone.seen);
                        // or its epoch is over
                        gone || matches!(of, Ok(None))
                    }
                    // a writer whose ticks do not suffice to write all of it before stores forget the first goes through it again
                    // and again: each time more of it is found
                    Purpose::Message if !blob.incoming.stranger && blob.begun() => old(blob, retention * 3),
                    Purpose::Message | Purpose::Welcome => old(blob, retention),
                };
                let dead = never || late;
                let whole = blob.queue.open() == 0 && !late;
                let fetched = if whole { Fetched::Whole } else { Fetched::Late };
                (whole || dead).then_some((*row, fetched))
            })
            .collect();
        for (row, fetched) in ending {
            self.end_blob(row, fetched, now, rng)?;
        }
        Ok(())
    }
}
