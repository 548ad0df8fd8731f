//! Own commits: when one is due, how it is staged, written to its slot, and won.
//!
//! What is staged lies on the disk, with the body of its slot, before anything of it is sent; it is dropped only when
//! another member's commit has ended the epoch.

use super::flight::{Attempt, Flight, Purpose, slowest};
use super::wants::{launched, postpone};
use super::writing::{each, outcome};
use super::{Mail, MailError, provider};
use crate::blobs::Manifest;
use crate::chains::{self, Chain, STORED_BOTH, Side};
use crate::commit_slots::{Entry, SlotKeys, commit_hash, signed_part};
use crate::commits::{self, Draft, Invitation, Parcel};
use crate::commits_mls::{self, PAST_EPOCHS_MAX};
use crate::conversations::Conversation;
use crate::conversations_mls::GroupError;
use crate::members::{self, MemberRow};
use crate::polls::mean_gap;
use crate::want::{Rank, Want};
use crate::{blobs_store, conversations, group_epochs};
use rand::{CryptoRng, RngExt as _};
use rusqlite::Connection;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{BoxBody, WriteKey};
use shoal_protocol::consensus::Consensus;
use shoal_protocol::poisson::exponential;
use shoal_protocol::request::{Answers, Operation, Status};
use std::time::Duration;
use zeroize::Zeroizing;

/// An own commit whose slot not both replicas have.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingCommit {
    pub(super) conversation: i64,
    pub(super) blob: i64,
    pub(super) attempt: Attempt,
    /// One replica has its entry: whoever follows can find it, the second copy is not urgent.
    pub(super) held: bool,
}

impl Mail {
    /// Draws times for commits that became due: at most one a conversation, kept over a restart.
    pub(super) fn plan_commits(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        if !std::mem::take(&mut self.memory.plan) || self.rolled_back.is_some() {
            return Ok(());
        }
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        self.memory.commits_due.clear();
        for conversation in conversations::all(db, vault)? {
            if !self.may_commit(&conversation, consensus)? {
                continue;
            }
            let at = match conversation.commit_at {
                Some(at) => Some(at),
                None => self.reason_to_commit(&conversation, now, consensus)?.map(|within| match within {
                    // the more may want the same, the longer, so that most see another's commit before they write their own
                    Within::Soon(others) => {
                        now.plus(exponential(mean_gap(Rank::Hot, &consensus.parameters) * (1 + others), rng))
                    }
                    Within::Span(span) => now.plus(span.mul_f64(rng.random::<f64>())),
                }),
            };
            if let Some(at) = at {
                if conversation.commit_at.is_none() {
                    conversations::set_commit_at(db, conversation.row, Some(at))?;
                }
                self.memory.commits_due.insert(conversation.row, at);
            }
        }
        Ok(())
    }

