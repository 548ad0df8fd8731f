//! Chains: the boxes that one member writes in one group epoch, and the sealed boxes that wait for their replicas and
//! their reader. Tables of the profile; a card lies on a chain too (without conversation, write key = inbox key).

use crate::mail::MailError;
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use crate::records::Seen;
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

impl Sealed for Chain {
    type Raw = (i64, Option<i64>, u64, u32, bool, u32, Vec<u8>, Vec<u8>, u64);
    const SELECT: &'static str =
        "SELECT chain, conversation, epoch, leaf, own, generation, secret, writer, next FROM chain";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        row.try_into()
    }

    fn open(vault: &Vault, raw: Self::Raw) -> Result<Self, MailError> {
        const DAMAGED: MailError = MailError::Damaged("a chain does not open");
        let (row, conversation, epoch, leaf, own, generation, secret, writer, next) = raw;
        let open = |context, sealed: &[u8]| -> Result<[u8; 32], MailError> {
            vault.open(context, sealed).map_err(|_| DAMAGED)?.as_slice().try_into().map_err(|_| DAMAGED)
        };
        let side = match (own, conversation) {
            (true, Some(_)) => Side::Own(WriteKey::from_seed(&zeroize::Zeroizing::new(open(WRITER, &writer)?))),
            (true, None) => Side::OwnCard,
            (false, _) => Side::Peer(WritePublic::parse(open(WRITER, &writer)?).map_err(|_| DAMAGED)?),
        };
        let secret = ChainSecret::from_bytes(open(SECRET, &secret)?);
        Ok(Self { row, conversation, epoch, leaf, generation, secret, side, next })
    }
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
    rows::one(db, vault, "WHERE chain = ?1", [row])
}

/// The chain that we write in a conversation now: that of the group's current epoch.
pub(crate) fn writing(db: &Connection, vault: &Vault, conversation: i64) -> Result<Chain, MailError> {
    rows::one(db, vault, "WHERE conversation = ?1 AND own = 1 ORDER BY epoch DESC LIMIT 1", [conversation])
}

/// The chain of the peer that is followed: that of the peer's own epoch. `None`: its end was read, and the commit that it
/// names is not applied yet.
pub(crate) fn reading(db: &Connection, vault: &Vault, conversation: i64) -> Result<Option<Chain>, MailError> {
    rows::find(db, vault, "WHERE conversation = ?1 AND own = 0 AND ended = 0 ORDER BY epoch LIMIT 1", [conversation])
}

/// How far the peer's chains are settled: the first that is not settled to its end, else the last.
pub(crate) fn seen(db: &Connection, conversation: i64) -> Result<Seen, MailError> {
    let found = db
        .prepare_cached(
            "SELECT epoch, shown FROM chain WHERE conversation = ?1 AND own = 0
             ORDER BY ended = 1 AND shown >= next, CASE WHEN ended = 1 AND shown >= next THEN -epoch ELSE epoch END LIMIT 1",
        )?
        .query_row([conversation], |row| Ok(Seen { epoch: row.get(0)?, boxes: row.get(1)? }))?;
    Ok(found)
}

/// Nothing more comes in a peer's chain.
pub(crate) fn end(db: &Connection, chain: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET ended = 1 WHERE chain = ?1")?.execute([chain])?;
    Ok(())
}

/// Erases the secrets of chains that nobody needs: a peer's that are read to the end, own ones of past epochs whose boxes
/// are all confirmed.
pub(crate) fn erase_past(db: &Connection, conversation: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET secret = x'', writer = x'' WHERE conversation = ?1 AND own = 0 AND ended = 1")?
        .execute([conversation])?;
    db.prepare_cached(
        "DELETE FROM chain WHERE conversation = ?1 AND own = 1
            AND epoch < (SELECT epoch FROM conversation v WHERE v.conversation = ?1)
            AND NOT EXISTS (SELECT 1 FROM box_out b WHERE b.chain = chain.chain)",
    )?
    .execute([conversation])?;
    Ok(())
}

/// Whether a conversation is written with the write key of this seed.
pub(crate) fn writes(db: &Connection, vault: &Vault, seed: &[u8]) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM chain WHERE own = 1 AND conversation IS NOT NULL AND writer = ?1)",
        )?
        .query_row([vault.seal(WRITER, seed)], |row| row.get(0))?)
}

