//! A wire between hosts on this machine: a TUN device in each namespace, and a thread that carries IP packets from one to
//! the other with delay, loss and cuts. The kernel's own emulator (netem) is not there on every machine.
//!
//! ```text
//!   namespace 0   10.77.0.1 ── TUN ─┐
//!   namespace 1   10.77.0.2 ── TUN ─┤ this process: lose? late by how much? cut?
//!   namespace 2   10.77.0.3 ── TUN ─┘
//! ```
//!
//! There is no route out of the namespaces: what the wire does not carry is nowhere.

use crate::netns::{Namespaces, ip};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::cell::RefCell;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_tun::Tun;

/// Bytes of the largest IP packet on the wire: Ethernet's. The largest datagram of a link, 1,452 bytes, takes 1,480.
const MTU: usize = 1500;
/// Packets on their way at a time, over all hosts: 100 MB. 5,000 packets a second for 0.2 s are 1,000.
const FLYING_MAX: usize = 65_536;

/// What one direction between two hosts is like.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// How long a packet takes, one way.
    pub delay: Duration,
    /// What part of the packets is lost, from 0 to 1, each independently of the others.
    pub loss: f64,
}

/// What the wire did with packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Carried over.
    pub carried: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Not carried because one of the hosts is cut off.
    pub cut: u64,
    /// Not carried because too many were on their way: the machine is too slow for the test.
    pub overflowed: u64,
}

/// What `ping` measured through the wire: nothing that this file counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ping {
    /// Echoes sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// Shortest round trip, in milliseconds.
    pub min_ms: f64,
    /// Mean round trip, in milliseconds.
    pub mean_ms: f64,
}

impl Ping {
    /// What part of the echoes had no answer.
    #[must_use]
    pub fn loss(&self) -> f64 {
        f64::from(self.sent - self.received) / f64::from(self.sent)
    }
}

#[derive(Debug)]
struct State {
    cut: Vec<AtomicBool>,
    carried: AtomicU64,
    lost: AtomicU64,
    kept_away: AtomicU64,
    overflowed: AtomicU64,
    stop: Notify,
}

/// Hosts and the wire between them; all of it is gone when dropped.
#[derive(Debug)]
pub struct Wire {
    namespaces: Namespaces,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Makes `count` hosts. `quality` says what the way from one to another is like; `seed` decides what is lost.
    ///
    /// # Panics
    /// When namespaces or devices cannot be made: they need root.
    #[must_use]
    pub fn new(count: usize, seed: u64, quality: impl Fn(usize, usize) -> Quality + Send + 'static) -> Self {
        assert!((1..=200).contains(&count), "the last byte of an address tells the host");
        let namespaces = Namespaces::new(count);
        let state = Arc::new(State {
            cut: (0..count).map(|_| AtomicBool::new(false)).collect(),
            carried: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            kept_away: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            stop: Notify::new(),
        });
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let theirs = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let tasks = tokio::task::LocalSet::new();
            let carrying = async move {
                let devices = (0..count).map(|host| Rc::new(device(host))).collect::<Vec<_>>();
                let _ = tell.send(());
                carry(devices, seed, quality, theirs).await;
            };
            tasks.block_on(&runtime, carrying);
        });
        // joined by Drop from here on, whatever goes wrong below
        let wire = Self { namespaces, state, thread: Some(thread) };
        told.recv().expect("the devices are made: /dev/net/tun needs root");
        for host in 0..count {
            let (namespace, device) = (wire.namespaces.name(host), device_name(host));
            ip(&["link", "set", &device, "netns", namespace]);
            ip(&["-n", namespace, "addr", "add", &format!("{}/24", ip_of(host)), "dev", &device]);
            ip(&["-n", namespace, "link", "set", &device, "mtu", &MTU.to_string(), "up"]);
        }
        wire
    }

    /// A command that will run on a host.
    pub fn command(&self, host: usize, program: &Path) -> Command {
        self.namespaces.command(host, program)
    }

    /// Name of the namespace of a host.
    #[must_use]
    pub fn namespace(&self, host: usize) -> &str {
        self.namespaces.name(host)
    }

    /// From now on nothing goes to this host or comes from it; what is on its way still arrives.
    pub fn cut(&self, host: usize) {
        self.state.cut[host].store(true, Ordering::Relaxed);
    }

    /// Ends a [`Wire::cut`].
    pub fn heal(&self, host: usize) {
        self.state.cut[host].store(false, Ordering::Relaxed);
    }

    /// What the wire did so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let State { carried, lost, kept_away, overflowed, .. } = &*self.state;
        Counts { carried: read(carried), lost: read(lost), cut: read(kept_away), overflowed: read(overflowed) }
    }

    /// Sends `count` echoes of the size of our largest datagram from one host to another, 50 a second.
    ///
    /// # Panics
    /// When `ping` does not run or says something else than a summary.
    #[must_use]
    pub fn ping(&self, from: usize, to: usize, count: u32) -> Ping {
        let payload = MTU - 20 - 8;
        let output = self
            .command(from, Path::new("ping"))
            .args(["-n", "-q", "-M", "do", "-i", "0.02", "-W", "10"])
            .args(["-c", &count.to_string(), "-s", &payload.to_string(), &ip_of(to).to_string()])
            .stdin(Stdio::null())
            .output()
            .expect("ping runs: ops/test installs it (Debian package iputils-ping)");
        let said = String::from_utf8_lossy(&output.stdout);
        summary(&said).unwrap_or_else(|| panic!("ping said: {said} {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // a thread that panicked has said so
            let _ = thread.join();
        }
    }
}

