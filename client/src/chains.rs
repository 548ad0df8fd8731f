//! Chains: the boxes that one member writes in one group epoch, and the sealed boxes that wait for their replicas and
//! their reader. Tables of the profile; a card lies on a chain too (without conversation, write key = inbox key).

use crate::mail::MailError;
use crate::profile::Vault;
use rusqlite::{Connection, OptionalExtension as _, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{self, BoxBody, BoxId, ChainSecret, WriteKey, WritePublic};
use shoal_protocol::inbox::InboxKey;

const SECRET: &str = "chain.secret";
const WRITER: &str = "chain.writer";
/// Both replicas have it.
pub(crate) const STORED_BOTH: u8 = 0b11;

/// Whose chain it is.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    /// Ours, with the key that fills its boxes.
    Own(WriteKey),
    /// Ours: the card's, filled with the inbox key.
    OwnCard,
    /// A peer's.
    Peer(WritePublic),
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) row: i64,
    pub(crate) conversation: Option<i64>,
    pub(crate) epoch: u64,
    pub(crate) leaf: u32,
    pub(crate) generation: u32,
    pub(crate) secret: ChainSecret,
    pub(crate) side: Side,
    /// Next box to seal (own) or to read.
    pub(crate) next: u64,
    /// Peer's: boxes before it are in front of the user.
    pub(crate) shown: u64,
    /// Peer's: a message was shown that the peer was not told of.
    pub(crate) owing: bool,
}

impl Chain {
    /// Id of box `j`.
    pub(crate) fn id(&self, j: u64, inbox: &InboxKey) -> BoxId {
        let writer = match &self.side {
            Side::Own(key) => key.public(),
            Side::OwnCard => inbox.write_key().public(),
            Side::Peer(writer) => *writer,
        };
        boxes::id(&writer, &self.secret, j)
    }

    /// Signature over the body of box `j`; `None` for a peer's chain.
    pub(crate) fn sign(&self, j: u64, body: &BoxBody, inbox: &InboxKey) -> Option<[u8; 64]> {
        let key = match &self.side {
            Side::Own(key) => key,
            Side::OwnCard => inbox.write_key(),
            Side::Peer(_) => return None,
        };
        Some(boxes::sign(key, &self.secret, j, body))
    }
}

const COLUMNS: &str =
    "SELECT c.chain, c.conversation, c.epoch, c.leaf, c.own, c.generation, c.secret, c.writer, c.next, c.shown, c.owing
     FROM chain c";

type Raw = (i64, Option<i64>, u64, u32, bool, u32, Vec<u8>, Vec<u8>, u64, u64, bool);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
        row.get(8)?,
        row.get(9)?,
        row.get(10)?,
    ))
}

fn decode(vault: &Vault, raw: Raw) -> Result<Chain, MailError> {
    const DAMAGED: MailError = MailError::Damaged("a chain does not open");
    let (row, conversation, epoch, leaf, own, generation, secret, writer, next, shown, owing) = raw;
    let open = |context, sealed: &[u8]| -> Result<[u8; 32], MailError> {
        vault.open(context, sealed).map_err(|_| DAMAGED)?.as_slice().try_into().map_err(|_| DAMAGED)
    };
    let side = match (own, conversation) {
        (true, Some(_)) => Side::Own(WriteKey::from_seed(&zeroize::Zeroizing::new(open(WRITER, &writer)?))),
        (true, None) => Side::OwnCard,
        (false, _) => Side::Peer(WritePublic::parse(open(WRITER, &writer)?).map_err(|_| DAMAGED)?),
    };
    let secret = ChainSecret::from_bytes(open(SECRET, &secret)?);
    Ok(Chain { row, conversation, epoch, leaf, generation, secret, side, next, shown, owing })
}

