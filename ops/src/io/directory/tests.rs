//! A network whose authorities changed twice while nobody asked.

use std::collections::BTreeSet;
use std::sync::Mutex;

use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::{
    authority::AuthoritySecret,
    consensus::{
        Consensus, EPOCHS_COVERED, NodeEntry, Shelf, TrustAnchor, UnverifiedConsensus, certify, changes_after,
    },
    network::Hints,
    parameters::Parameters,
    quic::{Pieces, QUESTION_TIMEOUT, read_question},
    types::{Epoch, Hash, IdentityKey, Role},
    x25519::X25519Secret,
};

use super::*;

const START: u64 = 1_750_000_000_000;

fn document(
    network: &NetworkFile,
    height: u64,
    by: &AuthoritySecret,
    next: &AuthoritySecret,
) -> Arc<VerifiedConsensus> {
    let parameters = network.parameters;
    let mut rng = StdRng::seed_from_u64(5);
    let identity = IdentityKey::generate(&mut rng).identity();
    let key = X25519Secret::generate(&mut rng).public();
    let start = START + height * parameters.epoch_ms;
    let content = Consensus {
        // every other height: then none names its predecessor
        height: 2 * height,
        previous: Hash::from_bytes([3; 32]),
        authorities: vec![next.public().clone()],
        nodes: vec![NodeEntry {
            identity,
            role: Role::Gateway,
            layer: None,
            family: *identity.as_bytes(),
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 4_000))],
            store_index: None,
            mix_keys: (0..EPOCHS_COVERED).map(|n| (Epoch(height + n), key)).collect(),
            envelope_keys: Vec::new(),
            since: Epoch(0),
            standby: false,
        }],
        ..Consensus::blank(network.genesis_hash(), Epoch(height), UnixMillis(start), parameters)
    };
    let bytes = certify(&content, 0, &[(0, by)]);
    let anchor = TrustAnchor { network: network.genesis_hash(), authorities: vec![by.public().clone()] };
    let verified = UnverifiedConsensus::parse(&bytes).and_then(|parsed| parsed.verify_any_time(&anchor));
    Arc::new(verified.expect("a good document"))
}

#[tokio::test]
async fn the_status_page_follows_the_authorities_and_downloads_differences() {
    let secrets: Vec<_> = (0..3).map(|seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed))).collect();
    let [a, b, c] = &secrets[..] else { panic!("three") };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = Endpoint::bind(loopback, a.identity_key(), &[Protocol::Directory]).expect("a port");
    let hint = Hint { identity: a.identity_key().identity(), address: endpoint.local_addr().expect("bound") };
    let network = NetworkFile {
        name: "changing".to_owned(),
        genesis_time: UnixMillis(START),
        authorities: vec![a.public().clone()],
        parameters: Parameters::test_network(),
        founding: shoal_protocol::network::Founding::default(),
        hints: Hints { authorities: vec![hint], gateways: Vec::new() },
    };
    let documents: Vec<_> = [(1, a, a), (2, a, b), (3, b, b), (4, b, c), (5, c, c), (6, c, c)]
        .into_iter()
        .map(|(height, by, next)| document(&network, height, by, next))
        .collect();
    let changes = [documents[1].clone(), documents[3].clone()];
    let genesis = network.authorities.clone();
    let shelf = Arc::new(Mutex::new(Shelf::default().with(&documents[0])));
    let kinds = Arc::new(Mutex::new(BTreeSet::new()));
    let (served, said) = (Arc::clone(&shelf), Arc::clone(&kinds));
    tokio::spawn(async move {
        while let Some(arrival) = endpoint.accept().await {
            let Ok(link) = arrival.admit().await else { continue };
            while let Ok(Some((question, answerer))) = read_question(&link, 1_024, QUESTION_TIMEOUT).await {
                let pieces = match DirectoryQuestion::from_bytes(&question).expect("a question") {
                    DirectoryQuestion::Newest { have } => {
                        let handout = served.lock().expect("whole").for_holder_of(have.as_ref()).expect("a document");
                        said.lock().expect("whole").insert(format!("{handout:?}").chars().take(5).collect::<String>());
                        Pieces::from(handout)
                    }
                    DirectoryQuestion::Changes { after } => {
                        Pieces::changes(changes_after(&genesis, &changes, &after).unwrap_or_default())
                    }
                    other @ (DirectoryQuestion::Publish(_)
                    | DirectoryQuestion::Agree(_)
                    | DirectoryQuestion::List(_)) => {
                        panic!("{other:?}")
                    }
                };
                answerer.answer(pieces).await.expect("read");
            }
        }
    });

    let mut directory = Directory::open(network).expect("a socket");
    let now = |at: usize| documents[at].valid_from;
    let height = |newest: Newest| match newest {
        Newest::Document(document) => document.consensus.height,
        other @ (Newest::Unchanged | Newest::NotYet(_)) => panic!("{other:?}"),
    };
    let show = |at: usize| {
        let mut shelf = shelf.lock().expect("whole");
        *shelf = shelf.with(&documents[at]);
    };
    assert_eq!(height(directory.newest(now(0)).await.expect("an answer")), 2);
    assert_eq!(directory.newest(now(0)).await.expect("an answer"), Newest::Unchanged);
    // two changes were missed
    show(4);
    assert_eq!(height(directory.newest(now(4)).await.expect("an answer")), 10);
    show(5);
    assert_eq!(height(directory.newest(now(5)).await.expect("an answer")), 12);
    assert_eq!(directory.newest(now(5)).await.expect("an answer"), Newest::Unchanged);
    let kinds = kinds.lock().expect("whole").clone();
    assert_eq!(kinds, BTreeSet::from(["Diffe".to_owned(), "UpToD".to_owned(), "Whole".to_owned()]));
}
