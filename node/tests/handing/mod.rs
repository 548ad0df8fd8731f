//! A real gateway hands out documents: to a client on its link, and to whoever asks over `shoal-dir/1`.

use crate::paper::{Node, PATIENCE, Paper};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_protocol::consensus::{UnverifiedConsensus, VerifiedConsensus, set_hash};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{
    ANSWER_SIZE_MAX, Attach, DirectoryAnswer, DirectoryQuestion, STREAM_CONSENSUS, STREAM_DIFFERENCE, STREAM_PACKETS,
};
use shoal_protocol::quic::{CloseReason, Endpoint, Link, Protocol, ask};
use shoal_protocol::types::{Hash, Role};
use tokio::time::timeout;

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
    let node = Node::start(&paper, Role::Gateway, dir.path());
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
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    };
    let difference = timeout(PATIENCE, known()).await.expect("the next document in time");
    assert!(verified(&paper, &newest.apply(&difference).expect("leads on")).epoch > newest.epoch);
    let stranger = Some(Hash::from_bytes([9; 32]));
    let strange = answer(&asker, DirectoryQuestion::Newest { have: stranger }).await;
    assert!(matches!(strange, DirectoryAnswer::Document(_)));

    // changes: none since the only set; of a set that it does not know it asks an authority
    let (link, mut frames) = client().await;
    frames.write(Attach::generate(&mut rng).to_frame(&mut rng).as_bytes()).await.expect("sent");
    let none = DirectoryAnswer::Changes(Vec::new());
    let now = DirectoryQuestion::Changes { after: set_hash(&paper.network.authorities) };
    for link in [&link, &asker] {
        assert_eq!(answer(link, now.clone()).await, none);
        let old = DirectoryQuestion::Changes { after: Hash::from_bytes([4; 32]) };
        assert_eq!(old.to_bytes().len(), now.to_bytes().len(), "of one size, whatever is believed");
        paper.changes.lock().expect("whole").clear();
        // the authorities are asked once a second at most
        let told = async |what: &DirectoryAnswer| {
            while answer(link, old.clone()).await != *what {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        };
        timeout(PATIENCE, told(&none)).await.expect("nothing is known");
        *paper.changes.lock().expect("whole") = vec![vec![1, 2, 3]];
        timeout(PATIENCE, told(&DirectoryAnswer::Changes(vec![vec![1, 2, 3].into()]))).await.expect("passed on");
    }

    // a client asks nothing else
    let newest = DirectoryQuestion::Newest { have: None }.to_bytes();
    assert!(ask(&link, &newest, ANSWER_SIZE_MAX).await.is_err());
    assert_eq!(timeout(PATIENCE, link.closed()).await.ok(), Some(Some(CloseReason::Malformed)));
}
