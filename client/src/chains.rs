//! Chains: the boxes that one member writes in one group epoch, and the sealed boxes that wait for their replicas and
//! their reader. Tables of the profile; cards and invites lie on chains too, without a conversation.

use crate::mail::MailError;
use crate::profile::Vault;
use crate::profile::rows::{self, Sealed};
use minicbor::{Decode, Encode};
use rand::CryptoRng;
use rusqlite::{Connection, OptionalExtension as _, Row};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{self, BoxBody, BoxId, ChainSecret, WriteKey, WritePublic};

const SECRET: &str = "chain.secret";
const WRITER: &str = "chain.writer";
/// Both replicas have it.
pub(crate) const STORED_BOTH: u8 = 0b11;

/// A place in a member's chains: before box `boxes` of its chain of group epoch `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Place {
    #[n(0)]
    pub(crate) epoch: u64,
    #[n(1)]
    pub(crate) boxes: u64,
}

/// Whose chain it is.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    /// Ours, with the key that fills its boxes.
    Own(WriteKey),
    /// Ours, and no conversation's: a card's, filled with its inbox key, or an invite's, with a key that serves nothing else.
    Offer(WriteKey),
    /// Another member's.
    Peer {
        /// Row of the member.
        member: i64,
        /// Public half of the key that fills its boxes.
        writer: WritePublic,
    },
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
    pub(crate) fn id(&self, j: u64) -> BoxId {
        let writer = match &self.side {
            Side::Own(key) | Side::Offer(key) => key.public(),
            Side::Peer { writer, .. } => *writer,
        };
        boxes::id(&writer, &self.secret, j)
    }

    /// Signature over the body of box `j`; `None` for a peer's chain.
    pub(crate) fn sign(&self, j: u64, body: &BoxBody) -> Option<[u8; 64]> {
        let key = match &self.side {
            Side::Own(key) | Side::Offer(key) => key,
            Side::Peer { .. } => return None,
        };
        Some(boxes::sign(key, &self.secret, j, body))
    }
}

impl Sealed for Chain {
    type Raw = (i64, Option<i64>, u64, u32, Option<i64>, u32, Vec<u8>, Vec<u8>, u64);
    const SELECT: &'static str =
        "SELECT chain, conversation, epoch, leaf, member, generation, secret, writer, next FROM chain";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self::Raw> {
        row.try_into()
    }

