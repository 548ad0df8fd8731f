//! What authorities want changed, and what a document makes of it: parameters and the set of authorities.
//!
//! A quorum of the lists in a proposal must want exactly the same. With n − f lists in it that is all of them, so a single
//! one that wants otherwise delays a change until a proposal holds more lists; a minority changes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use shoal_protocol::authority::{AuthorityKey, quorum};
use shoal_protocol::consensus::Consensus;
use shoal_protocol::consensus::codec::is_reachable;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Identity};

use crate::config::PublicHalf;
use crate::signed_list::SignedList;

pub mod advice;
pub mod set;

use set::WantedSet;

/// What one authority's operator asks for, beside the nodes he admits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Parameters; `None`: those in force.
    pub parameters: Option<Parameters>,
    /// Authorities, strictly increasing by identity; `None`: those in force.
    pub authorities: Option<Vec<AuthorityKey>>,
    /// Where this authority is reached, and where those of `authorities` are that are new.
    pub addresses: BTreeMap<Identity, SocketAddr>,
}

impl Wishes {
    /// Asks for this set of authorities from now on, `None`: for that in force; and says where this authority is, by its
    /// `authority.pub`, and where those of the set are that are new.
    pub fn want(&mut self, set: Option<WantedSet>, own: Option<&PublicHalf>) {
        let (authorities, addresses) = set.map(|set| (set.keys, set.addresses)).unzip();
        self.authorities = authorities;
        self.addresses = addresses.unwrap_or_default();
        if let Some(PublicHalf { address, key }) = own {
            self.addresses.remove(&key.identity);
            self.addresses.extend(is_reachable(address).then_some((key.identity, *address)));
        }
    }
}

/// The mean mixing delay changes at most once in that time.
const MEAN_DELAY_PAUSE_MS: u64 = 24 * 60 * 60 * 1000;
/// Shortest mean mixing delay of a network with an anonymity floor, in ms.
const MEAN_DELAY_MIN_MS: u64 = 500;

/// What a quorum wants, if one agrees. Pass what each of the proposal's lists says, and how many authorities there are.
fn agreed<T: PartialEq>(wanted: impl Iterator<Item = T> + Clone, n: usize) -> Option<T> {
    // quadratic in at most 64
    wanted.clone().find(|one| wanted.clone().filter(|other| other == one).count() >= quorum(n))
}

/// The parameters of the document of `epoch` after `before`, and since when its mean delay is in force. `drawing` when the
/// document draws: the width of the layers changes only then.
///
/// What a quorum wants is approached as far as it may be: the mean delay moves by at most a quarter and once a day. It is
/// not taken at all if it would change what is fixed at genesis (`epoch_ms`, `mean_delay_max_ms`, whether there is an
/// anonymity floor), if it wants a mean below 500 ms with a floor, or if it is not valid.
#[must_use]
pub fn parameters(before: &Consensus, epoch: Epoch, lists: &[SignedList], drawing: bool) -> (Parameters, Epoch) {
    let (now, since) = (before.parameters, before.mean_delay_since);
    let Some(wanted) = agreed(lists.iter().map(|list| list.parameters), before.authorities.len()) else {
        return (now, since);
    };
    if advice::obstacle(&now, &wanted).is_some() {
        return (now, since);
    }
    let floor = now.anonymity_floor > 0;
    let may_move = !floor || epoch.0.saturating_sub(since.0) >= MEAN_DELAY_PAUSE_MS.div_ceil(now.epoch_ms.max(1));
    let mean_delay_ms = match (floor, may_move) {
        (false, _) => wanted.mean_delay_ms,
        (true, true) => {
            let quarter = now.mean_delay_ms / 4;
            wanted.mean_delay_ms.clamp(now.mean_delay_ms - quarter, now.mean_delay_ms + quarter)
        }
        (true, false) => now.mean_delay_ms,
    };
    let mixes_per_layer = if drawing { wanted.mixes_per_layer } else { now.mixes_per_layer };
    let taken = Parameters { mean_delay_ms, mixes_per_layer, ..wanted };
    if taken.validate().is_err() {
        return (now, since);
    }
    (taken, if mean_delay_ms == now.mean_delay_ms { since } else { epoch })
}

/// Who certifies the document after: what a quorum wants, else who certifies this one.
#[must_use]
pub fn authorities(current: &[AuthorityKey], lists: &[SignedList]) -> Vec<AuthorityKey> {
    let wanted = lists.iter().map(|list| list.authorities.as_deref().unwrap_or(current));
    agreed(wanted, current.len()).unwrap_or(current).to_vec()
}

/// Whose lists want something else than the others: for `status`, so that an operator with a stale file hears of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dissent {
    /// Authorities that want other parameters than a quorum wants, or, if no quorum agrees, than are in force.
    pub parameters: Vec<u16>,
    /// Authorities that want another set of authorities, likewise.
    pub authorities: Vec<u16>,
}

/// Who wants otherwise. `current` is the set that makes the document, `in_force` the parameters of the one before (of
/// genesis for the first).
#[must_use]
pub fn dissent(current: &[AuthorityKey], in_force: &Parameters, lists: &[SignedList]) -> Dissent {
    let set = |list: &SignedList| list.authorities.clone().unwrap_or_else(|| current.to_vec());
    let parameters = agreed(lists.iter().map(|list| list.parameters), current.len()).unwrap_or(*in_force);
    let authorities = authorities(current, lists);
    let those = |differs: &dyn Fn(&SignedList) -> bool| {
        lists.iter().filter(|list| differs(list)).map(|list| list.authority).collect()
    };
    Dissent {
        parameters: those(&|list| list.parameters != parameters),
        authorities: those(&|list| set(list) != authorities),
    }
}

#[cfg(test)]
mod tests;
