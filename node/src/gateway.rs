//! The gateway's sessions: which link a session's replies go to, and how much a client may send. (How many links one
//! address prefix may hold is a cap of the endpoint: `quic::Limits`.)
//!
//! Resuming needs no state: the client attaches with the same secret, the newer link takes the session over. The gateway
//! buffers nothing for a session without a link. What outlives the link is the session's token bucket, for as long as it
//! would take to fill: otherwise every reconnection would bring a fresh burst. It does not fill meanwhile: tokens flow to
//! seats, not to those who wait for one.
//!
//! Anybody can come with a new secret at any time, so a new session begins with few tokens, and these come from a supply that
//! all new sessions share. So what all clients together may send follows from the number of seats alone: each seat's flow,
//! a sixteenth more for those who are new, and the buckets. A session without tokens waits for the next one, and its link is
//! not read meanwhile: QUIC holds the sender back, nothing is dropped.
//!
//! An honest client notices little of it. It sends a Poisson process of rate λ, its tokens flow at 1.25 λ; that it ever
//! lacks one when it begins with k of them is e^(−0.43 k) (0.43 solves e^θ − 1 = 1.25 θ): 10⁻³ for 16, 10⁻¹² for 64. Then a
//! packet waits for the next token, a third of a second. If others have emptied the supply, it begins with none,
//! and its packets wait 0.6 s on average (M/D/1 at 4/5 load) until its bucket has grown. Whether a packet waits depends on
//! when it comes, never on what it carries.
//!
//! Who sends nothing is no client: see [`silence_max`].

use crate::tokens::{self, Bucket};
use shoal_protocol::parameters::Parameters;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Packets a client may send at once: a Poisson process bursts, and 64 above its mean is beyond 10⁻⁹ at any rate class.
pub const BUCKET_DEPTH: f64 = 64.0;
/// Tokens that a new session begins with, while there are any for new ones.
pub const FIRST_TOKENS: f64 = 16.0;
/// What flows to new sessions ÷ what flows to all seats. 1,024 seats × 3.125/s ÷ 16 = 200 tokens a second: twelve new clients
/// a second, while a gateway that was started anew has for each seat what its first client begins with.
pub const NEW_SHARE: f64 = 1.0 / 16.0;
/// Mean gaps of the low rate class after which a client that sent nothing is none. A Poisson process is silent for so long
/// with probability e⁻³² = 1.3 × 10⁻¹⁴ after each packet: a million clients of the low class send 1.6 × 10¹² packets a year,
/// so of all of them together one in fifty years is taken for silent, and makes its link anew.
const SILENT_GAPS: u32 = 32;
/// Fill rate ÷ (λ_P + λ_L): room for clocks that run fast.
const FILL_FACTOR: f64 = 1.25;

/// Packets per second that a session may send on average. The normal rate class is the largest; which class a client
/// has is not announced.
pub fn fill_rate(parameters: &Parameters) -> f64 {
    let normal = parameters.lambda_p.per_second() + parameters.lambda_l.per_second();
    FILL_FACTOR * normal.max(parameters.lambda_low.per_second())
}

