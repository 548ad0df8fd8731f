//! A mix that swallows everything, among real processes: its neighbours alarm, say where, the documents take it out of its
//! layer, and people's packets come through again. (Row 5 of the table in `tests/README.md`.)

#![expect(clippy::disallowed_methods, reason = "a test reads the real clock")]

use serde_json::Value;
use shoal_protocol::Identity;
use shoal_protocol::consensus::{DEMOTION_STRIKES, UnverifiedConsensus, VerifiedConsensus};
use shoal_protocol::link::{ANSWER_SIZE_MAX, DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::{Endpoint, Protocol, ask};
use shoal_tests::authority::{directory, node};
use shoal_tests::black_hole::BlackHole;
use shoal_tests::liar::node_key;
use shoal_tests::person::Person;
use shoal_tests::testnet::{Party, Testnet};
use shoal_tests::{metrics, until_every};
use std::time::{Duration, Instant};

const EPOCH: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(500);

fn network(net: &Testnet) -> NetworkFile {
    let text = std::fs::read_to_string(&net.ready.network).expect("network file");
    NetworkFile::parse(&text).expect("network file")
}

/// The newest document.
fn consensus(network: &NetworkFile) -> VerifiedConsensus {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let hint = network.hints.authorities.first().expect("an authority");
        let endpoint = Endpoint::dialler(None, "127.0.0.1:0".parse().expect("address")).expect("endpoint");
        let link = endpoint.connect(hint.address, &hint.identity, Protocol::Directory).await.expect("a link");
        let question = DirectoryQuestion::Newest { have: None }.to_bytes();
        let answer = ask(&link, &question, ANSWER_SIZE_MAX).await.expect("an answer");
        let DirectoryAnswer::Document(bytes) = DirectoryAnswer::from_bytes(&answer).expect("CBOR") else {
            panic!("a document exists");
        };
        UnverifiedConsensus::parse(&bytes)
            .expect("well-formed")
            .verify_any_time(&network.trust_anchor())
            .expect("certified")
    })
}

