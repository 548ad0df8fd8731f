//! Places of those who ask a gateway for documents: how many there are, how many of them one address prefix may hold, and
//! who has to go when somebody else comes. Pure: it is told who comes and what they do.
//!
//! A place is *at work* from when a whole question is there until its answer has been taken, and *idle* otherwise: also
//! with a question that has begun and is not whole. Idle places are given to whoever comes, the longest idle first. So who
//! asks nothing keeps nobody out, however many places he holds. When all are at work, the prefix that holds most of them
//! gives its oldest, to one that would hold fewer; where none holds two more than the newcomer's, the place that is longest
//! at work beyond [`WORK_SHARE`] goes. So who has a prefix for every place keeps newcomers out for no longer than that, and
//! from IPv6, where prefixes are cheap, he does not get every place. Work itself is short: the shell gives it a deadline.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// How long somebody may be at work while others wait for a place: 1 MiB at 2.8 Mbit/s, 200 kB at 540 kbit/s. Whoever is
/// slower loses his place only when all are at work, and asks again.
pub const WORK_SHARE: Duration = Duration::from_secs(3);

/// How many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// In all.
    pub all: usize,
    /// Of these, for one prefix.
    pub prefix: usize,
    /// Of these, for one /32 of IPv6: what a registry gives to one provider, and a provider sells by the /48.
    pub provider: usize,
}

/// The first bytes of an address, which its holder cannot choose freely: /24 of IPv4, /48 of IPv6. Loopback counts as any
/// other: the endpoint's own caps leave it out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix([u8; 7]);

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prefix(…)")
    }
}

impl Prefix {
    /// The prefix of an address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                [4, a, b, c, 0, 0, 0]
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, ..] = v6.octets();
                [6, a, b, c, d, e, f]
            }
        })
    }

    /// The /32 of an IPv6 address.
    fn provider(&self) -> Option<[u8; 4]> {
        let [family, a, b, c, d, ..] = self.0;
        (family == 6).then_some([a, b, c, d])
    }
}

/// Who has a place. `H` is the handle through which the shell reaches the link.
#[derive(Debug)]
pub struct Places<H> {
    shares: Shares,
    /// At most `shares.all`.
    taken: Vec<Place<H>>,
    next: u64,
}

#[derive(Debug)]
struct Place<H> {
    number: u64,
    prefix: Prefix,
    handle: H,
    at_work: bool,
    /// Since when it is idle, or at work. Monotonic.
    since: Duration,
}

impl<H> Places<H> {
    /// As many places as these.
    pub fn new(shares: Shares) -> Self {
        Self { shares, taken: Vec::new(), next: 0 }
    }

    /// A place for a newcomer: its number, and who has to go for it. `None`: there is none now.
    pub fn enter(&mut self, prefix: Prefix, handle: H, now: Duration) -> Option<(u64, Option<H>)> {
        let near = self.count(|of| *of == prefix);
        let provider = prefix.provider();
        let of_provider = |of: &Prefix| provider.is_some() && of.provider() == provider;
        let goes = if near >= self.shares.prefix {
            Some(self.idle_or_overdue(|of| *of == prefix, now)?)
        } else if self.count(of_provider) >= self.shares.provider {
            Some(self.idle_or_overdue(of_provider, now)?)
        } else if self.taken.len() >= self.shares.all {
            let idle = self.oldest(|place| !place.at_work);
            Some(idle.or_else(|| self.oldest_of_the_largest(near)).or_else(|| self.overdue(|_| true, now))?)
        } else {
            None
        };
        let gone = goes.map(|at| self.taken.swap_remove(at).handle);
        let number = self.next;
        self.next += 1;
        self.taken.push(Place { number, prefix, handle, at_work: false, since: now });
        Some((number, gone))
    }

    fn count(&self, of: impl Fn(&Prefix) -> bool) -> usize {
        self.taken.iter().filter(|place| of(&place.prefix)).count()
    }

    fn idle_or_overdue(&self, of: impl Fn(&Prefix) -> bool, now: Duration) -> Option<usize> {
        self.oldest(|place| of(&place.prefix) && !place.at_work).or_else(|| self.overdue(of, now))
    }

