//! What others wrote: boxes of their chains, in order; messages held back until they are whole; what was shown.
//!
//! One transaction holds the received record, the chain's position and the MLS ratchet that opened it.

use super::fetching::Fetched;
use super::flight::AHEAD_MAX;
use super::parts::BlobIn;
use super::showing::held;
use super::stored::Received;
use super::writing::{Confirmed, each};
use super::{Mail, MailError, MessageId, conversations, provider, stored};
use crate::blobs::{BLOB_SIZE_MAX, TEXT_SIZE_MAX};
use crate::blobs_store::{self, Purpose};
use crate::chains::{self, Chain, Side};
use crate::contacts;
use crate::conversations::Conversation;
use crate::conversations_mls::{self, GroupError};
use crate::members::{self, MemberRow};
use crate::polls::mean_gap;
use crate::records::{BlobKind, Content, Record};
use crate::want::Rank;
use rand::CryptoRng;
use rusqlite::{OptionalExtension as _, Transaction};
use shoal_protocol::boxes;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::request::{Answers, Status};
use shoal_protocol::{Hash, UnixMillis};

/// Times that the next box of a chain may open without holding a message before it is skipped.
const UNREADABLE_MAX: u32 = 3;
/// Blobs of one sender in a conversation that are fetched at a time; the chain is read on meanwhile, for a later box may
/// take one of them back.
const HELD_BLOBS_MAX: u64 = 8;
/// Messages of one sender in a conversation that may be held back.
const HELD_MAX: u64 = 512;

/// What one record did, to be told after the commit.
struct Applied {
    confirmed: Confirmed,
    blob: Option<blobs_store::Incoming>,
    content: bool,
    refused: Option<&'static str>,
    /// The commit with which the chain ends.
    end: Option<Hash>,
    /// Its writer leaves the group.
    leaves: bool,
    /// A message of somebody blocked, not shown.
    silenced: bool,
    /// The blob of a message that its writer took back.
    taken_back: Option<i64>,
    /// A blob that is being fetched is written anew, in this generation.
    elsewhere: Option<(i64, u32)>,
}

impl Mail {
    pub(super) fn box_read(
        &mut self,
        row: i64,
        j: u64,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(reader) = self.memory.readers.get_mut(&row) else { return Ok(()) };
        reader.returned(j);
        let id = reader.chain.id(j);
        let mut opened = None;
        let mut elsewhere = None;
        let mut empty = false;
        for (store, answer) in each(answers) {
            match (answer.status, &answer.body) {
                (Status::Found, Some(body)) => match boxes::open(&reader.chain.secret, j, &id, body) {
                    Ok(content) => opened = Some(content),
                    // not what a member wrote: the other replica may have it
                    Err(_) => {
                        elsewhere = answers.and_then(|answers| answers.replicas.into_iter().find(|s| *s != store))
                    }
                },
                (Status::Found, None) => elsewhere = elsewhere.or(Some(store)),
                (Status::Empty, _) => empty = true,
                _ => {}
            }
        }
        let Some(content) = opened else {
            if j == reader.chain.next {
                let heard = each(answers).filter(|(_, answer)| matches!(answer.status, Status::Found | Status::Empty));
                if heard.count() == 2 {
                    reader.fruitless = if elsewhere.is_some() { reader.fruitless.saturating_add(1) } else { 0 };
                    // one replica's word is not enough, and of noise at both neither holds an `end`
                    if elsewhere.is_none() && empty || reader.fruitless > 1 {
                        reader.heard_at = Some(now);
                    }
                }
                if elsewhere.is_some() {
                    reader.first = elsewhere;
                    let rank = if reader.request { reader.class(now, &consensus.parameters) } else { Rank::Hot };
                    let soon = mean_gap(rank, &consensus.parameters);
                    reader.clock.wind(soon, now, rng);
                } else if empty {
                    reader.ahead = 1;
                    reader.dry_at = Some(now);
                }
            }
            // what came early may have waited for a pause to end
            return self.read_on(row, now, rng, consensus);
        };
        let next = reader.chain.next;
        if j == next {
            reader.fruitless = 0;
        }
        if (next..next.saturating_add(AHEAD_MAX)).contains(&j) {
            reader.early.insert(j, content);
        }
        self.read_on(row, now, rng, consensus)
    }

