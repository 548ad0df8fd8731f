//! The MLS group of a conversation, of two or of many: founding it, joining it, sealing and opening messages (OpenMLS,
//! suite 0x004E).
//!
//! Everything goes through a SQLite transaction of the caller: a ratchet state and what was made with it reach the disk
//! together or not at all. OpenMLS draws from the system's generator itself; nothing here can be reproduced from a seed.

use crate::commits_mls::PAST_EPOCHS_MAX;
use crate::key_packages_mls::lifetime;
use crate::leaves_mls::{Context, Member, OwnLeaf, capabilities, verify_leaf};
use crate::names::Name;
use crate::own_keys::OwnKeys;
use crate::profile::{Entered, SealedCbor, Vault};
use openmls::group::{PastEpochDeletionPolicy, StagedWelcome};
use openmls::prelude::{
    Ciphersuite, GroupId, KeyPackage, KeyPackageIn, LeafNodeIndex, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig,
    MlsMessageBodyIn, MlsMessageIn, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent, ProtocolVersion,
    Sender, SenderRatchetConfiguration,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::RustCrypto;
use openmls_sqlite_storage::SqliteStorageProvider;
use openmls_traits::OpenMlsProvider;
use openmls_traits::types::SignatureScheme;
use rand::CryptoRng;
use rusqlite::Connection;
use shoal_protocol::boxes::{ChainSecret, WriteKey, WritePublic};
use shoal_protocol::inbox::{InboxKey, InboxPublic};
use std::collections::BTreeSet;
use tls_codec::{DeserializeBytes as _, Serialize as _};
use zeroize::Zeroizing;

/// ML-KEM-768 with X25519, AES-256-GCM, SHA-384, Ed25519 (draft-ietf-mls-pq-ciphersuites; provisional code point).
pub const SUITE: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519;
/// Exporter label of E_g, from which all chain secrets of an epoch come.
const EXPORTER_LABEL: &str = "shoal boxes";
const CHAIN: &str = "shoal/1 chain";
/// Ratchet steps that may be skipped: boxes lost to a malicious writer; honest chains are read without gaps.
const FORWARD_DISTANCE_MAX: u32 = 1_000;
const OUT_OF_ORDER_MAX: u32 = 8;

/// What OpenMLS needs, over one transaction of the profile.
pub struct Provider<'a> {
    crypto: &'a RustCrypto,
    storage: SqliteStorageProvider<SealedCbor, &'a Connection>,
    _entered: Entered,
}

impl<'a> Provider<'a> {
    /// Over an open transaction (or, for reading only, the connection).
    #[must_use]
    pub fn new(crypto: &'a RustCrypto, db: &'a Connection, vault: &Vault) -> Self {
        Self { crypto, storage: SqliteStorageProvider::new(db), _entered: vault.enter() }
    }
}

impl std::fmt::Debug for Provider<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Provider")
    }
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = SqliteStorageProvider<SealedCbor, &'a Connection>;
    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }
    fn crypto(&self) -> &RustCrypto {
        self.crypto
    }
    fn rand(&self) -> &RustCrypto {
        self.crypto
    }
}

/// Why MLS refused, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// What a peer made breaks a rule: drop it.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// Own state failed: stop and tell.
    #[error("MLS state: {0}")]
    State(String),
}

pub(crate) fn state(error: impl std::fmt::Debug) -> GroupError {
    GroupError::State(format!("{error:?}"))
}

/// Most members of a group, the own leaf among them. Each other one is a chain to poll: 31 at the hot pace of a public
/// network are 15 polls a second, eight times what its clients send; they then share what there is.
pub const GROUP_SIZE_MAX: usize = 32;

/// A conversation in an epoch.
#[derive(Debug)]
pub struct Begun {
    /// MLS group id, 16 bytes.
    pub group_id: Vec<u8>,
    /// Group epoch.
    pub epoch: u64,
    /// What the group context says.
    pub context: Context,
    /// Own leaf.
    pub own_leaf: u32,
    /// The own address, or the former one, whose it is.
    pub own: InboxPublic,
    /// The other members, by leaf: one in a conversation of two, at most [`GROUP_SIZE_MAX`] less one in a group.
    pub others: Vec<Member>,
    /// E_g of the epoch.
    pub exported: Zeroizing<Vec<u8>>,
}

