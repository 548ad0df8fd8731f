//! The gateway's sessions: which link a session's replies go to, and how much a client may send. (How many links one
//! address prefix may hold is a cap of the endpoint: `quic::Limits`.)
//!
//! Resuming needs no state: the client attaches with the same secret, the newer link takes the session over. The gateway
//! buffers nothing for a session without a link. What outlives the link is the session's token bucket, until it is full
//! again: otherwise every reconnection would bring a fresh burst. A full bucket says nothing and is forgotten.

use shoal_protocol::parameters::Parameters;
use std::collections::{HashMap, VecDeque};
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
        self.refill(now, fill);
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }

    /// Whether it is full at `now`: then it is as good as a new one.
    pub fn is_full(&mut self, now: Duration, fill: f64) -> bool {
        self.refill(now, fill);
        self.tokens >= BUCKET_DEPTH
    }

    fn refill(&mut self, now: Duration, fill: f64) {
        let passed = now.saturating_sub(self.updated).as_secs_f64();
        self.updated = self.updated.max(now);
        self.tokens = (self.tokens + passed * fill).min(BUCKET_DEPTH);
    }
}

/// The gateway has as many sessions as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {0} sessions of this gateway are taken")]
pub struct TooManySessions(pub usize);

/// Which session belongs to which link, and its bucket. `S` is the handle through which the shell reaches the link.
#[derive(Debug)]
pub struct Sessions<S> {
    sessions: HashMap<[u8; 32], Session<S>>,
    /// Sessions without a link, with the link they had, in the order in which they lost it. An entry whose session has a
    /// link again, or lost a later one, means nothing.
    detached: VecDeque<([u8; 32], u64)>,
    attached: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Session<S> {
    /// The link it has or had last.
    link: u64,
    /// `None` while it has no link.
    handle: Option<S>,
    bucket: Bucket,
}

impl<S> Sessions<S> {
    /// A table of at most `capacity` attached sessions, and as many that wait for their bucket to fill: 2 × `capacity`
    /// entries of some 150 bytes here (4,096: 1.2 MB), and the queues of those attached in the shell. With the default
    /// rates a bucket is full 64 ÷ 3.125/s = 20 s after its last packet; only above 4,096 ÷ 20 s = 200 partings a second
    /// is one forgotten sooner.
    pub fn new(capacity: usize) -> Self {
        Self { sessions: HashMap::new(), detached: VecDeque::new(), attached: 0, capacity }
    }

    /// Changes how many sessions may be attached. Those attached now stay.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Link `link` (a number that the shell never uses twice) attaches with `address`. If the session had another link,
    /// that one's handle comes back and the shell closes it. A session that comes back finds its bucket as it left it.
    pub fn attach(
        &mut self,
        address: [u8; 32],
        link: u64,
        handle: S,
        now: Duration,
        fill: f64,
    ) -> Result<Option<S>, TooManySessions> {
        self.forget(now, fill);
        let full = self.attached >= self.capacity;
        match self.sessions.get_mut(&address) {
            Some(session) if session.handle.is_some() => {
                session.link = link;
                Ok(session.handle.replace(handle))
            }
            _ if full => Err(TooManySessions(self.capacity)),
            Some(session) => {
                session.link = link;
                session.handle = Some(handle);
                self.attached += 1;
                Ok(None)
            }
            None => {
                self.sessions.insert(address, Session { link, handle: Some(handle), bucket: Bucket::new(now) });
                self.attached += 1;
                Ok(None)
            }
        }
    }

    /// Takes a token of the session, if there is one. `fill` in packets per second.
    pub fn admit(&mut self, address: &[u8; 32], now: Duration, fill: f64) -> bool {
        self.sessions.get_mut(address).is_some_and(|session| session.bucket.admit(now, fill))
    }

    /// Link `link` is gone. Does nothing if the session meanwhile has another.
    pub fn detach(&mut self, address: &[u8; 32], link: u64, now: Duration, fill: f64) {
        match self.sessions.get_mut(address) {
            Some(session) if session.link == link && session.handle.is_some() => session.handle = None,
            Some(_) | None => return,
        }
        self.attached -= 1;
        self.detached.push_back((*address, link));
        self.forget(now, fill);
    }