    fn open(vault: &Vault, raw: Self::Raw) -> Result<Self, MailError> {
        const DAMAGED: MailError = MailError::Damaged("a chain does not open");
        let (row, conversation, epoch, leaf, member, generation, secret, writer, next) = raw;
        let open = |context, sealed: &[u8]| -> Result<[u8; 32], MailError> {
            vault.open(context, sealed).map_err(|_| DAMAGED)?.as_slice().try_into().map_err(|_| DAMAGED)
        };
        let own = || Ok::<_, MailError>(WriteKey::from_seed(&zeroize::Zeroizing::new(open(WRITER, &writer)?)));
        let side = match (member, conversation) {
            (None, Some(_)) => Side::Own(own()?),
            (None, None) => Side::Offer(own()?),
            (Some(member), _) => {
                Side::Peer { member, writer: WritePublic::parse(open(WRITER, &writer)?).map_err(|_| DAMAGED)? }
            }
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
    let (member, writer) = match side {
        Side::Own(key) | Side::Offer(key) => (None, vault.seal(WRITER, key.seed().as_slice())),
        Side::Peer { member, writer } => (Some(member), vault.seal(WRITER, writer.as_bytes())),
    };
    db.prepare_cached(
        "INSERT INTO chain (conversation, member, epoch, leaf, own, generation, secret, writer)
         VALUES (?1, ?2, ?3, ?4, ?2 IS NULL, ?5, ?6, ?7)",
    )?
    .execute((conversation, member, epoch, leaf, generation, vault.seal(SECRET, secret.as_bytes()), writer))?;
    Ok(db.last_insert_rowid())
}

/// Keeps a chain of an invite, in which nothing is written before box `next`.
pub(crate) fn insert_one_time(
    db: &Connection,
    vault: &Vault,
    generation: u32,
    secret: &ChainSecret,
    writer: &WriteKey,
    next: u64,
) -> Result<Chain, MailError> {
    let row = insert(db, vault, None, 0, 0, generation, secret, &Side::Offer(writer.clone()))?;
    skip_to(db, vault, row, next)
}

/// The next box of an own chain that is written is this one.
pub(crate) fn skip_to(db: &Connection, vault: &Vault, chain: i64, next: u64) -> Result<Chain, MailError> {
    db.prepare_cached("UPDATE chain SET next = ?2 WHERE chain = ?1")?.execute((chain, next))?;
    by_row(db, vault, chain)
}

/// Seals a plaintext into the next box of an own chain that is no conversation's, and keeps it.
pub(crate) fn push_sealed(
    db: &Connection,
    chain: &Chain,
    plaintext: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<i64, MailError> {
    let body = boxes::seal(&chain.secret, chain.next, &chain.id(chain.next), plaintext, rng);
    push_box(db, chain, &body.map_err(|error| MailError::Mls(error.to_string()))?, None)
}

/// Whether both replicas have all that was written of a chain.
pub(crate) fn all_stored(db: &Connection, chain: i64) -> Result<bool, MailError> {
    let found = "SELECT NOT EXISTS (SELECT 1 FROM box_out WHERE chain = ?1 AND stored < 3)";
    Ok(db.prepare_cached(found)?.query_row([chain], |row| row.get(0))?)
}

/// Forgets a chain that is no conversation's, with its boxes. Returns their rows.
pub(crate) fn delete(db: &Connection, chain: i64) -> Result<Vec<i64>, MailError> {
    let boxes = boxes_of(db, chain)?.into_iter().map(|(row, _)| row).collect();
    db.prepare_cached("DELETE FROM box_out WHERE chain = ?1")?.execute([chain])?;
    db.prepare_cached("DELETE FROM chain WHERE chain = ?1")?.execute([chain])?;
    Ok(boxes)
}

pub(crate) fn by_row(db: &Connection, vault: &Vault, row: i64) -> Result<Chain, MailError> {
    rows::one(db, vault, "WHERE chain = ?1", [row])
}

/// The chain that we write in a conversation now: that of the group's current epoch.
pub(crate) fn writing(db: &Connection, vault: &Vault, conversation: i64) -> Result<Chain, MailError> {
    rows::one(db, vault, "WHERE conversation = ?1 AND own = 1 ORDER BY epoch DESC LIMIT 1", [conversation])
}

/// The chains of the other members that are followed: of each that of its own epoch, also of those who were removed, up to
/// where they count. A member of whom there is none has ended the current epoch, and the commit that it names is not
/// applied yet.
pub(crate) fn reading(db: &Connection, vault: &Vault, conversation: i64) -> Result<Vec<Chain>, MailError> {
    let condition = "WHERE conversation = ?1 AND own = 0 AND ended = 0 AND epoch = (
        SELECT min(epoch) FROM chain c WHERE c.member = chain.member AND c.ended = 0) ORDER BY chain";
    rows::all(db, vault, condition, [conversation])
}

/// The oldest group epoch in which another member's boxes are still read; `None`: all have ended the current one.
pub(crate) fn followed(db: &Connection, conversation: i64) -> Result<Option<u64>, MailError> {
    Ok(db
        .prepare_cached("SELECT min(epoch) FROM chain WHERE conversation = ?1 AND own = 0 AND ended = 0")?
        .query_row([conversation], |row| row.get(0))?)
}

/// How far a member's chains were read.
pub(crate) fn read_to(db: &Connection, member: i64) -> Result<Place, MailError> {
    let found = db
        .prepare_cached(
            "SELECT epoch, next FROM chain WHERE member = ?1
             ORDER BY ended, CASE WHEN ended = 1 THEN -epoch ELSE epoch END LIMIT 1",
        )?
        .query_row([member], |row| Ok(Place { epoch: row.get(0)?, boxes: row.get(1)? }))?;
    Ok(found)
}

/// How far a member's chains are settled: the first that is not settled to its end, else the last.
pub(crate) fn seen(db: &Connection, member: i64) -> Result<Place, MailError> {
    let found = db
        .prepare_cached(
            "SELECT epoch, shown FROM chain WHERE member = ?1
             ORDER BY ended = 1 AND shown >= next, CASE WHEN ended = 1 AND shown >= next THEN -epoch ELSE epoch END LIMIT 1",
        )?
        .query_row([member], |row| Ok(Place { epoch: row.get(0)?, boxes: row.get(1)? }))?;
    Ok(found)
}

/// Of a member's chains counts what comes before a place.
pub(crate) fn cut(db: &Connection, member: i64, at: Place) -> Result<(), MailError> {
    db.prepare_cached(
        "UPDATE chain SET cut = CASE WHEN epoch = ?2 THEN ?3 END, ended = ended OR epoch > ?2 OR (epoch = ?2 AND next >= ?3)
         WHERE member = ?1",
    )?
    .execute((member, at.epoch, at.boxes))?;
    Ok(())
}

/// Nothing more comes in another member's chain.
pub(crate) fn end(db: &Connection, chain: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET ended = 1 WHERE chain = ?1")?.execute([chain])?;
    Ok(())
}

/// Nothing is read or written in a conversation any more: its chains open nothing.
pub(crate) fn end_all(db: &Connection, conversation: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM box_out WHERE chain IN (SELECT chain FROM chain WHERE conversation = ?1)")?
        .execute([conversation])?;
    db.prepare_cached("DELETE FROM chain WHERE conversation = ?1 AND own = 1")?.execute([conversation])?;
    db.prepare_cached("UPDATE chain SET ended = 1, secret = x'', writer = x'' WHERE conversation = ?1")?
        .execute([conversation])?;
    Ok(())
}

/// Erases the secrets of chains that nobody needs: others' that are read to the end, own ones of past epochs whose boxes
/// are all confirmed. Of others' that say nothing any more all but the last of each member go altogether.
pub(crate) fn erase_past(db: &Connection, conversation: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE chain SET secret = x'', writer = x'' WHERE conversation = ?1 AND own = 0 AND ended = 1")?
        .execute([conversation])?;
    db.prepare_cached(
        "DELETE FROM chain WHERE conversation = ?1 AND own = 1
            AND epoch < (SELECT epoch FROM conversation v WHERE v.conversation = ?1)
            AND NOT EXISTS (SELECT 1 FROM box_out b WHERE b.chain = chain.chain)",
    )?
    .execute([conversation])?;
    db.prepare_cached(
        "DELETE FROM chain WHERE conversation = ?1 AND own = 0 AND ended = 1 AND shown >= next
            AND NOT EXISTS (SELECT 1 FROM message_in m WHERE m.chain = chain.chain)
            AND EXISTS (SELECT 1 FROM chain c WHERE c.member = chain.member AND c.epoch > chain.epoch)",
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

/// Stores the reading position. `true`: what comes from there on does not count, and the chain has ended.
pub(crate) fn set_read(db: &Connection, chain: i64, next: u64) -> Result<bool, MailError> {
    Ok(db
        .prepare_cached(
            "UPDATE chain SET next = ?2, ended = ended OR coalesce(?2 >= cut, 0) WHERE chain = ?1
             RETURNING coalesce(?2 >= cut, 0)",
        )?
        .query_row((chain, next), |row| row.get(0))?)
}

/// What is read of one sender's chains in a conversation is settled, up to the first message that is held back (its chain
/// and box).
pub(crate) fn settle(
    db: &Connection,
    conversation: i64,
    contact: i64,
    held: Option<(i64, u64)>,
) -> Result<(), MailError> {
    let Some((chain, j)) = held else {
        db.prepare_cached(
            "UPDATE chain SET shown = next WHERE member IN (
                SELECT member FROM member WHERE conversation = ?1 AND contact = ?2)",
        )?
        .execute((conversation, contact))?;
        return Ok(());
    };
    db.prepare_cached(
        "UPDATE chain SET shown = CASE WHEN chain = ?3 THEN max(shown, min(next, ?4)) ELSE next END
         WHERE member IN (SELECT member FROM member WHERE conversation = ?1 AND contact = ?2)
            AND epoch <= (SELECT epoch FROM chain WHERE chain = ?3)",
    )?
    .execute((conversation, contact, chain, j))?;
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

/// What a box says is said again elsewhere: it only keeps its place in the chain.
pub(crate) fn disown_box(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("UPDATE box_out SET message = NULL WHERE box = ?1")?.execute([row])?;
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
pub(crate) fn unstored_up_to(db: &Connection, conversation: i64, end: Place) -> Result<Vec<(i64, bool)>, MailError> {
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

/// A member says how far it is with our chains: before `at.boxes` of its epoch, and to the end of those before, for it
/// follows a chain only when the one before is settled. Never moves back; more than was written counts as all of it.
pub(crate) fn acknowledge(db: &Connection, conversation: i64, member: i64, at: Place) -> Result<(), MailError> {
    db.prepare_cached(
        "INSERT INTO acknowledged (chain, member, boxes)
         SELECT chain, ?2, CASE WHEN epoch < ?3 THEN next ELSE min(next, ?4) END FROM chain
         WHERE conversation = ?1 AND own = 1 AND epoch <= ?3
         ON CONFLICT (chain, member) DO UPDATE SET boxes = max(boxes, excluded.boxes)",
    )?
    .execute((conversation, member, at.epoch, at.boxes))?;
    Ok(())
}

/// Own chains of a conversation, oldest first.
pub(crate) fn own(db: &Connection, conversation: i64) -> Result<Vec<i64>, MailError> {
    let mut statement =
        db.prepare_cached("SELECT chain FROM chain WHERE conversation = ?1 AND own = 1 ORDER BY epoch")?;
    Ok(statement.query_map([conversation], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Boxes of a chain that all members have shown who could read it, and still are members, and of which a replica says that
/// it has our body: their rows and messages. Without the second, an older copy of a profile would take the receipts of its
/// successor's boxes for its own. Cards and invites are confirmed by nobody.
pub(crate) fn confirmed(db: &Connection, chain: i64) -> Result<Vec<(i64, Option<i64>)>, MailError> {
    let mut statement = db.prepare_cached(
        "SELECT box, message FROM box_out WHERE chain = ?1 AND stored > 0
            AND (SELECT conversation FROM chain c WHERE c.chain = ?1) IS NOT NULL AND j < (
            SELECT coalesce(min(coalesce(a.boxes, 0)), 9223372036854775807)
            FROM chain c JOIN member m ON m.conversation = c.conversation
            LEFT JOIN acknowledged a ON a.chain = c.chain AND a.member = m.member
            WHERE c.chain = ?1 AND m.left_at IS NULL AND m.leaving = 0 AND m.astray = 0 AND m.joined_epoch <= c.epoch)",
    )?;
    Ok(statement.query_map([chain], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

pub(crate) fn delete_box(db: &Connection, row: i64) -> Result<(), MailError> {
    db.prepare_cached("DELETE FROM box_out WHERE box = ?1")?.execute([row])?;
    Ok(())
}

/// Boxes that both replicas have had for so long that they will expire before they are confirmed: to be written again.
/// Cards and invites are not among them: they live as long as anybody may look for them.
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
