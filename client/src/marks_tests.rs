use super::*;
use crate::profile::tests::database;
use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::consensus::{Consensus, UnverifiedConsensus, certify};
use shoal_protocol::network::Hints;
use shoal_protocol::{Epoch, UnixMillis};

/// A network whose authorities' keys the test holds.
struct Chain {
    network: NetworkFile,
    secrets: Vec<AuthoritySecret>,
    db: Connection,
    vault: Vault,
    marks: Marks,
}

impl Chain {
    fn new(authorities: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(9);
        let mut secrets: Vec<_> = (0..authorities).map(|_| AuthoritySecret::generate(&mut rng)).collect();
        secrets.sort_by_key(|secret| secret.public().identity);
        let (sample, _) = crate::testing::consensus(1, 1, 3);
        let network = NetworkFile {
            founding: shoal_protocol::network::Founding::default(),
            name: "marks".to_owned(),
            genesis_time: UnixMillis(0),
            authorities: secrets.iter().map(|secret| secret.public().clone()).collect(),
            parameters: sample.parameters,
            hints: Hints::default(),
        };
        Self { network, secrets, db: database(), vault: Vault::new(&[1; 32]), marks: Marks::default() }
    }

    /// The content of a document: `twist` makes another one of the same height.
    fn document(&self, height: u64, twist: u8) -> Consensus {
        let (mut document, _) = crate::testing::consensus(1, 1, 3);
        document.nodes.clear();
        document.network = self.network.genesis_hash();
        document.authorities.clone_from(&self.network.authorities);
        document.height = height;
        document.epoch = Epoch(height + 100);
        document.randomness = [twist; 32];
        document.previous = Hash::from_bytes([(height as u8).wrapping_sub(1); 32]);
        document
    }

    fn certified(&self, document: &Consensus) -> VerifiedConsensus {
        let quorum = (self.secrets.len() * 2).div_ceil(3);
        let signers: Vec<_> = (0..).zip(self.secrets.iter().take(quorum)).collect();
        let anchor = self.network.trust_anchor();
        let bytes = certify(document, 0, &signers);
        UnverifiedConsensus::parse(&bytes).unwrap().verify_any_time(&anchor).unwrap()
    }

    fn hold(&mut self, document: &VerifiedConsensus) {
        self.marks.hold(&self.db, &self.vault, &self.network, document).unwrap();
    }

    fn weigh(&self, certificate: &Certificate) -> Testimony {
        self.marks.weigh(&self.db, &self.vault, &self.network, certificate).unwrap()
    }
}

fn mark(height: u64, epoch: u64, hash: Hash) -> Mark {
    Mark { height, epoch: Epoch(epoch), hash }
}

#[test]
fn marks_are_judged_by_what_one_chain_can_hold() {
    let mut chain = Chain::new(1);
    for height in [10, 11, 14] {
        chain.hold(&chain.certified(&chain.document(height, 0)));
    }
    let hash = |height| chain.certified(&chain.document(height, 0)).hash();
    let other = Hash::from_bytes([99; 32]);
    for (height, epoch, hash, verdict) in [
        (11, 111, hash(11), Verdict::Agrees),
        (11, 111, other, Verdict::Differs),
        (11, 112, hash(11), Verdict::Differs),
        // what the next document calls its predecessor
        (9, 109, Hash::from_bytes([9; 32]), Verdict::Agrees),
        (9, 109, other, Verdict::Differs),
        (13, 113, Hash::from_bytes([13; 32]), Verdict::Agrees),
        (13, 113, other, Verdict::Differs),
        // not held: only the order tells
        (12, 112, other, Verdict::Unknown),
        (12, 111, other, Verdict::Differs),
        (12, 114, other, Verdict::Differs),
        (5, 110, other, Verdict::Differs),
        (5, 42, other, Verdict::Unknown),
        (15, 114, other, Verdict::Differs),
        (15, 115, other, Verdict::Unknown),
        (0, 0, Hash::from_bytes([0; 32]), Verdict::Unknown),
    ] {
        assert_eq!(chain.marks.judge(&mark(height, epoch, hash)), verdict, "{height} {epoch}");
    }
    // a restart forgets nothing
    let again = Marks::load(&chain.db, &chain.vault).unwrap();
    assert_eq!(again.rows, chain.marks.rows);
    // an older document is no news
    chain.hold(&chain.certified(&chain.document(12, 0)));
    assert_eq!(chain.marks.newest().unwrap().height, 14);
}

