//! Own invites: made, looked after until somebody uses them, forgotten.
//!
//! Whoever uses one leaves a claim in its chain, and then a pointer to a Welcome in a box that only the claimer can fill. The
//! user made the invite for one person: what comes through it is no request.

use super::flight::{InviteReader, PendingBox, Purpose};
use super::parts::BlobIn;
use super::writing::each;
use super::{Mail, MailError, provider};
use crate::blobs::WELCOME_SIZE_MAX;
use crate::conversations_mls::Begun;
use crate::inbox_letter::Pointer;
use crate::invites::{self, Made};
use crate::names::Name;
use crate::polls::{class, mean_gap};
use crate::want::{Rank, Want};
use crate::{blobs_store, chains, contacts, key_packages_mls, offer};
use rand::CryptoRng;
use rusqlite::Transaction;
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{self, BoxBody, WriteKey};
use shoal_protocol::consensus::Consensus;
use shoal_protocol::invite::{CLAIM_BOX, Invite, WELCOME_BOX};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::request::{Answers, Operation, Status};
use std::time::Duration;
use zeroize::Zeroizing;

/// Own invites that may be open at a time: each is a poll every ten minutes when it is older than a day, and before that two a
/// minute, which take no more than what [`crate::budget`] leaves them.
pub const INVITES_MAX: u64 = 64;

/// An own invite, as the user sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteInfo {
    /// Names it on this machine.
    pub number: u64,
    /// `shoal-invite1…`; whoever has it can use it.
    pub text: Zeroizing<String>,
    /// What whoever uses it will be called.
    pub name: Option<String>,
    /// Until then it can be used.
    pub ends_at: UnixMillis,
    /// Somebody uses it just now.
    pub claimed: bool,
}

impl std::fmt::Debug for InviteInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InviteInfo({}, text redacted)", self.number)
    }
}

impl Mail {
    /// Makes an invite for one person, for half the retention.
    ///
    /// # Errors
    /// [`MailError::NoDocument`] before the first document came; when too many are open, or the name cannot be used.
    pub fn invite(
        &mut self,
        name: Option<&str>,
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<InviteInfo, MailError> {
        if let Some(conversation) = self.rolled_back {
            return Err(MailError::RolledBack(conversation));
        }
        let generation = self.memory.generation.ok_or(MailError::NoDocument)?;
        let name = name.map(str::parse::<Name>).transpose()?;
        let (db, vault, inbox) = (&self.profile.db, &self.profile.vault, self.profile.own.current());
        if let Some(name) = &name
            && (contacts::by_name(db, vault, name.as_str())?.is_some() || self.names_a_group(name)?)
        {
            return Err(MailError::Name(name.as_str().to_owned(), "another contact or a group has it"));
        }
        if invites::count_made(db, now)? >= INVITES_MAX {
            return Err(MailError::QueueFull { waiting: INVITES_MAX, unit: "invites" });
        }
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let network = self.profile.network();
        let end = now.plus(network.parameters.retention() / 2);
        let invite = Invite::new(inbox.public(), seed, generation, end, &network.genesis_hash());
        let (key, secret) = invite.keys();
        let writer = WriteKey::generate(rng);

        let transaction = db.unchecked_transaction()?;
        let (package, reference) = key_packages_mls::make_key_package(
            &provider(&self.profile, &self.crypto, &transaction),
            inbox,
            &writer,
            rng,
        )?;
        let parts = offer::write(&package).map_err(|error| MailError::Mls(error.to_string()))?;
        let chain = chains::insert_one_time(&transaction, vault, generation, &secret, &key, 0)?.row;
        let mut boxes = Vec::with_capacity(parts.len());
        for part in &parts {
            let chain = chains::by_row(&transaction, vault, chain)?;
            boxes.push(chains::push_sealed(&transaction, &chain, part, rng)?);
        }
        let new = invites::New { invite: &invite, name: name.as_ref(), writer: &writer, package: &reference, chain };
        let row = invites::insert_made(&transaction, vault, &new, now)?;
        transaction.commit()?;

        for sealed in boxes {
            self.memory.boxes.insert(sealed, PendingBox::new(chain, false));
        }
        let made = invites::made(&self.profile.db, &self.profile.vault, row)?;
        let made = made.ok_or(MailError::Damaged("an invite is gone"))?;
        self.memory.invites.insert(row, InviteReader::new(&made));
        Ok(self.invite_info(&made))
    }

    /// Own invites that nobody has used and that are not over.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn invites(&self, now: UnixMillis) -> Result<Vec<InviteInfo>, MailError> {
        let all = invites::all_made(&self.profile.db, &self.profile.vault)?;
        Ok(all.iter().filter(|made| made.ends_at > now).map(|made| self.invite_info(made)).collect())
    }

