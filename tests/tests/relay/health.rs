//! What a node says about itself and its network: to its operator, to whoever scrapes it, and in its log.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::consensus::UnverifiedConsensus;
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::Attach;
use shoal_protocol::quic::{CloseReason, Endpoint, Protocol};
use shoal_protocol::types::{IdentityKey, Layer, Role};
use shoal_tests::paper::{Neighbour, Node, PATIENCE, Paper};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

const ANY: &str = "127.0.0.1:0";

async fn is_refused(node: &Node, neighbour: &Neighbour) -> bool {
    let link = neighbour.endpoint.connect(node.address, &node.identity, Protocol::Mix).await.expect("a handshake");
    timeout(PATIENCE, link.closed()).await.expect("closed in time") == Some(CloseReason::NotAdmitted)
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_that_contradict_themselves_stop_the_node_until_a_person_clears_it() {
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let (open, _frames) = node.dial(&paper.gateway).await;
    node.wait("the link is counted", |status| status["links"]["incoming"] == 1).await;

    paper.contradicting.store(true, Ordering::Relaxed);
    node.wait("stopped", |status| status["contradiction"].is_string() && status["ready"] == false).await;
    assert_eq!(timeout(PATIENCE, open.closed()).await.ok(), Some(Some(CloseReason::NotAdmitted)), "no link stays");
    assert!(is_refused(&node, &paper.gateway).await, "and none is taken");

    // both documents, byte for byte: whoever has the network file can check them
    let documents = ["evidence/first", "evidence/second"].map(|name| {
        let path = node.dir().join(name);
        assert_eq!(std::fs::metadata(&path).expect("kept").permissions().mode() & 0o777, 0o600);
        let bytes = std::fs::read(&path).expect("read");
        UnverifiedConsensus::parse(&bytes)
            .and_then(|document| document.verify_any_time(&paper.network.trust_anchor()))
            .expect("certified")
    });
    assert_eq!(documents[0].epoch, documents[1].epoch);
    assert_ne!(documents[0].hash(), documents[1].hash());

    // a restart changes nothing, even when the authorities agree again
    paper.contradicting.store(false, Ordering::Relaxed);
    node.kill_and_restart();
    node.wait("stopped", |status| status["contradiction"].is_string()).await;
    let (code, text) = node.get("/readyz").await;
    assert_eq!(code, 503);
    assert!(text.contains("evidence/second"), "{text}");
    assert!(node.get("/metrics").await.1.contains("shoal_consensus_contradiction 1"));
    assert!(is_refused(&node, &paper.gateway).await);
    assert!(node.status().await["epoch"].is_null(), "no document is in use");
    assert!(node.command("doctor").contains("evidence/second"));
    assert!(node.command("status").contains("evidence/second"));

    // what the message says helps
    node.kill();
    std::fs::remove_dir_all(node.dir().join("evidence")).expect("removed");
    std::fs::remove_file(node.dir().join("consensus")).expect("removed");
    node.restart();
    node.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_directory_is_said_within_one_epoch_and_stops_no_traffic() {
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    assert_eq!(node.status().await["stale"], false);
    assert_eq!(node.get("/readyz").await, (200, "ready\n".to_owned()));

    paper.frozen.store(true, Ordering::Relaxed);
    let stale = node.wait("stale", |status| status["stale"] == true).await;
    let schedule = paper.network.schedule();
    let held = stale["epoch"].as_u64().expect("a document is held");
    assert!(schedule.epoch_at(paper.clock.wall()).0 <= held + 1, "within one epoch");
    let (code, text) = node.get("/readyz").await;
    assert!(code == 200 && text.starts_with("ready\nstale: "), "{code} {text}");
    assert!(node.get("/metrics").await.1.contains("shoal_consensus_stale 1"));
    assert!(node.command("doctor").contains("stale"));
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    frames.write(paper.packet(Duration::ZERO, paper.mixes[1].last_hop(), 1).as_bytes()).await.expect("sent");
    assert_eq!(paper.mixes[1].receive().await, [1; 16], "traffic goes on");

    paper.frozen.store(false, Ordering::Relaxed);
    node.wait("fresh", |status| status["stale"] == false).await;
    node.wait_log("said to be over", |log| log.contains("a new consensus again")).await;
    assert_eq!(node.log().matches("no new consensus").count(), 1, "said once a freeze");
}

/// Waits until the middle of an epoch, so that nothing but clients can change what a gateway shows.
async fn middle_of_an_epoch(paper: &Paper) -> u64 {
    let schedule = paper.network.schedule();
    loop {
        let now = paper.clock.wall();
        let epoch = schedule.epoch_at(now);
        let since = now.0 - schedule.start(epoch).0;
        if (3_000..3_500).contains(&since) {
            return epoch.0;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_be_seen_in_a_gateways_metrics() {
    let paper = Paper::start(None);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    let mut rng = StdRng::seed_from_u64(8);
    let endpoint = Endpoint::dialler(None, ANY.parse().expect("an address")).expect("a port");
    let stranger = IdentityKey::generate(&mut rng);
    let stranger = Endpoint::dialler(Some(&stranger), ANY.parse().expect("an address")).expect("a port");

    let epoch = middle_of_an_epoch(&paper).await;
    let (_, before) = node.get("/metrics").await;
    // the descriptor is published by the clock, whoever is there
    let status = async || {
        let mut status = node.status().await;
        status["descriptor"].take();
        status
    };
    let status_before = status().await;
    // a client that sends, one with a wrong protocol, one that breaks off, and a peer that is nobody
    let link = endpoint.connect(node.address, &node.identity, Protocol::Client).await.expect("a link");
    let mut frames = link.open_frames::<PACKET_SIZE>().await.expect("a stream");
    frames.write(Attach::generate(&mut rng).to_frame(&mut rng).as_bytes()).await.expect("sent");
    for n in 0..40 {
        frames.write(paper.packet(Duration::ZERO, paper.mixes[0].last_hop(), n).as_bytes()).await.expect("sent");
    }
    for _ in 0..40 {
        paper.mixes[0].receive().await;
    }
    assert!(stranger.connect(node.address, &node.identity, Protocol::Store).await.is_err());
    let link = stranger.connect(node.address, &node.identity, Protocol::Mix).await.expect("a handshake");
    assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(Some(CloseReason::NotAdmitted)));
    let (_, after) = node.get("/metrics").await;
    let status_after = status().await;

    assert_eq!(paper.network.schedule().epoch_at(paper.clock.wall()).0, epoch, "this machine is too slow for the test");
    assert_eq!(before, after);
    assert_eq!(status_before, status_after);
    assert!(before.contains("process_resident_memory_bytes") && before.contains("shoal_handshake_failures_total"));
    // and at the end of the epoch it is all there
    node.wait("the snapshot", |status| status["received"].as_u64().is_some_and(|received| received >= 40)).await;
    assert!(node.get("/metrics").await.1.contains("shoal_handshake_failures_total{reason=\"unlisted\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_is_in_a_log_at_debug() {
    let paper = Paper::start(None);
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    let mut rng = StdRng::seed_from_u64(9);
    // bytes that are no QUIC, a wrong protocol, an unlisted peer, half a frame, an end without a word
    let socket = std::net::UdpSocket::bind(ANY).expect("a port");
    for length in [1usize, 40, 1_200] {
        let junk: Vec<u8> = (0..length).map(|_| rand::RngExt::random(&mut rng)).collect();
        socket.send_to(&junk, node.address).expect("sent");
    }
    let endpoint = Endpoint::dialler(None, ANY.parse().expect("an address")).expect("a port");
    assert!(endpoint.connect(node.address, &node.identity, Protocol::Store).await.is_err());
    let stranger = IdentityKey::generate(&mut rng);
    let stranger = Endpoint::dialler(Some(&stranger), ANY.parse().expect("an address")).expect("a port");
    let link = stranger.connect(node.address, &node.identity, Protocol::Mix).await.expect("a handshake");
    assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(Some(CloseReason::NotAdmitted)));
    let link = endpoint.connect(node.address, &node.identity, Protocol::Client).await.expect("a link");
    let mut stream = link.open_uni().await.expect("a stream");
    stream.write_all(&[0; PACKET_SIZE / 2]).await.expect("sent");
    stream.finish().expect("finished");
    assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(Some(CloseReason::Malformed)));
    endpoint.close();
    drop(endpoint);
    assert_eq!(node.end("-INT").await, Some(0));

    let log = node.log();
    assert!(log.contains("running") && log.contains("stopped"), "{log}");
    for address in ["127.0.0.1", "::1", "[::", "localhost"] {
        assert!(!log.contains(address), "{address}: {log}");
    }
}

/// Waits for a standing, and that `/readyz`, `status` and `doctor` agree about it.
async fn agrees(node: &Node, standing: &str, ready: bool) {
    let waiting = async {
        loop {
            let before = node.wait(standing, |status| status["standing"] == standing).await;
            let (code, body) = node.get("/readyz").await;
            let doctor: serde_json::Value = serde_json::from_str(&node.command_json("doctor")).expect("JSON");
            let after = node.status().await;
            // one word from the first question to the last, or it was something else in between
            if after["standing"] == standing {
                return (before, code, body, doctor);
            }
        }
    };
    let (status, code, body, doctor) = timeout(PATIENCE, waiting).await.expect("in time");
    assert_eq!((code == 200, status["ready"].as_bool()), (ready, Some(ready)), "{standing}: {code} {body} {status}");
    let findings = doctor["findings"].as_array().expect("findings");
    let own: Vec<_> = findings.iter().filter(|finding| finding["check"] == "running node").collect();
    assert!(!own.is_empty() && own.iter().all(|finding| finding["ok"] == ready), "{standing}: {doctor}");
    let problems = status["problems"].as_array().expect("a list");
    assert_eq!(problems.is_empty(), ready, "{standing}: {status}");
    if standing == "draining" || standing == "unlisted" {
        return;
    }
    for finding in findings.iter().filter(|finding| finding["check"] == "authority") {
        // its own authority is asked by the document that the node holds
        assert_eq!(finding["ok"], ready || standing == "starting", "{standing}: {finding}");
        let next = finding["next"].as_str().expect("text");
        assert!(!next.contains("set the clock") && !next.contains("timedatectl"), "{standing}: {finding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_status_and_doctor_agree_in_every_phase() {
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    paper.silent.store(true, Ordering::Relaxed);
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    agrees(&node, "starting", false).await;
    paper.silent.store(false, Ordering::Relaxed);
    agrees(&node, "serving", true).await;

    // no document for three epochs: overdue, then over; then there is one again
    paper.frozen.store(true, Ordering::Relaxed);
    agrees(&node, "stale", true).await;
    agrees(&node, "over", false).await;
    let (_, body) = node.get("/readyz").await;
    assert!(body.contains("is over since"), "{body}");
    assert!(node.command("status").contains("doctor` asks every authority"));
    paper.frozen.store(false, Ordering::Relaxed);
    agrees(&node, "serving", true).await;

    // its authority has removed it and refuses it
    let reason =
        format!("{} is not admitted here; send your admission line to the authority's operator", node.identity);
    *paper.refusing.lock().expect("whole") = Some(reason);
    paper.left_out.store(true, Ordering::Relaxed);
    let out = node
        .wait("removed", |status| status["standing"] == "unlisted" && status["descriptor"]["accepted_by"] == 0)
        .await;
    agrees(&node, "unlisted", false).await;
    assert_eq!(
        (out["descriptor"]["needed"].as_u64(), out["descriptor"]["refused_for"]["not_admitted"].as_u64()),
        (Some(1), Some(1))
    );
    let said = node.command("status");
    for part in [
        "0 of 1 authorities list it, 1 are needed",
        "is not admitted here",
        "1 more of the authorities",
        "admission line",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    *paper.refusing.lock().expect("whole") = None;
    paper.left_out.store(false, Ordering::Relaxed);
    agrees(&node, "serving", true).await;

    paper.frozen.store(true, Ordering::Relaxed);
    node.signal("-TERM");
    agrees(&node, "draining", false).await;
    assert!(node.command("status").contains("nothing: it leaves by itself"));
    assert_eq!(node.end("-TERM").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_public_address_is_shown_and_put_right_by_a_hangup() {
    let paper = Paper::start(Some(Layer::L1));
    paper.dialling.store(true, Ordering::Relaxed);
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.kill();
    // nobody is there
    let nobody = std::net::UdpSocket::bind(ANY).expect("a port").local_addr().expect("bound");
    let path = node.dir().join("node.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    let right = format!("address = \"{}\"", node.address);
    let wrong = text.replace(&right, &format!("address = \"{nobody}\""));
    assert_ne!(text, wrong);
    std::fs::write(&path, &wrong).expect("written");
    node.restart();
    let refused =
        node.wait("refused", |status| status["descriptor"]["refused_for"]["unreached"].as_u64() == Some(1)).await;
    assert_eq!(refused["descriptor"]["addresses"], serde_json::json!([nobody.to_string()]));
    for command in ["status", "doctor"] {
        let said = node.command(command);
        for part in
            [nobody.to_string(), "cannot reach the node".to_owned(), "correct `address` in node.toml".to_owned()]
        {
            assert!(said.contains(&part), "{command}: {part}: {said}");
        }
    }
    // the file is right, the node does not know it yet
    std::fs::write(&path, &text).expect("written");
    let said = node.command("doctor");
    assert!(said.contains("the running node publishes") && said.contains("SIGHUP"), "{said}");
    node.signal("-HUP");
    node.wait_log("said", |log| log.contains("names the new public address")).await;
    node.ready().await;
    assert_eq!(paper.descriptor().addresses, [node.address]);
    assert_eq!(node.status().await["descriptor"]["addresses"], serde_json::json!([node.address.to_string()]));
    assert!(node.command("doctor").contains("ok   descriptor: the descriptor names"));
    // a name that does not exist is said as well, and the node stays where it is
    std::fs::write(&path, text.replace(&right, "address = \"nowhere.invalid:4433\"")).expect("written");
    node.signal("-HUP");
    let unresolved = node.wait("said", |status| status["descriptor"]["problem"].is_string()).await;
    assert!(unresolved["warnings"].to_string().contains("nowhere.invalid"), "{unresolved}");
    assert_eq!(unresolved["ready"], true);
    let log = node.log();
    for address in ["127.0.0.1", "nowhere.invalid"] {
        assert!(!log.contains(address), "{address}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_the_configuration_again() {
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let path = node.dir().join("node.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    let changed =
        text.replace("link_queue_packets = 1024", "link_queue_packets = 99").replace("workers = 0", "workers = 2");
    assert_ne!(text, changed);
    std::fs::write(&path, changed).expect("written");
    node.signal("-HUP");
    node.wait_log("both are named", |log| {
        let line = |part: &str| log.lines().any(|line| line.contains(part) && line.contains("limits."));
        line("configuration read again") && line("at the next start only")
    })
    .await;
    // one that cannot be used changes nothing, and the node lives
    std::fs::write(&path, "nonsense").expect("written");
    node.signal("-HUP");
    node.wait_log("refused", |log| log.contains("the configuration stays as it was")).await;
    node.ready().await;
}