#[test]
fn only_a_quorum_of_the_authorities_of_that_height_proves_anything() {
    let mut chain = Chain::new(4);
    for height in 10..=12 {
        chain.hold(&chain.certified(&chain.document(height, 0)));
    }
    let forged = chain.certified(&chain.document(11, 1));
    let held = chain.certified(&chain.document(11, 0));
    let proof = Testimony::Proof { held: held.mark(), certificate: held.certificate().encode() };
    assert_eq!(chain.weigh(forged.certificate()), proof);
    assert_eq!(chain.weigh(held.certificate()), Testimony::OfNothing, "our own");
    let unknown = chain.certified(&chain.document(20, 1));
    assert_eq!(chain.weigh(unknown.certificate()), Testimony::OfNothing, "nothing to hold against it");

    let sign = |signers: &[(u16, &AuthoritySecret)]| {
        Certificate::sign(&chain.network.genesis_hash(), forged.mark(), 0, signers)
    };
    let [one, two, three, _] = &chain.secrets[..] else { panic!("four") };
    assert_eq!(chain.weigh(&sign(&[(0, one), (1, two)])), Testimony::False, "no quorum");
    let mallory = AuthoritySecret::generate(&mut StdRng::seed_from_u64(10));
    assert_eq!(chain.weigh(&sign(&[(0, one), (1, two), (2, &mallory)])), Testimony::False);
    assert_eq!(chain.weigh(&sign(&[(0, one), (1, two), (3, three)])), Testimony::False, "not its place");
    let elsewhere = Certificate::sign(&held.hash(), forged.mark(), 0, &[(0, one), (1, two), (2, three)]);
    assert_eq!(chain.weigh(&elsewhere), Testimony::False, "of another network");
}

#[test]
fn keys_of_authorities_that_left_prove_nothing_about_later_documents() {
    let mut chain = Chain::new(4);
    let mut rng = StdRng::seed_from_u64(11);
    let mut successors: Vec<_> = (0..4).map(|_| AuthoritySecret::generate(&mut rng)).collect();
    successors.sort_by_key(|secret| secret.public().identity);
    let mut change = chain.document(10, 0);
    change.authorities = successors.iter().map(|secret| secret.public().clone()).collect();
    chain.hold(&chain.certified(&change));
    // document 11 is theirs
    let mut next = chain.document(11, 0);
    next.authorities.clone_from(&change.authorities);
    let signers: Vec<_> = (0..).zip(successors.iter().take(3)).collect();
    let bytes = certify(&next, 0, &signers);
    let anchor = shoal_protocol::consensus::TrustAnchor {
        network: chain.network.genesis_hash(),
        authorities: change.authorities.clone(),
    };
    chain.hold(&UnverifiedConsensus::parse(&bytes).unwrap().verify_any_time(&anchor).unwrap());
    let by_the_retired = chain.certified(&chain.document(11, 1));
    assert_eq!(chain.weigh(by_the_retired.certificate()), Testimony::False);
    let theirs = Certificate::sign(&anchor.network, by_the_retired.mark(), 0, &signers);
    assert!(matches!(chain.weigh(&theirs), Testimony::Proof { .. }));
}

#[test]
fn the_table_is_bounded_by_the_life_of_boxes_by_number_and_by_bytes() {
    let mut chain = Chain::new(4);
    let count = |chain: &Chain, what: &str| -> usize {
        chain.db.query_row(&format!("SELECT {what} FROM document_held"), [], |row| row.get(0)).unwrap()
    };
    // test parameters: ten minutes of 20 seconds are 30 epochs
    let lived = chain.network.parameters.retention_epochs() + EPOCHS_BEYOND;
    for height in 1..=100 {
        chain.hold(&chain.certified(&chain.document(height, 0)));
    }
    assert_eq!(count(&chain, "count(*)") as u64, lived + 1);
    assert_eq!(chain.marks.judge(&mark(50, 150, Hash::from_bytes([99; 32]))), Verdict::Unknown, "forgotten");
    // a network that keeps boxes for very long
    let day = 24 * 3_600_000;
    for height in 101..=101 + HELD_MAX as u64 {
        let mut document = chain.document(height, 0);
        document.parameters.retention_ms = 14 * day;
        document.parameters.draw_epochs = 60_000;
        chain.hold(&chain.certified(&document));
    }
    assert_eq!((chain.marks.rows.len(), count(&chain, "count(*)")), (HELD_MAX, HELD_MAX));
    let bytes = count(&chain, "sum(length(certificate))") as u64;
    assert!(bytes <= CERTIFICATES_MAX && bytes > CERTIFICATES_MAX - 10_000, "{bytes}");
    let newest = chain.marks.newest().unwrap().height;
    assert!(chain.marks.certificate(&chain.db, &chain.vault, newest).unwrap().is_some(), "the newest are kept");
    assert_eq!(chain.marks.certificate(&chain.db, &chain.vault, newest - 2_000).unwrap(), None);
    let sets: usize = chain.db.query_row("SELECT count(*) FROM authority_set", [], |row| row.get(0)).unwrap();
    assert_eq!(sets, 1);
}
