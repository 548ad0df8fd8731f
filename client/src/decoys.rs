//! What decoys ask for: the next box of chains that do not exist (design §3).
//!
//! # What a replica sees, and why it learns nothing from a decoy
//!
//! A replica sees box ids and when they are asked for. Of a real chain it sees one id asked for again and again: every
//! 2 s while the conversation is fresh (hot), after ten quiet minutes every 30 s (warm), after a quiet day every 10 min
//! (idle), for as long as nobody writes; then the box is written, the id is never asked for again, and the next id of the
//! chain, which cannot be linked to it, is hot. Decoys do the same, point by point:
//!
//! - **Classes.** A pretended chain has a time of last activity, and [`class`] of it, by the same published parameters
//!   as a real one. It cools from hot to warm to idle and stays there; its id is not given up before somebody "writes".
//! - **Gaps.** Each chain has the clock of a real one ([`PollClock`]), wound when it is asked. A decoy asks the chain
//!   whose clock runs out first. When none has run out yet, exponential clocks make that a draw in proportion to their
//!   rates, so the tick is used and no chain is preferred.
//! - **How many are hot.** As many as the ticks can serve at the published means: while the chains together want fewer
//!   polls than there are decoys, another conversation becomes lively. A real poll waits for the next tick, on average
//!   one gap of the ticks: the balance counts that.
//! - **Who writes again.** The k-th most recent conversation with probability 2⁻ᵏ: people mostly go on where they left
//!   off, so some chains come back soon and some rest for days. All three classes are populated at any time.
//! - **Restarts.** The chains are kept in the profile: an id that is asked for today and was asked for yesterday is no
//!   more real than one that was not.
//! - **Place.** A chain lies in the generation in which it was begun and moves to the current one when it is written to
//!   again, or when its own has left the document; the two replicas are asked in random order.
//! - **Form.** An id is made exactly as a real one is (a blinded Ed25519 key): half of all random 32-byte strings are no
//!   curve point and would give a decoy away.
//!
//! The courier sees store indices and sealed envelopes, never ids: the draw of couriers and order is the same for all.
//!
//! Not imitated: a decoy's box is never written, so a replica that keeps all ids learns afterwards, for each id that was
//! filled, that it was real; it stores that box anyway. The reads of a burst of messages, and of a blob, have no decoys.

use minicbor::{Decode, Encode};
use rand::{CryptoRng, RngExt as _};
use shoal_protocol::UnixMillis;
use shoal_protocol::boxes::{self, BoxId, ChainSecret, WriteKey};
use shoal_protocol::consensus::Consensus;
use shoal_protocol::parameters::Parameters;
use zeroize::{Zeroize as _, Zeroizing};

use crate::polls::{PollClock, class, mean_gap};
use crate::want::Rank;

/// Most pretended chains: about five are hot at 2.5 ticks a second, about eight warm (2⁸ revivals, one in five minutes,
/// take a day), the rest idle. Kept in the profile they are 24 × 90 bytes.
const CHAINS_MAX: usize = 24;
/// In a lively conversation the next box is written after this many polls on average (geometric): half a minute at the
/// hot mean of 2 s.
const POLLS_PER_MESSAGE_MEAN: u32 = 16;
/// A conversation falls quiet after this many messages on average (geometric).
const MESSAGES_MEAN: u32 = 32;
/// Decoys over which the gap between two of them is averaged.
const GAP_MEMORY: f64 = 256.0;
/// Format of what is kept.
const FORMAT: u32 = 1;

/// One pretended chain. Its writer, secret and place are as a real chain's.
#[derive(Clone, Encode, Decode)]
struct DecoyChain {
    #[n(0)]
    writer: [u8; 32],
    #[n(1)]
    secret: [u8; 32],
    #[n(2)]
    next: u64,
    #[n(3)]
    generation: u32,
    #[n(4)]
    active_at: UnixMillis,
    #[n(5)]
    lively: bool,
    /// Of the box `next`; made once, because it costs a multiplication on the curve.
    #[cbor(skip)]
    id: Option<BoxId>,
    #[cbor(skip)]
    clock: PollClock,
}

