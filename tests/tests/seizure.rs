//! Seizure after the grace time (row 23 of the table in `tests/README.md`): packets are recorded at a gateway, a mix and a
//! store; when the keys of their epoch are erased, the whole memory of the three processes and every file of theirs is
//! taken, and searched for anything that opens a recorded packet.
//!
//! The test has read every key file while it existed, so that it knows what to look for: the keys themselves, clamped or
//! not, in bytes or hexadecimal digits, and for every recorded packet the secret it shares with the node, and the keys
//! derived from that. Keys that are in force must be found, or the search finds nothing at all.
//!
//! `SHOAL_PACKETS=100000` for the full size; then every aligned window of 32 bytes is also tried as a secret key.

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]
#![cfg(target_os = "linux")]

use hkdf::Hkdf;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use sha2::Sha256;
use shoal_protocol::consensus::{NodeEntry, VerifiedConsensus};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::quic::Link;
use shoal_protocol::sphinx::{Hop, Packet, build, open_header};
use shoal_protocol::types::Epoch;
use shoal_protocol::{Layer, X25519Public, X25519Secret};
use shoal_tests::impostor::{consensus, identity_of, key_of, link_as, network_of, now};
use shoal_tests::person::Person;
use shoal_tests::seized::{Dump, Found, Needles};
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{binary, metrics, until};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Where the keys stand in a key file: magic 8, network 32, boot 16, epoch 8.
const MIX_AT: usize = 64;
const ENVELOPE_AT: usize = MIX_AT + 32 + 1;

/// What is searched for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A mix key.
    Mix(u64),
    /// An envelope key.
    Envelope(u64),
    /// The key of the replay tags.
    TagKey(u64),
    /// What opens one recorded packet: which of its secrets.
    Packet(&'static str),
    /// The seed of the identity key.
    Identity,
}

type Keys = BTreeMap<u64, (X25519Secret, Option<X25519Secret>)>;

/// A node that is seized.
struct Target {
    party: Party,
    /// Every key it ever had.
    keys: Arc<Mutex<Keys>>,
    /// Packets that went through it, as somebody on the wire has them.
    recorded: Vec<Packet>,
}

impl Target {
    fn new(party: Party) -> Self {
        Self { party, keys: Arc::default(), recorded: Vec::new() }
    }

    fn runtime_dir(&self) -> std::path::PathBuf {
        self.party.dir.join("run")
    }

    fn secret(&self, epoch: u64) -> X25519Secret {
        self.keys.lock().expect("no panic")[&epoch].0.clone()
    }

    /// What is to be found at most, and what is to be found at least.
    fn needles(&self, epochs: &BTreeSet<u64>, recorded: &[Packet], of: u64) -> Needles<What> {
        let mut needles = Needles::new();
        let mut both = |secret: &X25519Secret, what: &What| {
            let raw = *secret.to_bytes();
            let mut clamped = raw;
            clamped[0] &= 248;
            clamped[31] = clamped[31] & 127 | 64;
            needles.add(&raw, what.clone());
            if clamped != raw {
                needles.add(&clamped, what.clone());
            }
            needles.add(hex::encode(raw).as_bytes(), what.clone());
        };
        for (epoch, (mix, envelope)) in self.keys.lock().expect("no panic").iter() {
            if epochs.contains(epoch) {
                both(mix, &What::Mix(*epoch));
                envelope.iter().for_each(|envelope| both(envelope, &What::Envelope(*epoch)));
            }
        }
        for (epoch, (mix, _)) in self.keys.lock().expect("no panic").iter() {
            if epochs.contains(epoch) {
                let tag_key = blake3::derive_key("shoal/1 node replay tag key", &*mix.to_bytes());
                needles.add(&tag_key, What::TagKey(*epoch));
            }
        }
        let key = self.secret(of);
        for packet in recorded {
            for (what, bytes) in secrets_of(packet, &key) {
                needles.add(&bytes, What::Packet(what));
            }
        }
        needles
    }
}

/// Everything derived from the key and a packet that opens the packet, or a part of it (`sphinx-packet`, shared_secret).
fn secrets_of(packet: &Packet, key: &X25519Secret) -> Vec<(&'static str, Vec<u8>)> {
    const INFO: &[u8] =
        b"Dwste mou enan moxlo arketa makru kai ena upomoxlio gia na ton topothetisw kai tha kinisw thn gh.";
    let alpha: [u8; 32] = packet.as_bytes()[..32].try_into().expect("32 bytes");
    let shared = key.diffie_hellman(&X25519Public::parse(alpha).expect("canonical")).expect("of large order");
    let mut expanded = [0; 16 + 16 + 192 + 32 + 32];
    Hkdf::<Sha256>::new(Some(b""), &*shared).expand(INFO, &mut expanded).expect("short enough");
    // the last part is the replay tag, which the protocol shows: so the derivation here is the node's
    assert_eq!(open_header(packet, key).expect("its key").replay_tag(), expanded[256..]);
    let mut payload = [0; 192];
    Hkdf::<Sha256>::new(Some(b"sphinx-payload-key-V01-CS01-HKDF:SHA256-SALT"), &expanded[32..48])
        .expand(b"sphinx-payload-key-V01-CS01-HKDF:SHA256-INFO", &mut payload)
        .expect("short enough");
    vec![
        ("shared secret", shared.to_vec()),
        ("header key", expanded[..16].to_vec()),
        ("header MAC key", expanded[16..32].to_vec()),
        ("payload seed", expanded[32..48].to_vec()),
        ("blinding factor", expanded[224..256].to_vec()),
        ("payload key", payload[..32].to_vec()),
    ]
}