/// The chain secret of a member: derived from E_g and the leaf index.
#[must_use]
pub fn chain_secret(exported: &[u8], leaf: u32) -> ChainSecret {
    let material = Zeroizing::new([exported, &leaf.to_be_bytes()].concat());
    ChainSecret::derive(CHAIN, &material)
}

fn ratchets() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(OUT_OF_ORDER_MAX, FORWARD_DISTANCE_MAX)
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(true)
        .set_past_epoch_deletion_policy(PastEpochDeletionPolicy::MaxEpochs(PAST_EPOCHS_MAX))
        .sender_ratchet_configuration(ratchets())
        .build()
}

/// Founds a conversation with the owner of a card's key package. Returns the TLS encoding of the Welcome beside it.
///
/// # Errors
/// [`GroupError::Refused`] when the key package is not the card owner's or breaks a rule.
pub fn found(
    provider: &Provider<'_>,
    inbox: &InboxKey,
    writer: &WriteKey,
    peer: &InboxPublic,
    key_package: &[u8],
    generation: u32,
    rng: &mut impl CryptoRng,
) -> Result<(Begun, Vec<u8>), GroupError> {
    let package = key_package_of(provider, peer, key_package)?;
    let (mut group, signer) = group_of_one(provider, inbox, writer, &Context { generation, name: None }, rng)?;
    let (_, welcome, _) = group
        .add_members(provider, &signer, &[package])
        .map_err(|_| GroupError::Refused("key package cannot be added"))?;
    group.merge_pending_commit(provider).map_err(state)?;
    let begun = begun(provider, &group, |own| *own == inbox.public())?;
    Ok((begun, welcome.tls_serialize_detached().map_err(state)?))
}

/// Founds a group of many, in which its founder is alone at first.
///
/// # Errors
/// [`GroupError::State`].
pub fn found_group(
    provider: &Provider<'_>,
    inbox: &InboxKey,
    writer: &WriteKey,
    name: &Name,
    generation: u32,
    rng: &mut impl CryptoRng,
) -> Result<Begun, GroupError> {
    let context = Context { generation, name: Some(name.clone()) };
    let (group, _) = group_of_one(provider, inbox, writer, &context, rng)?;
    begun(provider, &group, |own| *own == inbox.public())
}

/// A card's key package, if it is valid and of this person.
pub(crate) fn key_package_of(
    provider: &Provider<'_>,
    person: &InboxPublic,
    key_package: &[u8],
) -> Result<KeyPackage, GroupError> {
    let package = KeyPackageIn::tls_deserialize_exact_bytes(key_package)
        .map_err(|_| GroupError::Refused("malformed key package"))?
        .validate(provider.crypto(), ProtocolVersion::Mls10)
        .map_err(|_| GroupError::Refused("invalid key package"))?;
    if package.ciphersuite() != SUITE {
        return Err(GroupError::Refused("key package of another suite"));
    }
    if verify_leaf(0, package.leaf_node())?.inbox != *person {
        return Err(GroupError::Refused("key package of another person"));
    }
    Ok(package)
}

/// A group that nobody else has joined yet, and the key that signs in it.
fn group_of_one(
    provider: &Provider<'_>,
    inbox: &InboxKey,
    writer: &WriteKey,
    context: &Context,
    rng: &mut impl CryptoRng,
) -> Result<(MlsGroup, SignatureKeyPair), GroupError> {
    let leaf = OwnLeaf::new(provider, inbox, None, writer, rng)?;
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    let context = context.extensions()?;
    let config = MlsGroupCreateConfig::builder()
        .ciphersuite(SUITE)
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(true)
        .set_past_epoch_deletion_policy(PastEpochDeletionPolicy::MaxEpochs(PAST_EPOCHS_MAX))
        .sender_ratchet_configuration(ratchets())
        .lifetime(lifetime())
        .capabilities(capabilities())
        .with_leaf_node_extensions(leaf.extensions)
        .map_err(state)?
        .with_group_context_extensions(context)
        .build();
    let group = MlsGroup::new_with_group_id(provider, &leaf.signer, &config, GroupId::from_slice(&id), leaf.credential)
        .map_err(state)?;
    Ok((group, leaf.signer))
}