impl DecoyChain {
    fn new(generation: u32, now: UnixMillis, rng: &mut impl CryptoRng) -> Self {
        let (mut writer, mut secret) = ([0; 32], [0; 32]);
        rng.fill_bytes(&mut writer);
        rng.fill_bytes(&mut secret);
        Self {
            writer,
            secret,
            next: 0,
            generation,
            active_at: now,
            lively: true,
            id: None,
            clock: PollClock::default(),
        }
    }

    fn id(&mut self) -> BoxId {
        *self.id.get_or_insert_with(|| {
            let writer = WriteKey::from_seed(&self.writer).public();
            boxes::id(&writer, &ChainSecret::from_bytes(self.secret), self.next)
        })
    }

    /// The box was "written": its id is never asked for again.
    fn advance(&mut self, now: UnixMillis) {
        self.next = self.next.wrapping_add(1);
        self.id = None;
        self.active_at = now;
    }
}

/// Who has these knows which ids are decoys.
impl Drop for DecoyChain {
    fn drop(&mut self) {
        self.writer.zeroize();
        self.secret.zeroize();
    }
}

/// What is kept in the profile.
#[derive(Encode, Decode)]
struct Kept {
    #[n(0)]
    format: u32,
    /// Most recent activity first.
    #[n(1)]
    chains: Vec<DecoyChain>,
}

/// A read that a decoy may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pretended {
    /// The box.
    pub id: BoxId,
    /// The generation that places it.
    pub generation: u32,
    chain: usize,
}

/// The pretended chains of one client.
#[derive(Default)]
pub struct DecoyChains {
    /// By last activity, the most recent first.
    chains: Vec<DecoyChain>,
    /// Mean gap between two decoys, in ms, and when the last one was.
    gap_ms: Option<f64>,
    last: Option<UnixMillis>,
    changed: bool,
}

impl std::fmt::Debug for DecoyChains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DecoyChains(redacted)")
    }
}

