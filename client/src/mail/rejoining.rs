//! Back in a conversation: a member adds us again.

use super::epochs::Entered;
use super::fetching::Taken;
use super::parts::{BlobIn, Brings};
use super::{ConversationId, Mail, MailError, Standing, provider, stored};
use crate::blobs_store;
use crate::contacts::{self, Succeeded};
use crate::conversations::{self, requests_max};
use crate::conversations_mls::{self, Begun};
use crate::leaves_mls::Member;
use crate::{chains, commits_mls, group_epochs, members};
use shoal_protocol::UnixMillis;

/// Welcomes that wait until we are out of the group to which they bring us back. Each costs whoever sent it the work of a letter;
/// they must not fill the place of others.
const WELCOMES_WAIT_MAX: usize = 16;
/// Of these to one group: many of its members may be one person.
const WELCOMES_WAIT_HERE_MAX: usize = 4;

impl Mail {
    /// A member adds us again to a conversation: to one that we cannot follow any more, and then it has to be a member as we
    /// knew them; or to a group that we were removed from or left, which is as if we had never been in it. While we are in it
    /// the Welcome waits: the commit that removes us may not be read yet.
    pub(super) fn rejoin(
        &mut self,
        blob: &BlobIn,
        welcome: &[u8],
        begun: &Begun,
        inviter: &Member,
        now: UnixMillis,
    ) -> Result<Taken, MailError> {
        let (db, vault, own) = (&self.profile.db, &self.profile.vault, &self.profile.own);
        let transaction = db.unchecked_transaction()?;
        let id = begun.group_id.as_slice().try_into().map(ConversationId);
        let known = id.map_or(Ok(None), |id| conversations::by_id(&transaction, vault, id))?;
        let known = known.filter(|known| {
            begun.epoch > known.together_until()
                && begun.context.generation == blob.incoming.generation
                && begun.context.name.is_some() == known.contact.is_none()
        });
        // who was away may have missed that the inviter has another address
        let before = inviter.former.map_or(Ok(None), |former| contacts::by_inbox(&transaction, vault, &former))?;
        let moved = match &before {
            Some(before) => {
                contacts::succeed(&transaction, vault, before.row, &inviter.inbox, now)? != Succeeded::Known
            }
            None => false,
        };
        let contact = contacts::by_inbox(&transaction, vault, &inviter.inbox)?;
        let blocked = contact.as_ref().is_some_and(|contact| contact.blocked);
        let known = known.filter(|_| !blocked);
        let stranger = contact.as_ref().is_none_or(|contact| !contact.known);
        let here = known.as_ref().filter(|known| matches!(known.standing, Standing::Member | Standing::Left));
        let asked = match (here, &contact) {
            (Some(here), Some(contact)) if stranger => {
                members::of_contact(&transaction, here.row, contact.row)?.is_some()
            }
            _ => !stranger,
        };
        if let (Some(here), Some(contact)) = (here.filter(|_| asked), &contact) {
            let (row, lost) = (here.row, here.standing == Standing::Left && here.parted_epoch.is_some());
            let brings = Brings { conversation: row, contact: contact.row, epoch: begun.epoch };
            // of each member's to a group the newest counts: who writes many takes no place from others
            let others = self.memory.blobs_in.iter().filter_map(|(other, blob)| Some((blob.brings?, *other)));
            let theirs = others.filter(|(other, _)| (other.conversation, other.contact) == (row, contact.row));
            let theirs = theirs.map(|(other, blob)| (other.epoch, blob));
            let (older, newer): (Vec<_>, Vec<_>) = theirs.partition(|other| *other < (brings.epoch, blob.incoming.row));
            let waiting = || self.memory.blobs_in.values().filter_map(|other| other.brings);
            let here = waiting().filter(|other| other.conversation == row).count() - older.len();
            let room = here < WELCOMES_WAIT_HERE_MAX && waiting().count() - older.len() < WELCOMES_WAIT_MAX;
            if newer.is_empty() && (lost || room) {
                drop(transaction);
                for (_, older) in older {
                    blobs_store::delete_in(&self.profile.db, older)?;
                    self.memory.blobs_in.remove(&older);
                }
                if lost {
                    // who left, and of whom nobody may be left on the own way to remove them
                    self.put_out(row)?;
                } else if let Some(slot) = self.memory.slots.get_mut(&row) {
                    slot.hurry();
                }
                return Ok(Taken::NotYet { brings });
            }
        }
        let provider = provider(&self.profile, &self.crypto, &transaction);
        let admitted = match (known, contact) {
            (Some(known), Some(contact)) if known.standing == Standing::Away => {
                let member = members::of_contact(&transaction, known.row, contact.row)?;
                let own = chains::writing(&transaction, vault, known.row)?;
                let keep = self.of_card(&transaction, &own, known.row)?;
                commits_mls::forget(&provider, &known.id.0, keep)?;
                let request = known.request;
                member.map(|_| (known, request))
            }
            // but not to one that was refused, nor beyond the room for requests
            (Some(known), _) if known.standing == Standing::Removed && !known.request => {
                let people = conversations::requests(&transaction)?.saturating_add(begun.others.len() as u64);
                let most = requests_max(&self.profile.network().parameters, self.profile.class());
                let unwanted = begun.own != own.public();
                // who left by themselves is asked
                let request = stranger || known.quit;
                Some((known, request)).filter(|_| !stranger || (people <= most && !unwanted))
            }
            _ => None,
        };
        let joined = match admitted {
            Some((known, request)) => {
                let (begun, _) = conversations_mls::join(&provider, own, welcome)?;
                let writer = conversations_mls::own_writer(&provider, &begun.group_id)?;
                self.card_writer(&transaction, &writer)?.map(|writer| (known, request, begun, writer))
            }
            None => None,
        };
        drop(provider);
        let Some((conversation, request, begun, writer)) = joined else {
            drop(transaction);
            blobs_store::delete_in(&self.profile.db, blob.incoming.row)?;
            return Ok(Taken::Done);
        };
        let row = conversation.row;
        let away = conversation.standing == Standing::Away;
        let gone = if away { self.forget_state(&transaction, &conversation)?.commits } else { Vec::new() };
        if away {
            stored::unseal_all(&transaction, row)?;
        }
        conversations::rejoin(&transaction, vault, row, &begun, &writer, request, now)?;
        group_epochs::set_touched(&transaction, row, begun.epoch, self.out_of_sight(now))?;
        members::set_inviter(&transaction, row, inviter.leaf)?;
        blobs_store::delete_in(&transaction, blob.incoming.row)?;
        transaction.commit()?;
        // what was on its way in the old state is not in memory any more
        self.reload()?;
        let moved = before.filter(|_| moved).map(|before| before.row).into_iter().collect();
        self.went_on(row, Entered { gone, regrouped: true, moved, ..Entered::default() })?;
        if away {
            self.warn("added_again", format!("conversation {} goes on: a member has added you again", conversation.id));
        }
        Ok(Taken::Done)
    }
}