#[expect(clippy::too_many_arguments, reason = "one argument a column")]
pub(crate) fn insert(
    db: &Connection,
    vault: &Vault,
    conversation: Option<i64>,
    epoch: u64,
    leaf: u32,
    generation: u32,
    secret: &ChainSecret,
    side: &Side,
) -> Result<i64, MailError> {
    let (own, writer) = match side {
        Side::Own(key) => (true, vault.seal(WRITER, key.seed().as_slice())),
        Side::OwnCard => (true, Vec::new()),
        Side::Peer(writer) => (false, vault.seal(WRITER, writer.as_bytes())),
    };
    db.prepare_cached(
        "INSERT INTO chain (conversation, epoch, leaf, own, generation, secret, writer)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((conversation, epoch, leaf, own, generation, vault.seal(SECRET, secret.as_bytes()), writer))?;
    Ok(db.last_insert_rowid())
}

pub(crate) fn by_row(db: &Connection, vault: &Vault, row: i64) -> Result<Chain, MailError> {
    let found = db.prepare_cached(&format!("{COLUMNS} WHERE chain = ?1"))?.query_row([row], raw)?;
    decode(vault, found)
}

/// The chain that we write in a conversation now, or the one that we read.
pub(crate) fn current(db: &Connection, vault: &Vault, conversation: i64, own: bool) -> Result<Chain, MailError> {
    let found = db
        .prepare_cached(&format!("{COLUMNS} WHERE conversation = ?1 AND own = ?2 ORDER BY epoch DESC LIMIT 1"))?
        .query_row((conversation, own), raw)?;
    decode(vault, found)
}

/// Our chain of one epoch of a conversation.
pub(crate) fn own_of_epoch(
    db: &Connection,
    vault: &Vault,
    conversation: i64,
    epoch: u64,
) -> Result<Option<Chain>, MailError> {
    db.prepare_cached(&format!("{COLUMNS} WHERE conversation = ?1 AND own = 1 AND epoch = ?2"))?
        .query_row((conversation, epoch), raw)
        .optional()?
        .map(|found| decode(vault, found))
        .transpose()
}

/// Whether a conversation is written with the write key of this seed.
pub(crate) fn writes(db: &Connection, vault: &Vault, seed: &[u8]) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM chain WHERE own = 1 AND conversation IS NOT NULL AND writer = ?1)",
        )?
        .query_row([vault.seal(WRITER, seed)], |row| row.get(0))?)
}

/// All chains that are read and whose peer is not blocked.
pub(crate) fn followed(db: &Connection, vault: &Vault) -> Result<Vec<Chain>, MailError> {
    let mut statement = db.prepare_cached(&format!(
        "{COLUMNS} JOIN conversation v ON v.conversation = c.conversation JOIN contact p ON p.contact = v.contact
         WHERE c.own = 0 AND p.blocked = 0 ORDER BY c.chain"
    ))?;
    let rows = statement.query_map([], raw)?.collect::<Result<Vec<_>, _>>()?;
    rows.into_iter().map(|found| decode(vault, found)).collect()
}

/// Stores the reading position.
pub(crate) fn set_read(db: &Connection, chain: i64, next: u64, shown: u64, owing: bool) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET next = ?2, shown = ?3, owing = ?4 WHERE chain = ?1")?
        .execute((chain, next, shown, owing))?;
    Ok(())
}

/// The peer was told how far it was shown.
pub(crate) fn set_told(db: &Connection, chain: i64, shown: u64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET told = ?2, owing = 0 WHERE chain = ?1")?.execute((chain, shown))?;
    Ok(())
}

/// A sealed box that waits.
#[derive(Clone, Debug)]
pub(crate) struct OutBox {
    pub(crate) chain: i64,
    pub(crate) j: u64,
    pub(crate) body: BoxBody,
    pub(crate) message: Option<i64>,
    /// Bit p: replica p of the placement has it.
    pub(crate) stored: u8,
}