/// Address of a host.
#[must_use]
pub fn ip_of(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(host + 1).expect("at most 200 hosts"))
}

/// Where a party on a host listens.
#[must_use]
pub fn address_of(host: usize) -> SocketAddr {
    SocketAddr::from((ip_of(host), 4000))
}

/// Its name on this machine and in its namespace; at most 15 bytes.
fn device_name(host: usize) -> String {
    format!("sw{}-{host}", std::process::id())
}

fn device(host: usize) -> Tun {
    let made = Tun::builder().name(&device_name(host)).build().expect("/dev/net/tun is there, and this is root");
    made.into_iter().next().expect("one queue")
}

/// A packet on its way. The one that is due first compares as the greatest, as a [`BinaryHeap`] wants it.
#[derive(Debug, PartialEq, Eq)]
struct Flying {
    due: Instant,
    /// Keeps the order of those that are due together.
    number: u64,
    to: usize,
    packet: Box<[u8]>,
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Carries packets until the wire is dropped.
async fn carry(
    devices: Vec<Rc<Tun>>,
    seed: u64,
    quality: impl Fn(usize, usize) -> Quality + 'static,
    state: Arc<State>,
) {
    let flying: Rc<RefCell<BinaryHeap<Flying>>> = Rc::default();
    let (taken, quality) = (Rc::new(Notify::new()), Rc::new(quality));
    for (from, device) in devices.iter().enumerate() {
        let (device, state, flying) = (Rc::clone(device), Arc::clone(&state), Rc::clone(&flying));
        let (taken, quality) = (Rc::clone(&taken), Rc::clone(&quality));
        // one generator a host: what is lost of one host's packets does not depend on the others' speed
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(from as u64));
        tokio::task::spawn_local(async move {
            let mut buffer = [0; MTU];
            // reading fails only when the device is gone
            while let Ok(length) = device.recv(&mut buffer).await {
                let packet = &buffer[..length];
                let Some(to) = destination(packet).filter(|to| *to < state.cut.len() && *to != from) else { continue };
                let Quality { delay, loss } = quality(from, to);
                let number = state.carried.load(Ordering::Relaxed);
                let counter = if rng.random_bool(loss) {
                    &state.lost
                } else if state.cut[from].load(Ordering::Relaxed) || state.cut[to].load(Ordering::Relaxed) {
                    &state.kept_away
                } else if flying.borrow().len() >= FLYING_MAX {
                    &state.overflowed
                } else {
                    flying.borrow_mut().push(Flying { due: Instant::now() + delay, number, to, packet: packet.into() });
                    taken.notify_one();
                    &state.carried
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    loop {
        let next = flying.borrow().peek().map(|first| first.due);
        let wait = async {
            match next {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            () = taken.notified() => {}
            () = state.stop.notified() => return,
        }
        loop {
            let due = flying.borrow().peek().is_some_and(|first| first.due <= Instant::now());
            let Some(Flying { to, packet, .. }) = due.then(|| flying.borrow_mut().pop()).flatten() else { break };
            // a host that takes nothing more loses it, as on any wire
            let _ = devices[to].try_send(&packet);
        }
    }
}

/// The host that an IPv4 packet goes to; other packets go nowhere.
fn destination(packet: &[u8]) -> Option<usize> {
    let [10, 77, 0, last] = *packet.get(16..20)? else { return None };
    (packet.first()? >> 4 == 4).then(|| usize::from(last).checked_sub(1)).flatten()
}

/// Reads what `ping -q` prints at its end:
/// `400 packets transmitted, 361 received, 9.75% packet loss, time 7990ms` and
/// `rtt min/avg/max/mdev = 400.4/401.2/409.9/1.1 ms, pipe 20`.
fn summary(said: &str) -> Option<Ping> {
    let line = said.lines().find(|line| line.contains("packets transmitted"))?;
    let number = |at: usize| line.split(',').nth(at)?.split_whitespace().next()?.parse().ok();
    let times = said.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let time = |at: usize| times.and_then(|times| times.split('/').nth(at)?.parse().ok());
    let (sent, received) = (number(0)?, number(1)?);
    // nothing came back: there are no times
    Some(Ping { sent, received, min_ms: time(0).unwrap_or(f64::NAN), mean_ms: time(1).unwrap_or(f64::NAN) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ping_prints_is_read() {
        let said = "PING 10.77.0.2 (10.77.0.2) 1472(1500) bytes of data.\n\n--- 10.77.0.2 ping statistics ---\n\
                    400 packets transmitted, 361 received, 9.75% packet loss, time 7990ms\n\
                    rtt min/avg/max/mdev = 400.421/401.216/409.911/1.107 ms, pipe 20\n";
        let ping = summary(said).expect("is a summary");
        assert_eq!(ping, Ping { sent: 400, received: 361, min_ms: 400.421, mean_ms: 401.216 });
        assert!((ping.loss() - 0.0975).abs() < 1e-9);
        let nothing =
            summary("10 packets transmitted, 0 received, 100% packet loss, time 9ms\n").expect("is a summary");
        assert!((nothing.loss() - 1.0).abs() < 1e-9 && nothing.min_ms.is_nan());
        assert_eq!(summary("ping: connect: Network is unreachable"), None);
    }

    #[test]
    fn packets_go_where_they_are_addressed() {
        let mut packet = [0; 28];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&ip_of(7).octets());
        assert_eq!(destination(&packet), Some(7));
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None, "IPv6");
        assert_eq!(destination(&[0x45, 0]), None, "short");
    }

    #[test]
    fn who_is_due_first_comes_first() {
        let now = Instant::now();
        let flying =
            |ms, number| Flying { due: now + Duration::from_millis(ms), number, to: 0, packet: Box::default() };
        let mut heap: BinaryHeap<Flying> = [flying(9, 0), flying(5, 2), flying(5, 1)].into_iter().collect();
        let order: Vec<u64> = std::iter::from_fn(|| heap.pop()).map(|flying| flying.number).collect();
        assert_eq!(order, [1, 2, 0]);
    }
}
