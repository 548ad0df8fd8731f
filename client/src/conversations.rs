//! Conversations, of two and of many: a table of the profile. The group itself lies in OpenMLS's tables
//! ([`crate::conversations_mls`]), who is in it in `members`.

use crate::chains::{self, Side};
use crate::commit_slots::commit_secret;
use crate::commits_mls::Led;
use crate::contacts::Succeeded;
use crate::conversations_mls::{Begun, chain_secret};
use crate::leaves_mls::Member;
use crate::mail::{ConversationId, MailError, RateClass, Standing};
use crate::names::Name;
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use crate::{commits, contacts, group_epochs, members, own_keys};
use rusqlite::{Connection, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::inbox::InboxPublic;
use shoal_protocol::parameters::Parameters;

const GROUP: &str = "conversation.group_id";
const NAME: &str = "conversation.name";
const SUCCESSION: &str = "conversation.succession";
/// Most people in requests that wait for the user's answer, however fast the client is.
pub const REQUESTS_MAX: u64 = 256;

/// Most people in requests that wait for the user's answer, 31 in one for a large group; further requests are dropped until
/// some are answered. Their chains, polled at the idle pace, get at most a quarter of the payload ticks: 2/s × 600 s ÷ 4 = 300 in production,
/// 0.05/s × 600 s ÷ 4 = 7 in its low class.
#[must_use]
pub fn requests_max(parameters: &Parameters, class: RateClass) -> u64 {
    let millihertz = match class {
        RateClass::Normal => parameters.lambda_p.0,
        RateClass::Low => parameters.lambda_low.0,
    };
    (u64::from(millihertz).saturating_mul(parameters.poll_idle_ms) / 4_000_000).clamp(1, REQUESTS_MAX)
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) row: i64,
    /// The other member of two; `None`: a group.
    pub(crate) contact: Option<i64>,
    /// Name of a group.
    pub(crate) name: Option<Name>,
    pub(crate) standing: Standing,
    pub(crate) id: ConversationId,
    /// A stranger's, not accepted.
    pub(crate) request: bool,
    /// Last activity, either way.
    pub(crate) active_at: UnixMillis,
    /// Group epoch of the MLS state.
    pub(crate) epoch: u64,
    /// Generation of that epoch.
    pub(crate) generation: u32,
    /// Since when the keys of the own leaf are in use; 0: they are a card's, which others joined with too.
    pub(crate) healed_at: UnixMillis,
    /// Row of the own key whose the own leaf is.
    pub(crate) own_key: i64,
    /// That is an address's that was given up.
    pub(crate) outdated: bool,
    /// An own commit is due then.
    pub(crate) commit_at: Option<UnixMillis>,
    /// The members applied different commits, or can agree on none: nothing is read or sent.
    pub(crate) broken: bool,
    /// The first epoch of which members ended with different commits.
    pub(crate) parted_epoch: Option<u64>,
    /// The user left it: who adds us again asks.
    pub(crate) quit: bool,
}

impl Conversation {
    /// The last epoch in which all members were known to be together: a Welcome of a later one is no old one. Epochs of two ways
    /// cannot be compared.
    pub(crate) fn together_until(&self) -> u64 {
        self.parted_epoch.map_or(self.epoch, |parted| parted.min(self.epoch))
    }
    /// Whether anything may be written in it, now or once a request is accepted.
    pub(crate) fn lives(&self) -> bool {
        !self.broken && self.standing == Standing::Member
    }
    /// Whether what was written may still be sealed: who leaves says so last.
    pub(crate) fn speaks(&self) -> bool {
        !self.broken && matches!(self.standing, Standing::Member | Standing::Left)
    }
}

type RawLast = (i64, bool, Option<u64>, bool);

