//! The link against gateways that a test plays: honest ones, silent ones, and some that talk nonsense.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::SeedableRng as _;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{
    Consensus, MAX_CONSENSUS_SIZE, UnverifiedConsensus, VerifiedConsensus, certify, difference,
};
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion, STREAM_CONSENSUS, STREAM_DIFFERENCE, STREAM_PACKETS};
use shoal_protocol::quic::{FrameReader, QUESTION_TIMEOUT, read_question};
use shoal_protocol::{Epoch, IdentityKey, X25519Secret};

use super::downward::FIRST_DOCUMENT;
use super::flaps::FLAPS_MAX;
use super::*;
use crate::testing::consensus;

/// Longer than a loaded machine needs for anything here.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn pauses_double_are_jittered_and_end_at_the_longest() {
    let longest = Duration::from_secs(30);
    assert_eq!(pause(0, longest, 0.0), Duration::from_millis(125));
    assert_eq!(pause(0, longest, 1.0), Duration::from_millis(375));
    assert_eq!(pause(3, longest, 0.5), Duration::from_secs(2));
    for failures in [8, 16, 17, 1_000, u32::MAX] {
        assert_eq!(pause(failures, longest, 0.5), longest);
    }
}
#[tokio::test]
async fn a_packet_has_left_when_it_was_written_to_a_link_that_stands() {
    let key = IdentityKey::generate(&mut StdRng::seed_from_u64(1));
    let server = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), &key, &[Protocol::Client]).unwrap();
    let addresses = vec![server.local_addr().unwrap()];
    let mut link = GatewayLink::start(Duration::from_secs(1));
    let packet = || Packet::from_array([7; PACKET_SIZE].into());
    // nobody is linked: it is thrown away, and nothing may be said of it
    assert!(link.send(packet(), Some(Ticket(1))));
    let mut rng = StdRng::seed_from_u64(2);
    link.aim(Target { gateway: key.identity(), addresses, attach: Attach::generate(&mut rng) });
    let gateway = tokio::spawn(async move {
        let link = server.accept().await.unwrap().admit().await.unwrap();
        let mut frames: FrameReader<PACKET_SIZE> = link.accept_frames().await.unwrap();
        let frames = [frames.next().await.unwrap().unwrap(), frames.next().await.unwrap().unwrap()];
        (server, link, frames[1][..] == [7; PACKET_SIZE])
    });
    assert!(matches!(link.events.recv().await, Some(LinkEvent::Up(_))));
    assert!(link.send(packet(), Some(Ticket(2))));
    assert!(matches!(link.events.recv().await, Some(LinkEvent::Left(Some(Ticket(2))))));
    let (_server, _link, came) = timeout(Duration::from_secs(60), gateway).await.unwrap().unwrap();
    assert!(came, "after the attach frame");
}

/// Two documents, one epoch apart.
fn documents() -> [VerifiedConsensus; 2] {
    let (mut first, _) = consensus(2, 2, 3);
    let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(77));
    first.authorities = vec![authority.public().clone()];
    let held = |document: &Consensus| {
        let bytes = certify(document, 0, &[(0, &authority)]);
        let parsed = UnverifiedConsensus::parse(&bytes).unwrap();
        parsed.dangerously_trust_own_copy(&document.network).unwrap()
    };
    let mut second = first.clone();
    second.height += 1;
    second.epoch = first.epoch.plus(1);
    second.previous = first.hash();
    second.valid_from.0 += first.parameters.epoch_ms;
    second.valid_until.0 += first.parameters.epoch_ms;
    let mut rng = StdRng::seed_from_u64(6);
    let key = |epoch: Epoch, rng: &mut StdRng| vec![(epoch, X25519Secret::generate(rng).public())];
    for node in &mut second.nodes {
        node.mix_keys = key(second.epoch, &mut rng);
        if !node.envelope_keys.is_empty() {
            node.envelope_keys = key(second.epoch, &mut rng);
        }
    }
    [held(&first), held(&second)]
}

/// What a played gateway does once a client is attached.
#[derive(Clone)]
enum Conduct {
    /// Opens a stream for each of these.
    Pushes(Vec<Vec<u8>>),
    /// Ends each link for this reason.
    Closes(CloseReason),
    /// Pushes a document and answers every question with this; `None`: takes it and drops it.
    Answers(Option<DirectoryAnswer>),
}

/// Starts a gateway of this conduct and a link to it; questions are remembered as they came.
async fn linked(conduct: Conduct) -> (GatewayLink, Arc<std::sync::Mutex<Vec<Vec<u8>>>>) {
    let mut rng = StdRng::seed_from_u64(2);
    let key = IdentityKey::generate(&mut rng);
    let server = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), &key, &[Protocol::Client]).unwrap();
    let link = GatewayLink::start(Duration::from_secs(1));
    let addresses = vec![server.local_addr().unwrap()];
    link.aim(Target { gateway: key.identity(), addresses, attach: Attach::generate(&mut rng) });
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some(arrival) = server.accept().await {
            let Ok(link) = arrival.admit().await else { continue };
            let (conduct, heard) = (conduct.clone(), Arc::clone(&heard));
            tokio::spawn(async move {
                let mut frames: FrameReader<PACKET_SIZE> = link.accept_frames().await.unwrap();
                frames.next().await.unwrap().unwrap();
                let (pushes, answers) = match conduct {
                    Conduct::Closes(reason) => return link.close(reason),
                    Conduct::Pushes(pushes) => (pushes, None),
                    Conduct::Answers(answer) => (vec![whole(&documents()[0])], Some(answer)),
                };
                for push in pushes {
                    let mut stream = link.open_uni().await.unwrap();
                    // a client that has had enough reads no further
                    if stream.write_all(&push).await.is_ok() {
                        let _ = stream.finish();
                    }
                }
                while let Ok(Some((question, answerer))) = read_question(&link, 1_024, QUESTION_TIMEOUT).await {
                    heard.lock().unwrap().push(question);
                    if let Some(Some(answer)) = &answers {
                        answerer.answer(answer).await.unwrap();
                    }
                }
            });
        }
    });
    (link, asked)
}