    /// Takes an own invite back, by claiming it: whoever uses it from now on is told that it was used. Who has claimed it
    /// already gets no answer.
    ///
    /// # Errors
    /// [`MailError::NoInvite`].
    pub fn withdraw(&mut self, number: u64, rng: &mut impl CryptoRng) -> Result<(), MailError> {
        let row = i64::try_from(number).map_err(|_| MailError::NoInvite(number))?;
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let made = invites::made(db, vault, row)?.ok_or(MailError::NoInvite(number))?;
        let transaction = db.unchecked_transaction()?;
        let mut claimed = None;
        if made.claim.is_none() && self.rolled_back.is_none() {
            // behind what is offered, which is written on: whoever uses the invite looks for that first
            let chain = chains::skip_to(&transaction, vault, made.chain, CLAIM_BOX)?;
            let nobody = WriteKey::generate(rng).public();
            let sealed = chains::push_sealed(&transaction, &chain, nobody.as_bytes(), rng)?;
            claimed = Some((sealed, chain.row));
        }
        let gone = self.erase_made(&transaction, &made, false, claimed.is_some())?;
        transaction.commit()?;
        self.made_forgotten(&made, &gone);
        if let Some((sealed, chain)) = claimed {
            self.memory.boxes.insert(sealed, PendingBox::new(chain, false));
        }
        Ok(())
    }

    fn invite_info(&self, made: &Made) -> InviteInfo {
        let own = &self.profile.own;
        // one that was made under an address given up since is that address's
        let (inbox, network) =
            (own.by_row(made.own_key).unwrap_or(own.current()).public(), self.profile.network().genesis_hash());
        let invite = Invite::new(inbox, made.seed.clone(), made.generation, made.ends_at, &network);
        InviteInfo {
            number: u64::try_from(made.row).unwrap_or_default(),
            text: invite.text(),
            name: made.name.as_ref().map(|name| name.as_str().to_owned()),
            ends_at: made.ends_at,
            claimed: made.claim.is_some(),
        }
    }

    /// Looks whether an invite was claimed, or for the pointer of who claimed it.
    pub(super) fn want_claim(
        &mut self,
        row: i64,
        rank: Rank,
        now: UnixMillis,
        consensus: &Consensus,
        rng: &mut impl CryptoRng,
    ) -> Option<Want> {
        let reader = self.memory.invites.get_mut(&row)?;
        let parameters = &consensus.parameters;
        // whoever has claimed one is about to write; but it may be a machine that went off
        let pace = if reader.claim.is_some() { class(reader.active_at, now, parameters) } else { rank };
        reader.clock.wind(mean_gap(pace, parameters), now, rng);
        let (id, generation, welcome) = (reader.id(), reader.generation, reader.claim.is_some());
        let purpose = Purpose::GetClaim { invite: row, welcome };
        self.launch(rank, generation, Operation::Get { id }, purpose, None, now, consensus, rng)
    }

