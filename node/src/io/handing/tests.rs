//! What one link, its prefix and its neighbours may have, over links of loopback.

use super::*;
use crate::io::asking::Authorities;
use crate::testing::{certified, content, network};
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::link::{ANSWER_SIZE_MAX, STREAM_CONSENSUS};
use shoal_protocol::quic::{Endpoint, Protocol, ask};
use shoal_protocol::types::IdentityKey;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;

const PATIENCE: Duration = Duration::from_secs(60);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A gateway without a process. Its documents are of epochs far ahead, so that no epoch ends while a test runs.
struct Gateway {
    handing: Handing,
    shelf: watch::Sender<Arc<Shelf>>,
    _changes: watch::Sender<Arc<Changes>>,
    key: IdentityKey,
    listening: Endpoint,
    dialling: Endpoint,
    epoch: Epoch,
}

impl Gateway {
    fn start(protocol: Protocol) -> Self {
        let key = IdentityKey::generate(&mut StdRng::seed_from_u64(3));
        let listening = Endpoint::bind(ANY, &key, &[protocol]).expect("a port");
        let dialling = Endpoint::dialler(None, ANY).expect("a port");
        let (network, clock) = (network(Vec::new()), Clock::start());
        let (shelf, shown) = watch::channel(Arc::<Shelf>::default());
        let (changes, changes_shown) = watch::channel(Arc::<Changes>::default());
        let authorities = Arc::new(Authorities::new(Arc::new(dialling.clone()), &network));
        let older = Older::new(authorities, changes_shown.clone(), clock);
        let handing = Handing::new(shown, changes_shown, older, network.schedule(), clock);
        let epoch = network.schedule().epoch_at(clock.wall()).plus(100);
        Self { handing, shelf, _changes: changes, key, listening, dialling, epoch }
    }

    /// Shows the document of a height, of so many epochs after its first.
    fn show(&self, height: u64, after: u64) -> Arc<VerifiedConsensus> {
        let secret = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
        let epoch = self.epoch.plus(after);
        let content = Consensus { epoch, ..content(height, self.handing.schedule.start(epoch)) };
        let document = Arc::new(certified(&content, &secret));
        let shelf = self.shelf.borrow().with(&document);
        self.shelf.send_replace(Arc::new(shelf));
        document
    }

    /// A link, here and there.
    async fn link(&self, protocol: Protocol) -> (Link, Link) {
        let here = async {
            let arrival = self.listening.accept().await.expect("somebody knocks");
            arrival.admit().await.expect("a handshake")
        };
        let (address, identity) = (self.listening.local_addr().expect("bound"), self.key.identity());
        let (here, there) = tokio::join!(here, self.dialling.connect(address, &identity, protocol));
        (here, there.expect("a link"))
    }

    /// Uses up what a prefix has there.
    fn spend(&self, ledger: &Mutex<Ledger>) {
        let prefix = Prefix::of(ANY.ip());
        let mut ledger = ledger.lock().expect("whole");
        while ledger.take(self.handing.epoch(), prefix) {}
    }
}

/// The next document stream.
async fn received(link: &Link) -> Vec<u8> {
    let mut stream = timeout(PATIENCE, link.accept_uni()).await.expect("in time").expect("a stream");
    stream.read_to_end(1 << 20).await.expect("a document")
}

#[tokio::test]
async fn who_asks_takes_nothing_from_clients() {
    let gateway = Gateway::start(Protocol::Directory);
    let handing = &gateway.handing;
    let document = gateway.show(1, 0);
    let (here, there) = gateway.link(Protocol::Directory).await;
    let question = DirectoryQuestion::Newest { have: None }.to_bytes();
    let answers = async {
        let first = ask(&there, &question, ANSWER_SIZE_MAX).await.expect("an answer");
        gateway.spend(&handing.to_askers);
        let second = ask(&there, &question, ANSWER_SIZE_MAX).await.expect("an answer");
        [first, second].map(|answer| DirectoryAnswer::from_bytes(&answer).expect("readable"))
    };
    let [first, second] = tokio::select! {
        reason = handing.answer_asker(&here) => panic!("{reason:?}"),
        answers = answers => answers,
    };
    assert_eq!(first, DirectoryAnswer::Document(document.bytes().to_vec()));
    assert_eq!(second, DirectoryAnswer::NotYet(ENOUGH.to_owned()));
    let client = Counts::of(&here, &handing.to_clients);
    assert!(client.prefix_takes(handing.epoch()), "clients of the prefix have what they had");
}

#[tokio::test]
async fn a_client_keeps_its_link_when_its_neighbours_have_had_everything() {
    let gateway = Gateway::start(Protocol::Client);
    let first = gateway.show(1, 0);
    assert_eq!(gateway.handing.epoch(), first.epoch, "from its release on, before its epoch begins");
    gateway.spend(&gateway.handing.to_clients);
    let (here, there) = gateway.link(Protocol::Client).await;
    let mut pushing = pin!(gateway.handing.push(&here));
    // it is asked once, and has nothing to wait for but the next document
    assert!(timeout(Duration::ZERO, &mut pushing).await.is_err(), "the link stays");
    gateway.show(2, 0);
    assert!(timeout(Duration::ZERO, &mut pushing).await.is_err(), "also with another one of that epoch");
    let next = gateway.show(3, 1);
    let bytes = tokio::select! {
        reason = &mut pushing => panic!("{reason:?}"),
        bytes = received(&there) => bytes,
    };
    assert_eq!(bytes, [&[STREAM_CONSENSUS], next.bytes()].concat(), "and nothing came before it");
}

#[tokio::test]
async fn an_asker_who_takes_no_answer_loses_his_link() {
    let gateway = Gateway::start(Protocol::Directory);
    gateway.show(1, 0);
    let (here, there) = gateway.link(Protocol::Directory).await;
    let question = DirectoryQuestion::Newest { have: None }.to_bytes();
    let gives_up = async {
        let (mut send, mut receive) = there.connection.open_bi().await.expect("a stream");
        // before the question is whole: otherwise all of the answer may have arrived
        let (begin, rest) = question.split_at(1);
        send.write_all(begin).await.expect("sent");
        receive.stop(0u32.into()).expect("stopped");
        send.write_all(rest).await.expect("sent");
        send.finish().expect("finished");
        std::future::pending::<()>().await;
    };
    let reason = tokio::select! {
        reason = timeout(PATIENCE, gateway.handing.answer_asker(&here)) => reason.expect("in time"),
        () = gives_up => unreachable!("it waits"),
    };
    assert_eq!(reason, CloseReason::Done);
}
