//! A network of loops on paper: who stands where, ways as nodes draw them, and who drops what. Each node is the real
//! [`Loops`]; a loop's fate is decided at once, packets are left out.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_node::loops::Loops;
use shoal_protocol::poisson::exponential;
use shoal_protocol::sphinx::Hop;
use shoal_protocol::{Identity, Layer, Role, X25519Public, X25519Secret};

/// λ_M of a public network: 0.5/s.
pub(crate) const MEAN_GAP: Duration = Duration::from_secs(2);
/// Mean mixing delay of a public network.
pub(crate) const MEAN_DELAY: Duration = Duration::from_millis(500);

/// Who stands where. Nodes are numbers: layer by layer, then gateways and stores.
pub(crate) struct Net {
    pub(crate) width: usize,
    pub(crate) turns: usize,
    key: X25519Public,
}

impl Net {
    /// Three layers of `width` mixes, and `turns` gateways and stores.
    pub(crate) fn new(width: usize, turns: usize) -> Self {
        let key = X25519Secret::generate(&mut StdRng::seed_from_u64(1)).public();
        Self { width, turns, key }
    }

    pub(crate) fn nodes(&self) -> usize {
        3 * self.width + self.turns
    }

    /// The nodes of a step: layers 0 to 2, then gateways and stores.
    pub(crate) fn step(&self, step: usize) -> std::ops::Range<usize> {
        if step < 3 { step * self.width..(step + 1) * self.width } else { 3 * self.width..self.nodes() }
    }

    pub(crate) fn step_of(&self, node: usize) -> usize {
        (node / self.width).min(3)
    }

    pub(crate) fn role(&self, node: usize) -> (Role, Option<Layer>) {
        match self.step_of(node) {
            3 if node.is_multiple_of(2) => (Role::Gateway, None),
            3 => (Role::Store, None),
            layer => (Role::Mix, Some(Layer::ALL[layer])),
        }
    }

    pub(crate) fn identity(node: usize) -> Identity {
        let mut bytes = [1; 32];
        bytes[..8].copy_from_slice(&(node as u64).to_be_bytes());
        Identity::from_bytes(bytes)
    }

    pub(crate) fn first_hops(&self, me: usize) -> BTreeSet<Identity> {
        self.step((self.step_of(me) + 1) % 4).map(Self::identity).collect()
    }

    /// A loop of `me` over `first`: the nodes from `me` to `me`, and the hops.
    pub(crate) fn way(&self, me: usize, first: usize, rng: &mut StdRng) -> (Vec<usize>, Vec<Hop>) {
        let mut way = vec![me, first];
        for on in 2..4 {
            way.push(rng.random_range(self.step((self.step_of(me) + on) % 4)));
        }
        way.push(me);
        let mut hop = |node: &usize| Hop {
            address: *Self::identity(*node).as_bytes(),
            key: self.key,
            delay: exponential(MEAN_DELAY, rng),
        };
        let mut hops: Vec<Hop> = way[1..].iter().map(&mut hop).collect();
        hops[3].delay = Duration::ZERO;
        (way, hops)
    }
}

/// Whether a loop over this way is lost.
pub(crate) type Fate<'a> = &'a dyn Fn(&[usize], &mut StdRng) -> bool;

/// One node with its loops in virtual time.
pub(crate) struct Sender<'n> {
    net: &'n Net,
    me: usize,
    first_hops: BTreeSet<Identity>,
    pub(crate) loops: Loops,
    pub(crate) now: Duration,
    /// Loops that will return: when, and which.
    returning: BTreeSet<(Duration, [u8; 16])>,
    look: Duration,
    sent: u64,
}

impl<'n> Sender<'n> {
    pub(crate) fn new(net: &'n Net, me: usize, rng: &mut StdRng) -> Self {
        let loops = Loops::new(MEAN_GAP, Duration::ZERO, rng);
        let (now, look) = (Duration::ZERO, Duration::ZERO);
        Self { net, me, first_hops: net.first_hops(me), loops, now, returning: BTreeSet::new(), look, sent: 0 }
    }

    /// The next loop, whatever the time: its way.
    fn send(&mut self, fate: Fate<'_>, rng: &mut StdRng) -> (Vec<usize>, [u8; 16], Option<Duration>) {
        let first = self.loops.first_hop(&self.first_hops, rng).expect("there are next hops");
        let first = usize::from_be_bytes(first.as_bytes()[..8].try_into().expect("eight bytes"));
        let (way, hops) = self.net.way(self.me, first, rng);
        self.sent += 1;
        let mut identifier = [1; 16];
        identifier[..8].copy_from_slice(&self.sent.to_be_bytes());
        self.loops.sent(self.now, identifier, &hops);
        // links and nodes take some time too
        let takes = hops.iter().map(|hop| hop.delay).sum::<Duration>() + Duration::from_millis(200);
        let back = (!fate(&way, rng)).then_some(self.now + takes);
        (way, identifier, back)
    }

    /// One loop that returns or is lost before the next one leaves. Returns its way.
    pub(crate) fn at_once(&mut self, fate: Fate<'_>, rng: &mut StdRng) -> Vec<usize> {
        let (way, identifier, back) = self.send(fate, rng);
        if let Some(back) = back {
            self.loops.returned(&identifier, back);
        }
        self.now += Duration::from_secs(60);
        self.loops.expire(self.now);
        way
    }

    /// Time passes to the next thing that happens: a loop leaves, one returns, or the node looks for lost ones.
    pub(crate) fn pass(&mut self, fate: Fate<'_>, rng: &mut StdRng) {
        let back = self.returning.first().map(|(at, _)| *at);
        let next = self.loops.next().min(self.look).min(back.unwrap_or(Duration::MAX));
        self.now = next;
        if back == Some(next) {
            if let Some((_, identifier)) = self.returning.pop_first() {
                self.loops.returned(&identifier, next);
            }
        } else if self.look == next {
            self.loops.expire(next);
            // as often as the shell does
            self.look += Duration::from_millis(500);
        } else if self.loops.due(next, rng)
            && let (_, identifier, Some(back)) = self.send(fate, rng)
        {
            self.returning.insert((back, identifier));
        }
    }
}

/// Loss that happens to honest loops: `share` of all.
pub(crate) fn by_chance(share: f64, rng: &mut StdRng) -> bool {
    rng.random::<f64>() < share
}
