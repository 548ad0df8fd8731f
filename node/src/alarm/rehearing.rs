//! Whether another place explains better what is put down to this node itself.
//!
//! [`Spot::Own`] lies on every loop. Once it is named, after a few seconds without a network, say, every later loss is its: a
//! next hop that goes dead then would never be found, and would keep its seat, because nobody speaks against it. So for as long
//! as it is named every other place has an account of its own, kept from a loss over that place on: how many of the loops over
//! it were lost, and how many of the others. Two explanations of the account are weighed by their likelihood:
//!
//! - this node loses a share q of all loops, the share that fits best;
//! - the place loses the share of the loops over it that fits best, and the others lose p₀ = 1 % or less.
//!
//! An account is closed when the first explains it better: a new one begins with the next loss over the place. So losses from
//! before do not weigh on it, and a place that is innocent seldom has one that lasts. When the second is better by
//! e¹² the place is named instead, as an alarm of a tenth is raised at 12.0. A dead link of `width` gains
//! (1/w)·ln w + (1−1/w)·ln(w/(w−1)) a loop: 12 after 17 loops at a width of 2, 32 at 8, 61 at 20, beyond the first losses.

use super::{SPOTS_MAX, Spot, spots};
use std::collections::BTreeMap;

/// How much better the other explanation must be, as a logarithm.
const BETTER: f64 = 12.0;
/// What honest loops lose at most.
const HONEST: f64 = 0.01;

#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    lost: u32,
    returned: u32,
}

impl Ends {
    fn count(&mut self, returned: bool) {
        let of = if returned { &mut self.returned } else { &mut self.lost };
        *of = of.saturating_add(1);
    }

    fn without(self, other: Self) -> Self {
        Self { lost: self.lost.saturating_sub(other.lost), returned: self.returned.saturating_sub(other.returned) }
    }

    /// The share that is lost.
    fn share(self) -> f64 {
        f64::from(self.lost) / (f64::from(self.lost) + f64::from(self.returned)).max(1.0)
    }

    /// The logarithm of the likelihood of this when `share` is lost.
    fn likelihood(self, share: f64) -> f64 {
        let term = |count: u32, chance: f64| if count == 0 { 0.0 } else { f64::from(count) * chance.ln() };
        term(self.lost, share) + term(self.returned, 1.0 - share)
    }
}

#[derive(Debug)]
struct Account {
    /// All loops that had ended when it was opened.
    before: Ends,
    /// Loops over the place since then.
    over: Ends,
}

impl Account {
    /// By how much the place explains it better than this node.
    fn better(&self, all: Ends) -> f64 {
        let since = all.without(self.before);
        let others = since.without(self.over);
        self.over.likelihood(self.over.share()) + others.likelihood(others.share().min(HONEST))
            - since.likelihood(since.share())
    }
}

/// The accounts of all other places while this node is named.
#[derive(Debug, Default)]
pub(super) struct Rehearing {
    all: Ends,
    /// At most [`SPOTS_MAX`].
    accounts: BTreeMap<Spot, Account>,
}

impl Rehearing {
    /// A loop over `way` came back in time, or did not: the places that explain the losses better than this node does. They are
    /// several when nothing tells them apart yet.
    pub(super) fn settle(&mut self, way: &[[u8; 32]], returned: bool) -> Vec<Spot> {
        let before = self.all;
        self.all.count(returned);
        for spot in spots(way).filter(|spot| *spot != Spot::Own) {
            let room = self.accounts.len() < SPOTS_MAX;
            match self.accounts.get_mut(&spot) {
                Some(account) => account.over.count(returned),
                None if !returned && room => {
                    self.accounts.insert(spot, Account { before, over: Ends { lost: 1, returned: 0 } });
                }
                None => {}
            }
        }
        if returned {
            return Vec::new();
        }
        self.accounts.retain(|_, account| account.better(self.all) >= 0.0);
        let gains: Vec<(Spot, f64)> = spots(way)
            .filter_map(|spot| Some((spot, self.accounts.get(&spot)?.better(self.all))))
            .filter(|(_, gain)| *gain >= BETTER)
            .collect();
        let most = gains.iter().map(|(_, gain)| *gain).fold(BETTER, f64::max);
        gains.into_iter().filter(|(_, gain)| *gain >= most).map(|(spot, _)| spot).collect()
    }

    /// How many places have one.
    #[cfg(test)]
    pub(super) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// Forgets the accounts of places that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&Spot) -> bool) {
        self.accounts.retain(|spot, _| keep(spot));
    }
}
