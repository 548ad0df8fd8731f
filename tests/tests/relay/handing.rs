//! A real gateway hands out documents: to a client on its link, and to whoever asks over `shoal-dir/1`.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_node::allowance::DOCUMENTS_OF_LINK;
use shoal_protocol::consensus::{UnverifiedConsensus, VerifiedConsensus, set_hash};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{
    ANSWER_SIZE_MAX, Attach, DirectoryAnswer, DirectoryQuestion, STREAM_CONSENSUS, STREAM_DIFFERENCE, STREAM_PACKETS,
};
use shoal_protocol::quic::{CloseReason, Endpoint, Link, Protocol, ask};
use shoal_protocol::types::{Hash, Identity, Role};
use shoal_tests::paper::{Node, PATIENCE, Paper};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// A set of authorities that was in force once.
const OLD: Hash = Hash::from_bytes([4; 32]);

fn verified(paper: &Paper, bytes: &[u8]) -> VerifiedConsensus {
    UnverifiedConsensus::parse(bytes)
        .and_then(|parsed| parsed.verify_any_time(&paper.network.trust_anchor()))
        .expect("a certified document")
}

/// The next document stream: its first byte and the rest.
async fn pushed(link: &Link) -> (u8, Vec<u8>) {
    loop {
        let mut stream = timeout(PATIENCE, link.accept_uni()).await.expect("in time").expect("a stream");
        let mut kind = [0];
        stream.read_exact(&mut kind).await.expect("a first byte");
        if kind[0] != STREAM_PACKETS {
            return (kind[0], stream.read_to_end(1 << 20).await.expect("a document"));
        }
    }
}