    pub(super) fn claim_read(
        &mut self,
        row: i64,
        welcome: bool,
        answers: Option<&Answers>,
        now: UnixMillis,
        consensus: &Consensus,
    ) -> Result<(), MailError> {
        let found = each(answers).filter(|(_, answer)| answer.status == Status::Found);
        let bodies: Vec<BoxBody> = found.filter_map(|(_, answer)| answer.body.clone()).collect();
        let Some(reader) = self.memory.invites.get(&row).filter(|reader| reader.claim.is_some() == welcome) else {
            return Ok(());
        };
        let made = invites::made(&self.profile.db, &self.profile.vault, row)?;
        // a body that does not open is a lie of a replica
        let Some(plaintext) = bodies.iter().find_map(|body| reader.open(body)) else {
            let late = reader.ends_at.plus(consensus.parameters.retention() / 4);
            let looked = each(answers).any(|(_, answer)| answer.status == Status::Empty);
            // over, and looked at after the end: who was away for long finds what was written meanwhile
            return match made.filter(|_| looked && late < now) {
                Some(made) => self.forget_made(&made),
                None => Ok(()),
            };
        };
        let Some(made) = made else {
            self.memory.invites.remove(&row);
            return Ok(());
        };
        if welcome {
            self.welcome_pointed_to(&made, &plaintext, now, consensus)
        } else {
            self.claimed(&made, &plaintext, now)
        }
    }

    /// Somebody uses the invite: only who named this key can write what follows.
    fn claimed(&mut self, made: &Made, plaintext: &[u8], now: UnixMillis) -> Result<(), MailError> {
        let Ok(claim) = offer::read_claim(plaintext) else { return self.spoilt(made) };
        invites::set_claim(&self.profile.db, &self.profile.vault, made.row, &claim)?;
        if let Some(reader) = self.memory.invites.get_mut(&made.row) {
            reader.claim = Some(claim);
            reader.active_at = now;
            reader.clock.ring(now);
        }
        Ok(())
    }

    /// The pointer to the Welcome is here.
    fn welcome_pointed_to(
        &mut self,
        made: &Made,
        plaintext: &[u8],
        now: UnixMillis,
        consensus: &Consensus,
    ) -> Result<(), MailError> {
        let length = 1..=WELCOME_SIZE_MAX;
        let pointer = Pointer::parse(plaintext).filter(|pointer| length.contains(&pointer.manifest.length()));
        let Some(pointer) = pointer else { return self.spoilt(made) };
        if consensus.generation(pointer.generation).is_none() {
            let newest = consensus.generations.last().map_or(0, |generation| generation.number);
            // the other side may hold a newer document
            return if pointer.generation > newest { Ok(()) } else { self.spoilt(made) };
        }
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let transaction = db.unchecked_transaction()?;
        let incoming = blobs_store::insert_in(
            &transaction,
            vault,
            &pointer.manifest,
            pointer.generation,
            blobs_store::Purpose::Welcome,
            false,
            now,
        )?;
        invites::set_welcome(&transaction, made.row, incoming.row)?;
        transaction.commit()?;
        self.memory.invites.remove(&made.row);
        self.memory.blobs_in.insert(incoming.row, BlobIn::new(incoming, &[]));
        Ok(())
    }

    /// Whoever used the invite wrote what nobody can use.
    pub(super) fn spoilt(&mut self, made: &Made) -> Result<(), MailError> {
        self.forget_made(made)?;
        let whom = made.name.as_ref().map_or_else(String::new, |name| format!(" for {}", name.as_str()));
        self.warn(
            "invite_spoilt",
            format!("the invite{whom} was used, but what came cannot be read; make another one"),
        );
        Ok(())
    }

    /// The user invited whoever this conversation is with.
    pub(super) fn welcomed(
        &self,
        transaction: &Transaction<'_>,
        made: &Made,
        begun: &Begun,
    ) -> Result<Vec<i64>, MailError> {
        let vault = &self.profile.vault;
        for member in &begun.others {
            let contact = contacts::of_member(transaction, vault, &member.inbox)?;
            contacts::set_known(transaction, contact)?;
            let unnamed = contacts::by_row(transaction, vault, contact)?.name.is_none();
            if let (Some(name), true) = (&made.name, unnamed)
                && contacts::by_name(transaction, vault, name.as_str())?.is_none()
                && !self.names_a_group(name)?
            {
                contacts::set_name(transaction, vault, contact, name)?;
            }
        }
        self.erase_made(transaction, made, true, false)
    }