impl Sealed for Conversation {
    type Raw =
        ((i64, Option<i64>, Option<Vec<u8>>, u8), (Vec<u8>, bool, u64, u64, u32, u64, Option<u64>, bool, RawLast));
    const SELECT: &'static str = "SELECT conversation, contact, name, standing, group_id, request, active_at, epoch,
        generation, healed_at, commit_at, broken, own_key,
        own_key < (SELECT max(own_key) FROM own_key), parted_epoch, quit FROM conversation";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        let state = (row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?);
        let (group, request, active_at, epoch) = state;
        let rest = (
            group,
            request,
            active_at,
            epoch,
            row.get(8)?,
            row.get(9)?,
            row.get(10)?,
            row.get(11)?,
            (row.get(12)?, row.get(13)?, row.get(14)?, row.get(15)?),
        );
        Ok(((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?), rest))
    }

    fn open(vault: &Vault, raw: Self::Raw) -> Result<Self, MailError> {
        const DAMAGED: MailError = MailError::Damaged("a conversation does not open");
        let ((row, contact, name, standing), rest) = raw;
        let (group, request, active_at, epoch, generation, healed_at, commit_at, broken, last) = rest;
        let (own_key, outdated, parted_epoch, quit) = last;
        let id = vault.open(GROUP, &group).ok().and_then(|bytes| <[u8; 16]>::try_from(bytes.as_slice()).ok());
        let name = name
            .map(|sealed| {
                let bytes = vault.open(NAME, &sealed).map_err(|_| DAMAGED)?;
                std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).ok_or(DAMAGED)
            })
            .transpose()?;
        Ok(Self {
            row,
            contact,
            name,
            standing: match standing {
                0 => Standing::Member,
                1 => Standing::Left,
                2 => Standing::Removed,
                _ => Standing::Away,
            },
            id: ConversationId(id.ok_or(DAMAGED)?),
            request,
            active_at: UnixMillis(active_at),
            epoch,
            generation,
            healed_at: UnixMillis(healed_at),
            own_key,
            outdated,
            parted_epoch,
            quit,
            commit_at: commit_at.map(UnixMillis),
            broken,
        })
    }
}

pub(crate) fn by_row(db: &Connection, vault: &Vault, row: i64) -> Result<Conversation, MailError> {
    rows::one(db, vault, "WHERE conversation = ?1", [row])
}

pub(crate) fn by_id(db: &Connection, vault: &Vault, id: ConversationId) -> Result<Option<Conversation>, MailError> {
    rows::find(db, vault, "WHERE group_id = ?1", [vault.seal(GROUP, &id.0)])
}

pub(crate) fn all(db: &Connection, vault: &Vault) -> Result<Vec<Conversation>, MailError> {
    rows::all(db, vault, "ORDER BY conversation", [])
}

/// All conversations with a contact, the one to write to first: the lowest id, which both sides choose alike when each
/// founded one at the same time.
pub(crate) fn of_contact(db: &Connection, vault: &Vault, contact: i64) -> Result<Vec<Conversation>, MailError> {
    let mut found: Vec<Conversation> = rows::all(db, vault, "WHERE contact = ?1", [contact])?;
    found.sort_by_key(|conversation| conversation.id);
    Ok(found)
}

/// Conversations that somebody is in, those of two first.
pub(crate) fn with(db: &Connection, vault: &Vault, contact: i64) -> Result<Vec<Conversation>, MailError> {
    let mut found = of_contact(db, vault, contact)?;
    let groups = "WHERE contact IS NULL AND conversation IN (
        SELECT conversation FROM member WHERE contact = ?1 AND left_at IS NULL) ORDER BY conversation";
    found.extend(rows::all::<Conversation>(db, vault, groups, [contact])?);
    Ok(found)
}

/// Whether a conversation has this group id.
pub(crate) fn known(db: &Connection, vault: &Vault, group_id: &[u8]) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM conversation WHERE group_id = ?1)")?
        .query_row([vault.seal(GROUP, group_id)], |row| row.get(0))?)
}

/// How a conversation begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// We founded it, with a fresh leaf.
    Founded,
    /// We joined it with the leaf of a card.
    Joined {
        /// As the request of a stranger.
        request: bool,
    },
}

