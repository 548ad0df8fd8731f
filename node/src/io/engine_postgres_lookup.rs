//! Look-ups in the database: of many boxes on several connections, of many inboxes in one statement.

use super::engine_postgres::connected;
use super::engine_postgres_batch::{self as batch, body};
use super::engine_postgres_session::Fault;
use crate::engine::Entry;
use deadpool_postgres::{Object, Pool};
use shoal_protocol::boxes::{BoxBody, BoxId};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// Look-ups that are worth a connection of their own.
const CHUNK: usize = 32;

const GET: &str = "SELECT id, body FROM boxes WHERE id = ANY($1)";
const READ: &str = "SELECT q.place, e.number, e.body \
                    FROM unnest($1::bytea[], $2::bigint[]) WITH ORDINALITY AS q(inbox, after, place), \
                    LATERAL (SELECT number, body FROM entries WHERE entries.inbox = q.inbox AND entries.number > q.after \
                             ORDER BY number LIMIT 1) AS e";

/// Looks boxes up on one connection.
async fn get(pool: Pool, ids: Vec<BoxId>) -> Result<BTreeMap<BoxId, BoxBody>, Fault> {
    connected(&pool, async |client| {
        let names: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let statement = client.prepare_cached(GET).await?;
        let rows = client.query(&statement, &[&names]).await?;
        rows.iter().map(|row| Ok((batch::id(row.try_get(0)?)?, body(row.try_get(1)?)?))).collect()
    })
    .await
}

/// Looks boxes up on as many connections as are worth it.
pub async fn get_all(pool: &Pool, ids: &[BoxId], connections: usize) -> Result<BTreeMap<BoxId, BoxBody>, Fault> {
    let chunk = ids.len().div_ceil(connections.max(1)).max(CHUNK);
    if ids.len() <= chunk {
        return get(pool.clone(), ids.to_vec()).await;
    }
    let mut looking = JoinSet::new();
    for ids in ids.chunks(chunk) {
        looking.spawn(get(pool.clone(), ids.to_vec()));
    }
    let mut found = BTreeMap::new();
    while let Some(result) = looking.join_next().await {
        found.extend(result.map_err(|_| Fault::later("a look-up was cut off"))??);
    }
    Ok(found)
}

/// Looks for the next entry of inboxes, each after a number, in their order.
pub async fn read_all(client: &Object, wanted: &[(BoxId, u64)]) -> Result<Vec<Option<Entry>>, Fault> {
    let inboxes: Vec<&[u8]> = wanted.iter().map(|(inbox, _)| inbox.as_bytes().as_slice()).collect();
    // no number is above the largest that the database holds
    let after: Vec<i64> = wanted.iter().map(|(_, after)| i64::try_from(*after).unwrap_or(i64::MAX)).collect();
    let statement = client.prepare_cached(READ).await?;
    let mut entries = vec![None; wanted.len()];
    for row in client.query(&statement, &[&inboxes, &after]).await? {
        let place = usize::try_from(row.try_get::<_, i64>(0)?).ok().and_then(|place| place.checked_sub(1));
        let number = u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or(0);
        if let Some(entry) = place.and_then(|place| entries.get_mut(place)) {
            *entry = Some(Entry { number, body: body(row.try_get(2)?)? });
        }
    }
    Ok(entries)
}