    /// Whether the rules let us commit in this conversation now: never in a stranger's request, nor from a state that
    /// others have left, nor so far ahead of anybody who stays that their messages could not be opened.
    fn may_commit(&self, conversation: &Conversation, consensus: &Consensus) -> Result<bool, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        // SQLite counts no further; a founder may begin wherever it likes
        let last = conversation.epoch >= u64::MAX >> 2;
        if last
            || conversation.request
            || self.silent(conversation)?
            || consensus.generation(conversation.generation).is_none()
            || commits::commit_of(db, vault, conversation.row, conversation.epoch)?.is_some()
        {
            return Ok(false);
        }
        let Some(epoch) = group_epochs::of(db, vault, conversation.row, conversation.epoch)? else { return Ok(false) };
        if epoch.fetching.is_some() {
            return Ok(false);
        }
        let (change, _) = self.change(db, conversation)?;
        let stays = |member: &MemberRow| !change.remove.contains(&member.leaf);
        // none: somebody has ended this epoch, and the commit is looked for
        Ok(self.behind(conversation, stays)?.is_some_and(|behind| behind < PAST_EPOCHS_MAX as u64))
    }

    /// How many epochs the slowest of some members is behind; `None` while one of them has ended this epoch already.
    fn behind(&self, conversation: &Conversation, of: impl Fn(&MemberRow) -> bool) -> Result<Option<u64>, MailError> {
        let db = &self.profile.db;
        let reading = chains::reading(db, &self.profile.vault, conversation.row)?;
        let mut most = 0;
        for member in members::current(db, conversation.row)?.iter().filter(|member| member.follows() && of(member)) {
            let theirs = |chain: &&Chain| matches!(chain.side, Side::Peer { member: of, .. } if of == member.row);
            let Some(theirs) = reading.iter().find(theirs) else { return Ok(None) };
            most = most.max(conversation.epoch.saturating_sub(theirs.epoch));
        }
        Ok(Some(most))
    }

    fn reason_to_commit(
        &self,
        conversation: &Conversation,
        now: UnixMillis,
        consensus: &Consensus,
    ) -> Result<Option<Within>, MailError> {
        let others = u32::try_from(members::current(&self.profile.db, conversation.row)?.len()).unwrap_or(u32::MAX);
        // a card's leaf is shared by all who wrote to that card, and its secrets are kept for long: leave it at once
        if conversation.healed_at == UnixMillis(0) || self.change_waits(conversation)? {
            return Ok(Some(Within::Soon(others)));
        }
        let half = consensus.parameters.retention() / 2;
        if conversation.outdated {
            // an address was given up: within an hour of a retention of 14 days, for not all conversations are to renew their
            // keys in the moment in which another inbox begins
            return Ok(Some(Within::Span(half / 168)));
        }
        if let Some(newest) = consensus.current_generation().filter(|newest| newest.number > conversation.generation) {
            // at a random time within half the retention after the draw; who was away has what is left of it, and
            // never so little that all who come back after it commit at once
            let until = consensus.schedule().start(newest.since).plus(half);
            return Ok(Some(Within::Span(until.since(now).min(half).max(half / 32))));
        }
        // healing: every half retention (7 days), which is how long a box waits before it is written again and thus the
        // rhythm in which a conversation costs anything at all; only while it is used, and only when the others follow: the
        // other one of two, and in a group, where somebody is always away, nearly
        let healed = conversation.healed_at;
        let stale = healed.plus(half) <= now && conversation.active_at > healed;
        let follow = match conversation.contact {
            // who was lost follows nothing
            Some(_) => chains::reading(&self.profile.db, &self.profile.vault, conversation.row)?
                .first()
                .is_some_and(|theirs| theirs.epoch == conversation.epoch && theirs.next > 0),
            None => self.behind(conversation, |_| true)?.is_some_and(|behind| behind <= PAST_EPOCHS_MAX as u64 / 4),
        };
        Ok((stale && follow).then_some(Within::Span(half / 8)))
    }

    /// Stages one commit whose time has come. Says whether it wrote to the disk.
    pub(super) fn commit_due(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<bool, MailError> {
        let due = self.memory.commits_due.iter().find(|(_, at)| **at <= now).map(|(row, _)| *row);
        let Some(row) = due else { return Ok(false) };
        self.memory.commits_due.remove(&row);
        let conversation = conversations::by_row(&self.profile.db, &self.profile.vault, row)?;
        let reason = self.reason_to_commit(&conversation, now, consensus)?;
        if reason.is_none() || !self.may_commit(&conversation, consensus)? {
            conversations::set_commit_at(&self.profile.db, row, None)?;
            return Ok(false);
        }
        if self.drop_bad_cards(&conversation, now)? {
            self.memory.plan = true;
            return Ok(true);
        }
        self.stage_commit(&conversation, now, consensus, rng)?;
        Ok(true)
    }

    /// One transaction: the group's pending commit, its blob, the body of its slot.
    pub(super) fn stage_commit(
        &mut self,
        conversation: &Conversation,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let newest = consensus.current_generation().map(|generation| generation.number);
        let transaction = db.unchecked_transaction()?;
        let Some(epoch) = group_epochs::of(&transaction, vault, conversation.row, conversation.epoch)? else {
            return Ok(());
        };
        let writer = WriteKey::generate(rng);
        let (mut change, cuts) = self.change(&transaction, conversation)?;
        change.generation = newest.filter(|newest| *newest > conversation.generation);
        if !change.add.is_empty() && !change.remove.is_empty() {
            change.succession = conversations::succession(&transaction, vault, conversation.row)?;
        }
        let staged = commits_mls::stage(
            &provider(&self.profile, &self.crypto, &transaction),
            &self.profile.own,
            &writer,
            &conversation.id.0,
            &change,
            rng,
        );
        let staged = match staged {
            Ok(staged) => staged,
            Err(GroupError::Refused(_)) => {
                // cards were looked at before: the own leaf is under a key that was erased, and nobody can go on from here
                drop(transaction);
                conversations::set_broken(db, conversation.row)?;
                self.refollow(conversation.row)?;
                self.warn_broken(conversation);
                return Ok(());
            }
            Err(error @ GroupError::State(_)) => return Err(error.into()),
        };
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        let parcel = Parcel { commit: staged.commit, cuts };
        let bytes = parcel.to_bytes();
        let manifest = Manifest::of(&bytes, *secret);
        let blob = blobs_store::insert_out(&transaction, vault, &manifest, &bytes)?;
        blobs_store::activate(&transaction, blob, conversation.generation, now)?;
        let added = change.add.into_iter().map(|(person, card)| (person, card.pointer)).collect();
        let invitation = staged.welcome.map(|welcome| Invitation { welcome: Zeroizing::new(welcome), added });
        let keys = SlotKeys::new(&epoch.secret);
        let body = self.seal_entry(&transaction, conversation, &keys, epoch.slot, &manifest, rng)?;
        let draft = Draft {
            conversation: conversation.row,
            epoch: conversation.epoch,
            hash: commit_hash(&bytes),
            manifest: &manifest,
            blob,
            slot: epoch.slot,
            body: &body,
            writer: &writer,
            cuts: &parcel.cuts,
            invitation: invitation.as_ref(),
        };
        let row = commits::insert_commit(&transaction, vault, &draft)?;
        conversations::set_commit_at(&transaction, conversation.row, None)?;
        transaction.commit()?;
        let pending = PendingCommit { conversation: conversation.row, blob, attempt: Attempt::default(), held: false };
        self.memory.commits.insert(row, pending);
        self.adopt_blobs()
    }

    /// The body with which an own commit goes to a slot.
    pub(super) fn seal_entry(
        &self,
        db: &Connection,
        conversation: &Conversation,
        keys: &SlotKeys,
        slot: u64,
        manifest: &Manifest,
        rng: &mut impl CryptoRng,
    ) -> Result<BoxBody, MailError> {
        let (leaf, signature) =
            commits_mls::sign_entry(&provider(&self.profile, &self.crypto, db), &conversation.id.0, |leaf| {
                signed_part(&conversation.id.0, conversation.epoch, slot, leaf, manifest)
            })?;
        keys.seal(slot, &Entry::new(leaf, manifest.clone(), signature), rng)
            .map_err(|_| MailError::Mls("an entry does not fit into its slot".to_owned()))
    }

    pub(super) fn want_commit(
        &mut self,
        row: i64,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some(commit) = commits::commit(db, vault, row)? else {
            self.memory.commits.remove(&row);
            return Ok(None);
        };
        let Some(epoch) = group_epochs::of(db, vault, commit.conversation, commit.epoch)? else { return Ok(None) };
        // another's commit may have lain in the slot and expired while we were away: first it must be in sight again
        let (sight, retention) = (epoch.sight, consensus.parameters.retention());
        let unseen = now < sight.hold_until || !sight.lately(now, retention);
        // and what others went on from may lie in a later slot: this one would win where nobody looks any more
        let other = sight.interrupted(now, retention) && epoch.named.is_some_and(|named| named != commit.hash);
        if !commit.merged && (unseen || other) {
            if let Some(slot) = self.memory.slots.get_mut(&commit.conversation) {
                slot.hurry();
            }
            if let Some(pending) = self.memory.commits.get_mut(&row) {
                postpone(&mut pending.attempt, now, consensus, rng);
            }
            return Ok(None);
        }
        let keys = SlotKeys::new(&epoch.secret);
        let (id, signature) = (keys.id(commit.slot), keys.sign(commit.slot, &commit.body));
        // the first replica of the placement decides who wins
        let operation = Operation::PutOrdered { id, signature, body: commit.body };
        let purpose = Purpose::PutCommit { row };
        let want = self.launch(Rank::Send, epoch.generation, operation, purpose, None, now, consensus, rng);
        if let Some(pending) = self.memory.commits.get_mut(&row) {
            launched(want.as_ref(), &mut pending.attempt, now, consensus, rng);
        }
        Ok(want)
    }

    pub(super) fn slot_written(
        &mut self,
        row: i64,
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        let Some(commit) = commits::commit(&self.profile.db, &self.profile.vault, row)? else { return Ok(()) };
        let (stored, taken) = outcome(flight, answers, commit.stored);
        if let Some(pending) = self.memory.commits.get_mut(&row) {
            pending.held = stored != 0;
            pending.attempt.later(slowest(pending.held), now, &consensus.parameters, rng);
        }
        if stored != commit.stored {
            commits::set_stored(&self.profile.db, row, stored, now)?;
        }
        if stored == STORED_BOTH {
            self.memory.commits.remove(&row);
        }
        if commit.merged {
            return Ok(());
        }
        if taken {
            // by whom? What lies there decides, not the word of one replica
            if let Some(slot) = self.memory.slots.get_mut(&commit.conversation) {
                slot.hurry();
            }
            return Ok(());
        }
        let at = group_epochs::of(&self.profile.db, &self.profile.vault, commit.conversation, commit.epoch)?;
        // while something behind the slot is looked into it is not known whether anybody still reads it there
        let elsewhere = match at {
            Some(at) => at.base.is_some() || self.passed_over(commit.conversation, &at, &commit.hash, now)?,
            None => false,
        };
        if stored != 0 && !elsewhere {
            return self.won(row, now, rng);
        }
        // nor does it take anything without the replica that decides: whether that one is gone is seen by reading
        let decider = flight.placement.first();
        if !each(answers).any(|(store, answer)| Some(&store) == decider && answer.status != Status::Unavailable)
            && let Some(slot) = self.memory.slots.get_mut(&commit.conversation)
        {
            slot.hurry();
        }
        Ok(())
    }

    /// The own commit ends its epoch: the own chain ends, the group goes on. One transaction.
    pub(super) fn won(&mut self, row: i64, now: UnixMillis, rng: &mut impl CryptoRng) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let Some(commit) = commits::commit(db, vault, row)?.filter(|commit| !commit.merged) else { return Ok(()) };
        let conversation = conversations::by_row(db, vault, commit.conversation)?;
        if conversation.epoch != commit.epoch {
            return Err(MailError::Damaged("a staged commit of another epoch"));
        }
        let transaction = db.unchecked_transaction()?;
        let own = chains::writing(&transaction, vault, conversation.row)?;
        let sealed = self.seal_end(&transaction, &conversation, &own, commit.hash, rng)?;
        let of_card = self.of_card(&transaction, &own, conversation.row)?;
        let led = commits_mls::merge_staged(
            &provider(&self.profile, &self.crypto, &transaction),
            &conversation.id.0,
            of_card,
        )?;
        commits::set_merged(&transaction, vault, row)?;
        // a leaf that says whose successor its owner is does so only until the next commit, which is due sooner then
        let half = self.profile.network().parameters.retention() / 2;
        let healed = if conversation.outdated { now.minus(half).max(UnixMillis(1)) } else { now };
        conversations::set_healed(&transaction, conversation.row, healed)?;
        if let Some(before) = self.profile.own.by_row(conversation.own_key).filter(|key| key.public() != led.begun.own)
        {
            let word = (before.public(), before.sign_succession(&led.begun.own));
            conversations::set_succession(&transaction, vault, conversation.row, &word)?;
        }
        let letters = self.letters_to_added(&transaction, &commit, led.begun.context.generation, now, rng)?;
        let (cuts, writer) = (&commit.cuts, &commit.writer);
        let entered = self.next_epoch(&transaction, &conversation, &led, cuts, writer, &commit.hash, now)?;
        transaction.commit()?;
        self.sealed(&sealed);
        self.memory.letters.extend(letters);
        self.adopt_blobs()?;
        self.went_on(conversation.row, entered)
    }
}

/// When a commit that is due is drawn.
enum Within {
    /// So many others may have the same reason.
    Soon(u32),
    Span(Duration),
}
