//! Places of those who ask a gateway for documents: how many there are, how many of them one address prefix may hold, and
//! who has to go when somebody else comes. Pure: it is told who comes and what they do.
//!
//! A place is *at work* from when a whole question is there until its answer has been taken, and *idle* otherwise: also
//! with a question that has begun and is not whole. Idle places are given to whoever comes, the longest idle first. So who
//! asks nothing keeps nobody out, however many places he holds. When all are at work, the prefix that holds most of them
//! gives its oldest, to one that would hold fewer: who has `p` prefixes cannot keep out a newcomer from another one while
//! any of them has two places more than the newcomer's. Work itself is short: the shell gives it a deadline.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

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
}

/// Who has a place. `H` is the handle through which the shell reaches the link.
#[derive(Debug)]
pub struct Places<H> {
    capacity: usize,
    per_prefix: usize,
    /// At most `capacity`.
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
    /// So many places in all, and so many for one prefix.
    pub fn new(capacity: usize, per_prefix: usize) -> Self {
        Self { capacity, per_prefix, taken: Vec::new(), next: 0 }
    }

    /// A place for a newcomer: its number, and who has to go for it. `None`: there is none now.
    pub fn enter(&mut self, prefix: Prefix, handle: H, now: Duration) -> Option<(u64, Option<H>)> {
        let near = self.taken.iter().filter(|place| place.prefix == prefix).count();
        let goes = if near >= self.per_prefix {
            Some(self.oldest(|place| place.prefix == prefix && !place.at_work)?)
        } else if self.taken.len() >= self.capacity {
            Some(self.oldest(|place| !place.at_work).or_else(|| self.oldest_of_the_largest(near))?)
        } else {
            None
        };
        let gone = goes.map(|at| self.taken.swap_remove(at).handle);
        let number = self.next;
        self.next += 1;
        self.taken.push(Place { number, prefix, handle, at_work: false, since: now });
        Some((number, gone))
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
        let mut places = Places::new(8, 4);
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
        let mut places = Places::new(4, 3);
        for n in 0..4 {
            let (number, _) = places.enter(prefix(n / 3), n, at(n.into())).expect("room");
            assert!(places.works(number, at(n.into())));
        }
        assert!(places.enter(prefix(0), 5, at(9)).is_none(), "it has its share");
        // one place against three, one against two, and none to be gained by an exchange of equals
        let mut newcomer = |n| {
            let entered = places.enter(prefix(n), n, at(10 + u64::from(n)));
            entered.map(|(number, gone)| {
                places.works(number, at(10 + u64::from(n)));
                gone
            })
        };
        assert_eq!(newcomer(2), Some(Some(0)));
        assert_eq!(newcomer(3), Some(Some(1)));
        assert_eq!(newcomer(4), None);
    }
}
