//! The gateway's sessions: which link a session's replies go to, and how much a client may send. (How many links one
//! address prefix may hold is a cap of the endpoint: `quic::Limits`.)
//!
//! A session lives as long as its link. Resuming needs no state: the client attaches with the same secret, the newer
//! link takes the session over. The gateway buffers nothing for a session without a link.

use shoal_protocol::parameters::Parameters;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

/// Packets a client may send at once: a Poisson process bursts, and 64 above its mean is beyond 10⁻⁹ at any rate class.
pub const BUCKET_DEPTH: f64 = 64.0;
/// Fill rate ÷ (λ_P + λ_L): room for clocks that run fast.
const FILL_FACTOR: f64 = 1.25;

/// Packets per second that a session may send on average. The normal rate class is the largest; which class a client
/// has is not announced.
pub fn fill_rate(parameters: &Parameters) -> f64 {
    let normal = parameters.lambda_p.per_second() + parameters.lambda_l.per_second();
    FILL_FACTOR * normal.max(parameters.lambda_low.per_second())
}

/// A token bucket. Starts full.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: f64,
    updated: Duration,
}

impl Bucket {
    /// A full bucket.
    pub fn new(now: Duration) -> Self {
        Self { tokens: BUCKET_DEPTH, updated: now }
    }

    /// Takes one token, if there is one. `fill` in packets per second.
    pub fn admit(&mut self, now: Duration, fill: f64) -> bool {
        let passed = now.saturating_sub(self.updated).as_secs_f64();
        self.updated = self.updated.max(now);
        self.tokens = (self.tokens + passed * fill).min(BUCKET_DEPTH);
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}

/// The gateway has as many sessions as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {0} sessions of this gateway are taken")]
pub struct TooManySessions(pub usize);

/// Which session belongs to which link. `S` is the handle through which the shell reaches the link.
#[derive(Debug)]
pub struct Sessions<S> {
    sessions: HashMap<[u8; 32], (u64, S)>,
    capacity: usize,
}

impl<S> Sessions<S> {
    /// A table of at most `capacity` sessions. One takes some 100 bytes here and its queue in the shell.
    pub fn new(capacity: usize) -> Self {
        Self { sessions: HashMap::new(), capacity }
    }

    /// Link `link` (a number that the shell never uses twice) attaches with `address`. If the session had another link,
    /// that one's handle comes back and the shell closes it.
    pub fn attach(&mut self, address: [u8; 32], link: u64, handle: S) -> Result<Option<S>, TooManySessions> {
        let full = self.sessions.len() >= self.capacity;
        match self.sessions.entry(address) {
            Entry::Occupied(mut taken) => Ok(Some(taken.insert((link, handle)).1)),
            Entry::Vacant(_) if full => Err(TooManySessions(self.capacity)),
            Entry::Vacant(free) => {
                free.insert((link, handle));
                Ok(None)
            }
        }
    }

    /// Link `link` is gone. Does nothing if the session meanwhile has another.
    pub fn detach(&mut self, address: &[u8; 32], link: u64) {
        if self.sessions.get(address).is_some_and(|(current, _)| *current == link) {
            self.sessions.remove(address);
        }
    }

    /// Where replies to `address` go.
    pub fn get(&self, address: &[u8; 32]) -> Option<&S> {
        self.sessions.get(address).map(|(_, handle)| handle)
    }

    /// Sessions attached now.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether nobody is attached.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_bursts_through_and_keeps_the_mean() {
        let mut bucket = Bucket::new(Duration::ZERO);
        assert_eq!((0..100).filter(|_| bucket.admit(Duration::ZERO, 3.0)).count(), 64);
        let passed = (1..=100_000u64).filter(|ms| bucket.admit(Duration::from_millis(*ms), 3.0)).count();
        assert!((299..=301).contains(&passed), "{passed}");
    }

    #[test]
    fn a_bucket_survives_a_clock_that_stands_or_jumps() {
        let mut bucket = Bucket::new(Duration::from_secs(10));
        assert!(bucket.admit(Duration::ZERO, 1.0));
        assert_eq!((0..1_000).filter(|_| bucket.admit(Duration::MAX, 1.0)).count(), 64);
    }

    #[test]
    fn the_fill_rate_follows_the_consensus() {
        assert!((fill_rate(&Parameters::production()) - 3.125).abs() < 1e-9);
    }

    #[test]
    fn the_newest_link_of_a_session_gets_its_replies() {
        let mut sessions = Sessions::new(2);
        assert_eq!(sessions.attach([1; 32], 10, 'a'), Ok(None));
        assert_eq!(sessions.attach([1; 32], 11, 'b'), Ok(Some('a')));
        sessions.detach(&[1; 32], 10);
        assert_eq!(sessions.get(&[1; 32]), Some(&'b'), "the end of the older link changes nothing");
        sessions.detach(&[1; 32], 11);
        assert!(sessions.is_empty());
    }

    #[test]
    fn a_full_table_refuses_new_sessions_and_resumes_old_ones() {
        let mut sessions = Sessions::new(1);
        assert_eq!(sessions.attach([1; 32], 1, ()), Ok(None));
        assert_eq!(sessions.attach([2; 32], 2, ()), Err(TooManySessions(1)));
        assert_eq!(sessions.attach([1; 32], 3, ()), Ok(Some(())));
        assert_eq!(sessions.len(), 1);
    }
}
