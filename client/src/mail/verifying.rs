//! Safety numbers of contacts: computed, compared, and noted as compared.

use super::{ContactInfo, Event, Mail, MailError};
use crate::contacts;
use shoal_protocol::address::Address;
use shoal_protocol::safety_number::{Claimed, SafetyNumber};

/// The safety number of a contact, and what came of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Who. A person who is no contact yet is shown as a stranger.
    pub contact: ContactInfo,
    /// The number that both sides must see.
    pub number: SafetyNumber,
}

impl Mail {
    /// The safety number of somebody: a contact's name or any address.
    ///
    /// # Errors
    /// When nobody is meant.
    pub fn safety_number(&self, who: &str) -> Result<Verification, MailError> {
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let (contact, inbox) = match who.parse::<Address>() {
            Ok(address) => {
                let contact = contacts::by_inbox(db, vault, address.inbox())?;
                // by whatever address somebody is named: the number is that of the one of now
                let inbox = contact.as_ref().map_or(*address.inbox(), |contact| contact.inbox);
                (contact, inbox)
            }
            Err(_) => {
                let contact = contacts::by_name(db, vault, who)?.ok_or_else(|| MailError::Unknown(who.to_owned()))?;
                let inbox = contact.inbox;
                (Some(contact), inbox)
            }
        };
        if self.profile.own.is_own(&inbox) {
            return Err(MailError::Oneself);
        }
        let own = self.profile.own.public();
        let contact = match contact {
            Some(contact) => self.contact_info(contact.row)?,
            None => {
                let address = Address::new(inbox).to_string();
                let name = address.clone();
                ContactInfo { name, address, conversation: None, request: false, blocked: false, verified: false }
            }
        };
        let number = SafetyNumber::of(&own, &inbox, &self.profile.network().genesis_hash());
        Ok(Verification { contact, number })
    }

    /// Notes that the user has compared a contact's safety number. With `claimed`, what the other side sees, only if it
    /// matches.
    ///
    /// # Errors
    /// [`MailError::Mismatch`]; when nobody is meant, or who is meant is no contact yet.
    pub fn verify(&mut self, who: &str, claimed: Option<&Claimed>) -> Result<Verification, MailError> {
        let found = self.compare(who, claimed)?;
        let (db, vault) = (&self.profile.db, &self.profile.vault);
        let address: Address = found.contact.address.parse().map_err(|_| MailError::Unknown(who.to_owned()))?;
        let contact =
            contacts::by_inbox(db, vault, address.inbox())?.ok_or_else(|| MailError::Unknown(who.to_owned()))?;
        contacts::set_verified(db, vault, contact.row, &found.number.code())?;
        let info = self.contact_info(contact.row)?;
        self.emit(Event::Contact(info.clone()));
        Ok(Verification { contact: info, ..found })
    }

    /// The safety number of somebody, if it is what the other side sees.
    ///
    /// # Errors
    /// [`MailError::Mismatch`]; when nobody is meant.
    pub fn compare(&self, who: &str, claimed: Option<&Claimed>) -> Result<Verification, MailError> {
        let found = self.safety_number(who)?;
        match claimed {
            Some(claimed) if !found.number.matches(claimed) => Err(MailError::Mismatch(found.contact.name)),
            Some(_) | None => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::RateClass;
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::UnixMillis;

    #[test]
    fn both_sides_see_one_number_and_confirming_it_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let (network, mut rng) = (crate::testing::network(), StdRng::seed_from_u64(1));
        let mut mail = |name| Mail::create(&folder.path().join(name), &network, RateClass::Normal, &mut rng).unwrap();
        let (mut ann, bob, eve) = (mail("ann"), mail("bob"), mail("eve"));
        // before they know each other
        let theirs = bob.safety_number(&ann.address()).unwrap();
        assert_eq!(ann.safety_number(&bob.address()).unwrap().number, theirs.number);
        assert!(matches!(ann.safety_number(&ann.address()), Err(MailError::Oneself)));
        assert!(matches!(ann.safety_number("bob"), Err(MailError::Unknown(_))));
        assert!(matches!(ann.verify(&bob.address(), None), Err(MailError::Unknown(_))), "no contact yet");

        ann.add("bob", &bob.address(), UnixMillis(0), &mut rng).unwrap();
        ann.add("eve", &eve.address(), UnixMillis(0), &mut rng).unwrap();
        let right: Claimed = theirs.number.words().parse().unwrap();
        let wrong: Claimed = eve.safety_number(&bob.address()).unwrap().number.digits().parse().unwrap();
        assert!(matches!(ann.verify("bob", Some(&wrong)), Err(MailError::Mismatch(name)) if name == "bob"));
        assert!(ann.contacts().unwrap().iter().all(|contact| !contact.verified));
        ann.take_events();
        assert!(ann.compare("bob", Some(&right)).is_ok_and(|found| !found.contact.verified), "only compared");
        assert!(ann.verify("bob", Some(&right)).unwrap().contact.verified);
        assert!(matches!(ann.take_events().as_slice(), [Event::Contact(contact)] if contact.verified));
        drop(ann);
        let ann = Mail::open(&folder.path().join("ann")).unwrap();
        let verified: Vec<bool> = ann.contacts().unwrap().iter().map(|contact| contact.verified).collect();
        assert_eq!(verified, [true, false]);
    }
}