impl DecoyChains {
    /// Goes on with what [`DecoyChains::to_bytes`] wrote; anything else is a beginning.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut chains = match minicbor::decode::<Kept>(bytes) {
            Ok(kept) if kept.format == FORMAT => kept.chains,
            Ok(_) | Err(_) => Vec::new(),
        };
        chains.truncate(CHAINS_MAX);
        Self { chains, ..Self::default() }
    }

    /// What the profile keeps, if it changed since the last call.
    pub fn to_bytes(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let changed = std::mem::take(&mut self.changed);
        let kept = Kept { format: FORMAT, chains: self.chains.clone() };
        // writing plain fields to a Vec cannot fail
        changed.then(|| Zeroizing::new(minicbor::to_vec(&kept).unwrap_or_default()))
    }

    /// The read for the next decoy; `None` while there is no generation. Asking is no reading: call
    /// [`DecoyChains::asked`] when a packet carries it.
    pub fn next(&mut self, consensus: &Consensus, now: UnixMillis, rng: &mut impl CryptoRng) -> Option<Pretended> {
        let current = consensus.current_generation()?.number;
        let parameters = &consensus.parameters;
        self.fill(current, parameters, now, rng);
        for chain in &mut self.chains {
            if consensus.generation(chain.generation).is_none() {
                // who was away while its generation went: the conversation went on elsewhere
                chain.generation = current;
                chain.next = chain.next.wrapping_add(1);
                chain.id = None;
            }
            chain.clock.start(mean_gap(class(chain.active_at, now, parameters), parameters), now, rng);
        }
        let (index, chain) = self.chains.iter_mut().enumerate().min_by_key(|(_, chain)| chain.clock.at())?;
        Some(Pretended { id: chain.id(), generation: chain.generation, chain: index })
    }

    /// A packet carries `read`, the last that [`DecoyChains::next`] gave.
    pub fn asked(&mut self, read: Pretended, parameters: &Parameters, now: UnixMillis, rng: &mut impl CryptoRng) {
        self.tick(parameters, now);
        let Some(chain) = self.chains.get_mut(read.chain) else { return };
        if chain.lively && rng.random_ratio(1, POLLS_PER_MESSAGE_MEAN) {
            chain.advance(now);
            chain.lively = !rng.random_ratio(1, MESSAGES_MEAN);
            self.changed = true;
        }
        chain.clock.wind(mean_gap(class(chain.active_at, now, parameters), parameters), now, rng);
        self.chains.sort_by_key(|chain| std::cmp::Reverse(chain.active_at));
    }

    /// Keeps the mean gap between two decoys. One pause does not count for more than eight gaps: it says that the client
    /// was away, not that it is slow.
    fn tick(&mut self, parameters: &Parameters, now: UnixMillis) {
        let mean = self.gap_ms.unwrap_or_else(|| tick_gap_ms(parameters));
        let gap = self.last.map_or(mean, |last| now.0.saturating_sub(last.0) as f64).min(8.0 * mean);
        self.gap_ms = Some((mean + (gap - mean) / GAP_MEMORY).max(1.0));
        self.last = Some(now);
    }

    /// While the chains want fewer polls than there are decoys, somebody writes.
    fn fill(&mut self, current: u32, parameters: &Parameters, now: UnixMillis, rng: &mut impl CryptoRng) {
        let decoys_per_ms = 1.0 / self.gap_ms.unwrap_or_else(|| tick_gap_ms(parameters));
        let wanted_per_ms = |rank| 1.0 / (mean_gap(rank, parameters).as_secs_f64() * 1e3 + tick_gap_ms(parameters));
        // every pass makes one chain hot, and all of them hot is all there can be
        for _ in 0..CHAINS_MAX {
            let wanted: f64 =
                self.chains.iter().map(|chain| wanted_per_ms(class(chain.active_at, now, parameters))).sum();
            // half a chain on either side: on average there are as many as are wanted
            if wanted + wanted_per_ms(Rank::Hot) / 2.0 > decoys_per_ms && !self.chains.is_empty() {
                return;
            }
            if self.chains.len() < CHAINS_MAX {
                self.found(current, parameters, now, rng);
            } else if !self.revive(current, parameters, now, rng) {
                return;
            }
            self.chains.sort_by_key(|chain| std::cmp::Reverse(chain.active_at));
            self.changed = true;
        }
    }

    /// The first chain is lively. With it come those that a person has who did not begin today: half of the places,
    /// quiet since some time, evenly on a logarithmic scale.
    fn found(&mut self, current: u32, parameters: &Parameters, now: UnixMillis, rng: &mut impl CryptoRng) {
        if self.chains.is_empty() {
            for _ in 0..CHAINS_MAX / 2 {
                let doublings = rng.random_range(0.0..12.0);
                let quiet = parameters.hot_for_ms as f64 * f64::exp2(doublings);
                let mut chain = DecoyChain::new(current, UnixMillis(now.0.saturating_sub(quiet as u64)), rng);
                chain.lively = false;
                self.chains.push(chain);
            }
        }
        self.chains.push(DecoyChain::new(current, now, rng));
    }

    /// Somebody writes in a quiet conversation: in the k-th most recent one with probability 2⁻ᵏ. `false`: all are hot.
    fn revive(&mut self, current: u32, parameters: &Parameters, now: UnixMillis, rng: &mut impl CryptoRng) -> bool {
        let mut quiet: Vec<&mut DecoyChain> =
            self.chains.iter_mut().filter(|chain| class(chain.active_at, now, parameters) != Rank::Hot).collect();
        let rank = (0..quiet.len().saturating_sub(1)).find(|_| rng.random::<bool>());
        let at = rank.unwrap_or(quiet.len().saturating_sub(1));
        let Some(chain) = quiet.get_mut(at) else { return false };
        chain.advance(now);
        chain.lively = true;
        chain.generation = current;
        chain.clock.wind(mean_gap(Rank::Hot, parameters), now, rng);
        true
    }
}

/// Mean gap between two ticks that can carry a poll, in ms.
fn tick_gap_ms(parameters: &Parameters) -> f64 {
    1e6 / f64::from(parameters.lambda_p.0.max(1))
}

#[cfg(test)]
#[path = "decoys_tests.rs"]
mod tests;