/// Keeps a conversation that begins, with the chains of its first epoch: with a contact, or of a group.
pub(crate) fn insert(
    db: &Connection,
    vault: &Vault,
    begun: &Begun,
    writer: &WriteKey,
    origin: Origin,
    now: UnixMillis,
) -> Result<Conversation, MailError> {
    let (request, healed_at) = match origin {
        Origin::Founded => (false, now),
        Origin::Joined { request } => (request, UnixMillis(0)),
    };
    let contact = match (&begun.context.name, begun.others.first()) {
        (None, Some(peer)) => Some(contacts::of_member(db, vault, &peer.inbox)?),
        _ => None,
    };
    db.prepare_cached(
        "INSERT INTO conversation (contact, group_id, epoch, generation, request, active_at, healed_at, own_key)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute((
        contact,
        vault.seal(GROUP, &begun.group_id),
        begun.epoch,
        begun.context.generation,
        request,
        now.0,
        healed_at.0,
        own_keys::row_of(db, vault, &begun.own)?,
    ))?;
    let row = db.last_insert_rowid();
    set_name(db, vault, row, begun.context.name.as_ref())?;
    insert_epoch(db, vault, row, begun, writer, now)?;
    by_row(db, vault, row)
}

/// What the key that the own leaf was under before says of the present one, while anybody may have missed it.
pub(crate) fn succession(
    db: &Connection,
    vault: &Vault,
    row: i64,
) -> Result<Option<(InboxPublic, [u8; 64])>, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a succession does not open");
    let sealed: Option<Vec<u8>> = db
        .prepare_cached("SELECT succession FROM conversation WHERE conversation = ?1")?
        .query_row([row], |row| row.get(0))?;
    let Some(sealed) = sealed else { return Ok(None) };
    let bytes = vault.open(SUCCESSION, &sealed).map_err(|_| DAMAGED)?;
    let (former, signature) = bytes.split_first_chunk::<32>().ok_or(DAMAGED)?;
    let former = InboxPublic::parse(*former).map_err(|_| DAMAGED)?;
    Ok(Some((former, signature.try_into().map_err(|_| DAMAGED)?)))
}

pub(crate) fn set_succession(
    db: &Connection,
    vault: &Vault,
    row: i64,
    (former, signature): &(InboxPublic, [u8; 64]),
) -> Result<(), MailError> {
    let sealed = vault.seal(SUCCESSION, &[former.as_bytes().as_slice(), signature].concat());
    db.prepare_cached("UPDATE conversation SET succession = ?2 WHERE conversation = ?1")?.execute((row, sealed))?;
    Ok(())
}

fn set_name(db: &Connection, vault: &Vault, row: i64, name: Option<&Name>) -> Result<(), MailError> {
    let sealed = name.map(|name| vault.seal(NAME, name.as_str().as_bytes()));
    db.prepare_cached("UPDATE conversation SET name = ?2 WHERE conversation = ?1")?.execute((row, sealed))?;
    Ok(())
}

