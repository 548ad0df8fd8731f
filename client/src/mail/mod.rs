//! The whole user-facing state of a client over one profile: what is wanted of the network, and what its answers mean.
//!
//! [`Mail`] knows no clock, no socket and no random generator of its own (OpenMLS draws from the system's). Contract:
//!
//! - [`Mail::next_want`] once per tick of the payload clock, ahead of the tick: it may write to the disk;
//! - [`Mail::departed`] when the packet of a want went onto the link, before its answer;
//! - [`Mail::answered`] once for every want, with what came back or `None` when nothing did by the deadline;
//! - commands at any time; after them and after `next_want`, [`Mail::take_events`] says what changed.
//!
//! What an event says, and what a want carries, is on disk before it is handed out. All else lives in memory and is
//! rebuilt from the profile: dropping a `Mail` at any point loses nothing and shows nothing twice.

mod cancelling;
mod cards;
mod choosing;
mod commands;
mod committing;
mod epochs;
mod fetching;
mod first_contact;
mod flight;
mod forks;
mod groups;
mod groups_change;
mod inboxes;
mod invited;
mod invites;
mod letters;
#[cfg(test)]
mod malice;
#[cfg(test)]
mod malice_commits;
#[cfg(test)]
mod malice_forks;
#[cfg(test)]
mod malice_groups;
#[cfg(test)]
mod malice_last_words;
mod meant;
mod parts;
mod proofs;
mod readdressing;
mod receiving;
mod rejoining;
mod sending;
mod showing;
mod slots;
mod stored;
mod timeline;
mod types;
mod unfound;
#[cfg(test)]
mod unfound_tests;
mod upkeep;
mod verifying;
mod wants;
#[cfg(test)]
#[allow(dead_code, reason = "the model of the integration tests, of which these need a part")]
#[path = "../../tests/mail/world.rs"]
mod world;
mod writing;

pub use crate::notices::Notice;
pub use groups::Accepted;
pub use invites::{INVITES_MAX, InviteInfo};
pub use timeline::{
    Overview, OwnMessage, TIMELINE_ENTRIES_MAX, TIMELINE_TEXT_MAX, Timeline, TimelineEntry, TimelineMessage,
    TimelineSide, UNSEEN_MAX,
};
pub use types::*;
pub use verifying::Verification;

use crate::budget::Budget;
use crate::chains::{self, Chain};
use crate::conversations_mls::{GroupError, Provider};
use crate::marks::Marks;
use crate::profile::{Opener, Profile, ProfileId, Protector, evidence};
use crate::want::{Ticket, Want};
use crate::{
    blobs_store, contacts, conversations, group_changes, invites as own_invites, marks_heard, members, notices,
    proofs_owed,
};
use flight::{Flight, InviteReader, Memory, PendingBox, Purpose, Reader};
use openmls_rust_crypto::RustCrypto;
use parts::{BlobIn, BlobOut};
use rand::CryptoRng;
use shoal_protocol::UnixMillis;
use shoal_protocol::address::Address;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::network::{Hints, NetworkFile};
use shoal_protocol::request::Answers;
use std::collections::VecDeque;
use std::path::Path;

/// Events that wait to be taken; the oldest is dropped beyond. One step makes at most a few hundred (a blob that
/// arrives releases what it held back), and all of them can be read from the profile again.
const EVENTS_MAX: usize = 4_096;
/// Setting: the conversation that proved this profile to be an older copy of itself.
const ROLLED_BACK: &str = "mail.rolled_back";
/// Setting: how far plain `read` has shown messages.
const READ_CURSOR: &str = "mail.read_cursor";

/// The user-facing state. See the module for its contract.
pub struct Mail {
    profile: Profile,
    crypto: RustCrypto,
    memory: Memory,
    budget: Budget,
    events: VecDeque<Event>,
    last_ticket: u64,
    rolled_back: Option<ConversationId>,
    /// The authorities are proven to have contradicted themselves.
    network_forked: bool,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mail").field("profile", &self.profile).field("out", &self.memory.flights.len()).finish()
    }
}