fn losing(party: &Party) -> Vec<(String, Vec<String>)> {
    let status = node(&["status"], &party.dir);
    let places = status["losing"].as_array().cloned().unwrap_or_default();
    let nodes = |place: &Value| {
        let nodes = place["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().filter_map(|node| node.as_str().map(str::to_owned)).collect()
    };
    places.iter().map(|place| (place["where"].as_str().unwrap_or_default().to_owned(), nodes(place))).collect()
}

/// A mix that knows it says so everywhere, and stays ready.
fn check_what_it_shows(mix: &Party, culprit: &str) {
    let (_, text) = metrics::get(&mix.metrics, "/metrics").expect("metrics");
    assert!(metrics::sample(&text, "shoal_links_losing").is_some_and(|places| places >= 1.0));
    let status = node(&["status"], &mix.dir);
    let warned = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    assert!(warned.into_iter().any(|warning| warning.contains(culprit)), "{status}");
    assert_eq!(status["ready"], true, "what others do does not make a node unready");
    let doctor = node(&["doctor"], &mix.dir);
    assert!(doctor.to_string().contains(&format!("link to {culprit}")), "{doctor}");
}

#[test]
fn a_black_hole_is_found_by_its_neighbours_and_demoted() {
    let mut net = Testnet::start(&["--epoch", "20s", "--no-prober"]);
    let network = network(&net);
    let folder = tempfile::tempdir().expect("folder");
    let alice = Person::new("alice", folder.path(), &net.ready.network);
    let culprit = net.nodes("mix", Some("L2")).remove(0);
    let name = culprit.identity.clone().expect("identity");
    let identity: Identity = name.parse().expect("hex");
    let entry = consensus(&network).node(&identity).expect("listed").clone();
    for mix in net.nodes("mix", Some("L1")).into_iter().chain(net.nodes("mix", Some("L3"))) {
        assert!(losing(&mix).is_empty(), "before anything happened");
    }

    net.kill(culprit.pid);
    let hole = BlackHole::in_place_of(entry, node_key(&culprit.dir), network.clone());
    let begun = Instant::now();

    // each in its own time: all are asked until the last one knows, or the documents have acted and they forget it
    let neighbours =
        |layer, place: &'static str| net.nodes("mix", Some(layer)).into_iter().map(move |mix| (mix, place));
    let mut waiting: Vec<(Party, &str)> = neighbours("L1", "to").chain(neighbours("L3", "at")).collect();
    let (all, mut shown) = (waiting.len(), Vec::new());
    until_every(PAUSE, "the mixes before it and behind it alarm", EPOCH * 10, || {
        let places: Vec<_> = waiting.iter().map(|(mix, _)| losing(mix)).collect();
        if places != shown {
            eprintln!("after {:.1} s those who do not know yet name {places:?}", begun.elapsed().as_secs_f64());
            shown = places;
        }
        waiting.retain(|(mix, place)| {
            let knows = losing(mix).contains(&((*place).to_owned(), vec![name.clone()]));
            if knows && *place == "to" {
                check_what_it_shows(mix, &name);
            }
            !knows
        });
        let demoted = consensus(&network).suspect(&identity).is_some_and(|suspect| suspect.demoted_until.is_some());
        (waiting.is_empty() || demoted).then_some(())
    });
    // how soon is judged in virtual time (`sim` `loss`): here nodes, authorities and the hole share a few cores
    eprintln!("{} of {all} neighbours know after {:.1} s", all - waiting.len(), begun.elapsed().as_secs_f64());
    assert!(waiting.len() < all / 2, "{shown:?}");

    let demoted = until_every(PAUSE, "the documents demote it", EPOCH * 20, || {
        let document = consensus(&network);
        document.suspect(&identity).is_some_and(|suspect| suspect.demoted_until.is_some()).then_some(document)
    });
    eprintln!(
        "demoted after {:.1} s, {:.1} epochs; it swallowed {} packets and had {} descriptors accepted",
        begun.elapsed().as_secs_f64(),
        begun.elapsed().as_secs_f64() / EPOCH.as_secs_f64(),
        hole.swallowed(),
        hole.accepted()
    );
    assert!(hole.swallowed() > 0 && hole.accepted() > 0);
    assert!(demoted.node(&identity).is_some_and(|node| node.standby && node.layer.is_none()), "listed, without a seat");
    assert_eq!(demoted.suspects.len(), 1, "nobody else is suspected: {:?}", demoted.suspects);
    assert_eq!(demoted.suspects[0].strikes, DEMOTION_STRIKES);
    let status = directory(&["status"], &net.ready.authorities[0].dir);
    let nodes = status["nodes"].as_array().expect("nodes");
    let mine = nodes.iter().find(|node| node["identity"] == name.as_str()).expect("listed");
    assert!(mine["suspect"]["demoted_until"].is_u64(), "{mine}");

    // people's loops cross it no more: all that is sent from now on comes back
    until_every(PAUSE, "a client's new loops return", EPOCH * 10, || {
        let before = alice.status();
        let count = |status: &Value, key: &str| status[key].as_u64().unwrap_or(0);
        let (sent, returned) = (count(&before, "loops_sent"), count(&before, "loops_returned"));
        let after = until_every(PAUSE, "forty loops", EPOCH * 10, || {
            let status = alice.status();
            (count(&status, "loops_sent") >= sent + 40).then_some(status)
        });
        let share = (count(&after, "loops_returned") - returned) as f64 / (count(&after, "loops_sent") - sent) as f64;
        eprintln!(
            "{:.0} s after it began: {:.0} % of forty loops of a client return",
            begun.elapsed().as_secs_f64(),
            100.0 * share
        );
        (share >= 0.9).then_some(())
    });

    // the operator has the machine back: the real node says why it has no place, and until when
    drop(hole);
    net.run_again(&culprit.dir, "shoal-node");
    let status = until_every(PAUSE, "the node knows", EPOCH * 10, || {
        let status = node(&["status"], &culprit.dir);
        status["demotion"]["until_epoch"].is_u64().then_some(status)
    });
    assert_eq!((&status["standby"], &status["layer"]), (&Value::Bool(true), &Value::Null));
    let warned = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    assert!(warned.into_iter().any(|warning| warning.starts_with("out of its layer until epoch")), "{status}");
}