async fn answer(link: &Link, question: DirectoryQuestion) -> DirectoryAnswer {
    let question = question.to_bytes();
    let asked = timeout(PATIENCE, ask(link, &question, ANSWER_SIZE_MAX)).await;
    DirectoryAnswer::from_bytes(&asked.expect("in time").expect("an answer")).expect("readable")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_pushes_what_is_new_and_answers_who_asks() {
    let paper = Paper::start(None);
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    // as if there had been many changes since
    node.kill();
    std::fs::write(node.dir().join("changes.older"), OLD.as_bytes()).expect("written");
    node.restart();
    node.ready().await;
    let mut rng = StdRng::seed_from_u64(12);
    let endpoint = Endpoint::dialler(None, "127.0.0.1:0".parse().expect("an address")).expect("a port");
    let client = async || {
        let link = endpoint.connect(node.address, &node.identity, Protocol::Client).await.expect("a link");
        let frames = link.open_frames::<PACKET_SIZE>().await.expect("a stream");
        (link, frames)
    };

    // a client that says nothing: first the whole document, then what is new in the next one
    let (link, mut frames) = client().await;
    frames.write(Attach::generate(&mut rng).to_frame(&mut rng).as_bytes()).await.expect("sent");
    let (kind, bytes) = pushed(&link).await;
    assert_eq!(kind, STREAM_CONSENSUS);
    let mut held = verified(&paper, &bytes);
    for _ in 0..2 {
        let (kind, difference) = pushed(&link).await;
        assert_eq!(kind, STREAM_DIFFERENCE);
        let next = verified(&paper, &held.apply(&difference).expect("leads on from the one before"));
        assert!(next.epoch > held.epoch && difference.len() < next.bytes().len());
        held = next;
    }

    // who asks: the whole one for a stranger, a difference for who holds the one before, nothing for who has it
    let asker = endpoint.connect(node.address, &node.identity, Protocol::Directory).await.expect("a link");
    let DirectoryAnswer::Document(newest) = answer(&asker, DirectoryQuestion::Newest { have: None }).await else {
        panic!("the whole document")
    };
    let newest = verified(&paper, &newest);
    assert!(newest.epoch >= held.epoch);
    let have = Some(newest.hash());
    let known = async || loop {
        let answer = answer(&asker, DirectoryQuestion::Newest { have }).await;
        if let DirectoryAnswer::Difference(difference) = answer {
            return difference;
        }
        assert_eq!(answer, DirectoryAnswer::UpToDate);
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let difference = timeout(PATIENCE, known()).await.expect("the next document in time");
    assert!(verified(&paper, &newest.apply(&difference).expect("leads on")).epoch > newest.epoch);
    let stranger = Some(Hash::from_bytes([9; 32]));
    let strange = answer(&asker, DirectoryQuestion::Newest { have: stranger }).await;
    assert!(matches!(strange, DirectoryAnswer::Document(_)));

    // changes: none since the only set; a set that was never in force costs a look and no question to an authority; of one
    // that was, and is kept here no more, an authority is asked once for all who ask
    let (link, mut frames) = client().await;
    frames.write(Attach::generate(&mut rng).to_frame(&mut rng).as_bytes()).await.expect("sent");
    let none = DirectoryAnswer::Changes(Vec::new());
    let now = DirectoryQuestion::Changes { after: set_hash(&paper.network.authorities) };
    for link in [&link, &asker] {
        assert_eq!(answer(link, now.clone()).await, none);
    }
    *paper.changes.lock().expect("whole") = vec![vec![1, 2, 3]];
    let leading = [held.bytes().to_vec()];
    let asked = || paper.asked_for_changes.load(Ordering::Relaxed);
    for n in 0..60 {
        let never = DirectoryQuestion::Changes { after: Hash::from_bytes([n + 100; 32]) };
        assert_eq!(never.to_bytes().len(), now.to_bytes().len(), "of one size, whatever is believed");
        assert_eq!(answer(if n % 2 == 0 { &link } else { &asker }, never).await, none);
    }
    assert_eq!(asked(), 0);
    // what does not lead to a set that this gateway knows is neither handed out nor kept; what follows it is cut off
    let old = || DirectoryQuestion::Changes { after: OLD };
    assert!(matches!(answer(&link, old()).await, DirectoryAnswer::NotYet(_)));
    assert_eq!(asked(), 1);
    *paper.changes.lock().expect("whole") = leading.iter().cloned().chain([vec![1, 2, 3]]).collect();
    for _ in 0..5 {
        for link in [&link, &asker] {
            let led = DirectoryAnswer::Changes(leading.iter().cloned().map(Into::into).collect());
            assert_eq!(answer(link, old()).await, led);
        }
    }
    assert_eq!(asked(), 2, "the answer is kept for whoever asks next");

    // a client asks nothing else
    let newest = DirectoryQuestion::Newest { have: None }.to_bytes();
    assert!(ask(&link, &newest, ANSWER_SIZE_MAX).await.is_err());
    assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(Some(CloseReason::Malformed)));
}

/// Links that somebody hostile holds at a time, all from 127.0.0.1: three times as many as there are places.
const HOSTILE: usize = 200;

/// Holds a link to the gateway's documents as long as it is let, and then the next one: every other one says nothing, the
/// others begin a question and go on with a byte a second. What they say keeps the link from being silent.
async fn hold(endpoint: Endpoint, node: (std::net::SocketAddr, Identity), number: usize, held: Arc<AtomicUsize>) {
    loop {
        if let Ok(link) = endpoint.connect(node.0, &node.1, Protocol::Directory).await {
            held.fetch_add(1, Ordering::Relaxed);
            let dribbling = async {
                let (mut send, _receive) = link.connection.open_bi().await.ok()?;
                loop {
                    // the first byte of a question
                    send.write_all(&[0x82]).await.ok()?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            if number.is_multiple_of(2) {
                let _ = link.closed().await;
            } else {
                let _: Option<()> = dribbling.await;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_who_ask_nothing_keep_no_honest_asker_out() {
    let paper = Paper::start(None);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    let from = |address: &str| Endpoint::dialler(None, format!("{address}:0").parse().expect("an address"));
    let hostile = from("127.0.0.1").expect("a port");
    let held = Arc::new(AtomicUsize::new(0));
    let holders: Vec<_> = (0..HOSTILE)
        .map(|number| tokio::spawn(hold(hostile.clone(), (node.address, node.identity), number, Arc::clone(&held))))
        .collect();
    let all = async {
        while held.load(Ordering::Relaxed) < HOSTILE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("as many links as there are holders");

    // from another prefix: served at once, a link for each question, again and again
    let honest = from("127.0.1.7").expect("a port");
    for _ in 0..10 {
        let began = paper.clock.monotonic();
        let link = honest.connect(node.address, &node.identity, Protocol::Directory).await.expect("a link");
        let answer = answer(&link, DirectoryQuestion::Newest { have: None }).await;
        assert!(matches!(answer, DirectoryAnswer::Document(_)), "{answer:?}");
        let took = paper.clock.monotonic() - began;
        println!("served after {took:?}");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    // a link from there whose question never becomes whole ends as well, though it has a place and nobody wants it
    let silent = honest.connect(node.address, &node.identity, Protocol::Directory).await.expect("a link");
    let beats = async {
        let (mut send, _receive) = silent.connection.open_bi().await.expect("a stream");
        loop {
            let _ = send.write_all(&[0x82]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        reason = timeout(PATIENCE, silent.closed()) => assert_eq!(reason.ok().flatten(), Some(CloseReason::Malformed)),
        () = beats => {}
    }
    holders.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_given_no_more_documents_in_an_epoch_than_anybody_needs() {
    let paper = Paper::start(None);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    let endpoint = Endpoint::dialler(None, "127.0.0.1:0".parse().expect("an address")).expect("a port");

    // who has not attached is handed nothing
    let client = endpoint.connect(node.address, &node.identity, Protocol::Client).await.expect("a link");
    let nothing = async {
        match client.accept_uni().await {
            Ok(_) => panic!("a document for nobody"),
            Err(_) => client.closed().await,
        }
    };
    assert_eq!(timeout(PATIENCE, nothing).await.expect("given up in time"), Some(CloseReason::Done));

    let asker = endpoint.connect(node.address, &node.identity, Protocol::Directory).await.expect("a link");
    let schedule = paper.network.schedule();
    let epoch = || schedule.epoch_at(paper.clock.wall());
    let mut given = std::collections::BTreeMap::<u64, u32>::new();
    let (began, mut refused) = (epoch(), false);
    while epoch().0 < began.0 + 3 {
        let answer = answer(&asker, DirectoryQuestion::Newest { have: None }).await;
        if let DirectoryAnswer::NotYet(reason) = &answer {
            assert!(reason.contains("as many documents"), "{reason}");
            refused = true;
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let DirectoryAnswer::Document(bytes) = answer else { panic!("{answer:?}") };
        // a document that is there before its epoch counts for that
        let of = UnverifiedConsensus::parse(&bytes).expect("well-formed").mark().epoch.max(epoch());
        *given.entry(of.0).or_default() += 1;
    }
    // an answer may be counted in the epoch after the one in which it was given
    assert!(refused && given.values().all(|documents| *documents <= DOCUMENTS_OF_LINK + 1), "{given:?}");
    assert!(given.len() >= 2, "anew in every epoch: {given:?}");
}
