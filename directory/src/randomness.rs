//! Shared randomness by commit and reveal.
//!
//! Draws are numbered. For each, documents first take every authority's commitment and keep it; a day later three
//! documents count what is revealed; the one after draws, from what the documents before it hold, so that whoever proposes
//! it has no choice left. Who committed and did not reveal is left out, and out of the next draw as well. A draw that
//! could not be made is begun anew under the next number: nothing that was revealed is used twice, and no document ever
//! waits for one.

use std::collections::BTreeMap;

use shoal_protocol::authority::{AuthorityKey, AuthoritySecret};
use shoal_protocol::consensus::{Commitment, Consensus, DrawState, Reveal};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, Identity};
use zeroize::Zeroizing;

use crate::signed_list::{Contribution, SignedList, witnesses};

/// Documents that count reveals, unless draws follow each other more closely.
const WINDOW_MAX: u64 = 3;
/// Commitments are fixed that long before the first is revealed, unless draws follow each other more closely.
const FIXED_MS: u64 = 24 * 60 * 60 * 1000;

/// The value that the holder of `secret` reveals for draw `number`: a pseudorandom function of the secret, so a restart
/// neither loses nor changes it.
#[must_use]
pub fn reveal(secret: &AuthoritySecret, network: &Hash, number: u32) -> [u8; 32] {
    let mut message = Vec::with_capacity(36);
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(&number.to_be_bytes());
    let key = Zeroizing::new(blake3::derive_key("shoal/1 directory reveal key", &*secret.to_bytes()));
    *blake3::keyed_hash(&key, &message).as_bytes()
}

/// Hash that commits `authority` to revealing `value` for draw `number`. It names the authority, so that nobody can commit
/// to what another will reveal, and not its index, which changes with the set.
#[must_use]
pub fn commitment(network: &Hash, number: u32, authority: &Identity, value: &[u8; 32]) -> Hash {
    let mut message = Vec::with_capacity(100);
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(&number.to_be_bytes());
    message.extend_from_slice(authority.as_bytes());
    message.extend_from_slice(value);
    Hash::of("shoal/1 directory commitment", &message)
}

/// Number of the draw that comes after the document `before`.
#[must_use]
pub fn next_draw(before: Option<&Consensus>) -> u32 {
    before.map_or(1, |before| before.draw.number)
}

/// What the holder of `secret` says in its list for the document of `epoch` after `before`. It reveals nothing before its
/// own commitment is fixed and values are counted.
#[must_use]
pub fn contribution(
    secret: &AuthoritySecret,
    network: &Hash,
    before: Option<&Consensus>,
    epoch: Epoch,
) -> Contribution {
    let (identity, number) = (secret.public().identity, next_draw(before));
    let value = |number| reveal(secret, network, number);
    let commit = |number| commitment(network, number, &identity, &value(number));
    let mine = commit(number);
    let counted_now = before.is_none_or(|before| {
        epoch >= before.draw.reveal_from && before.commitments.iter().any(|entry| entry.hash == mine)
    });
    Contribution {
        commitment: mine,
        commitment_after: commit(number.saturating_add(1)),
        reveal: counted_now.then(|| value(number)),
    }
}

/// Seed of draw `number`: hash of genesis hash, number, randomness of the draw before (zeros for the first), and every
/// revealed value with its authority's identity, in the order of the identities.
#[must_use]
pub fn seed(network: &Hash, number: u32, previous: &[u8; 32], reveals: &BTreeMap<Identity, [u8; 32]>) -> [u8; 32] {
    let mut message = Vec::with_capacity(68 + 64 * reveals.len());
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(&number.to_be_bytes());
    message.extend_from_slice(previous);
    for (identity, value) in reveals {
        message.extend_from_slice(identity.as_bytes());
        message.extend_from_slice(value);
    }
    *Hash::of("shoal/1 directory draw", &message).as_bytes()
}

/// The seed that a document of `epoch` after `before` draws with, if it may draw: when the draw is due and at least f + 1
/// authorities revealed in the documents before. The first document draws at once from the reveals in its own lists.
#[must_use]
pub fn due_seed(
    network: &Hash,
    before: Option<&Consensus>,
    epoch: Epoch,
    lists: &[SignedList],
    authorities: &[AuthorityKey],
) -> Option<[u8; 32]> {
    let key = |authority: u16| authorities.get(usize::from(authority)).map(|key| key.identity);
    let reveals: BTreeMap<Identity, [u8; 32]> = match before {
        Some(before) if epoch < before.draw.due => return None,
        Some(before) => before.reveals.iter().filter_map(|entry| Some((key(entry.authority)?, entry.value))).collect(),
        None => lists.iter().filter_map(|list| Some((key(list.authority)?, list.contribution.reveal?))).collect(),
    };
    let randomness = before.map_or([0; 32], |before| before.randomness);
    (reveals.len() >= witnesses(authorities.len())).then(|| seed(network, next_draw(before), &randomness, &reveals))
}

/// What a document says about the next draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its schedule.
    pub draw: DrawState,
    /// Commitments fixed so far.
    pub commitments: Vec<Commitment>,
    /// Values revealed so far.
    pub reveals: Vec<Reveal>,
}