/// Joins the conversation of a Welcome, if it is one of two members, ourselves and the one who wrote it, or a group whose
/// member wrote it. Returns the inviter beside it.
///
/// # Errors
/// [`GroupError::Refused`] when the Welcome breaks a rule; the caller must then roll its transaction back.
pub fn join(provider: &Provider<'_>, own: &OwnKeys, welcome: &[u8]) -> Result<(Begun, Member), GroupError> {
    let message =
        MlsMessageIn::tls_deserialize_exact_bytes(welcome).map_err(|_| GroupError::Refused("malformed Welcome"))?;
    let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
        return Err(GroupError::Refused("no Welcome"));
    };
    let staged = StagedWelcome::build_from_welcome(provider, &join_config(), welcome)
        .map_err(|_| GroupError::Refused("Welcome does not open"))?
        .skip_lifetime_validation()
        // whether a group that is here may be joined again is for the caller, who rolls back
        .replace_old_group()
        .build()
        .map_err(|_| GroupError::Refused("invalid Welcome"))?;
    if staged.group_context().ciphersuite() != SUITE || staged.group_context().group_id().as_slice().len() != 16 {
        return Err(GroupError::Refused("group of another suite or form"));
    }
    let sender = staged.welcome_sender_index();
    let group = staged.into_group(provider).map_err(|_| GroupError::Refused("invalid Welcome"))?;
    let begun = begun(provider, &group, |leaf| own.is_own(leaf))?;
    let inviter = begun.others.iter().find(|member| member.leaf == sender.u32()).copied();
    let inviter = inviter.ok_or(GroupError::Refused("Welcome not written by another member"))?;
    Ok((begun, inviter))
}

/// The conversation as it is now, if it keeps the rules, which every member judges alike, and the own leaf is ours.
pub(crate) fn begun(
    provider: &Provider<'_>,
    group: &MlsGroup,
    is_own: impl Fn(&InboxPublic) -> bool,
) -> Result<Begun, GroupError> {
    let own_leaf = group.own_leaf_index();
    let context = Context::read(group.extensions())?;
    let members = group.treesync().full_leaves().map(|(index, leaf)| verify_leaf(index.u32(), leaf));
    let members = members.collect::<Result<Vec<Member>, _>>()?;
    if members.len() > GROUP_SIZE_MAX {
        return Err(GroupError::Refused("too many members"));
    }
    let people: BTreeSet<InboxPublic> = members.iter().map(|member| member.inbox).collect();
    if people.len() < members.len() {
        return Err(GroupError::Refused("one person twice"));
    }
    let (own, others): (Vec<Member>, Vec<Member>) =
        members.into_iter().partition(|member| member.leaf == own_leaf.u32());
    let own = own.first().map(|own| own.inbox).filter(is_own).ok_or(GroupError::Refused("own leaf is not ours"))?;
    if context.name.is_none() && others.len() != 1 {
        return Err(GroupError::Refused("not two members, and no group"));
    }
    if i64::try_from(group.epoch().as_u64()).is_err() {
        // its founder chose it, and SQLite counts no further
        return Err(GroupError::Refused("group epoch out of range"));
    }
    let exported = group.export_secret(provider.crypto(), EXPORTER_LABEL, b"", 32).map_err(state)?;
    Ok(Begun {
        group_id: group.group_id().as_slice().to_vec(),
        epoch: group.epoch().as_u64(),
        context,
        own_leaf: own_leaf.u32(),
        own,
        others,
        exported: Zeroizing::new(exported),
    })
}

pub(crate) fn load(provider: &Provider<'_>, group_id: &[u8]) -> Result<MlsGroup, GroupError> {
    MlsGroup::load(provider.storage(), &GroupId::from_slice(group_id))
        .map_err(state)?
        .ok_or_else(|| GroupError::State("no such group".to_owned()))
}

/// The key that signs for the own leaf.
pub(crate) fn own_signer(provider: &Provider<'_>, group: &MlsGroup) -> Result<SignatureKeyPair, GroupError> {
    let public = group.own_leaf_node().ok_or_else(|| GroupError::State("no own leaf".to_owned()))?.signature_key();
    SignatureKeyPair::read(provider.storage(), public.as_slice(), SignatureScheme::ED25519)
        .ok_or_else(|| GroupError::State("no signature key".to_owned()))
}