impl Mail {
    /// Makes a profile in `dir` (0700) and opens it.
    ///
    /// # Errors
    /// [`MailError::Exists`], [`MailError::Locked`], and what the disk says.
    pub fn create(
        dir: &Path,
        network: &NetworkFile,
        class: RateClass,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, MailError> {
        Self::create_with(dir, network, class, &Protector::File, rng)
    }

    /// As [`Mail::create`], protected by something else than the mode of a file.
    ///
    /// # Errors
    /// As [`Mail::create`]; [`MailError::NoMemory`].
    pub fn create_with(
        dir: &Path,
        network: &NetworkFile,
        class: RateClass,
        protector: &Protector,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, MailError> {
        let id = ProfileId::random(rng);
        Self::create_as(dir, id, network, class, protector, rng)
    }

    /// As [`Mail::create_with`], under an id that a keyring knows already.
    ///
    /// # Errors
    /// As [`Mail::create_with`].
    pub fn create_as(
        dir: &Path,
        id: ProfileId,
        network: &NetworkFile,
        class: RateClass,
        protector: &Protector,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, MailError> {
        Self::over(Profile::create(dir, network, class, id, protector, rng)?)
    }

    /// Opens the profile in `dir` and locks it until this is dropped.
    ///
    /// # Errors
    /// [`MailError::Missing`], [`MailError::Locked`], [`MailError::Moved`], [`MailError::Sealed`],
    /// [`MailError::Newer`], [`MailError::Damaged`], and what the disk says.
    pub fn open(dir: &Path) -> Result<Self, MailError> {
        Self::open_with(dir, &Opener::File)
    }

    /// As [`Mail::open`], for a profile that a passphrase or a keyring closes. A passphrase takes about a second.
    ///
    /// # Errors
    /// As [`Mail::open`]; [`MailError::WrongKey`].
    pub fn open_with(dir: &Path, opener: &Opener) -> Result<Self, MailError> {
        Self::over(Profile::open(dir, opener)?)
    }

    fn over(profile: Profile) -> Result<Self, MailError> {
        let rolled_back = profile
            .setting(ROLLED_BACK)?
            .map(|bytes| bytes.as_slice().try_into().map(ConversationId))
            .transpose()
            .map_err(|_| MailError::Damaged("a setting"))?;
        // a crash may have come before the files
        evidence::keep_noted(&profile)?;
        let mut mail = Self {
            network_forked: evidence::kept(profile.dir()).is_some(),
            profile,
            crypto: RustCrypto::default(),
            memory: Memory::default(),
            budget: Budget::default(),
            events: VecDeque::new(),
            last_ticket: 0,
            rolled_back,
        };
        mail.reload()?;
        Ok(mail)
    }

    /// The next want, for the tick that comes. `None`: nothing is wanted, the tick sends a decoy. At most 64 wants are
    /// out at a time.
    ///
    /// # Errors
    /// When the profile fails. The state in memory has then been rebuilt from the disk; wants that were out are
    /// forgotten (their answers will be ignored) and asked again.
    pub fn next_want(
        &mut self,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Want>, MailError> {
        let result = self.choose(now, consensus, rng);
        self.rebuilt_on_error(result)
    }

    /// What became of a want. `None`: no reply by the deadline, or the request could not be made. Tickets that are not
    /// out are ignored.
    ///
    /// # Errors
    /// As [`Mail::next_want`].
    pub fn answered(
        &mut self,
        ticket: Ticket,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<Event>, MailError> {
        if let Some(flight) = self.memory.flights.remove(&ticket) {
            let result = self.landed(&flight, answers, now, consensus, rng);
            self.rebuilt_on_error(result)?;
            self.work();
        }
        Ok(self.take_events())
    }

    fn landed(
        &mut self,
        flight: &Flight,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Result<(), MailError> {
        match &flight.purpose {
            Purpose::PutBox { row } => self.box_written(*row, flight, answers, now, consensus, rng),
            Purpose::Contested { row } => self.contest_answered(*row, flight, answers, now, consensus, rng),
            Purpose::PutPart { blob, j } => self.part_written(*blob, *j, flight, answers, now, consensus, rng),
            Purpose::Append { letter } => self.letter_appended(*letter, flight, answers, now, consensus, rng),
            Purpose::GetBox { chain, j } => self.box_read(*chain, *j, answers, now, consensus, rng),
            Purpose::GetPart { blob, j } => self.part_read(*blob, *j, answers, now, consensus, rng),
            Purpose::GetCard { contact, place, j } => {
                self.card_read(*contact, *place, *j, answers, now, consensus, rng)
            }
            Purpose::GetClaim { invite, welcome } => self.claim_read(*invite, *welcome, answers, now, consensus),
            Purpose::ReadInbox { own_key, generation, after } => {
                self.inbox_read((*own_key, *generation), *after, answers, now, consensus, rng)
            }
            Purpose::PutCommit { row } => self.slot_written(*row, flight, answers, now, consensus, rng),
            Purpose::GetSlot { conversation, epoch, slot } => {
                self.slot_read((*conversation, *epoch, *slot), flight, answers, now, consensus, rng)
            }
        }
    }

    /// What changed since the last call (and the last [`Mail::answered`]).
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    /// The network this profile belongs to.
    #[must_use]
    pub fn network(&self) -> &NetworkFile {
        self.profile.network()
    }
    /// Takes up the hints of a newer network file of this network; they are on disk when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_hints(&mut self, hints: Hints) -> Result<(), MailError> {
        self.profile.set_hints(hints)
    }
    /// From the next start on the client sends at the rate of this class; whoever watches its link sees the change.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn set_rate_class(&mut self, class: RateClass) -> Result<(), MailError> {
        self.profile.set_class(class)
    }
    /// The rate class.
    #[must_use]
    pub fn rate_class(&self) -> RateClass {
        self.profile.class()
    }
    /// The profile's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.profile.dir()
    }
    /// The own address, `shoal1…`.
    #[must_use]
    pub fn address(&self) -> String {
        Address::new(self.profile.own.public()).to_string()
    }
    /// The conversation that proved this profile to be an older copy of itself: nothing is sent while this is set.
    #[must_use]
    pub fn rolled_back(&self) -> Option<ConversationId> {
        self.rolled_back
    }

    /// A small value of another part of the client (guard gateways, newest consensus), sealed at rest. The secret of a
    /// session is none of them: it lives in memory alone.
    /// Names beginning with `mail.` are the state's own.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn get_setting(&self, name: &str) -> Result<Option<Vec<u8>>, MailError> {
        Ok(self.profile.setting(name)?.map(|value| value.to_vec()))
    }
    /// Stores such a value; it is on disk when this returns.
    ///
    /// # Errors
    /// When the profile fails, or the value is longer than 4 MiB.
    pub fn set_setting(&mut self, name: &str, value: &[u8]) -> Result<(), MailError> {
        self.profile.set_setting(name, value)
    }

    // ---- for the parts of this folder ----

    fn emit(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Tells the user something, now and until it was seen.
    fn warn(&mut self, code: &'static str, message: impl Into<String>) {
        let message = message.into();
        let kept = notices::insert(&self.profile.db, &self.profile.vault, code, &message, self.memory.latest);
        // what cannot be kept is said all the same: whatever ails the profile, the next step tells
        drop(kept);
        self.emit(Event::Warning { code, message });
    }

    /// What the user was told and has not seen, oldest first; at most 16.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn notices(&self) -> Result<Vec<Notice>, MailError> {
        notices::all(&self.profile.db, &self.profile.vault)
    }
    /// The user has seen them up to this number.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn notices_seen(&mut self, number: u64) -> Result<(), MailError> {
        notices::seen(&self.profile.db, number)
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// Whether nothing is read or sent in a conversation any more: it is over, or the other member of two is blocked.
    fn silent(&self, conversation: &conversations::Conversation) -> Result<bool, MailError> {
        if !conversation.lives() {
            return Ok(true);
        }
        conversation.contact.map_or(Ok(false), |contact| self.is_blocked(contact))
    }

    fn is_blocked(&self, contact: i64) -> Result<bool, MailError> {
        Ok(contacts::by_row(&self.profile.db, &self.profile.vault, contact)?.blocked)
    }

    /// After a failed step memory may be ahead of the disk, which alone counts.
    fn rebuilt_on_error<T>(&mut self, result: Result<T, MailError>) -> Result<T, MailError> {
        if result.is_err() {
            self.reload()?;
        }
        result
    }

    /// Rebuilds what lives in memory from the profile. Clocks are drawn anew: no burst after a restart.
    fn reload(&mut self) -> Result<(), MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let owing = conversations::owing(db)?.into_iter().map(|row| (row, None)).collect();
        let mut memory = Memory {
            unsealed: true,
            plan: true,
            owing,
            generation: self.memory.generation,
            latest: self.memory.latest,
            marks: Marks::load(db, vault)?,
            heard: marks_heard::load_heard(db, vault)?,
            owed: proofs_owed::load(db, vault)?,
            ..Memory::default()
        };
        for (row, chain, held) in chains::unstored(db)? {
            memory.boxes.insert(row, PendingBox::new(chain, held));
        }
        for outgoing in blobs_store::unstored_out(db, vault)? {
            memory.blobs_out.insert(outgoing.row, BlobOut::new(&outgoing));
        }
        for (incoming, here) in blobs_store::all_in(db, vault)? {
            let before = self.memory.blobs_in.get(&incoming.row);
            memory.blobs_in.insert(incoming.row, BlobIn::new(incoming, &here).continuing(before));
        }
        for (row, letter) in stored::letters(db)? {
            memory.letters.insert(row, letter);
        }
        for contact in contacts::all(db, vault)? {
            if let (Some(since), false) = (contact.wanted_at, contact.blocked)
                && let Some(fetch) = invited::card_fetch(db, vault, contact.row, since)?
            {
                memory.cards.insert(contact.row, fetch);
            }
        }
        for contact in group_changes::without_card(db)? {
            let fetch = invited::card_fetch(db, vault, contact, self.memory.latest)?;
            if let (None, Some(fetch)) = (memory.cards.get(&contact), fetch) {
                memory.cards.insert(contact, fetch);
            }
        }
        memory.pointers = own_invites::pointers(db)?.into_iter().collect();
        for made in own_invites::all_made(db, vault)?.iter().filter(|made| made.welcome.is_none()) {
            memory.invites.insert(made.row, InviteReader::new(made));
        }
        self.memory = memory;
        for conversation in conversations::all(&self.profile.db, &self.profile.vault)? {
            self.refollow(conversation.row)?;
            self.repause(conversation.row)?;
        }
        Ok(())
    }
}

impl From<GroupError> for MailError {
    fn from(error: GroupError) -> Self {
        Self::Mls(error.to_string())
    }
}

/// Hands a chain to whoever follows it from now on.
fn follow(
    memory: &mut Memory,
    db: &rusqlite::Connection,
    chain: Chain,
    conversation: &conversations::Conversation,
) -> Result<(), MailError> {
    if let chains::Side::Peer { member, .. } = chain.side {
        let contact = members::by_row(db, member)?.contact;
        let reader = Reader::new(chain, contact, conversation);
        memory.readers.insert(reader.chain.row, reader);
    }
    Ok(())
}

fn provider<'a>(profile: &Profile, crypto: &'a RustCrypto, db: &'a rusqlite::Connection) -> Provider<'a> {
    Provider::new(crypto, db, &profile.vault)
}

/// Compile-time proof that the state may move to a thread of its own.
const _: fn() = || {
    fn may_move<T: Send>() {}
    may_move::<Mail>();
};