/// How long a client may send nothing before its link is closed, 640 s with the parameters of a public network: 32 mean gaps
/// of the low rate class. Every client sends by its schedule, whatever it has to say, so this tells nothing of an
/// honest one; but without it, who only holds links would keep a gateway's seats for ever.
pub fn silence_max(parameters: &Parameters) -> Duration {
    parameters.lambda_low.mean_gap().saturating_mul(SILENT_GAPS)
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
    /// What new sessions begin with, for all of them.
    for_new: Bucket,
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
    /// entries of some 150 bytes here (1,024: 300 kB), and the queues of those attached in the shell. With the default
    /// rates a bucket is kept for 64 ÷ 3.125/s = 20 s at most; only above 1,024 ÷ 20 s = 50 partings a second
    /// is one forgotten sooner, and its session begins anew.
    pub fn new(capacity: usize) -> Self {
        let depth = FIRST_TOKENS * capacity as f64;
        let for_new = Bucket::new(depth, depth, Duration::ZERO);
        Self { sessions: HashMap::new(), detached: VecDeque::new(), attached: 0, capacity, for_new }
    }

    /// Changes how many sessions may be attached. Those attached now stay.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.for_new.set_depth(FIRST_TOKENS * capacity as f64);
    }

    /// Link `link` (a number that the shell never uses twice) attaches with `address`. If the session had another link,
    /// that one's handle comes back and the shell closes it. A session that comes back finds its bucket as it left it; a
    /// new one has what there is for new ones.
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
                session.bucket.resume(now);
                self.attached += 1;
                Ok(None)
            }
            None => {
                let flow = fill * NEW_SHARE * self.capacity as f64;
                let tokens = self.for_new.draw(FIRST_TOKENS, now, flow);
                let bucket = Bucket::new(tokens, BUCKET_DEPTH, now);
                self.sessions.insert(address, Session { link, handle: Some(handle), bucket });
                self.attached += 1;
                Ok(None)
            }
        }
    }

    /// Takes a token of the session, or says in how long there is one. `fill` in packets per second.
    pub fn admit(&mut self, address: &[u8; 32], now: Duration, fill: f64) -> Result<(), Duration> {
        // one that is not there has lost its link, and whoever asks is about to notice
        self.sessions.get_mut(address).map_or(Err(tokens::WAIT_MAX), |session| session.bucket.admit(now, fill))
    }

    /// Link `link` is gone. Does nothing if the session meanwhile has another.
    pub fn detach(&mut self, address: &[u8; 32], link: u64, now: Duration, fill: f64) {
        match self.sessions.get_mut(address) {
            Some(session) if session.link == link && session.handle.is_some() => {
                session.handle = None;
                session.bucket.refill(now, fill);
            }
            Some(_) | None => return,
        }
        self.attached -= 1;
        self.detached.push_back((*address, link));
        self.forget(now, fill);
    }

    /// Forgets sessions without a link from the front of the line: those whose bucket would be full by now, and as many as
    /// are above the capacity. One that takes longer holds up those behind it, for no longer than a bucket takes to fill.
    fn forget(&mut self, now: Duration, fill: f64) {
        while let Some((address, link)) = self.detached.front() {
            let over = self.detached.len() > self.capacity;
            let waits = self.sessions.get(address).filter(|session| session.link == *link && session.handle.is_none());
            if let Some(session) = waits {
                if !over && !session.bucket.would_be_full(now, fill) {
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
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::poisson::exponential;

    /// Packets of a Poisson process that wait for a token, of all it sends within a minute, from `tokens` on.
    fn waiting(tokens: f64, rng: &mut StdRng) -> (usize, Duration) {
        let parameters = Parameters::production();
        let (fill, gap) = (fill_rate(&parameters), Duration::from_secs_f64(1.0 / 2.5));
        let mut bucket = Bucket::new(tokens, BUCKET_DEPTH, START);
        let (mut due, mut read, mut waited, mut longest) = (START, START, 0, START);
        while due < Duration::from_secs(60) {
            due += exponential(gap, rng);
            let came = read.max(due);
            read = came;
            while let Err(wait) = bucket.admit(read, fill) {
                read += wait;
            }
            waited += usize::from(read > due);
            longest = longest.max(read - due);
        }
        (waited, longest)
    }

    #[test]
    fn a_new_client_of_the_normal_class_hardly_ever_waits() {
        let mut rng = StdRng::seed_from_u64(1);
        let new: Vec<_> = (0..2_000).map(|_| waiting(FIRST_TOKENS, &mut rng)).collect();
        let (waited, longest) = (new.iter().filter(|(n, _)| *n > 0).count(), new.iter().map(|(_, wait)| *wait).max());
        // one in a thousand: two are expected
        assert!(waited <= 10, "{waited} of 2,000 clients waited");
        assert!(longest < Some(Duration::from_secs(2)), "{longest:?}");
        // where there is nothing for new ones, packets come later and none is lost
        let empty: Vec<_> = (0..2_000).map(|_| waiting(0.0, &mut rng)).collect();
        assert!(empty.iter().all(|(_, wait)| *wait < Duration::from_secs(20)));
        let old: Vec<_> = (0..2_000).map(|_| waiting(BUCKET_DEPTH, &mut rng)).collect();
        assert!(old.iter().all(|(n, _)| *n == 0));
    }

    #[test]
    fn silence_is_told_from_a_quiet_schedule() {
        assert_eq!(silence_max(&Parameters::production()), Duration::from_secs(640));
        assert!((-f64::from(SILENT_GAPS)).exp() < 2e-14);
    }

    #[test]
    fn what_all_clients_send_follows_from_the_seats_however_often_they_change_hands() {
        const FILL: f64 = 3.125;
        let (seats, minutes) = (16usize, 10u64);
        let mut sessions = Sessions::new(seats);
        let mut admitted = 0usize;
        // each seat is given to a new secret every 100 ms, and all that it is given is spent
        for step in 0..minutes * 600 {
            let now = Duration::from_millis(100 * step);
            for seat in 0..seats as u64 {
                let mut address = [0; 32];
                address.iter_mut().zip((step * 16 + seat).to_le_bytes()).for_each(|(to, from)| *to = from);
                sessions.attach(address, step * 16 + seat, (), now, FILL).expect("a seat");
                let before_next = now + Duration::from_millis(100);
                admitted += (0..64).take_while(|_| sessions.admit(&address, now, FILL).is_ok()).count();
                sessions.detach(&address, step * 16 + seat, before_next, FILL);
            }
        }
        let flow = seats as f64 * FILL * 60.0 * minutes as f64;
        let bound = flow * (1.0 + NEW_SHARE) + seats as f64 * (2.0 * BUCKET_DEPTH + FIRST_TOKENS);
        assert!((admitted as f64) <= bound, "{admitted} of {bound}");
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
            admitted += (0..64).filter(|_| sessions.admit(&[1; 32], now, 3.0).is_ok()).count();
            sessions.detach(&[1; 32], link, now, 3.0);
        }
        assert_eq!(admitted, 16);
    }

    #[test]
    fn a_session_that_comes_back_goes_on_where_it_was() {
        let mut sessions = Sessions::new(4);
        sessions.attach([1; 32], 1, (), START, 2.0).expect("a seat");
        let now = Duration::from_secs(60);
        assert!((0..4).all(|_| sessions.admit(&[1; 32], now, 2.0).is_ok()), "its bucket has filled");
        sessions.detach(&[1; 32], 1, now, 2.0);
        let back = now + Duration::from_secs(1);
        sessions.attach([1; 32], 2, (), back, 2.0).expect("a seat");
        assert_eq!((0..100).filter(|_| sessions.admit(&[1; 32], back, 2.0).is_ok()).count(), 60);
    }

    #[test]
    fn a_bucket_is_kept_until_it_is_full_and_no_longer() {
        let mut sessions = Sessions::new(4);
        sessions.attach([1; 32], 1, (), START, 2.0).expect("a place");
        assert!((0..10).all(|_| sessions.admit(&[1; 32], START, 2.0).is_ok()));
        sessions.detach(&[1; 32], 1, START, 2.0);
        // six of sixteen are left: 58 tokens at two a second
        sessions.forget(Duration::from_millis(28_900), 2.0);
        assert_eq!(sessions.sessions.len(), 1);
        sessions.forget(Duration::from_secs(29), 2.0);
        assert_eq!((sessions.sessions.len(), sessions.detached.len()), (0, 0));
        assert!(sessions.admit(&[1; 32], START, 2.0).is_err(), "nobody has this session");
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
            let _ = sessions.admit(&address, START, 3.0);
            sessions.detach(&address, n, START, 3.0);
            assert!(sessions.sessions.len() <= 16 && sessions.detached.len() <= 8);
        }
        assert!(sessions.is_empty());
    }
}