/// Seals an application message in the group's current epoch and moves the own ratchet on.
///
/// # Errors
/// [`GroupError::State`].
pub fn seal(provider: &Provider<'_>, group_id: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, GroupError> {
    let mut group = load(provider, group_id)?;
    let signer = own_signer(provider, &group)?;
    let message = group.create_message(provider, &signer, plaintext).map_err(state)?;
    message.tls_serialize_detached().map_err(state)
}

/// Opens an application message of the member at `leaf` and moves its ratchet on.
///
/// # Errors
/// [`GroupError::Refused`] when it is not one; the caller must then roll its transaction back.
pub fn open(provider: &Provider<'_>, group_id: &[u8], leaf: u32, message: &[u8]) -> Result<Vec<u8>, GroupError> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(message)
        .map_err(|_| GroupError::Refused("malformed message"))?
        .try_into_protocol_message()
        .map_err(|_| GroupError::Refused("no protocol message"))?;
    let mut group = load(provider, group_id)?;
    let processed =
        group.process_message(provider, message).map_err(|_| GroupError::Refused("message does not open"))?;
    if *processed.sender() != Sender::Member(LeafNodeIndex::new(leaf)) {
        return Err(GroupError::Refused("message of another member"));
    }
    match processed.into_content() {
        ProcessedMessageContent::ApplicationMessage(message) => Ok(message.into_bytes()),
        ProcessedMessageContent::ProposalMessage(_)
        | ProcessedMessageContent::ExternalJoinProposalMessage(_)
        | ProcessedMessageContent::StagedCommitMessage(_)
        | ProcessedMessageContent::OwnPendingCommit
        | ProcessedMessageContent::OwnPrivateMessage => Err(GroupError::Refused("no application message")),
    }
}

/// The public half of the write key in our own leaf.
///
/// # Errors
/// [`GroupError::State`].
pub fn own_writer(provider: &Provider<'_>, group_id: &[u8]) -> Result<WritePublic, GroupError> {
    let group = load(provider, group_id)?;
    let leaf = group.own_leaf_node().ok_or_else(|| GroupError::State("no own leaf".to_owned()))?;
    Ok(verify_leaf(group.own_leaf_index().u32(), leaf)?.writer)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use openmls::group::GroupContext;
    use openmls_traits::storage::StorageProvider as _;

    /// What a founder who breaks the rules can write: the Welcome of a group that is in any epoch but the first.
    pub(crate) fn welcome_of_epoch(
        provider: &Provider<'_>,
        inbox: &InboxKey,
        key_package: &[u8],
        generation: u32,
        epoch: u64,
        rng: &mut impl CryptoRng,
    ) -> Vec<u8> {
        let package = KeyPackageIn::tls_deserialize_exact_bytes(key_package).unwrap();
        let package = package.validate(provider.crypto(), ProtocolVersion::Mls10).unwrap();
        let writer = WriteKey::generate(rng);
        let (group, signer) = group_of_one(provider, inbox, &writer, &Context { generation, name: None }, rng).unwrap();
        let context: Option<GroupContext> = provider.storage().group_context(group.group_id()).unwrap();
        let mut context = serde_json::to_value(context).unwrap();
        context["epoch"] = (epoch - 1).into();
        let context: GroupContext = serde_json::from_value(context).unwrap();
        provider.storage().write_context(group.group_id(), &context).unwrap();
        let mut group = load(provider, group.group_id().as_slice()).unwrap();
        assert_eq!(group.epoch().as_u64(), epoch - 1);
        let (_, welcome, _) = group.add_members(provider, &signer, &[package]).unwrap();
        welcome.tls_serialize_detached().unwrap()
    }

    /// The leaf of the other member of two.
    pub(crate) fn peer_leaf(provider: &Provider<'_>, group_id: &[u8]) -> u32 {
        1 - load(provider, group_id).unwrap().own_leaf_index().u32()
    }

    /// E of the epoch that a state is in.
    pub(crate) fn exported(provider: &Provider<'_>, group_id: &[u8]) -> Vec<u8> {
        load(provider, group_id).unwrap().export_secret(provider.crypto(), EXPORTER_LABEL, b"", 32).unwrap()
    }

    /// How many signature keys OpenMLS keeps.
    pub(crate) fn signature_keys(db: &Connection) -> u64 {
        db.query_row("SELECT count(*) FROM openmls_signature_keys", [], |row| row.get(0)).unwrap()
    }
}
