//! Nodes and authorities on paper, for the tests of the pure rooms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};
use shoal_protocol::authority::{AuthorityKey, AuthoritySecret, quorum};
use shoal_protocol::consensus::{TrustAnchor, UnverifiedConsensus, VerifiedConsensus, certify};
use shoal_protocol::descriptor::{Descriptor, SignedDescriptor, UnverifiedDescriptor};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::{Epoch, Hash, Identity, IdentityKey, Role, UnixMillis, X25519Secret};

use crate::document::{Draft, NotYet, Rules, next_document};
use crate::list_message::{DescriptorCache, ListMessage};
use crate::proposal::{UnverifiedProposal, VerifiedProposal};
use crate::randomness;
use crate::signed_list::{List, Place};

/// What an authority lists.
pub(crate) type Descriptors = BTreeMap<Identity, Arc<SignedDescriptor>>;

/// Genesis hash of the test network.
pub(crate) const NETWORK: Hash = Hash::from_bytes([42; 32]);
/// Length of an epoch.
pub(crate) const EPOCH_MS: u64 = 20_000;
/// Start of epoch 0.
pub(crate) const GENESIS: UnixMillis = UnixMillis(1_750_000_000_000);
/// Some instant in epoch 5.
pub(crate) const NOW: UnixMillis = UnixMillis(GENESIS.0 + 5 * EPOCH_MS + 10_000);

/// The test network's epochs.
pub(crate) fn schedule() -> Schedule {
    Schedule { genesis: GENESIS, epoch_ms: EPOCH_MS }
}

/// A node that can only publish.
pub(crate) struct Node {
    key: IdentityKey,
    role: Role,
    number: u16,
    pub(crate) family: Option<[u8; 32]>,
}

impl Node {
    pub(crate) fn new(role: Role, number: u16) -> Self {
        let kind = match role {
            Role::Gateway => 1,
            Role::Mix => 2,
            Role::Store => 3,
        };
        let mut seed = [kind; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        Self { key: IdentityKey::from_seed(&seed), role, number, family: None }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.key.identity()
    }

    /// A descriptor made at `now`, with keys for that epoch and three more.
    pub(crate) fn descriptor(&self, now: UnixMillis) -> Vec<u8> {
        self.descriptor_with(now, |_| ())
    }

    pub(crate) fn descriptor_with(&self, now: UnixMillis, change: impl FnOnce(&mut Descriptor)) -> Vec<u8> {
        let epoch = schedule().epoch_at(now);
        let keys = |purpose: u64| {
            (0..4)
                .map(|n| {
                    let of: Epoch = epoch.plus(n);
                    let mut rng = StdRng::seed_from_u64(of.0 * 1_000_000 + u64::from(self.number) * 10 + purpose);
                    (of, X25519Secret::generate(&mut rng).public())
                })
                .collect::<Vec<_>>()
        };
        let mut descriptor = Descriptor {
            network: NETWORK,
            identity: self.identity(),
            role: self.role,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 4000 + self.number))],
            family: self.family,
            published: now,
            version: "0.1.0".into(),
            mix_keys: keys(1),
            envelope_keys: if self.role == Role::Store { keys(2) } else { Vec::new() },
            loops: Vec::new(),
            leaving: false,
        };
        change(&mut descriptor);
        descriptor.sign(&self.key)
    }
}

/// The middle of an epoch.
pub(crate) fn middle_of(epoch: u64) -> UnixMillis {
    UnixMillis(GENESIS.0 + epoch * EPOCH_MS + EPOCH_MS / 2)
}

/// A descriptor as an authority holds it.
pub(crate) fn held(bytes: &[u8]) -> Arc<SignedDescriptor> {
    let parsed = UnverifiedDescriptor::parse(bytes).expect("well-formed");
    Arc::new(parsed.verify(&NETWORK, UnixMillis(u64::MAX), Duration::ZERO).expect("signed"))
}

/// What these nodes published in the middle of `epoch`.
pub(crate) fn published(nodes: &[&Node], epoch: u64) -> Descriptors {
    nodes.iter().map(|node| (node.identity(), held(&node.descriptor(middle_of(epoch))))).collect()
}

/// Parameters of short epochs, two mixes a layer.
pub(crate) fn parameters(draw_epochs: u32) -> Parameters {
    Parameters {
        epoch_ms: EPOCH_MS,
        draw_epochs,
        retention_ms: 4 * EPOCH_MS,
        mixes_per_layer: 2,
        ..Parameters::test_network()
    }
}

/// Nodes by role.
pub(crate) struct Cast {
    pub(crate) gateways: Vec<Node>,
    pub(crate) mixes: Vec<Node>,
    pub(crate) stores: Vec<Node>,
}

impl Cast {
    pub(crate) fn new(gateways: u16, mixes: u16, stores: u16) -> Self {
        let make = |role, count: u16| (1..=count).map(|number| Node::new(role, number)).collect();
        Self {
            gateways: make(Role::Gateway, gateways),
            mixes: make(Role::Mix, mixes),
            stores: make(Role::Store, stores),
        }
    }

    pub(crate) fn all(&self) -> Vec<&Node> {
        self.gateways.iter().chain(&self.mixes).chain(&self.stores).collect()
    }

    pub(crate) fn all_but(&self, gone: &[Identity]) -> Vec<&Node> {
        self.all().into_iter().filter(|node| !gone.contains(&node.identity())).collect()
    }
}