/// How the document of `epoch` after `before` carries the randomness on; `drawn` when it draws. Indices are into
/// `authorities`, the set that makes this document.
#[must_use]
pub fn progress(
    network: &Hash,
    before: Option<&Consensus>,
    (epoch, parameters): (Epoch, &Parameters),
    lists: &[SignedList],
    authorities: &[AuthorityKey],
    drawn: bool,
) -> Progress {
    let Some(before) = before else {
        // everybody in the first document was there before its randomness
        return opened(lists, schedule(2, epoch, parameters, epoch.plus(1), Vec::new()));
    };
    let plan = &before.draw;
    let number = plan.number.saturating_add(1);
    if drawn {
        let excluded = withheld(before, authorities.len());
        return opened(lists, schedule(number, epoch, parameters, plan.reveal_from, excluded));
    }
    let window = plan.due.0.saturating_sub(plan.reveal_from.0);
    if before.epoch >= plan.due.plus(window) {
        let reveal_from = epoch.plus(1);
        let again = DrawState {
            revealed_from: plan.revealed_from,
            number,
            commit_before: reveal_from,
            reveal_from,
            due: reveal_from.plus(window),
            excluded: Vec::new(),
        };
        return opened(lists, again);
    }
    let mut commitments = before.commitments.clone();
    if epoch < plan.commit_before {
        for list in lists.iter().filter(|list| !plan.excluded.contains(&list.authority)) {
            if commitments.iter().all(|entry| entry.authority != list.authority) {
                commitments.push(Commitment { authority: list.authority, hash: list.contribution.commitment });
            }
        }
        commitments.sort_by_key(|entry| entry.authority);
    }
    let mut reveals = before.reveals.clone();
    if epoch >= plan.reveal_from {
        for list in lists {
            let known = reveals.iter().any(|entry| entry.authority == list.authority);
            let counts = |value: &[u8; 32]| counts(network, plan.number, &before.commitments, list, authorities, value);
            if let Some(value) = list.contribution.reveal.filter(|value| !known && counts(value)) {
                reveals.push(Reveal { authority: list.authority, value });
            }
        }
        reveals.sort_by_key(|entry| entry.authority);
    }
    Progress { draw: plan.clone(), commitments, reveals }
}

/// Whether the value in `list` is the one its authority committed to in an earlier document.
fn counts(
    network: &Hash,
    number: u32,
    fixed: &[Commitment],
    list: &SignedList,
    authorities: &[AuthorityKey],
    value: &[u8; 32],
) -> bool {
    authorities.get(usize::from(list.authority)).is_some_and(|key| {
        let hash = commitment(network, number, &key.identity, value);
        fixed.iter().any(|entry| entry.authority == list.authority && entry.hash == hash)
    })
}

/// A draw begins: the lists of the document that begins it bring the first commitments.
fn opened(lists: &[SignedList], draw: DrawState) -> Progress {
    let commitments = lists
        .iter()
        .filter(|list| !draw.excluded.contains(&list.authority))
        .map(|list| Commitment { authority: list.authority, hash: list.contribution.commitment_after })
        .collect();
    Progress { draw, commitments, reveals: Vec::new() }
}

/// When the draw that the document of `epoch` opens takes what. It is due `draw_epochs` later, at least two: one document
/// to commit and one to reveal. Commitments are fixed a day before reveals count, or half of what time there is.
fn schedule(number: u32, epoch: Epoch, parameters: &Parameters, revealed_from: Epoch, excluded: Vec<u16>) -> DrawState {
    let apart = u64::from(parameters.draw_epochs).max(2);
    let window = WINDOW_MAX.min(apart - 1);
    let fixed = (FIXED_MS / parameters.epoch_ms.max(1)).min((apart - window) / 2);
    let due = epoch.plus(apart);
    let reveal_from = due.minus(window);
    DrawState { revealed_from, number, commit_before: reveal_from.minus(fixed), reveal_from, due, excluded }
}

/// Who committed and did not reveal. More than f cannot all be at fault: then reveals were kept out, and nobody is
/// excluded for it.
fn withheld(before: &Consensus, n: usize) -> Vec<u16> {
    let revealed = |authority: u16| before.reveals.iter().any(|entry| entry.authority == authority);
    let silent: Vec<u16> =
        before.commitments.iter().map(|entry| entry.authority).filter(|authority| !revealed(*authority)).collect();
    if silent.len() < witnesses(n) { silent } else { Vec::new() }
}

impl Progress {
    /// The same under the indices of another set of authorities. Who left it takes its commitment along.
    #[must_use]
    pub fn renumbered(self, from: &[AuthorityKey], to: &[AuthorityKey]) -> Self {
        if from == to {
            return self;
        }
        let index = |authority: u16| {
            let key = from.get(usize::from(authority))?;
            to.iter().position(|other| other == key).and_then(|at| u16::try_from(at).ok())
        };
        let Self { mut draw, commitments, reveals } = self;
        draw.excluded = draw.excluded.into_iter().filter_map(index).collect();
        draw.excluded.sort_unstable();
        let mut commitments: Vec<_> = commitments
            .into_iter()
            .filter_map(|entry| Some(Commitment { authority: index(entry.authority)?, ..entry }))
            .collect();
        commitments.sort_by_key(|entry| entry.authority);
        let mut reveals: Vec<_> = reveals
            .into_iter()
            .filter_map(|entry| Some(Reveal { authority: index(entry.authority)?, ..entry }))
            .collect();
        reveals.sort_by_key(|entry| entry.authority);
        Self { draw, commitments, reveals }
    }
}

#[cfg(test)]
#[path = "randomness/tests.rs"]
mod tests;
