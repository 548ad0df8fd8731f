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
/// Packets are larger than this on the wire; acknowledgements are far smaller. The kernel hands tcpdump the two
/// datagrams of a packet as one (segmentation offload), sometimes those of two packets that left together.
const LARGE: usize = 1_000;
/// Bytes of one packet with the framing of its two datagrams, at least.
const PACKET_ON_WIRE: usize = 2_816;

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

/// Gaps between packets. Halves of one packet that were not captured together lie within a millisecond; two packets that
/// were captured together have no gap.
fn gaps(datagrams: &[Datagram]) -> Vec<f64> {
    let mut instants: Vec<f64> = Vec::new();
    for datagram in datagrams.iter().filter(|d| d.size >= LARGE) {
        let packets = datagram.size / PACKET_ON_WIRE;
        if packets == 0 && instants.last().is_some_and(|last| datagram.at - last < 0.001) {
            continue;
        }
        instants.extend(std::iter::repeat_n(datagram.at, packets.max(1)));
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
        // past all that is equal, on both sides
        let value = a[i].min(b[j]);
        i += a[i..].partition_point(|x| *x <= value);
        j += b[j..].partition_point(|x| *x <= value);
        worst = worst.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    let (n, m) = (a.len() as f64, b.len() as f64);
    (worst, 1.95 * ((n + m) / (n * m)).sqrt())
}

/// How often each size of large datagrams occurs.
fn sizes(datagrams: &[Datagram]) -> BTreeMap<usize, f64> {
    let mut counts = BTreeMap::new();
    for datagram in datagrams.iter().filter(|d| d.size >= LARGE) {
        *counts.entry(datagram.size).or_insert(0.0) += 1.0;
    }
    counts
}

/// Largest difference between two tables of counts, size by size, in standard errors of a difference of shares. Sizes
/// with fewer than ten observations in both together are taken as one.
fn difference(a: &BTreeMap<usize, f64>, b: &BTreeMap<usize, f64>) -> f64 {
    let (n, m): (f64, f64) = (a.values().sum(), b.values().sum());
    let mut cells: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for size in a.keys().chain(b.keys()) {
        let (x, y) = (a.get(size).copied().unwrap_or(0.0), b.get(size).copied().unwrap_or(0.0));
        cells.insert(if x + y < 10.0 { 0 } else { *size }, (0.0, 0.0));
    }
    for (table, first) in [(a, true), (b, false)] {
        for (size, count) in table {
            let cell = if cells.contains_key(size) { *size } else { 0 };
            let entry = cells.entry(cell).or_insert((0.0, 0.0));
            if first { entry.0 += count } else { entry.1 += count }
        }
    }
    cells.values().fold(0.0, |worst: f64, (x, y)| {
        let share = (x + y) / (n + m);
        let error = (share * (1.0 - share) * (1.0 / n + 1.0 / m)).sqrt();
        worst.max(if error > 0.0 { (x / n - y / m).abs() / error } else { 0.0 })
    })
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
            // long texts, one after the other: the queue is never empty, and no command competes for the processor
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let long = ["send", "friend", "-", "--wait", "stored", "--timeout", "120s"];
                let ended = busy.run_with_input(long, "x".repeat(100_000).as_bytes());
                assert_eq!(ended.code, 0, "{ended:?}");
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
    let apart = difference(&idle_sizes, &busy_sizes);
    // some ten sizes are compared: 4.5 standard errors in one of them happen by chance once in 15,000 runs
    assert!(apart < 4.5, "sizes differ by {apart:.1} standard errors: idle {idle_sizes:?}, busy {busy_sizes:?}");
    let (distance, critical) = kolmogorov_smirnov(&idle_gaps, &busy_gaps);
    eprintln!(
        "{} idle and {} busy gaps, KS distance {distance:.4}, critical {critical:.4}; sizes {apart:.1} standard errors apart: {idle_sizes:?}, {busy_sizes:?}",
        idle_gaps.len(),
        busy_gaps.len()
    );
    assert!(distance < critical, "KS distance {distance} ≥ {critical}");
    // the busy client was really busy
    let mut read = 0;
    until("the friend reads", Duration::from_secs(300), || {
        read += friend.read().len();
        (read > 1).then_some(())
    });
}
