//! What a node keeps of authorities that contradict themselves.

use super::*;
use crate::io::documents::Documents;
use crate::testing::{certified, content, network};
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::Consensus;
use shoal_protocol::network::NetworkFile;
use shoal_protocol::quic::Endpoint;
use std::path::Path;

fn secret(seed: u64) -> AuthoritySecret {
    AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed))
}

fn task(dir: &Path, network: &NetworkFile) -> ConsensusTask {
    let any = "127.0.0.1:0".parse().expect("an address");
    let endpoint = Arc::new(Endpoint::dialler(None, any).expect("a port"));
    let me = Identity::from_bytes([7; 32]);
    Documents::open(me, &endpoint, network, dir, Clock::start()).expect("opened").task
}

/// The document of a height, of an epoch of that number after now, that `by` certified and that names `next`.
fn document(network: &NetworkFile, height: u64, by: &AuthoritySecret, next: &AuthoritySecret) -> Vec<u8> {
    let schedule = network.schedule();
    let epoch = schedule.epoch_at(Clock::start().wall()).plus(height - 1);
    let content = Consensus {
        network: network.genesis_hash(),
        previous: network.genesis_hash(),
        epoch,
        authorities: vec![next.public().clone()],
        ..content(height, schedule.start(epoch))
    };
    certified(&content, by).bytes().to_vec()
}

fn kept(dir: &Path) -> [Option<Vec<u8>>; 2] {
    ["evidence/first", "evidence/second"].map(|name| std::fs::read(dir.join(name)).ok())
}

#[tokio::test]
async fn the_pair_kept_is_the_one_that_contradicts_itself_also_within_a_skip_chain() {
    let network = network(Vec::new());
    let [genesis, one, other] = [1, 2, 3].map(secret);
    let in_use = document(&network, 1, &genesis, &genesis);
    // the first change of all, or one after a document in use: heights 1 and 3
    for (begins, height) in [(None, 1), (Some(&in_use), 3)] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut stopped = task(dir.path(), &network);
        if let Some(in_use) = begins {
            stopped.take(in_use).expect("taken");
        }
        let change = document(&network, height, &genesis, &one);
        let rival = document(&network, height, &genesis, &other);
        let document = document(&network, height + 1, &one, &one);
        let found = Found { changes: vec![change.clone(), rival.clone()], document };
        assert!(stopped.take_found(&found).is_err());
        assert_eq!(kept(dir.path()), [Some(change), Some(rival)]);
        assert!(stopped.state.borrow().contradiction.is_some() && stopped.consensus.borrow().is_none());
        // it does not forget
        let again = task(dir.path(), &network);
        assert!(again.state.borrow().contradiction.is_some() && again.consensus.borrow().is_none());
    }
}

#[tokio::test]
async fn what_contradicts_a_document_after_a_restart_is_kept_with_it() {
    let network = network(Vec::new());
    let [genesis, other] = [1, 3].map(secret);
    let dir = tempfile::tempdir().expect("a directory");
    let first = document(&network, 1, &genesis, &genesis);
    task(dir.path(), &network).take(&first).expect("taken");
    let mut again = task(dir.path(), &network);
    let rival = document(&network, 1, &genesis, &other);
    assert!(again.take(&rival).is_err());
    assert_eq!(kept(dir.path()), [Some(first), Some(rival)]);
}