    /// The place longest at work, if that is too long.
    fn overdue(&self, of: impl Fn(&Prefix) -> bool, now: Duration) -> Option<usize> {
        self.oldest(|place| of(&place.prefix) && place.at_work && now.saturating_sub(place.since) > WORK_SHARE)
    }

    fn oldest(&self, of: impl Fn(&Place<H>) -> bool) -> Option<usize> {
        let places = self.taken.iter().enumerate().filter(|(_, place)| of(place));
        places.min_by_key(|(_, place)| (place.since, place.number)).map(|(at, _)| at)
    }

    /// The oldest place of the prefix that holds most, if a newcomer whose prefix holds `near` would still hold fewer.
    fn oldest_of_the_largest(&self, near: usize) -> Option<usize> {
        let mut held: BTreeMap<Prefix, usize> = BTreeMap::new();
        for place in &self.taken {
            *held.entry(place.prefix).or_default() += 1;
        }
        let (largest, count) = held.into_iter().max_by_key(|(_, count)| *count)?;
        if count <= near + 1 {
            return None;
        }
        self.oldest(|place| place.prefix == largest)
    }

    /// A whole question has come. `false`: the place is somebody else's by now.
    pub fn works(&mut self, number: u64, now: Duration) -> bool {
        self.set(number, true, now)
    }

    /// The answer has been taken. `false`: the place is somebody else's by now.
    pub fn rests(&mut self, number: u64, now: Duration) -> bool {
        self.set(number, false, now)
    }

    fn set(&mut self, number: u64, at_work: bool, now: Duration) -> bool {
        let Some(place) = self.taken.iter_mut().find(|place| place.number == number) else { return false };
        (place.at_work, place.since) = (at_work, now);
        true
    }