/// Reads every key file as long as it exists.
fn watch(targets: &[&Target], stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let watched: Vec<_> = targets.iter().map(|target| (target.runtime_dir(), Arc::clone(&target.keys))).collect();
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for (dir, keys) in &watched {
                look(dir, keys);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    })
}

fn look(dir: &Path, keys: &Mutex<Keys>) {
    for entry in std::fs::read_dir(dir).expect("the runtime directory").flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let epoch = name.strip_prefix("mix-").and_then(|name| name.strip_suffix(".key")?.parse().ok());
        // erased while it is read: zeros, or nothing
        let (Some(epoch), Ok(bytes)) = (epoch, std::fs::read(entry.path())) else { continue };
        let part = |at: usize| bytes.get(at..at + 32).and_then(|part| <[u8; 32]>::try_from(part).ok());
        let (Some(mix), Some(envelope)) = (part(MIX_AT), part(ENVELOPE_AT)) else { continue };
        if mix != [0; 32] {
            let envelope = (envelope != [0; 32]).then(|| X25519Secret::from_bytes(&envelope));
            keys.lock().expect("no panic").insert(epoch, (X25519Secret::from_bytes(&mix), envelope));
        }
    }
}

/// What one packet costs is three scalar multiplications at least; a packet for a mix or a gateway has a second hop.
fn make(target: &NodeEntry, second: Option<Hop>, epoch: Epoch, count: usize, rng: &mut StdRng) -> Vec<Packet> {
    let delay = if second.is_some() { Duration::from_millis(1) } else { Duration::ZERO };
    let first = Hop { address: *target.identity.as_bytes(), key: *target.mix_key(epoch).expect("a key"), delay };
    let hops: Vec<Hop> = [first].into_iter().chain(second).collect();
    (0..count).map(|_| build(&rng.random::<[u8; 32]>(), &hops, [1; 16], rng).expect("a packet")).collect()
}

async fn send(link: &Link, packets: &[Packet]) {
    let mut frames = link.open_frames::<PACKET_SIZE>().await.expect("a stream");
    for batch in packets.chunks(16) {
        let batch = batch.iter().map(|packet| packet.clone().into_array()).collect();
        frames.write_batch(batch).await.expect("sent");
    }
    frames.finish().await.expect("finished");
}