/// The group has come to another epoch: its chains begin, and its slots. Of the chains of those who were removed counts
/// what comes before their `cuts`. Returns the contacts who have another address now, and whether two of them became one.
pub(crate) fn enter(
    db: &Connection,
    vault: &Vault,
    row: i64,
    led: &Led,
    cuts: &[commits::Cut],
    writer: &WriteKey,
    now: UnixMillis,
) -> Result<(Vec<i64>, bool), MailError> {
    let begun = &led.begun;
    let (mut moved, mut merged) = (Vec::new(), false);
    for member in members::current(db, row)?.iter().filter(|member| led.moved.contains(&member.leaf)) {
        let next = begun.others.iter().find(|other| other.leaf == member.leaf).map(|other| other.inbox);
        let Some(next) = next else { continue };
        match contacts::succeed(db, vault, member.contact, &next, now)? {
            Succeeded::Known => {}
            Succeeded::Moved => moved.push(member.contact),
            Succeeded::Merged => {
                moved.push(member.contact);
                merged = true;
            }
        }
    }
    for member in members::current(db, row)?.iter().filter(|member| led.removed.contains(&member.leaf)) {
        let cut = cuts.iter().find(|cut| cut.leaf == member.leaf).map(|cut| cut.at);
        // a commit without a cut is refused before it comes here
        let cut = cut.map_or_else(|| chains::read_to(db, member.row), Ok)?;
        members::leave(db, member.row, cut, now)?;
    }
    db.prepare_cached("UPDATE conversation SET epoch = ?2, generation = ?3, commit_at = NULL WHERE conversation = ?1")?
        .execute((row, begun.epoch, begun.context.generation))?;
    set_name(db, vault, row, begun.context.name.as_ref())?;
    insert_epoch(db, vault, row, begun, writer, now)?;
    Ok((moved, merged))
}

fn insert_epoch(
    db: &Connection,
    vault: &Vault,
    row: i64,
    begun: &Begun,
    writer: &WriteKey,
    now: UnixMillis,
) -> Result<(), MailError> {
    members::forget_told(db, row)?;
    db.prepare_cached("UPDATE conversation SET own_key = ?2 WHERE conversation = ?1")?
        .execute((row, own_keys::row_of(db, vault, &begun.own)?))?;
    let known = members::current(db, row)?;
    let mut sides = vec![(begun.own_leaf, Side::Own(writer.clone()))];
    for Member { leaf, inbox, writer, .. } in &begun.others {
        let member = match known.iter().find(|member| member.leaf == *leaf) {
            Some(member) if member.astray => continue,
            Some(member) => member.row,
            None => members::insert(db, row, contacts::of_member(db, vault, inbox)?, *leaf, begun.epoch)?,
        };
        sides.push((*leaf, Side::Peer { member, writer: *writer }));
    }
    let generation = begun.context.generation;
    for (leaf, side) in sides {
        let secret = chain_secret(&begun.exported, leaf);
        chains::insert(db, vault, Some(row), begun.epoch, leaf, generation, &secret, &side)?;
    }
    group_epochs::insert(db, vault, row, begun.epoch, generation, &commit_secret(&begun.exported), now)
}

/// The profile was added to a conversation again that it could not follow: all but the row is new.
pub(crate) fn rejoin(
    db: &Connection,
    vault: &Vault,
    row: i64,
    begun: &Begun,
    writer: &WriteKey,
    request: bool,
    now: UnixMillis,
) -> Result<(), MailError> {
    members::leave_all(db, row, now)?;
    db.prepare_cached(
        "UPDATE conversation SET epoch = ?2, generation = ?3, active_at = ?4, standing = 0, broken = 0, healed_at = 0,
            commit_at = NULL, owing = 0, parted_epoch = NULL, quit = 0, request = ?5 WHERE conversation = ?1",
    )?
    .execute((row, begun.epoch, begun.context.generation, now.0, request))?;
    set_name(db, vault, row, begun.context.name.as_ref())?;
    insert_epoch(db, vault, row, begun, writer, now)
}

/// Forgets a conversation in which nobody else ever spoke: all rows of it but its messages.
pub(crate) fn delete(db: &Connection, row: i64) -> Result<(), MailError> {
    for table in ["proof_owed", "chain", "member", "group_epoch", "conversation"] {
        db.execute(&format!("DELETE FROM {table} WHERE conversation = ?1"), [row])?;
    }
    Ok(())
}

pub(crate) fn set_standing(db: &Connection, row: i64, standing: Standing) -> Result<(), MailError> {
    let number = match standing {
        Standing::Member => 0,
        Standing::Left => 1,
        Standing::Removed => 2,
        Standing::Away => 3,
    };
    db.prepare_cached("UPDATE conversation SET standing = ?2, commit_at = NULL WHERE conversation = ?1")?
        .execute((row, number))?;
    Ok(())
}