    /// The link has ended. A place that is somebody else's stays his.
    pub fn leave(&mut self, number: u64) {
        self.taken.retain(|place| place.number != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn prefix(n: u8) -> Prefix {
        Prefix::of(Ipv4Addr::new(10, n, 0, 1).into())
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    const fn shares(all: usize, prefix: usize, provider: usize) -> Shares {
        Shares { all, prefix, provider }
    }

    #[test]
    fn prefixes_are_what_a_holder_cannot_choose() {
        let v4 = |d| Prefix::of(Ipv4Addr::new(192, 0, 2, d).into());
        assert_eq!(v4(1), v4(200));
        assert_eq!(v4(1), Prefix::of(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().into()));
        assert_ne!(v4(1), Prefix::of(Ipv4Addr::new(192, 0, 3, 1).into()));
        let v6 = |a: u16, b: u16| Prefix::of(Ipv6Addr::new(0x2001, 0xdb8, a, b, 0, 0, 0, 1).into());
        assert_eq!(v6(1, 1), v6(1, 2));
        assert_ne!(v6(1, 1), v6(2, 1));
        assert_eq!(format!("{:?}", v4(1)), "Prefix(…)", "no address in any log");
    }

    #[test]
    fn who_asks_nothing_keeps_nobody_out() {
        let mut places = Places::new(shares(8, 4, 8));
        let numbers: Vec<u64> = (0..8).map(|n| places.enter(prefix(n / 4), n, at(n.into())).expect("room").0).collect();
        // its own prefix first, then the longest idle of all
        assert_eq!(places.enter(prefix(1), 8, at(10)).map(|(_, gone)| gone), Some(Some(4)));
        assert_eq!(places.enter(prefix(2), 9, at(11)).map(|(_, gone)| gone), Some(Some(0)));
        assert!(!places.works(numbers[0], at(12)), "it has been told to go");
        // who asks is not idle, and idle anew when the answer is taken
        assert!(places.works(numbers[1], at(12)));
        assert_eq!(places.enter(prefix(3), 10, at(13)).map(|(_, gone)| gone), Some(Some(2)));
        assert!(places.rests(numbers[1], at(14)));
        assert_eq!(places.enter(prefix(4), 11, at(15)).map(|(_, gone)| gone), Some(Some(3)));
        places.leave(numbers[5]);
        assert_eq!(places.enter(prefix(5), 12, at(16)).map(|(_, gone)| gone), Some(None));
        places.leave(numbers[0]);
        assert_eq!(places.taken.len(), 8, "that place is somebody else's");
    }

    #[test]
    fn when_all_are_at_work_the_largest_prefix_gives() {
        let mut places = Places::new(shares(4, 3, 4));
        for n in 0..4 {
            let (number, _) = places.enter(prefix(n / 3), n, at(0)).expect("room");
            assert!(places.works(number, at(0)));
        }
        assert!(places.enter(prefix(0), 5, at(3)).is_none(), "it has its share");
        // one place against three, one against two, and none to be gained by an exchange of equals
        let mut newcomer = |n| {
            let entered = places.enter(prefix(n), n, at(3));
            entered.map(|(number, gone)| {
                places.works(number, at(3));
                gone
            })
        };
        assert_eq!(newcomer(2), Some(Some(0)));
        assert_eq!(newcomer(3), Some(Some(1)));
        assert_eq!(newcomer(4), None);
    }

    #[test]
    fn a_prefix_for_every_place_keeps_nobody_out_for_long() {
        let mut places = Places::new(shares(4, 3, 4));
        let numbers: Vec<u64> = (0..4)
            .map(|n| {
                let (number, _) = places.enter(prefix(n), n, at(n.into())).expect("room");
                assert!(places.works(number, at(n.into())));
                number
            })
            .collect();
        let mut enter = |n: u8, now| places.enter(prefix(n), n, now);
        assert_eq!(enter(10, WORK_SHARE), None, "nobody is at work beyond his time");
        // the longest at work goes, and an idle one before it
        let (_, gone) = enter(10, at(4)).expect("a place");
        assert_eq!(gone, Some(0));
        let (number, gone) = enter(11, at(100)).expect("a place");
        assert_eq!(gone, Some(10));
        assert!(places.works(number, at(100)));
        assert!(!places.works(numbers[0], at(100)), "it has been told to go");
        for goes in 1..4 {
            let (number, gone) = places.enter(prefix(20 + goes), 20 + goes, at(100)).expect("a place");
            assert_eq!(gone, Some(goes));
            assert!(places.works(number, at(100)));
        }
        assert!(places.enter(prefix(30), 30, at(103)).is_none());
        assert_eq!(places.taken.len(), 4);
        // a prefix that has its share gives of its own
        let mut places = Places::new(shares(9, 1, 9));
        let (number, _) = places.enter(prefix(0), 0, at(0)).expect("room");
        assert!(places.works(number, at(0)));
        assert!(places.enter(prefix(0), 1, at(3)).is_none());
        assert_eq!(places.enter(prefix(0), 1, at(4)).map(|(_, gone)| gone), Some(Some(0)));
    }

    #[test]
    fn all_of_one_provider_do_not_get_every_place() {
        let v6 = |provider: u16, n: u16| Prefix::of(Ipv6Addr::new(0x2001, provider, n, 0, 0, 0, 0, 1).into());
        let mut places = Places::new(shares(8, 2, 4));
        for n in 0..4 {
            let (number, gone) = places.enter(v6(1, n), n, at(0)).expect("room");
            assert!(gone.is_none() && places.works(number, at(0)));
        }
        // there is room, but not for them
        assert!(places.enter(v6(1, 9), 9, at(1)).is_none());
        assert_eq!(places.enter(v6(1, 9), 9, at(4)).map(|(_, gone)| gone), Some(Some(0)));
        assert_eq!(places.enter(v6(1, 10), 10, at(5)).map(|(_, gone)| gone), Some(Some(9)), "idle");
        for n in 0..2 {
            assert_eq!(places.enter(v6(2, n), 20 + n, at(6)).map(|(_, gone)| gone), Some(None));
        }
        // IPv4 has no such share
        for n in 0..2 {
            let v4 = Prefix::of(Ipv4Addr::new(32, 1, 1, 1).into());
            assert_eq!(places.enter(v4, 30 + n, at(6)).map(|(_, gone)| gone), Some(None));
        }
        assert_eq!(places.taken.len(), 8);
    }
}