fn whole(document: &VerifiedConsensus) -> Vec<u8> {
    [&[STREAM_CONSENSUS], document.bytes()].concat()
}

/// The next event that is not that the link came up.
async fn event(link: &mut GatewayLink) -> LinkEvent {
    loop {
        let event = timeout(PATIENCE, link.events.recv()).await.unwrap().unwrap();
        if !matches!(event, LinkEvent::Up(_)) {
            return event;
        }
    }
}

#[tokio::test]
async fn what_is_new_is_put_together_with_what_was_pushed_before() {
    let [first, second] = documents();
    let step = [vec![STREAM_DIFFERENCE], difference(&first, &second).unwrap()].concat();
    let (mut link, asked) = linked(Conduct::Pushes(vec![whole(&first), step])).await;
    for expected in [first, second] {
        let LinkEvent::Document(bytes) = event(&mut link).await else { panic!("a document") };
        assert_eq!(bytes, expected.bytes());
    }
    assert!(asked.lock().unwrap().is_empty(), "a client that follows says nothing of what it has");
}

#[tokio::test]
async fn nonsense_gives_a_gateway_away() {
    let [first, second] = documents();
    let step = [vec![STREAM_DIFFERENCE], difference(&first, &second).unwrap()].concat();
    let mut bent = step.clone();
    // in a key; the certificate is for the verifier
    bent[100] ^= 1;
    let nonsense = BTreeMap::from([
        ("a difference to nothing", vec![step.clone()]),
        ("a difference to another document", vec![whole(&second), step]),
        ("a bent difference", vec![whole(&first), bent]),
        ("no document", vec![vec![STREAM_CONSENSUS, 1, 2, 3]]),
        ("too much", vec![vec![STREAM_CONSENSUS; MAX_CONSENSUS_SIZE + 2]]),
        ("an unknown kind", vec![vec![77, 1, 2]]),
        ("half a packet", vec![whole(&first), vec![STREAM_PACKETS, 1, 2]]),
    ]);
    for (name, pushes) in nonsense {
        let (mut link, _) = linked(Conduct::Pushes(pushes)).await;
        let mut said = event(&mut link).await;
        while let LinkEvent::Document(_) = said {
            said = event(&mut link).await;
        }
        assert!(matches!(said, LinkEvent::Failed { .. }), "{name}: not marked");
    }
}

#[tokio::test]
async fn a_gateway_that_hands_over_nothing_is_left_within_seconds() {
    let (mut link, _) = linked(Conduct::Pushes(Vec::new())).await;
    let began = tokio::time::Instant::now();
    assert!(matches!(event(&mut link).await, LinkEvent::Failed { .. }));
    assert!(began.elapsed() >= FIRST_DOCUMENT);
}

/// A link that stood and broke is made again to the same gateway; one that never lasts is a failure.
#[tokio::test]
async fn a_gateway_that_ends_one_link_after_the_other_is_left() {
    for reason in [CloseReason::Busy, CloseReason::Done] {
        let (mut link, _) = linked(Conduct::Closes(reason)).await;
        for _ in 1..FLAPS_MAX {
            assert!(matches!(event(&mut link).await, LinkEvent::Down(_)), "{reason:?}");
        }
        assert!(matches!(event(&mut link).await, LinkEvent::Failed { answered: true, .. }), "{reason:?}");
    }
}

#[tokio::test]
async fn a_question_for_changes_has_one_size_and_one_answer() {
    let change = DirectoryAnswer::Changes(vec![vec![1; 5_000].into(), vec![2; 10].into()]);
    let (mut link, asked) = linked(Conduct::Answers(Some(change))).await;
    assert!(matches!(event(&mut link).await, LinkEvent::Document(_)));
    for set in [Hash::from_bytes([0; 32]), Hash::from_bytes([255; 32])] {
        link.ask_changes(set);
        let LinkEvent::Changes(_, changes) = event(&mut link).await else { panic!("changes") };
        assert_eq!(changes, [vec![1; 5_000], vec![2; 10]]);
        let question = asked.lock().unwrap().last().unwrap().clone();
        assert_eq!(question.len(), 37);
        assert_eq!(DirectoryQuestion::from_bytes(&question), Ok(DirectoryQuestion::Changes { after: set }));
    }
    // and who has none that lead on is of no use
    for answer in [Some(DirectoryAnswer::Changes(Vec::new())), Some(DirectoryAnswer::UpToDate), None] {
        let (mut link, _) = linked(Conduct::Answers(answer)).await;
        assert!(matches!(event(&mut link).await, LinkEvent::Document(_)));
        link.ask_changes(Hash::from_bytes([0; 32]));
        assert!(matches!(event(&mut link).await, LinkEvent::Failed { .. }));
    }
}