    /// Processes what is here of a chain, in order.
    fn read_on(
        &mut self,
        row: i64,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
        consensus: &Consensus,
    ) -> Result<(), MailError> {
        let mut progressed = false;
        while let Some(reader) = self.memory.readers.get_mut(&row) {
            let next = reader.chain.next;
            if reader.paused {
                break;
            }
            let Some(content) = reader.early.remove(&next) else { break };
            if !self.record_read(row, &content, now, rng)? {
                break;
            }
            progressed = true;
        }
        if let Some(reader) = self.memory.readers.get_mut(&row)
            && progressed
        {
            // it yields: ask for more at a time, and at the hot pace from now on, unless it is a stranger's
            reader.ahead = (reader.ahead * 2).min(AHEAD_MAX);
            let class = reader.class(now, &consensus.parameters);
            reader.clock.wind(mean_gap(class, &consensus.parameters), now, rng);
        }
        Ok(())
    }

    /// Opens and applies the next box of a chain. `false`: it is to be asked for again.
    fn record_read(
        &mut self,
        row: i64,
        content: &[u8],
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<bool, MailError> {
        let Some(reader) = self.memory.readers.get(&row) else { return Ok(false) };
        let mut chain = reader.chain.clone();
        let Side::Peer { member, .. } = chain.side else { return Ok(false) };
        let conversation = conversations::by_row(&self.profile.db, &self.profile.vault, reader.conversation)?;
        let member = members::by_row(&self.profile.db, member)?;
        let transaction = self.profile.db.unchecked_transaction()?;
        let opened = {
            let provider = provider(&self.profile, &self.crypto, &transaction);
            conversations_mls::open(&provider, &conversation.id.0, chain.leaf, content)
        };
        let record = match opened {
            Ok(bytes) => Record::from_bytes(&bytes).map_err(|error| error.0),
            Err(GroupError::Refused(why)) => Err(why),
            Err(error @ GroupError::State(_)) => return Err(error.into()),
        };
        let record = match record {
            Ok(record) => record,
            Err(why) => {
                drop(transaction);
                return self.unreadable(row, why, now);
            }
        };
        chain.next += 1;
        let over = chains::set_read(&transaction, chain.row, chain.next)?;
        if member.lost {
            self.found_again(&transaction, &conversation, &member)?;
        }
        let word = self.listen(&transaction, &conversation, &member, record.mark, &record.content, now)?;
        let applied = self.apply(&transaction, &conversation, &member, &chain, record, now)?;
        let released = self.release(&transaction, &conversation, member.contact, now)?;
        let mut ended = match &applied.end {
            Some(commit) => Some(self.chain_ended(&transaction, &conversation, &chain, commit)?),
            None if over => Some(self.chain_cut(&transaction, &conversation)?),
            None => None,
        };
        if applied.leaves {
            let entered = ended.get_or_insert_default();
            entered.regrouped = true;
            self.confirm_all(&transaction, conversation.row, &mut entered.confirmed)?;
        }
        transaction.commit()?;

        self.listened(&conversation, member.contact, word)?;
        self.owe(conversation.row, &released);
        self.settle(row, chain, applied, now, rng)?;
        if let Some(ended) = ended {
            self.went_on(conversation.row, ended)?;
        }
        self.repause(conversation.row)?;
        self.announce(released)?;
        Ok(true)
    }

    /// The box opened, so a member wrote it, but it holds no message: after some tries it is skipped.
    fn unreadable(&mut self, row: i64, why: &'static str, now: UnixMillis) -> Result<bool, MailError> {
        let Some(reader) = self.memory.readers.get_mut(&row) else { return Ok(false) };
        reader.unreadable += 1;
        if reader.unreadable < UNREADABLE_MAX {
            return Ok(false);
        }
        reader.unreadable = 0;
        let (mut chain, contact) = (reader.chain.clone(), reader.contact);
        let conversation = conversations::by_row(&self.profile.db, &self.profile.vault, reader.conversation)?;
        let transaction = self.profile.db.unchecked_transaction()?;
        chain.next += 1;
        let over = chains::set_read(&transaction, chain.row, chain.next)?;
        let released = self.release(&transaction, &conversation, contact, now)?;
        let ended = if over { Some(self.chain_cut(&transaction, &conversation)?) } else { None };
        transaction.commit()?;
        self.owe(conversation.row, &released);
        if let Some(reader) = self.memory.readers.get_mut(&row) {
            reader.chain = chain;
        }
        if let Some(ended) = ended {
            self.went_on(conversation.row, ended)?;
        }
        self.warn("unreadable_box", format!("something in conversation {} could not be read: {why}", conversation.id));
        self.announce(released)?;
        Ok(true)
    }

    fn apply(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        member: &MemberRow,
        chain: &Chain,
        record: Record,
        now: UnixMillis,
    ) -> Result<Applied, MailError> {
        let confirmed = self.confirm(transaction, conversation, member, &record.seen)?;
        let mut applied = Applied {
            confirmed,
            blob: None,
            content: false,
            refused: None,
            end: None,
            leaves: false,
            silenced: false,
            taken_back: None,
            elsewhere: None,
        };
        let (id, received, blob) = match record.content {
            Content::Receipt | Content::Proof { .. } => return Ok(applied),
            Content::Cancel { id } => {
                applied.taken_back = self.taken_back(transaction, conversation, member, MessageId(id))?;
                return Ok(applied);
            }
            Content::Leave { .. } => {
                if conversation.contact.is_none() {
                    members::set_leaving(transaction, member.row)?;
                    applied.leaves = true;
                }
                return Ok(applied);
            }
            Content::End { commit } => {
                applied.end = Some(commit);
                return Ok(applied);
            }
            Content::Text { id, sent_at, text } => (id, Received::Text { sent_at, text }, None),
            Content::Blob { id, sent_at, kind, manifest } => {
                let limit = match kind {
                    BlobKind::Text => TEXT_SIZE_MAX,
                    BlobKind::File { .. } => BLOB_SIZE_MAX,
                };
                if manifest.length() > limit {
                    applied.refused = Some("it is larger than a message may be");
                    return Ok(applied);
                }
                (id, held(sent_at, kind, &manifest, MessageId(id)), Some(manifest))
            }
        };
        let vault = &self.profile.vault;
        if contacts::by_row(transaction, vault, member.contact)?.blocked {
            // in a group: not shown, but said to be, for what was never said to be read is written again and again
            conversations::set_owing(transaction, conversation.row, true)?;
            applied.silenced = true;
            return Ok(applied);
        }
        applied.content = true;
        let id = stored::seal_in_id(vault, MessageId(id));
        let known: bool = transaction
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM message_in WHERE conversation = ?1 AND contact = ?2 AND id = ?3)",
            )?
            .query_row((conversation.row, member.contact, &id), |row| row.get(0))?;
        if known {
            // a member that uses an id twice loses the second message: an id is shown once. Of one whose content is not here yet
            // this says where it is written now
            if let Some(manifest) = blob {
                let unread = "SELECT blob FROM message_in
                    WHERE conversation = ?1 AND contact = ?2 AND id = ?3 AND blob IS NOT NULL";
                let unread: Option<i64> = transaction
                    .prepare_cached(unread)?
                    .query_row((conversation.row, member.contact, &id), |row| row.get(0))
                    .optional()?;
                let moved = unread.map_or(Ok(false), |blob| {
                    blobs_store::move_in(transaction, vault, blob, &manifest, chain.generation, now)
                })?;
                applied.elsewhere = unread.filter(|_| moved).map(|blob| (blob, chain.generation));
            }
            return Ok(applied);
        }
        let blob = blob
            .map(|manifest| {
                let (generation, stranger) = (chain.generation, conversation.request);
                blobs_store::insert_in(transaction, vault, &manifest, generation, Purpose::Message, stranger, now)
            })
            .transpose()?;
        transaction
            .prepare_cached(
                "INSERT INTO message_in (conversation, contact, chain, j, id, content, blob, received_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute((
                conversation.row,
                member.contact,
                chain.row,
                chain.next - 1,
                id,
                stored::seal_in(vault, &received),
                blob.as_ref().map(|blob| blob.row),
                now.0,
            ))?;
        conversations::touch(transaction, conversation.row, now)?;
        applied.blob = blob;
        Ok(applied)
    }

    /// Gives messages of one sender that are whole, and have nothing of the sender's held back before them, their place in
    /// the reading order, and settles the sender's chains up to there. Returns their rows.
    pub(super) fn release(
        &self,
        transaction: &Transaction<'_>,
        conversation: &Conversation,
        sender: i64,
        now: UnixMillis,
    ) -> Result<Vec<i64>, MailError> {
        let held = transaction
            .prepare_cached(
                "SELECT message, chain, j, blob IS NOT NULL FROM message_in
                 WHERE conversation = ?1 AND contact = ?2 AND cursor IS NULL ORDER BY message",
            )?
            .query_map((conversation.row, sender), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, u64>(2)?, row.get::<_, bool>(3)?))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        let mut released = Vec::new();
        let mut first_held = None;
        for (message, its_chain, j, incomplete) in held {
            if incomplete {
                first_held = Some((its_chain, j));
                break;
            }
            transaction
                .prepare_cached(
                    "UPDATE message_in SET received_at = ?2,
                        cursor = (SELECT coalesce(max(cursor), 0) + 1 FROM message_in) WHERE message = ?1",
                )?
                .execute((message, now.0))?;
            released.push(message);
        }
        chains::settle(transaction, conversation.row, sender, first_held)?;
        if !released.is_empty() {
            conversations::set_owing(transaction, conversation.row, true)?;
        }
        Ok(released)
    }

    /// After the commit: a receipt is owed for what was released.
    pub(super) fn owe(&mut self, conversation: i64, released: &[i64]) {
        if !released.is_empty() {
            self.memory.owing.entry(conversation).or_insert(None);
        }
    }

    /// After the commit: memory follows.
    fn settle(
        &mut self,
        row: i64,
        chain: Chain,
        applied: Applied,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let mut conversation = None;
        if let Some(reader) = self.memory.readers.get_mut(&row) {
            reader.chain = chain;
            reader.unreadable = 0;
            conversation = Some(reader.conversation);
        }
        if let Some(conversation) = conversation.filter(|_| applied.content) {
            self.wake(conversation, now);
        }
        if let Some(conversation) = conversation.filter(|_| applied.silenced) {
            self.memory.owing.entry(conversation).or_insert(None);
        }
        if let Some(why) = applied.refused {
            self.warn("message_refused", format!("a message was refused: {why}"));
        }
        self.confirmed(applied.confirmed);
        if let Some(blob) = applied.taken_back {
            self.memory.blobs_in.remove(&blob);
        }
        if let Some((blob, generation)) = applied.elsewhere
            && let Some(blob) = self.memory.blobs_in.get_mut(&blob)
        {
            (blob.incoming.generation, blob.incoming.since) = (generation, now);
            blob.barren = 0;
        }
        if let Some(incoming) = applied.blob {
            let blob = BlobIn::new(incoming, &[]);
            let (row, empty) = (blob.incoming.row, blob.queue.open() == 0);
            self.memory.blobs_in.insert(row, blob);
            if empty {
                self.end_blob(row, Fetched::Whole, now, rng)?;
            }
        }
        Ok(())
    }

    /// A chain is not read on while too much of its writer is held back in its conversation; and of a writer's blobs the first
    /// ones are fetched.
    pub(super) fn repause(&mut self, conversation: i64) -> Result<(), MailError> {
        let db = &self.profile.db;
        let mut statement = db.prepare_cached(
            "SELECT contact FROM message_in WHERE conversation = ?1 AND cursor IS NULL GROUP BY contact
             HAVING count(*) >= ?2",
        )?;
        let full = statement.query_map((conversation, HELD_MAX), |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
        for reader in self.memory.readers.values_mut().filter(|reader| reader.conversation == conversation) {
            reader.paused = full.contains(&reader.contact);
        }
        let mut statement = db.prepare_cached(
            "SELECT blob, row_number() OVER (PARTITION BY contact ORDER BY message) > ?2 FROM message_in
             WHERE conversation = ?1 AND blob IS NOT NULL",
        )?;
        let turns = statement.query_map((conversation, HELD_BLOBS_MAX), |row| Ok((row.get(0)?, row.get(1)?)))?;
        for turn in turns {
            let (row, waits): (i64, bool) = turn?;
            if let Some(blob) = self.memory.blobs_in.get_mut(&row)
                && std::mem::replace(&mut blob.waits, waits)
                && !waits
            {
                // its time begins
                blob.incoming.since = self.memory.latest;
                blobs_store::set_since(db, row, blob.incoming.since)?;
            }
        }
        Ok(())
    }
}
