//! Who may use the web page: links that are good once, and the sessions they are exchanged for.
//!
//! A link's token stands in the fragment of its address, which no browser sends anywhere; the page exchanges it for a
//! session's secret and shows that with every request in a header. There is no cookie: cookies do not know ports, and
//! whatever else listens on this machine would be sent them.

use std::collections::VecDeque;
use std::time::Duration;

use rand::CryptoRng;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Links that were made and not used yet; one more and the oldest is void.
const LINKS_MAX: usize = 8;
/// How long a link can be used: the time to copy it into a browser.
const LINK_LIFE: Duration = Duration::from_secs(10 * 60);
/// Sessions at a time: one a browser tab; one more and the one that was quiet for longest ends.
const SESSIONS_MAX: usize = 16;
/// A session that asks for nothing for so long ends. A page that is open asks all the time.
pub(crate) const IDLE: Duration = Duration::from_secs(60 * 60);

/// 32 random bytes, shown as hex.
struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    fn fresh(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        Self(secret)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, &mut *secret).ok()?;
        Some(Self(secret))
    }

    fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

/// Links and sessions. All times are of one monotonic clock.
#[derive(Default)]
pub(crate) struct Sessions {
    links: VecDeque<(Secret, Duration)>,
    sessions: VecDeque<(Secret, Duration)>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("open", &self.sessions.len()).finish_non_exhaustive()
    }
}

/// Where a secret lies. Every one is compared, whether it was found or not: the time says nothing.
fn find(all: &VecDeque<(Secret, Duration)>, secret: &Secret) -> Option<usize> {
    all.iter().enumerate().fold(None, |found, (at, (one, _))| if one.is(secret) { Some(at) } else { found })
}

impl Sessions {
    /// A fresh token for a link.
    pub(crate) fn link(&mut self, now: Duration, rng: &mut impl CryptoRng) -> String {
        self.expire(now);
        if self.links.len() >= LINKS_MAX {
            self.links.pop_front();
        }
        let secret = Secret::fresh(rng);
        let token = hex::encode(*secret.0);
        self.links.push_back((secret, now));
        token
    }

    /// Exchanges a link's token, once, for a session's secret.
    pub(crate) fn exchange(&mut self, token: &str, now: Duration, rng: &mut impl CryptoRng) -> Option<String> {
        self.expire(now);
        let at = find(&self.links, &Secret::parse(token)?)?;
        self.links.remove(at);
        if self.sessions.len() >= SESSIONS_MAX {
            let oldest = self.sessions.iter().enumerate().min_by_key(|(_, (_, used))| *used).map(|(at, _)| at);
            oldest.and_then(|at| self.sessions.remove(at));
        }
        let secret = Secret::fresh(rng);
        let session = hex::encode(*secret.0);
        self.sessions.push_back((secret, now));
        Some(session)
    }

    /// Whether a session is open; it is used by that.
    pub(crate) fn used(&mut self, session: &str, now: Duration) -> bool {
        self.expire(now);
        let at = Secret::parse(session).and_then(|session| find(&self.sessions, &session));
        let entry = at.and_then(|at| self.sessions.get_mut(at));
        entry.map(|(_, used)| *used = now).is_some()
    }

    /// Ends a session.
    pub(crate) fn end(&mut self, session: &str) {
        let at = Secret::parse(session).and_then(|session| find(&self.sessions, &session));
        at.and_then(|at| self.sessions.remove(at));
    }

    fn expire(&mut self, now: Duration) {
        self.links.retain(|(_, made)| now.saturating_sub(*made) < LINK_LIFE);
        self.sessions.retain(|(_, used)| now.saturating_sub(*used) < IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    const fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn a_link_is_good_once_and_for_ten_minutes() {
        let (mut sessions, mut rng) = (Sessions::default(), StdRng::seed_from_u64(1));
        let (link, late) = (sessions.link(minutes(0), &mut rng), sessions.link(minutes(0), &mut rng));
        let session = sessions.exchange(&link, minutes(9), &mut rng).unwrap();
        assert_ne!(session, link);
        assert!(sessions.used(&session, minutes(9)));
        assert_eq!(sessions.exchange(&link, minutes(9), &mut rng), None, "replayed");
        assert_eq!(sessions.exchange(&late, minutes(10), &mut rng), None, "too late");
        for guess in ["", "00", &"0".repeat(64), "ü", &session] {
            assert_eq!(sessions.exchange(guess, minutes(9), &mut rng), None, "{guess}");
            assert!(guess == session || !sessions.used(guess, minutes(9)), "{guess}");
        }
    }

    #[test]
    fn sessions_end_when_nobody_uses_them_and_when_they_are_told_to() {
        let (mut sessions, mut rng) = (Sessions::default(), StdRng::seed_from_u64(2));
        let mut open = || {
            let link = sessions.link(minutes(0), &mut rng);
            sessions.exchange(&link, minutes(0), &mut rng).unwrap()
        };
        let (busy, quiet, ended) = (open(), open(), open());
        assert!(sessions.used(&busy, minutes(59)));
        sessions.end(&ended);
        assert!(!sessions.used(&ended, minutes(59)));
        assert!(sessions.used(&busy, minutes(118)) && !sessions.used(&quiet, minutes(60)));
    }

    #[test]
    fn links_and_sessions_are_bounded_and_the_oldest_goes() {
        let (mut sessions, mut rng) = (Sessions::default(), StdRng::seed_from_u64(3));
        let links: Vec<String> = (0..=LINKS_MAX).map(|_| sessions.link(minutes(0), &mut rng)).collect();
        assert_eq!(sessions.exchange(&links[0], minutes(1), &mut rng), None);
        let first = sessions.exchange(&links[1], minutes(1), &mut rng).unwrap();
        let mut others = Vec::new();
        for _ in 1..SESSIONS_MAX {
            let link = sessions.link(minutes(1), &mut rng);
            others.push(sessions.exchange(&link, minutes(1), &mut rng).unwrap());
        }
        assert!(sessions.used(&first, minutes(2)), "16 are open");
        let link = sessions.link(minutes(2), &mut rng);
        let newest = sessions.exchange(&link, minutes(2), &mut rng).unwrap();
        assert!(sessions.used(&first, minutes(2)) && sessions.used(&newest, minutes(2)));
        assert_eq!(others.iter().filter(|session| sessions.used(session, minutes(2))).count(), SESSIONS_MAX - 2);
    }
}
