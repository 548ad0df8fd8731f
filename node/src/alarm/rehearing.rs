//! Which other places lose more than the rest while this node is blamed for everything.
//!
//! [`Spot::Own`] lies on every loop. Once it is named, after a few seconds without a network, say, every later loss is its: a
//! next hop that goes dead then would never be found, and would keep its seat, because nobody speaks against it. So for as long
//! as it is named every other place has an account, kept from a loss over that place on: how many of the loops over it were lost,
//! and how many of the others. Two explanations of the account are weighed by their likelihood:
//!
//! - one share of all loops is lost, whatever they cross;
//! - loops over the place are lost at a share of their own, and that is the larger one.
//!
//! Each share is the one that fits best, so that several dead places do not hide each other: what the others lose is the rest. An
//! account in which the place does not lose more is closed; a new one begins with the next loss over it. So losses from before
//! seldom weigh on it. When the second explanation is better by e¹² the place is named beside this node, as an alarm of a tenth
//! is raised at 12.0, and its losses are held against nothing else from then on. Accounts begin anew, without loops over it. One
//! dead link of `width` gains (1/w)·ln w + (1−1/w)·ln(w/(w−1)) a loop: 12 after 17 loops at a width of 2, 32 at 8, 61 at 20.

use super::{SPOTS_MAX, Spot, spots};
use std::collections::BTreeMap;

/// How much better the other explanation must be, as a logarithm.
const BETTER: f64 = 12.0;

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
    /// By how much it is likelier that the place loses more than the rest; `None`: it does not.
    fn gain(&self, all: Ends) -> Option<f64> {
        let since = all.without(self.before);
        let others = since.without(self.over);
        let (here, there) = (self.over.share(), others.share());
        (here > there).then(|| self.over.likelihood(here) + others.likelihood(there) - since.likelihood(since.share()))
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
    /// A loop over `way` came back in time, or did not: the places on it that lose more than the rest. They are several when
    /// nothing tells them apart yet.
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
        self.accounts.retain(|_, account| account.gain(self.all).is_some());
        let gains: Vec<(Spot, f64)> =
            spots(way).filter_map(|spot| Some((spot, self.accounts.get(&spot)?.gain(self.all)?))).collect();
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
