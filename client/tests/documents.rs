//! A client that was away while the authorities changed, or comes for the first time after they did: its gateways lead it
//! to the newest document, and those that cannot or will not cost seconds.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};
use shoal_client::io::{Call, Caller, Client, Clock, NetworkLine, Snapshot, Status, serve, socket_path};
use shoal_client::lack::Lack;
use shoal_client::mail::{Mail, RateClass};
use shoal_client::reach::Reach;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{
    Consensus, EPOCHS_COVERED, NodeEntry, Shelf, TrustAnchor, UnverifiedConsensus, VerifiedConsensus, certify,
    changes_after, set_hash,
};
use shoal_protocol::geometry::PACKET_SIZE;
use shoal_protocol::link::{DirectoryAnswer, DirectoryQuestion};
use shoal_protocol::network::{Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use shoal_protocol::quic::{Endpoint, Pieces, Protocol, QUESTION_TIMEOUT, pushed, read_question};
use shoal_protocol::{Epoch, Hash, IdentityKey, Role, UnixMillis, X25519Secret};

/// The epoch of the test; it lasts longer than the test may.
const NOW: u64 = 10;
const EPOCH_MS: u64 = 600_000;
const PATIENCE: Duration = Duration::from_secs(300);

/// How a played gateway treats its clients.
#[derive(Clone, Copy, PartialEq)]
enum Conduct {
    Honest,
    /// Pushes the document, and knows no changes.
    Forgetful,
    /// Pushes the document, and answers with changes that lead nowhere.
    Misleading,
    /// Pushes a document that nobody certified.
    Forging,
    /// Pushes a document that is none.
    Babbling,
    /// Leads to the newest document, and at the last change to a second one of the same place.
    TwoFaced,
    /// Answers with the first change, and a second one of the same place that nobody certified.
    Slandering,
}

struct World {
    network: NetworkFile,
    sets: Vec<AuthoritySecret>,
    gateways: Vec<(Endpoint, IdentityKey, Conduct)>,
    /// Every question of a client, with its length.
    asked: Arc<Mutex<Vec<(usize, DirectoryQuestion)>>>,
}

impl World {
    fn new(conducts: &[Conduct]) -> Self {
        let sets: Vec<_> = (0..3).map(|seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed))).collect();
        let parameters = Parameters { epoch_ms: EPOCH_MS, retention_ms: 12 * EPOCH_MS, ..Parameters::test_network() };
        let gateways: Vec<_> = (10..)
            .zip(conducts)
            .map(|(seed, conduct)| {
                let key = IdentityKey::generate(&mut StdRng::seed_from_u64(seed));
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                (Endpoint::bind(any, &key, &[Protocol::Client]).unwrap(), key, *conduct)
            })
            .collect();
        let hint = |(endpoint, key, _): &(Endpoint, IdentityKey, Conduct)| Hint {
            identity: key.identity(),
            address: endpoint.local_addr().unwrap(),
        };
        let network = NetworkFile {
            name: "changing".to_owned(),
            genesis_time: UnixMillis(Clock::start().unix().0 - NOW * EPOCH_MS - 1_000),
            authorities: vec![sets[0].public().clone()],
            parameters,
            founding: shoal_protocol::network::Founding::default(),
            hints: Hints { authorities: Vec::new(), gateways: gateways.iter().map(hint).collect() },
        };
        Self { network, sets, gateways, asked: Arc::default() }
    }

    /// The set that certifies the document of `epoch`: it changes in those of epochs 4 and 7.
    fn by(&self, epoch: u64) -> &AuthoritySecret {
        &self.sets[[4, 7].iter().filter(|change| epoch > **change).count()]
    }

    fn certified(&self, epoch: u64) -> Arc<VerifiedConsensus> {
        let by = self.by(epoch);
        let bytes = certify(&self.content(epoch), 0, &[(0, by)]);
        let anchor = TrustAnchor { network: self.network.genesis_hash(), authorities: vec![by.public().clone()] };
        Arc::new(UnverifiedConsensus::parse(&bytes).unwrap().verify_any_time(&anchor).unwrap())
    }

    /// A second document in the place of the last change, certified by the same set.
    fn second(&self) -> Arc<VerifiedConsensus> {
        let by = self.by(7);
        let content = Consensus { previous: Hash::from_bytes([4; 32]), ..self.content(7) };
        let bytes = certify(&content, 0, &[(0, by)]);
        let anchor = TrustAnchor { network: self.network.genesis_hash(), authorities: vec![by.public().clone()] };
        Arc::new(UnverifiedConsensus::parse(&bytes).unwrap().verify_any_time(&anchor).unwrap())
    }

    /// What contradicts the first change, if one believes it: nobody certified it.
    fn unsigned(&self) -> Arc<VerifiedConsensus> {
        let content = Consensus { previous: Hash::from_bytes([4; 32]), ..self.content(4) };
        let bytes = certify(&content, 0, &[]);
        let trusted = UnverifiedConsensus::parse(&bytes).unwrap().dangerously_trust_own_copy(&content.network);
        Arc::new(trusted.unwrap())
    }

    fn content(&self, epoch: u64) -> Consensus {
        let (schedule, parameters) = (self.network.schedule(), self.network.parameters);
        let next = self.by(epoch + 1).public().clone();
        let epoch = Epoch(epoch);
        let key = X25519Secret::generate(&mut StdRng::seed_from_u64(4)).public();
        let mut nodes: Vec<_> = self
            .gateways
            .iter()
            .map(|(endpoint, identity, _)| NodeEntry {
                identity: identity.identity(),
                role: Role::Gateway,
                layer: None,
                family: *identity.identity().as_bytes(),
                addresses: vec![endpoint.local_addr().unwrap()],
                store_index: None,
                mix_keys: (0..EPOCHS_COVERED).map(|n| (epoch.plus(n), key)).collect(),
                envelope_keys: Vec::new(),
                since: Epoch(0),
                standby: false,
            })
            .collect();
        nodes.sort_by_key(|node| node.identity);
        Consensus {
            // every other height: then none names its predecessor
            height: 2 * epoch.0,
            previous: Hash::from_bytes([3; 32]),
            authorities: vec![next],
            nodes,
            ..Consensus::blank(self.network.genesis_hash(), epoch, schedule.start(epoch), parameters)
        }
    }

    fn serve(&self, newest: u64) {
        let changes = [4, 7].map(|epoch| self.certified(epoch));
        let forger = AuthoritySecret::generate(&mut StdRng::seed_from_u64(50));
        let forged = certify(&self.content(newest), 0, &[(0, &forger)]);
        let shelf = Shelf::default().with(&self.certified(newest));
        for (endpoint, _, conduct) in &self.gateways {
            let (endpoint, conduct, asked) = (endpoint.clone(), *conduct, Arc::clone(&self.asked));
            let (changes, genesis) = (changes.clone(), self.network.authorities.clone());
            let (second, unsigned) = (self.second(), self.unsigned());
            let push = match conduct {
                Conduct::Honest
                | Conduct::Forgetful
                | Conduct::Misleading
                | Conduct::TwoFaced
                | Conduct::Slandering => pushed(shelf.for_holder_of(None).unwrap()).unwrap().concat(),
                Conduct::Forging => [vec![1], forged.clone()].concat(),
                Conduct::Babbling => vec![1, 2, 3],
            };
            tokio::spawn(async move {
                while let Some(arrival) = endpoint.accept().await {
                    let Ok(link) = arrival.admit().await else { continue };
                    let (push, asked) = (push.clone(), Arc::clone(&asked));
                    let (changes, genesis) = (changes.clone(), genesis.clone());
                    let (second, unsigned) = (Arc::clone(&second), Arc::clone(&unsigned));
                    tokio::spawn(async move {
                        let mut frames = link.accept_frames::<PACKET_SIZE>().await.ok()?;
                        frames.next().await.ok()?;
                        let mut stream = link.open_uni().await.ok()?;
                        stream.write_all(&push).await.ok()?;
                        stream.finish().ok()?;
                        while let Ok(Some((question, answerer))) = read_question(&link, 1_024, QUESTION_TIMEOUT).await {
                            let length = question.len();
                            let question = DirectoryQuestion::from_bytes(&question).unwrap();
                            asked.lock().unwrap().push((length, question.clone()));
                            let DirectoryQuestion::Changes { after } = question else { panic!("no other is asked") };
                            let pieces = match conduct {
                                // one at a time, so that the client has to ask again
                                Conduct::Honest => {
                                    let all = changes_after(&genesis, &changes, &after).unwrap_or_default();
                                    Pieces::changes(all.get(..1).unwrap_or_default())
                                }
                                Conduct::Misleading => Pieces::changes(&changes[1..]),
                                Conduct::TwoFaced => {
                                    let all = changes_after(&genesis, &changes, &after).unwrap_or_default();
                                    Pieces::changes(&[all, &[Arc::clone(&second)]].concat())
                                }
                                Conduct::Slandering => {
                                    Pieces::changes(&[Arc::clone(&changes[0]), Arc::clone(&unsigned)])
                                }
                                Conduct::Forgetful | Conduct::Forging | Conduct::Babbling => {
                                    (&DirectoryAnswer::Changes(Vec::new())).into()
                                }
                            };
                            // a client that has left takes no answer
                            let _ = answerer.answer(pieces).await;
                        }
                        Some(())
                    });
                }
            });
        }
    }

    /// Runs a client of this network until it has the newest document.
    async fn follow(&self, newest: u64) {
        let client = Client::prober(self.network.clone());
        let expected = self.certified(newest).hash();
        let mut shown = client.watch();
        let there = shown.wait_for(|snapshot| snapshot.consensus.as_ref().is_some_and(|held| held.hash() == expected));
        // what is seen is let go of before the client stops: as long as it is held, the client can show nothing new
        let waited = tokio::time::timeout(PATIENCE, there).await.map(drop);
        assert!(waited.is_ok(), "{:?}", client.snapshot().trouble);
        client.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_first_set_is_led_to_the_newest_by_its_gateway() {
    let world = World::new(&[Conduct::Honest]);
    world.serve(NOW);
    world.follow(NOW).await;
    // what it says is the set that it knows, and each question is as long as every other
    let sets: Vec<_> = world.sets[..2].iter().map(|set| set_hash(&[set.public().clone()])).collect();
    let expected: Vec<_> = sets.into_iter().map(|after| (37, DirectoryQuestion::Changes { after })).collect();
    assert_eq!(*world.asked.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_the_authorities_says_nothing() {
    let mut world = World::new(&[Conduct::Honest]);
    world.network.authorities = vec![world.sets[2].public().clone()];
    world.serve(NOW);
    world.follow(NOW).await;
    assert_eq!(*world.asked.lock().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_lie_cost_seconds() {
    let conducts = [Conduct::Forgetful, Conduct::Misleading, Conduct::Forging, Conduct::Babbling, Conduct::Honest];
    let world = World::new(&conducts);
    world.serve(NOW);
    // wherever the client begins, it gets through
    for _ in 0..4 {
        world.follow(NOW).await;
    }
    assert!(world.asked.lock().unwrap().iter().all(|(length, _)| *length == 37));
}

/// Waits until a client without a profile, of this network, shows what is looked for.
async fn shows(network: &NetworkFile, what: impl FnMut(&Snapshot) -> bool) -> Snapshot {
    let client = Client::prober(network.clone());
    let mut shown = client.watch();
    let found = tokio::time::timeout(PATIENCE, shown.wait_for(what)).await.map(|found| found.unwrap().clone());
    let found = found.unwrap_or_else(|_| panic!("{:?}", client.snapshot().status(0)));
    client.stop().await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_what_is_missing_and_blames_neither_clock_nor_firewall_for_it() {
    let world = World::new(&[Conduct::Forgetful]);
    world.serve(NOW);
    let status = shows(&world.network, |snapshot| snapshot.lack == Lack::UnknownAuthorities).await.status(0);
    assert_eq!(status.cause.as_deref(), Some("unknown_authorities"), "{status:?}");
    assert!(!status.next.contains("clock") && !status.next.contains("UDP"), "{}", status.next);

    // one document, which was over long ago
    let mut world = World::new(&[Conduct::Honest]);
    world.network.authorities = vec![world.sets[0].public().clone()];
    world.serve(2);
    let still = |snapshot: &Snapshot| matches!(snapshot.lack, Lack::Standstill { .. });
    let found = shows(&world.network, still).await;
    assert!(matches!(found.lack, Lack::Standstill { epoch: Epoch(2), .. }), "{:?}", found.lack);
    let status = found.status(0);
    assert_eq!(status.cause.as_deref(), Some("standstill"), "{status:?}");
    assert!(status.next.contains("stands still since") || status.next.contains("over since"), "{}", status.next);

    // here nothing answers at all
    let deaf = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut network = world.network.clone();
    network.hints.gateways[0].address = deaf.local_addr().unwrap();
    let status = shows(&network, |snapshot| snapshot.reach == Reach::Silent).await.status(0);
    assert_eq!(status.cause.as_deref(), Some("no_answer"), "{status:?}");
    assert!(status.next.contains("UDP"));

    // and here somebody else does
    let stranger = IdentityKey::generate(&mut StdRng::seed_from_u64(60));
    let mut network = world.network.clone();
    network.hints.gateways[0].identity = stranger.identity();
    let status = shows(&network, |snapshot| snapshot.reach == Reach::Refused).await.status(0);
    assert_eq!(status.cause.as_deref(), Some("refused"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_from_a_skip_chain_is_kept_by_a_client_that_begins() {
    let world = World::new(&[Conduct::TwoFaced]);
    world.serve(NOW);
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile");
    let mail = Mail::create(&profile, &world.network, RateClass::Normal, &mut StdRng::seed_from_u64(70)).unwrap();
    let client = Client::start(mail).unwrap();
    let mut shown = client.watch();
    let stopped = tokio::time::timeout(PATIENCE, shown.wait_for(|snapshot| snapshot.conflict.is_some())).await;
    let conflict = stopped.expect("it stops").unwrap().conflict.clone().unwrap();
    // with the client the thread ends that writes the files
    client.stop().await;
    let (held, other) = (world.certified(7), world.second());
    for (which, document) in [("held", held), ("other", other)] {
        let path = conflict.join(format!("{which}-7-{}", document.hash()));
        assert_eq!(std::fs::read(&path).unwrap(), document.bytes(), "{}", path.display());
    }
    assert_eq!(std::fs::read_dir(&conflict).unwrap().count(), 2);
    assert!(Mail::open(&profile).unwrap().network_forked());
}

/// Anybody can write a document that contradicts one that the client has seen.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_certified_stops_no_client_and_gives_its_gateway_away() {
    let world = World::new(&[Conduct::Slandering]);
    world.serve(NOW);
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile");
    let mail = Mail::create(&profile, &world.network, RateClass::Normal, &mut StdRng::seed_from_u64(72)).unwrap();
    let client = Client::start(mail).unwrap();
    let mut shown = client.watch();
    // it stays away for longer each time, so that this can be seen
    let left = |snapshot: &Snapshot| {
        let trouble = snapshot.trouble.as_deref().unwrap_or_default();
        snapshot.conflict.is_some() || trouble.contains("does not lead")
    };
    let left = tokio::time::timeout(PATIENCE, shown.wait_for(left)).await;
    let conflict = left.expect("it leaves").unwrap().conflict.clone();
    assert_eq!(conflict, None);
    client.stop().await;
    assert!(!profile.join("conflict").exists());
    assert!(!Mail::open(&profile).unwrap().network_forked());
    // it was led over the change, and then heard what contradicts it
    let first = set_hash(&[world.sets[0].public().clone()]);
    assert_eq!(world.asked.lock().unwrap().first(), Some(&(37, DirectoryQuestion::Changes { after: first })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_network_file_is_taken_up_by_a_running_daemon() {
    let mut world = World::new(&[Conduct::Honest]);
    world.network.authorities = vec![world.sets[2].public().clone()];
    world.serve(NOW);
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile");
    let old = NetworkFile { hints: Hints::default(), ..world.network.clone() };
    let mail = Mail::create(&profile, &old, RateClass::Normal, &mut StdRng::seed_from_u64(71)).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let at = profile.clone();
    let served = tokio::spawn(async move {
        let client = Client::start(mail).unwrap();
        let stopped = async {
            let _ = stopped.await;
        };
        serve(client, &at, || ready.send(()).unwrap(), stopped).await
    });
    is_ready.await.unwrap();
    assert!(socket_path(&profile).exists());
    let mut caller = Caller::connect(&profile).unwrap();
    let until = async |caller: &mut Caller, what: &dyn Fn(&Status) -> bool| {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let status: Status = caller.call(Call::Status).await.unwrap();
                if what(&status) {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("in time")
    };
    let status = until(&mut caller, &|status| status.cause.as_deref() == Some("no_gateway")).await;
    assert!(status.next.contains("shoal network update"), "{}", status.next);

    let update = |file: String| Call::NetworkUpdate { file };
    let elsewhere = NetworkFile { name: "elsewhere".to_owned(), ..world.network.clone() };
    for file in [elsewhere.to_toml(), old.to_toml(), "rubbish".to_owned()] {
        assert!(caller.call::<NetworkLine>(update(file)).await.is_err());
    }
    let line: NetworkLine = caller.call(Call::Network).await.unwrap();
    assert!(line.gateways.is_empty(), "what is refused changes nothing");

    let line: NetworkLine = caller.call(update(world.network.to_toml())).await.unwrap();
    assert_eq!((line.gateways.len(), line.changed), (1, Some(true)));
    until(&mut caller, &|status| status.connected && status.epoch == Some(NOW)).await;
    let line: NetworkLine = caller.call(update(world.network.to_toml())).await.unwrap();
    assert_eq!(line.changed, Some(false));
    drop(stop);
    drop(caller);
    served.await.unwrap().unwrap();
    assert_eq!(*Mail::open(&profile).unwrap().network(), world.network, "and is on disk");
}