    /// Forgets an own invite: its key package opens nothing any more. What it offers lies where it is until it expires.
    pub(super) fn forget_made(&mut self, made: &Made) -> Result<(), MailError> {
        let transaction = self.profile.db.unchecked_transaction()?;
        let boxes = self.erase_made(&transaction, made, false, false)?;
        transaction.commit()?;
        self.made_forgotten(made, &boxes);
        Ok(())
    }

    /// `withdrawn`: its boxes are written on, without their invite. Returns those that are not.
    fn erase_made(
        &self,
        transaction: &Transaction<'_>,
        made: &Made,
        joined: bool,
        withdrawn: bool,
    ) -> Result<Vec<i64>, MailError> {
        let provider = provider(&self.profile, &self.crypto, transaction);
        key_packages_mls::forget_key_package(&provider, &made.package, joined)?;
        invites::delete_made(transaction, made.row)?;
        if let Some(welcome) = made.welcome {
            blobs_store::delete_in(transaction, welcome)?;
        }
        if withdrawn { Ok(Vec::new()) } else { chains::delete(transaction, made.chain) }
    }

    /// After the commit: memory follows.
    pub(super) fn made_forgotten(&mut self, made: &Made, boxes: &[i64]) {
        self.memory.boxes.retain(|row, _| !boxes.contains(row));
        self.memory.invites.remove(&made.row);
        if let Some(welcome) = made.welcome {
            self.memory.blobs_in.remove(&welcome);
        }
    }

    /// Invites of which nothing can lie in any store any more, and claims of withdrawn ones that have no place.
    pub(super) fn end_invites(
        &mut self,
        now: UnixMillis,
        half: Duration,
        consensus: &Consensus,
    ) -> Result<(), MailError> {
        for (chain, generation) in invites::nothings(&self.profile.db)? {
            if consensus.generation(generation).is_none() {
                let boxes = chains::delete(&self.profile.db, chain)?;
                self.memory.boxes.retain(|row, _| !boxes.contains(row));
            }
        }
        for made in invites::made_in_vain(&self.profile.db, &self.profile.vault)? {
            self.spoilt(&made)?;
        }
        let before = now.minus(half.saturating_mul(2));
        for made in invites::all_made(&self.profile.db, &self.profile.vault)? {
            if made.ends_at < before && made.welcome.is_none() {
                self.forget_made(&made)?;
            }
        }
        Ok(())
    }
}

impl InviteReader {
    /// Nothing is read once the Welcome is being fetched.
    pub(super) fn new(made: &Made) -> Self {
        let (writer, secret) = made.keys();
        Self {
            secret,
            writer: writer.public(),
            generation: made.generation,
            active_at: made.made_at,
            ends_at: made.ends_at,
            claim: made.claim,
            clock: crate::polls::PollClock::default(),
        }
    }

    /// The class in which it is looked at: fresh invites are used soon. None is hot: whoever has it is a stranger.
    pub(super) fn class(&self, now: UnixMillis, parameters: &Parameters) -> Rank {
        class(self.active_at, now, parameters).max(Rank::Warm)
    }

    /// The box that is looked at now.
    fn id(&self) -> boxes::BoxId {
        match &self.claim {
            None => boxes::id(&self.writer, &self.secret, CLAIM_BOX),
            Some(claim) => boxes::id(claim, &self.secret, WELCOME_BOX),
        }
    }

    fn open(&self, body: &BoxBody) -> Option<Zeroizing<Vec<u8>>> {
        let index = if self.claim.is_some() { WELCOME_BOX } else { CLAIM_BOX };
        boxes::open(&self.secret, index, &self.id(), body).ok().map(Zeroizing::new)
    }
}
