//! The wire of an idle and of a sending client (row 7 of the attack table, bounded): captured with tcpdump on loopback,
//! between real processes. Same datagram sizes; sending instants from one distribution (two-sample Kolmogorov–Smirnov).

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

use shoal_tests::person::Person;
use shoal_tests::testnet::Testnet;
use shoal_tests::until;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long each client is watched. At 12 packets a second this gives about 480 instants.
const WATCHED: Duration = Duration::from_secs(40);
/// A packet fills two datagrams; acknowledgements are far smaller.
const LARGE: usize = 1_000;

struct Capture {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

/// One datagram from a client to its gateway.
#[derive(Clone, Copy, Debug)]
struct Datagram {
    at: f64,
    size: usize,
}

impl Capture {
    fn start(gateway_port: u16) -> Self {
        let mut child = Command::new("tcpdump")
            .args(["-i", "lo", "-n", "-tt", "-l", "-q", "--immediate-mode"])
            .arg(format!("udp and dst port {gateway_port}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump runs: ops/test installs it (Debian package tcpdump); it needs root");
        // it says "listening on" when the filter is in place
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut told = BufReader::new(stderr).lines();
        let listening = told.by_ref().map_while(Result::ok).any(|line| line.starts_with("listening on"));
        assert!(listening, "tcpdump listens");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Self { child, lines }
    }

    /// Datagrams from `port` for [`WATCHED`] from now on. Lines look like
    /// `1700000000.123456 IP 127.0.0.1.40000 > 127.0.0.1.50000: UDP, length 1252`.
    fn watch(mut self) -> BTreeMap<u16, Vec<Datagram>> {
        let start = Instant::now();
        let mut seen: BTreeMap<u16, Vec<Datagram>> = BTreeMap::new();
        while start.elapsed() < WATCHED {
            let Some(Ok(line)) = self.lines.next() else { break };
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(at), Some(from), Some(size)) = (words.first(), words.get(2), words.last()) else { continue };
            let port = from.rsplit('.').next().and_then(|p| p.parse().ok());
            if let (Ok(at), Some(port), Ok(size)) = (at.parse(), port, size.parse()) {
                seen.entry(port).or_default().push(Datagram { at, size });
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        seen
    }
}

/// Gaps between sending instants: the first large datagram of each packet. Two datagrams within a millisecond are one
/// packet's; at 12 packets a second two packets fall so close in 1 % of the cases, for idle and busy alike.
fn gaps(datagrams: &[Datagram]) -> Vec<f64> {
    let mut instants: Vec<f64> = Vec::new();
    for datagram in datagrams.iter().filter(|d| d.size >= LARGE) {
        if instants.last().is_none_or(|last| datagram.at - last > 0.001) {
            instants.push(datagram.at);
        }
    }
    instants.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Two-sample KS: distance and the critical value at p = 0.001 (a test that ran a thousand times fails once by chance).
fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> (f64, f64) {
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let (mut i, mut j, mut worst) = (0, 0, 0.0f64);
    while i < a.len() && j < b.len() {
        if a[i] <= b[j] {
            i += 1
        } else {
            j += 1
        }
        worst = worst.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    let (n, m) = (a.len() as f64, b.len() as f64);
    (worst, 1.95 * ((n + m) / (n * m)).sqrt())
}

/// Sizes that make up at least 2 % of the large datagrams, with their shares.
fn sizes(datagrams: &[Datagram]) -> BTreeMap<usize, f64> {
    let large: Vec<usize> = datagrams.iter().map(|d| d.size).filter(|size| *size >= LARGE).collect();
    let mut shares = BTreeMap::new();
    for size in &large {
        *shares.entry(*size).or_insert(0.0) += 1.0 / large.len() as f64;
    }
    shares.retain(|_, share| *share >= 0.02);
    shares
}

#[test]
fn idle_and_sending_clients_look_alike_on_the_wire() {
    let net = Testnet::start(&["--epoch", "60s", "--gateways", "1"]);
    let folder = tempfile::tempdir().expect("folder");
    let idle = Person::new("idle", folder.path(), &net.ready.network);
    let busy = Person::new("busy", folder.path(), &net.ready.network);
    let friend = Person::new("friend", folder.path(), &net.ready.network);
    busy.run(["add", "friend", &friend.address]);
    friend.run(["add", "busy", &busy.address]);
    let gateway = net.nodes("gateway", None).remove(0);
    let port = gateway.addr.rsplit(':').next().and_then(|p| p.parse().ok()).expect("port");

    // who is who: the UDP ports that each daemon holds
    let ports = |person: &Person| -> Vec<u16> {
        let pid = person.daemon_pid();
        let text = Command::new("ss").args(["-u", "-n", "-a", "-p"]).output().expect("ss runs").stdout;
        String::from_utf8_lossy(&text)
            .lines()
            .filter(|line| line.contains(&format!("pid={pid},")))
            .filter_map(|line| line.split_whitespace().nth(3)?.rsplit(':').next()?.parse().ok())
            .collect()
    };
    busy.send_and_wait("friend", "a first message, so that the conversation exists", "stored");

    eprintln!("watching for {WATCHED:?}");
    let capture = Capture::start(port);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            // a file's worth of text first, then chatting
            busy.send("friend", &"x".repeat(100_000));
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                busy.send("friend", &format!("chat {n}"));
            }
        });
        let seen = capture.watch();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        seen
    });
    let of = |person: &Person| -> Vec<Datagram> {
        let ports = ports(person);
        ports.iter().filter_map(|port| seen.get(port)).flatten().copied().collect()
    };
    let (idle_seen, busy_seen) = (of(&idle), of(&busy));
    let (idle_gaps, busy_gaps) = (gaps(&idle_seen), gaps(&busy_seen));
    assert!(idle_gaps.len() > 200 && busy_gaps.len() > 200, "{} and {} packets", idle_gaps.len(), busy_gaps.len());

    let (idle_sizes, busy_sizes) = (sizes(&idle_seen), sizes(&busy_seen));
    assert_eq!(
        idle_sizes.keys().collect::<Vec<_>>(),
        busy_sizes.keys().collect::<Vec<_>>(),
        "sizes: idle {idle_sizes:?}, busy {busy_sizes:?}"
    );
    let (distance, critical) = kolmogorov_smirnov(&idle_gaps, &busy_gaps);
    eprintln!(
        "{} idle and {} busy packets, KS distance {distance:.4}, critical {critical:.4}, sizes {idle_sizes:?}",
        idle_gaps.len(),
        busy_gaps.len()
    );
    assert!(distance < critical, "KS distance {distance} ≥ {critical}");
    // the busy client was really busy
    until("the friend reads", Duration::from_secs(300), || (friend.read().len() > 1).then_some(()));
}