    /// Forgets sessions without a link from the front of the line: those whose bucket is full, and as many as are above
    /// the capacity. One with a slower bucket holds up those behind it, for no longer than a bucket takes to fill.
    fn forget(&mut self, now: Duration, fill: f64) {
        while let Some((address, link)) = self.detached.front() {
            let over = self.detached.len() > self.capacity;
            let waits =
                self.sessions.get_mut(address).filter(|session| session.link == *link && session.handle.is_none());
            if let Some(session) = waits {
                if !over && !session.bucket.is_full(now, fill) {
                    return;
                }
                self.sessions.remove(address);
            }
            self.detached.pop_front();
        }
    }

    /// Where replies to `address` go.
    pub fn get(&self, address: &[u8; 32]) -> Option<&S> {
        self.sessions.get(address).and_then(|session| session.handle.as_ref())
    }

    /// Sessions attached now.
    pub fn len(&self) -> usize {
        self.attached
    }

    /// Whether nobody is attached.
    pub fn is_empty(&self) -> bool {
        self.attached == 0
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

    const START: Duration = Duration::ZERO;

    #[test]
    fn the_newest_link_of_a_session_gets_its_replies() {
        let mut sessions = Sessions::new(2);
        assert_eq!(sessions.attach([1; 32], 10, 'a', START, 3.0), Ok(None));
        assert_eq!(sessions.attach([1; 32], 11, 'b', START, 3.0), Ok(Some('a')));
        sessions.detach(&[1; 32], 10, START, 3.0);
        assert_eq!(sessions.get(&[1; 32]), Some(&'b'), "the end of the older link changes nothing");
        sessions.detach(&[1; 32], 11, START, 3.0);
        assert!(sessions.is_empty());
        assert_eq!(sessions.get(&[1; 32]), None);
    }

    #[test]
    fn a_full_table_refuses_new_sessions_and_resumes_old_ones() {
        let mut sessions = Sessions::new(1);
        assert_eq!(sessions.attach([1; 32], 1, (), START, 3.0), Ok(None));
        assert_eq!(sessions.attach([2; 32], 2, (), START, 3.0), Err(TooManySessions(1)));
        assert_eq!(sessions.attach([1; 32], 3, (), START, 3.0), Ok(Some(())));
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn who_reconnects_gets_no_fresh_burst() {
        let mut sessions = Sessions::new(4);
        let mut admitted = 0;
        // one burst a reconnection, 20 times within two seconds
        for link in 0..20 {
            let now = Duration::from_millis(100 * link);
            assert_eq!(sessions.attach([1; 32], link, (), now, 3.0), Ok(None));
            admitted += (0..64).filter(|_| sessions.admit(&[1; 32], now, 3.0)).count();
            sessions.detach(&[1; 32], link, now, 3.0);
        }
        assert!((64..=64 + 6).contains(&admitted), "{admitted}");
    }

    #[test]
    fn a_bucket_is_kept_until_it_is_full_and_no_longer() {
        let mut sessions = Sessions::new(4);
        sessions.attach([1; 32], 1, (), START, 2.0).expect("a place");
        assert!((0..10).all(|_| sessions.admit(&[1; 32], START, 2.0)));
        sessions.detach(&[1; 32], 1, START, 2.0);
        // ten tokens at two a second
        sessions.forget(Duration::from_millis(4_900), 2.0);
        assert_eq!(sessions.sessions.len(), 1);
        sessions.forget(Duration::from_secs(5), 2.0);
        assert_eq!((sessions.sessions.len(), sessions.detached.len()), (0, 0));
        assert!(!sessions.admit(&[1; 32], START, 2.0), "nobody has this session");
    }

    #[test]
    fn the_table_is_bounded_whoever_comes_and_goes() {
        let mut sessions = Sessions::new(8);
        for n in 0..10_000u64 {
            let mut address = [0; 32];
            // some come back, most are new
            let name = if n % 3 == 0 { n % 7 } else { n };
            address.iter_mut().zip(name.to_le_bytes()).for_each(|(to, from)| *to = from);
            sessions.attach(address, n, (), START, 3.0).expect("a place");
            sessions.admit(&address, START, 3.0);
            sessions.detach(&address, n, START, 3.0);
            assert!(sessions.sessions.len() <= 16 && sessions.detached.len() <= 8);
        }
        assert!(sessions.is_empty());
    }
}