/// Authorities without files or links, and the chain they made.
pub(crate) struct Council {
    /// Everybody who is or may become an authority, sorted by identity.
    pub(crate) secrets: Vec<AuthoritySecret>,
    /// The genesis set.
    pub(crate) genesis: Vec<AuthorityKey>,
    pub(crate) parameters: Parameters,
    pub(crate) chain: Vec<VerifiedConsensus>,
}

impl Council {
    /// `n` authorities from genesis on, and `spare` that may follow.
    pub(crate) fn new(n: usize, spare: usize, parameters: Parameters) -> Self {
        let mut secrets: Vec<_> =
            (1..=n + spare).map(|seed| AuthoritySecret::generate(&mut StdRng::seed_from_u64(seed as u64))).collect();
        let mut genesis: Vec<_> = secrets.iter().take(n).map(|secret| secret.public().clone()).collect();
        genesis.sort_by_key(|key| key.identity);
        secrets.sort_by_key(|secret| secret.public().identity);
        Self { secrets, genesis, parameters, chain: Vec::new() }
    }

    pub(crate) fn rules(&self) -> Rules<'_> {
        Rules {
            network: NETWORK,
            schedule: schedule(),
            parameters: self.parameters,
            authorities: &self.genesis,
            genesis_stores: 3,
            genesis_gateways: 1,
        }
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place::after(&self.rules(), self.chain.last())
    }

    /// Who makes the next document.
    pub(crate) fn current(&self) -> &[AuthorityKey] {
        self.chain.last().map_or(&self.genesis, |previous| &previous.authorities)
    }

    pub(crate) fn secret(&self, authority: usize) -> &AuthoritySecret {
        let key = &self.current()[authority];
        self.secrets.iter().find(|secret| secret.public() == key).expect("one of ours")
    }

    /// What authority `authority` says for `epoch` when it lists `descriptors`.
    pub(crate) fn message(&self, authority: usize, epoch: u64, descriptors: &Descriptors) -> ListMessage {
        self.message_with(authority, epoch, descriptors, |_| ())
    }

    /// The same with something changed before it is signed.
    pub(crate) fn message_with(
        &self,
        authority: usize,
        epoch: u64,
        descriptors: &Descriptors,
        change: impl FnOnce(&mut List),
    ) -> ListMessage {
        let (secret, before) = (self.secret(authority), self.chain.last().map(|previous| &**previous));
        let mut head = List {
            network: NETWORK,
            authority: u16::try_from(authority).expect("few"),
            height: self.place().height,
            epoch: Epoch(epoch),
            made_at: middle_of(epoch),
            entries: Vec::new(),
            contribution: randomness::contribution(secret, &NETWORK, before, Epoch(epoch)),
            parameters: before.map_or(self.parameters, |before| before.parameters),
            authorities: None,
            addresses: BTreeMap::new(),
        };
        change(&mut head);
        ListMessage::freeze(head, descriptors, secret).expect("fits")
    }

    /// Everybody says the same.
    pub(crate) fn messages(&self, epoch: u64, descriptors: &Descriptors) -> Vec<ListMessage> {
        (0..self.current().len()).map(|authority| self.message(authority, epoch, descriptors)).collect()
    }

    /// Composes a proposal and reads it as everybody else would.
    pub(crate) fn propose(&self, epoch: u64, messages: &[&ListMessage]) -> VerifiedProposal {
        let composed = VerifiedProposal::compose(&self.place(), Epoch(epoch), messages).expect("enough lists");
        let parsed = UnverifiedProposal::parse(composed.bytes()).expect("well-formed");
        let read = parsed.verify(&self.place(), &mut DescriptorCache::new(NETWORK)).expect("verifies");
        assert_eq!(read, composed);
        read
    }

    pub(crate) fn draft(&self, epoch: u64, messages: &[ListMessage]) -> Result<Draft, NotYet> {
        let messages: Vec<_> = messages.iter().collect();
        next_document(&self.rules(), self.chain.last(), &self.propose(epoch, &messages))
    }

    /// Certifies, parses and verifies the document as everybody else would.
    pub(crate) fn take(&mut self, draft: &Draft) -> &VerifiedConsensus {
        let n = self.current().len();
        let signers: Vec<_> =
            (0..quorum(n)).map(|index| (u16::try_from(index).expect("few"), self.secret(index))).collect();
        let bytes = certify(&draft.document, 0, &signers);
        let anchor = TrustAnchor { network: NETWORK, authorities: self.current().to_vec() };
        let verified = UnverifiedConsensus::parse(&bytes)
            .expect("the document keeps every rule")
            .verify(&anchor, draft.document.valid_from, self.chain.last().map(VerifiedConsensus::mark))
            .expect("verifies");
        assert_eq!(verified.hash(), draft.document.hash());
        self.chain.push(verified);
        self.chain.last().expect("just pushed")
    }

    /// The document of `epoch` from these lists.
    pub(crate) fn advance(&mut self, epoch: u64, messages: &[ListMessage]) -> &VerifiedConsensus {
        let draft = self.draft(epoch, messages).expect("a document is possible");
        self.take(&draft)
    }

    /// The document of `epoch` when everybody lists these nodes as they published in the epoch before.
    pub(crate) fn calm(&mut self, epoch: u64, nodes: &[&Node]) -> &VerifiedConsensus {
        let messages = self.messages(epoch, &published(nodes, epoch - 1));
        self.advance(epoch, &messages)
    }
}
