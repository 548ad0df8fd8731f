//! Row 13: handshakes that prove their address and then fall silent. Each prefix is an address of 127/8: this machine.

use crate::alone;
use crate::floods::ANY;
use shoal_protocol::quic::{CloseReason, Endpoint, Link, Protocol, QuicError};
use shoal_protocol::types::{Identity, Role};
use shoal_tests::paper::{Node, PATIENCE, Paper, Plan};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// More than a node takes at a time.
const HANDSHAKES: usize = 1_120;

/// What a datagram with a long header says of itself.
struct Long {
    /// Asks to come back with a token.
    retry: bool,
    /// The connection's name with whoever it is sent to.
    to: Vec<u8>,
}

impl Long {
    fn of(datagram: &[u8]) -> Option<Self> {
        let first = *datagram.first()?;
        let length = usize::from(*datagram.get(5)?);
        let to = datagram.get(6..6 + length)?.to_vec();
        (first & 0x80 != 0).then_some(Self { retry: first & 0xf0 == 0xf0, to })
    }
}

/// Between a dialler and the node, at an address of its own: the dialler hears that it has to prove its address, and nothing
/// else. So its handshakes are good, and never go on.
async fn mute(outer: UdpSocket, inner: UdpSocket, node: SocketAddr, answered: Arc<Mutex<BTreeSet<Vec<u8>>>>) {
    let (mut up, mut down) = ([0; 2_048], [0; 2_048]);
    let mut dialler = None;
    loop {
        tokio::select! {
            Ok((size, from)) = inner.recv_from(&mut up) => {
                dialler = Some(from);
                // a full buffer of the system's is a lost datagram, as on any way
                let _ = outer.send_to(&up[..size], node).await;
            }
            Ok((size, _)) = outer.recv_from(&mut down) => match (Long::of(&down[..size]), dialler) {
                (Some(Long { retry: true, .. }), Some(dialler)) => drop(inner.send_to(&down[..size], dialler).await),
                (Some(Long { to, .. }), _) => drop(answered.lock().expect("whole").insert(to)),
                (None, _) => {}
            },
        }
    }
}

/// Begins [`HANDSHAKES`] with the node from these addresses, and lets none of them go on. Returns when the node has
/// answered each; they are given up when what is returned is dropped.
async fn silent(node: SocketAddr, identity: Identity, from: &[Ipv4Addr]) -> JoinSet<()> {
    let answered = Arc::<Mutex<BTreeSet<_>>>::default();
    let mut tasks = JoinSet::new();
    let mut ways = Vec::new();
    for address in from {
        let outer = UdpSocket::bind((*address, 0)).await.expect("127/8 is this machine");
        let inner = UdpSocket::bind(ANY).await.expect("a port");
        ways.push((Endpoint::dialler(None, ANY).expect("a port"), inner.local_addr().expect("bound")));
        tasks.spawn(mute(outer, inner, node, Arc::clone(&answered)));
    }
    for n in 0..HANDSHAKES {
        let (dialler, to) = ways[n % ways.len()].clone();
        tasks.spawn(async move { drop(dialler.connect(to, &identity, Protocol::Client).await) });
        if n % 8 == 7 {
            // as fast as buffers take it
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let all = async {
        // what a full buffer lost comes again
        while answered.lock().expect("whole").len() < HANDSHAKES {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("the node answers each");
    tasks
}

async fn gateway() -> (Arc<Paper>, tempfile::TempDir, Node) {
    let paper = Paper::start_as(Plan::hasty(None));
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&paper, Role::Gateway, dir.path());
    node.ready().await;
    (paper, dir, node)
}

/// Dials again and again for two seconds: how often, and how it failed.
async fn dials(dial: impl AsyncFn() -> Result<Link, QuicError>) -> (usize, Vec<QuicError>) {
    let began = Instant::now();
    let (mut count, mut failed) = (0, Vec::new());
    while began.elapsed() < Duration::from_secs(2) {
        count += 1;
        match dial().await {
            Ok(link) => link.close(CloseReason::Done),
            Err(error) => failed.push(error),
        }
    }
    (count, failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_silent_handshakes_from_a_handful_of_prefixes_keep_nobody_out() {
    let _alone = alone().await;
    let (paper, _dir, node) = gateway().await;
    let from = [(10, 1), (10, 2), (11, 1), (11, 2)].map(|(b, c)| Ipv4Addr::new(127, b, c, 1));
    let began = Instant::now();
    let held = silent(node.address, node.identity, &from).await;
    let made = began.elapsed();
    let client = Endpoint::dialler(None, (Ipv4Addr::new(127, 200, 0, 1), 0).into()).expect("a port");
    let clients = dials(async || client.connect(node.address, &node.identity, Protocol::Client).await);
    let mix = &paper.mixes[2].endpoint;
    let nodes = dials(async || mix.connect(node.address, &node.identity, Protocol::Mix).await);
    let ((clients, shut_out), (nodes, nodes_shut_out)) = tokio::join!(clients, nodes);
    eprintln!(
        "row 13: {HANDSHAKES} silent handshakes from 4 prefixes within {made:.1?}: of {clients} of a client elsewhere {} fail, of \
         {nodes} of a listed node {}",
        shut_out.len(),
        nodes_shut_out.len(),
    );
    drop(held);
    assert!(shut_out.is_empty(), "{:?}", shut_out.first());
    assert!(nodes_shut_out.is_empty(), "{:?}", nodes_shut_out.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_silent_handshakes_from_everywhere_keep_no_listed_node_out() {
    let _alone = alone().await;
    let (paper, _dir, node) = gateway().await;
    let from: Vec<_> = (0..40).map(|n| Ipv4Addr::new(127, 10 + n / 2, n % 2, 1)).collect();
    let began = Instant::now();
    let held = silent(node.address, node.identity, &from).await;
    let made = began.elapsed();
    let mix = &paper.mixes[2].endpoint;
    let (nodes, failed) = dials(async || mix.connect(node.address, &node.identity, Protocol::Mix).await).await;
    eprintln!(
        "row 13: {HANDSHAKES} silent handshakes from 20 providers within {made:.1?}: of {nodes} of a listed node {} fail",
        failed.len(),
    );
    drop(held);
    assert!(failed.is_empty(), "{:?}", failed.first());
}
