//! Which nodes a proposal's lists make candidates of, and which one descriptor of each counts: from the lists alone, so that
//! everybody knows what a proposal must carry before it is there.
//!
//! A node that tells every authority something else has one descriptor in a proposal like any other: what a proposal holds
//! is bounded by how many nodes there may be, whatever nodes and f authorities do.

use std::collections::BTreeMap;

use shoal_protocol::consensus::MAX_NODES;
use shoal_protocol::{Epoch, Identity, Role, UnixMillis};

use crate::document::{Dropped, Standing, renewed, standing};
use crate::lists::precedence;
use crate::signed_list::{Entry, Place, SignedList, witnesses};

/// What comes of the nodes that lists name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The entry that counts, for at most [`MAX_NODES`] nodes.
    pub chosen: BTreeMap<Identity, Entry>,
    /// Why others are none.
    pub dropped: BTreeMap<Identity, Dropped>,
}

/// Chooses for the document of `epoch` at `place`. At most one entry a list and node.
#[must_use]
pub fn choose(place: &Place<'_>, epoch: Epoch, lists: &[SignedList]) -> Choice {
    let needed = witnesses(place.authorities.len());
    let mut named: BTreeMap<Identity, Vec<Entry>> = BTreeMap::new();
    for entry in lists.iter().flat_map(|list| &list.entries) {
        named.entry(entry.identity).or_default().push(*entry);
    }
    let mut choice = Choice::default();
    let mut chosen: Vec<(Standing, Entry)> = Vec::new();
    for (identity, entries) in named {
        match one_of(place, epoch, needed, entries) {
            Ok(entry) => chosen.push((standing(place.before, &identity), entry)),
            Err(reason) => drop(choice.dropped.insert(identity, reason)),
        }
    }
    // who is listed goes before who was, and both before who is new
    chosen.sort_by_key(|(standing, entry)| (*standing, entry.identity));
    let over = chosen.split_off(chosen.len().min(MAX_NODES));
    choice.dropped.extend(over.into_iter().map(|(_, entry)| (entry.identity, Dropped::Full)));
    choice.chosen.extend(chosen.into_iter().map(|(_, entry)| (entry.identity, entry)));
    choice
}

/// The entry of one node that counts, of those in as many lists.
///
/// Role and family are those that at least f + 1 lists vouch for: an honest authority lists a node only as it was admitted,
/// so the node and f authorities cannot make them up. Of the descriptors with these that are neither too old nor of the
/// future, the one counts that has f lists before it, in the order from the newest to the oldest: f authorities cannot bring
/// in one that is newer than what every honest one has, and one that is older only if the honest ones have none.
fn one_of(place: &Place<'_>, epoch: Epoch, needed: usize, entries: Vec<Entry>) -> Result<Entry, Dropped> {
    if entries.len() < needed {
        return Err(Dropped::TooFewLists { listed: entries.len(), needed });
    }
    let known = entries
        .first()
        .and_then(|entry| place.before.and_then(|before| crate::document::known_role(before, &entry.identity)));
    let mut vouched: BTreeMap<(Role, Option<[u8; 32]>), Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        vouched.entry((entry.role, entry.family)).or_default().push(entry);
    }
    vouched.retain(|_, entries| entries.len() >= needed);
    if vouched.is_empty() {
        return Err(Dropped::Disputed);
    }
    if let Some(role) = known {
        vouched.retain(|(of, _), _| *of == role);
    }
    // most lists, then the lower role and family
    let best = vouched.into_values().rev().max_by_key(Vec::len);
    let Some(mut entries) = best else { return Err(known.map_or(Dropped::Disputed, Dropped::OtherRole)) };
    entries.sort_by_key(|entry| precedence(entry.published, entry.descriptor));
    let newest = entries.first().map_or(UnixMillis(0), |entry| entry.published);
    entries.retain(|entry| {
        entry.published <= place.schedule.end(epoch) && renewed(&place.schedule, epoch, entry.published)
    });
    let at = needed.min(entries.len());
    let chosen = at.checked_sub(1).and_then(|at| entries.get(at)).copied();
    chosen.ok_or(if newest > place.schedule.end(epoch) { Dropped::FromFuture } else { Dropped::NotRenewed })
}