fn secrets(party: &Party) -> Value {
    let output = Command::new(binary("shoal-node"))
        .args(["secrets", "--json", "--dir"])
        .arg(&party.dir)
        .output()
        .expect("shoal-node runs");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn signal(party: &Party, signal: &str) {
    assert!(Command::new("kill").args([signal, &party.pid.to_string()]).status().expect("kill runs").success());
}

/// Whether `secrets` lists what was found, at the place where it was found.
fn is_listed(listed: &Value, found: &Found<What>, dir: &Path) -> bool {
    let name = match &found.what {
        What::Mix(epoch) => format!("mix key of epoch {epoch}"),
        What::Envelope(epoch) => format!("envelope key of epoch {epoch}"),
        What::TagKey(epoch) => format!("replay tags of epoch {epoch}"),
        What::Identity => "identity key".to_owned(),
        What::Packet(_) => return false,
    };
    let place = if found.place.starts_with(&dir.display().to_string()) { found.place.as_str() } else { "memory" };
    let list = listed["secrets"].as_array().expect("a list");
    list.iter().any(|secret| {
        secret["secret"] == name.as_str()
            && ["erased", "tells"].iter().all(|field| secret[field].as_str().is_some_and(|text| !text.is_empty()))
            && secret["where"].as_array().is_some_and(|places| places.iter().any(|listed| listed == place))
    })
}

fn tally(found: &[Found<What>]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for Found { what, place } in found {
        let place = if place.starts_with('/') { place.rsplit('/').next().unwrap_or_default() } else { place };
        *tally.entry(format!("{what:?} in {place}")).or_default() += 1;
    }
    tally
}

/// Every window of 32 bytes at a multiple of eight, as a secret key. Zeros, text and pointers are no random bytes.
fn try_windows(memory: &Dump, publics: &BTreeSet<X25519Public>) -> (u64, u64) {
    let (mut tried, mut fitted) = (0, 0);
    // a program's file lies on every machine
    for (_, bytes) in memory.0.iter().filter(|(place, _)| !place.starts_with('/')) {
        for window in (0..bytes.len()).step_by(8).map_while(|at| bytes.get(at..at + 32)) {
            let mut seen = [false; 256];
            let distinct =
                window.iter().filter(|byte| !std::mem::replace(&mut seen[usize::from(**byte)], true)).count();
            if distinct < 22 {
                continue;
            }
            tried += 1;
            let secret = X25519Secret::from_bytes(window.try_into().expect("32 bytes"));
            fitted += u64::from(publics.contains(&secret.public()));
        }
    }
    (tried, fitted)
}

/// What is taken from one machine, and what its owner said before.
struct Seized {
    memory: Dump,
    disk: Dump,
    listed: Value,
    /// The epoch of that moment.
    present: u64,
    /// Packets of that moment, to see that what is found opens what may be opened.
    fresh: Vec<Packet>,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_seized_after_the_grace_time_opens_nothing() {
    let size: Option<usize> = std::env::var("SHOAL_PACKETS").ok().map(|text| text.parse().expect("a number"));
    let count = size.unwrap_or(1_500);
    let epoch = if size.is_some() { "180s" } else { "15s" };
    let mut net = Testnet::start(&["--epoch", epoch]);
    let network = network_of(&net);
    let schedule: Schedule = network.schedule();
    let grace = network.parameters.grace();
    let mut gateway = Target::new(net.nodes("gateway", None).remove(0));
    let mut mix = Target::new(net.nodes("mix", Some("L1")).remove(0));
    let mut store = Target::new(net.nodes("store", None).remove(0));
    // started again, they have their first keys from their files
    for target in [&mut gateway, &mut mix, &mut store] {
        net.kill(target.party.pid);
        target.party.pid = net.run_again(&target.party.dir, "shoal-node");
        until("it serves again", Duration::from_secs(120), || {
            metrics::get(&target.party.metrics, "/readyz").is_some_and(|(code, _)| code == 200).then_some(())
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = watch(&[&gateway, &mix, &store], &stop);
    // traffic of others: what a seized machine handles all the time
    let person = Person::new("alice", net.folder.path(), &net.ready.network);

    // two nodes whose keys the recorder has; so that their links are only his, they go
    let (bad_gateway, bad_mix) = (net.nodes("gateway", None).remove(1), net.nodes("mix", Some("L3")).remove(1));
    [&bad_gateway, &bad_mix].iter().for_each(|party| net.kill(party.pid));
    let (_to_mix_port, to_mix) = link_as(&bad_gateway, &mix.party).await;
    let (_to_gateway_port, to_gateway) = link_as(&bad_mix, &gateway.party).await;
    let (_to_store_port, to_store) = link_as(&bad_mix, &store.party).await;

    let document: VerifiedConsensus = consensus(&net).await;
    let mut rng = StdRng::seed_from_u64(23);
    let of = schedule.epoch_at(now());
    let entry = |target: &Target| document.node(&identity_of(&target.party)).expect("listed").clone();
    let second = document.layer(Layer::L2).next().expect("a mix");
    let on =
        Hop { address: *second.identity.as_bytes(), key: *second.mix_key(of).expect("a key"), delay: Duration::ZERO };
    // a client that is not there: the packet is opened and goes nowhere
    let nobody = Hop { address: [0xab; 32], key: X25519Secret::generate(&mut rng).public(), delay: Duration::ZERO };
    let began = Instant::now();
    for (target, link, second) in
        [(&mut mix, &to_mix, Some(on)), (&mut gateway, &to_gateway, Some(nobody)), (&mut store, &to_store, None)]
    {
        target.recorded = make(&entry(target), second, of, count / 3, &mut rng);
        send(link, &target.recorded).await;
    }
    let end = schedule.start(of.plus(1));
    assert!(now() < end.plus(grace), "built and sent in {:?}: the epoch is too short for so many", began.elapsed());
    eprintln!("{} packets in {:?}, recorded under the keys of epoch {of}", count / 3 * 3, began.elapsed());

    // the same person goes on; then the keys are gone from the disk, and the nodes say so
    for target in [&gateway, &mix, &store] {
        let file = target.runtime_dir().join(format!("mix-{of}.key"));
        let patience = Duration::from_millis(10 * schedule.epoch_ms);
        until("the keys are erased", patience, || (!file.exists()).then_some(()));
        assert!(now() >= end.plus(grace).minus(Duration::from_millis(100)), "not before the grace time is over");
    }

    let mut seized = Vec::new();
    for target in [&gateway, &mix, &store] {
        let mut listed = secrets(&target.party);
        // erased a moment ago, and said a moment later at most
        until("secrets lists no erased key", Duration::from_secs(10), || {
            listed = secrets(&target.party);
            (!listed.to_string().contains(&format!("key of epoch {of}\""))).then_some(())
        });
        let document = consensus(&net).await;
        let entry = document.node(&identity_of(&target.party)).expect("listed");
        let fresh = make(entry, None, document.epoch, 3, &mut rng);
        look(&target.runtime_dir(), &target.keys);
        // what it says of its own memory is what the system says
        let says = |what: &str| listed["memory"][what].as_bool().expect("a fact");
        let system = std::fs::read_to_string(format!("/proc/{}/status", target.party.pid)).expect("its status");
        assert!(says("undumpable") && says("no_core"), "{}", listed["memory"]);
        assert_eq!(says("locked"), !system.contains("VmLck:\t       0 kB"), "{system}");
        signal(&target.party, "-STOP");
        let (memory, disk) = (Dump::of_memory(target.party.pid), Dump::of_folder(&target.party.dir));
        signal(&target.party, "-CONT");
        seized.push(Seized { memory, disk, listed, present: document.epoch.0, fresh });
    }
    stop.store(true, Ordering::Relaxed);
    watcher.join().expect("the watcher ends");
    drop(person);

    let mut failures = Vec::new();
    let mut figures = Vec::new();
    let roles = [("gateway", &gateway), ("mix", &mix), ("store", &store)];
    for ((role, target), seized) in roles.into_iter().zip(&seized) {
        let Seized { memory, disk, listed, present, fresh } = seized;
        let known: BTreeSet<u64> = target.keys.lock().expect("no panic").keys().copied().collect();
        let mut needles = target.needles(&known, &target.recorded, of.0);
        needles.add(&*key_of(&target.party).seed(), What::Identity);
        let mut found = memory.search(&needles);
        found.extend(disk.search(&needles));
        let windows = size.map(|_| {
            let past = target.keys.lock().expect("no panic");
            let past = past.range(..=of.0).map(|(_, (mix, _))| mix.public()).collect();
            try_windows(memory, &past)
        });
        let of_past = |place: &&String| place.contains(&format!("/mix-{of}."));
        let left: Vec<&String> = disk.0.iter().map(|(place, _)| place).filter(of_past).collect();

        // the search finds what is there
        let has = |what: &What| found.iter().any(|found| found.what == *what);
        assert!(has(&What::Mix(*present)), "{role}: the key in force is in memory: {:?}", tally(&found));
        assert!(has(&What::Identity), "{role}: {:?}", tally(&found));
        // with every key that was found, on every packet that was recorded
        let opened = |packets: &[Packet]| {
            let candidates: BTreeSet<u64> = found
                .iter()
                .filter_map(|found| match found.what {
                    What::Mix(epoch) => Some(epoch),
                    What::Envelope(_) | What::TagKey(_) | What::Packet(_) | What::Identity => None,
                })
                .collect();
            let keys: Vec<X25519Secret> = candidates.iter().map(|epoch| target.secret(*epoch)).collect();
            packets.iter().filter(|packet| keys.iter().any(|key| open_header(packet, key).is_ok())).count()
        };
        assert_eq!(opened(fresh), 3, "{role}: what was found opens what is sent now");
        let open = opened(&target.recorded);
        let leaked: Vec<_> = found
            .iter()
            .filter(|found| match found.what {
                What::Mix(epoch) | What::Envelope(epoch) | What::TagKey(epoch) => epoch <= of.0,
                What::Packet(_) => true,
                What::Identity => false,
            })
            .cloned()
            .collect();
        if open > 0 || !leaked.is_empty() {
            failures.push(format!("{role}: {open} packets opened; {:?}", tally(&leaked)));
        }
        if !left.is_empty() {
            failures.push(format!("{role}: left on the disk: {left:?}"));
        }
        if let Some((tried, fitted)) = windows {
            figures.push(format!("{role}: {tried} windows tried, {fitted} are a key of the past"));
            if fitted > 0 {
                failures.push(format!("{role}: {fitted} windows are a key of the past"));
            }
        }
        for found in &found {
            if !leaked.contains(found) && !is_listed(listed, found, &target.party.dir) {
                failures.push(format!("{role}: {found:?} is in no line of `secrets`"));
            }
        }
        figures.push(format!(
            "{role}: {} bytes of memory (locked: {}), {} of files, {} packets: {open} opened; found {:?}",
            memory.len(),
            listed["memory"]["locked"],
            disk.len(),
            target.recorded.len(),
            tally(&found)
        ));
    }
    figures.iter().for_each(|line| eprintln!("{line}"));
    assert!(failures.is_empty(), "{failures:#?}");
}
