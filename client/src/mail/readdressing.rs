//! The own address is given up for another one, and what contacts' clients learn of it.
//!
//! Who is in a conversation learns the new address from the next commit, whose leaf both keys have signed; everybody else
//! knows the old one only.

use super::{Event, Mail, MailError, RateClass};
use crate::contacts;
use crate::own_keys::{self, FORMER_MAX, FORMER_READ_MAX};
use rand::{CryptoRng, RngExt as _};
use shoal_protocol::UnixMillis;
use shoal_protocol::inbox::InboxKey;

impl Mail {
    /// Takes another address and returns it. Members of conversations follow; strangers who write to the old one are not
    /// heard. Contacts who write there are, for a while that is drawn between half the retention and all of it: else who
    /// watches the stores would see the reading of one inbox end where that of another begins.
    ///
    /// # Errors
    /// [`MailError::Address`]; when the profile is an older copy of itself or fails.
    pub fn new_address(&mut self, now: UnixMillis, rng: &mut impl CryptoRng) -> Result<String, MailError> {
        if let Some(conversation) = self.rolled_back {
            return Err(MailError::RolledBack(conversation));
        }
        let db = &self.profile.db;
        let [normal, low] = FORMER_READ_MAX;
        let most = if self.profile.class() == RateClass::Low { low } else { normal };
        if self.active_keys(now)?.len() > most || self.profile.own.former().len() >= FORMER_MAX {
            return Err(MailError::Address("too many addresses were given up lately"));
        }
        let retention = self.profile.network().parameters.retention();
        let read_until = now.plus(retention.mul_f64(0.5 + rng.random::<f64>() / 2.0));
        let transaction = db.unchecked_transaction()?;
        own_keys::insert(&transaction, &self.profile.vault, &InboxKey::generate(rng), read_until)?;
        transaction.commit()?;
        self.profile.own = own_keys::load(&self.profile.db, &self.profile.vault)?;
        self.memory.plan = true;
        Ok(self.address())
    }

    /// Conversations whose other members have not heard of the own address yet.
    ///
    /// # Errors
    /// When the profile fails.
    pub fn moving(&self) -> Result<u64, MailError> {
        own_keys::moving(&self.profile.db)
    }

    /// The own keys whose inboxes are read and whose cards are published.
    pub(super) fn active_keys(&self, now: UnixMillis) -> Result<Vec<i64>, MailError> {
        let own = &self.profile.own;
        let awaited = if own.former().is_empty() { Vec::new() } else { own_keys::awaited(&self.profile.db)? };
        Ok(own.active(&awaited, now))
    }

    /// Erases the keys of addresses that were given up and that nothing needs any more.
    pub(super) fn forget_former_keys(&mut self, now: UnixMillis) -> Result<(), MailError> {
        let transaction = self.profile.db.unchecked_transaction()?;
        if own_keys::forget(&transaction, now)? {
            transaction.commit()?;
            self.profile.own = own_keys::load(&self.profile.db, &self.profile.vault)?;
        }
        Ok(())
    }

    /// Somebody has another address now.
    pub(super) fn moved(&mut self, contact: i64) -> Result<(), MailError> {
        // their card lies elsewhere
        if let Some(fetch) = self.memory.cards.get_mut(&contact).filter(|fetch| fetch.invite.is_none()) {
            fetch.turn();
        }
        let found = contacts::by_row(&self.profile.db, &self.profile.vault, contact)?;
        // in the same words each time: who moves again and again fills nobody's notices
        if let Some(name) = &found.name {
            self.warn("new_address", format!("{name} has another address now, which the one before it signed"));
        }
        let info = self.contact_info(contact)?;
        self.emit(Event::Contact(info));
        Ok(())
    }
}