pub(crate) fn set_commit_at(db: &Connection, row: i64, at: Option<UnixMillis>) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET commit_at = ?2 WHERE conversation = ?1")?
        .execute((row, at.map(|at| at.0)))?;
    Ok(())
}

pub(crate) fn set_healed(db: &Connection, row: i64, at: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET healed_at = ?2 WHERE conversation = ?1")?.execute((row, at.0))?;
    Ok(())
}

pub(crate) fn set_broken(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET broken = 1, commit_at = NULL WHERE conversation = ?1")?
        .execute([row])?;
    Ok(())
}

/// Members went different ways at the end of this epoch.
pub(crate) fn set_parted(db: &Connection, row: i64, epoch: u64) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE conversation SET parted_epoch = min(coalesce(parted_epoch, ?2), ?2) WHERE conversation = ?1",
    )?
    .execute((row, epoch))?;
    Ok(())
}

/// We are in it no more; what counts from here on is when all were together last.
pub(crate) fn set_out(db: &Connection, row: i64, together_until: u64) -> Result<(), MailError> {
    set_standing(db, row, Standing::Removed)?;
    db.prepare_cached("UPDATE conversation SET epoch = ?2, broken = 0, parted_epoch = NULL WHERE conversation = ?1")?
        .execute((row, together_until))?;
    Ok(())
}

pub(crate) fn set_quit(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET quit = 1 WHERE conversation = ?1")?.execute([row])?;
    Ok(())
}

pub(crate) fn set_owing(db: &Connection, row: i64, owing: bool) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET owing = ?2 WHERE conversation = ?1")?.execute((row, owing))?;
    Ok(())
}

/// Conversations whose members were not told of a message that was shown.
pub(crate) fn owing(db: &Connection) -> Result<Vec<i64>, MailError> {
    let mut statement = db.prepare_cached("SELECT conversation FROM conversation WHERE owing = 1")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// People in requests that wait for the user's answer.
pub(crate) fn requests(db: &Connection) -> Result<u64, MailError> {
    let sum = "SELECT count(*) FROM member JOIN conversation USING (conversation) WHERE request = 1 AND standing = 0 AND left_at IS NULL";
    Ok(db.query_row(sum, [], |row| row.get(0))?)
}

/// Requests that the user has not answered.
pub(crate) fn unanswered(db: &Connection) -> Result<u64, MailError> {
    let count = "SELECT count(*) FROM conversation v LEFT JOIN contact c ON c.contact = v.contact
        WHERE request = 1 AND standing = 0 AND broken = 0 AND coalesce(c.blocked, 0) = 0";
    Ok(db.query_row(count, [], |row| row.get(0))?)
}

/// The user wants the conversations of two with a contact.
pub(crate) fn accept(db: &Connection, contact: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET request = 0, commit_at = NULL WHERE contact = ?1 AND request = 1")?
        .execute([contact])?;
    Ok(())
}

/// The user wants a group.
pub(crate) fn accept_group(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET request = 0, commit_at = NULL WHERE conversation = ?1 AND request = 1")?
        .execute([row])?;
    Ok(())
}

/// The user refused a group: a request for ever, in which nobody waits.
pub(crate) fn refuse_group(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET request = 1 WHERE conversation = ?1")?.execute([row])?;
    Ok(())
}

/// Groups by a name that a user may have given or heard.
pub(crate) fn groups_named(db: &Connection, vault: &Vault, name: &str) -> Result<Vec<Conversation>, MailError> {
    rows::all(db, vault, "WHERE name = ?1 ORDER BY conversation", [vault.seal(NAME, name.as_bytes())])
}

pub(crate) fn touch(db: &Connection, conversation: i64, now: UnixMillis) -> Result<(), MailError> {
    db.prepare_cached("UPDATE conversation SET active_at = ?2 WHERE conversation = ?1")?
        .execute((conversation, now.0))?;
    Ok(())
}