/// Keeps the sealed body of an own chain's next box and moves the counter on: a counter is never sealed twice.
pub(crate) fn push_box(db: &Connection, chain: &Chain, body: &BoxBody, message: Option<i64>) -> Result<i64, MailError> {
    db.prepare_cached("INSERT INTO box_out (chain, j, body, message) VALUES (?1, ?2, ?3, ?4)")?.execute((
        chain.row,
        chain.next,
        body.as_bytes().as_slice(),
        message,
    ))?;
    let row = db.last_insert_rowid();
    let changed = db
        .prepare_cached("UPDATE chain SET next = ?2 + 1 WHERE chain = ?1 AND next = ?2")?
        .execute((chain.row, chain.next))?;
    if changed == 1 { Ok(row) } else { Err(MailError::Damaged("a chain's counter moved")) }
}

pub(crate) fn out_box(db: &Connection, row: i64) -> Result<Option<OutBox>, MailError> {
    let found = db
        .prepare_cached("SELECT chain, j, body, message, stored FROM box_out WHERE box = ?1")?
        .query_row([row], |row| {
            let body: Vec<u8> = row.get(2)?;
            Ok((row.get(0)?, row.get(1)?, body, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    let Some((chain, j, body, message, stored)) = found else { return Ok(None) };
    let body = BoxBody::from_slice(&body).map_err(|_| MailError::Damaged("a sealed box"))?;
    Ok(Some(OutBox { chain, j, body, message, stored }))
}

/// Boxes that not both replicas have, oldest first: row, chain, whether one replica has it.
pub(crate) fn unstored(db: &Connection) -> Result<Vec<(i64, i64, bool)>, MailError> {
    let mut statement =
        db.prepare_cached("SELECT box, chain, stored > 0 FROM box_out WHERE stored < 3 ORDER BY box")?;
    Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?)
}

pub(crate) fn set_stored(db: &Connection, row: i64, stored: u8, now: UnixMillis) -> Result<(), MailError> {
    let at = (stored == STORED_BOTH).then_some(now.0);
    db.prepare_cached("UPDATE box_out SET stored = ?2, stored_at = ?3 WHERE box = ?1")?.execute((row, stored, at))?;
    Ok(())
}

/// The peer says that all boxes of an own chain before `boxes` were shown. Never moves back.
pub(crate) fn acknowledge(db: &Connection, chain: i64, boxes: u64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET acknowledged = max(acknowledged, ?2) WHERE chain = ?1")?
        .execute((chain, boxes))?;
    Ok(())
}

/// Boxes of a chain that their reader has shown and of which a replica says that it has our body: their rows and
/// messages. Without the second, an older copy of a profile would take the receipts of its successor's boxes for its
/// own.
pub(crate) fn confirmed(db: &Connection, chain: i64) -> Result<Vec<(i64, Option<i64>)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT box, message FROM box_out
         WHERE chain = ?1 AND stored > 0 AND j < (SELECT acknowledged FROM chain WHERE chain = ?1)",
    )?;
    Ok(statement.query_map([chain], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

pub(crate) fn delete_box(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM box_out WHERE box = ?1")?.execute([row])?;
    Ok(())
}

/// Boxes that both replicas have had for so long that they will expire before they are confirmed: to be written again.
/// A card is not among them: it lives as long as anybody looks for it.
pub(crate) fn expire_stored(db: &Connection, before: UnixMillis) -> Result<usize, MailError> {
    Ok(db
        .prepare_cached(
            "UPDATE box_out SET stored = 0, stored_at = NULL WHERE stored_at < ?1
                AND chain IN (SELECT chain FROM chain WHERE conversation IS NOT NULL)",
        )?
        .execute([before.0])?)
}

/// Whether both replicas have the box of a message (a box that is gone was confirmed by its reader).
pub(crate) fn message_stored(db: &Connection, message: i64) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached("SELECT stored = 3 FROM box_out WHERE message = ?1")?
        .query_row([message], |row| row.get(0))
        .optional()?
        .unwrap_or(true))
}