/// Whether another conversation than this is written with the write key of this seed: both were joined by one card.
pub(crate) fn writes_elsewhere(
    db: &Connection,
    vault: &Vault,
    seed: &[u8],
    conversation: i64,
) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM chain WHERE own = 1 AND conversation != ?2 AND writer = ?1)")?
        .query_row((vault.seal(WRITER, seed), conversation), |row| row.get(0))?)
}

/// Stores the reading position.
pub(crate) fn set_read(db: &Connection, chain: i64, next: u64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET next = ?2 WHERE chain = ?1")?.execute((chain, next))?;
    Ok(())
}

/// What is read of the peer's chains is settled, up to the first message that is held back (its chain and box).
pub(crate) fn settle(db: &Connection, conversation: i64, held: Option<(i64, u64)>) -> Result<(), MailError> {
    let Some((chain, j)) = held else {
        db.prepare_cached("UPDATE chain SET shown = next WHERE conversation = ?1 AND own = 0")?
            .execute([conversation])?;
        return Ok(());
    };
    db.prepare_cached(
        "UPDATE chain SET shown = CASE WHEN chain = ?2 THEN max(shown, min(next, ?3)) ELSE next END
         WHERE conversation = ?1 AND own = 0 AND epoch <= (SELECT epoch FROM chain WHERE chain = ?2)",
    )?
    .execute((conversation, chain, j))?;
    Ok(())
}

/// Own chains of past epochs, with their generations.
pub(crate) fn past_own(db: &Connection, conversation: i64) -> Result<Vec<(i64, u32)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT chain, generation FROM chain WHERE conversation = ?1 AND own = 1
            AND epoch < (SELECT epoch FROM conversation v WHERE v.conversation = ?1) ORDER BY epoch",
    )?;
    Ok(statement.query_map([conversation], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

/// All boxes of a chain that wait, with their messages.
pub(crate) fn boxes_of(db: &Connection, chain: i64) -> Result<Vec<(i64, Option<i64>)>, MailError> {
    let mut statement = db.prepare_cached("SELECT box, message FROM box_out WHERE chain = ?1 ORDER BY j")?;
    Ok(statement.query_map([chain], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
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
/// None of a request: what was sealed in one waits until it is accepted.
pub(crate) fn unstored(db: &Connection) -> Result<Vec<(i64, i64, bool)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT box, chain, stored > 0 FROM box_out WHERE stored < 3 AND chain NOT IN (
            SELECT chain FROM chain c JOIN conversation v ON v.conversation = c.conversation WHERE v.request = 1)
         ORDER BY box",
    )?;
    Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?)
}

/// The same of one conversation's own chains, up to these boxes of that group epoch: row, whether one replica has it.
pub(crate) fn unstored_up_to(db: &Connection, conversation: i64, end: Seen) -> Result<Vec<(i64, bool)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT box, stored > 0 FROM box_out JOIN chain USING (chain)
         WHERE conversation = ?1 AND own = 1 AND stored < 3 AND (epoch < ?2 OR (epoch = ?2 AND j < ?3)) ORDER BY box",
    )?;
    let rows = statement.query_map((conversation, end.epoch, end.boxes), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn set_stored(db: &Connection, row: i64, stored: u8, now: UnixMillis) -> Result<(), MailError> {
    let at = (stored == STORED_BOTH).then_some(now.0);
    db.prepare_cached("UPDATE box_out SET stored = ?2, stored_at = ?3 WHERE box = ?1")?.execute((row, stored, at))?;
    Ok(())
}

/// The peer says how far it is with our chains: before `seen.boxes` of its epoch, and to the end of those before, for it
/// follows a chain only when the one before is settled. Never moves back; more than was written counts as all of it.
pub(crate) fn acknowledge(db: &Connection, conversation: i64, seen: Seen) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE chain SET acknowledged = max(acknowledged, CASE WHEN epoch < ?2 THEN next ELSE min(next, ?3) END)
         WHERE conversation = ?1 AND own = 1 AND epoch <= ?2",
    )?
    .execute((conversation, seen.epoch, seen.boxes))?;
    Ok(())
}

/// Own chains of a conversation, oldest first.
pub(crate) fn own(db: &Connection, conversation: i64) -> Result<Vec<i64>, MailError> {
    let mut statement =
        db.prepare_cached("SELECT chain FROM chain WHERE conversation = ?1 AND own = 1 ORDER BY epoch")?;
    Ok(statement.query_map([conversation], |row| row.get(0))?.collect::<Result<_, _>>()?)
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
