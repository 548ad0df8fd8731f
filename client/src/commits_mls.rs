//! Commits of a conversation's group: staging an own one, merging it when it won, applying a peer's.
//!
//! A commit renews the keys of its writer's leaf — encryption, signature and write key — and, when it is due, names a new
//! generation of stores. Nothing else is written, and nothing else is accepted.

use crate::commit_slots::ENTRY_CONTEXT;
use crate::conversations_mls::{Begun, GroupError, Provider, begun, load, own_signer, state};
use crate::leaves_mls::{OwnLeaf, group_context};
use openmls::credentials::NewSignerBundle;
use openmls::group::PastEpochDeletion;
use openmls::prelude::{
    LeafNodeIndex, LeafNodeParameters, MlsGroup, MlsMessageIn, ProcessedMessageContent, Proposal, Sender,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider as _;
use openmls_traits::signatures::Signer as _;
use openmls_traits::types::SignatureScheme;
use rand::CryptoRng;
use shoal_protocol::Identity;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::inbox::{InboxKey, InboxPublic};
use std::time::SystemTime;
use tls_codec::{DeserializeBytes as _, Serialize as _};

/// Past epochs whose messages can be opened at most. A generation is drawn at most weekly and listed for two more, so
/// whoever follows at all is at most three generations behind; the rest is room for commits that heal.
pub const PAST_EPOCHS_MAX: usize = 8;

/// Stages a commit that renews the own leaf, with this write key in it, and names `generation` if it is another one.
/// Returns the commit; the group stays in its epoch.
///
/// # Errors
/// [`GroupError::State`].
pub fn stage(
    provider: &Provider<'_>,
    inbox: &InboxKey,
    writer: &WriteKey,
    group_id: &[u8],
    generation: Option<u32>,
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, GroupError> {
    let mut group = load(provider, group_id)?;
    let signer = own_signer(provider, &group)?;
    let leaf = OwnLeaf::new(provider, inbox, writer, rng)?;
    let parameters = LeafNodeParameters::builder().with_extensions(leaf.extensions).build();
    let mut builder = group.commit_builder().force_self_update(true).leaf_node_parameters(parameters);
    if let Some(generation) = generation {
        builder = builder.propose_group_context_extensions(group_context(generation)?).map_err(state)?;
    }
    let renewed = NewSignerBundle { signer: &leaf.signer, credential_with_key: leaf.credential };
    let bundle = builder
        .load_psks(provider.storage())
        .map_err(state)?
        .build_with_new_signer(provider.rand(), provider.crypto(), &signer, renewed, |_| true)
        .map_err(state)?
        .stage_commit(provider)
        .map_err(state)?;
    bundle.commit().tls_serialize_detached().map_err(state)
}

/// Merges the staged commit: it won. `keep`: the signature key so far belongs to a card and is erased with it.
///
/// # Errors
/// [`GroupError::State`].
pub fn merge_staged(
    provider: &Provider<'_>,
    own: &InboxPublic,
    group_id: &[u8],
    keep: bool,
) -> Result<Begun, GroupError> {
    let mut group = load(provider, group_id)?;
    if group.pending_commit().is_none() {
        return Err(GroupError::State("no staged commit".to_owned()));
    }
    let before = own_signature_key(&group);
    group.merge_pending_commit(provider).map_err(state)?;
    if let (Some(before), false) = (before, keep) {
        SignatureKeyPair::delete(provider.storage(), &before, SignatureScheme::ED25519).map_err(state)?;
    }
    begun(provider, &group, own)
}

fn own_signature_key(group: &MlsGroup) -> Option<Vec<u8>> {
    group.own_leaf_node().map(|leaf| leaf.signature_key().as_slice().to_vec())
}

/// Forgets the staged commit, if there is one: it lost.
fn clear(provider: &Provider<'_>, group: &mut MlsGroup) -> Result<(), GroupError> {
    let staged = group.pending_commit().and_then(|commit| commit.update_path_leaf_node());
    if let Some(key) = staged.map(|leaf| leaf.signature_key().as_slice().to_vec()) {
        SignatureKeyPair::delete(provider.storage(), &key, SignatureScheme::ED25519).map_err(state)?;
    }
    group.clear_pending_commit(provider.storage()).map_err(state)
}

/// Applies a commit of the member at `leaf`; an own one that was staged is forgotten.
///
/// # Errors
/// [`GroupError::Refused`] when it is no commit of that member in the group's epoch, or does what no commit may; the
/// caller must then roll its transaction back.
pub fn apply(
    provider: &Provider<'_>,
    own: &InboxPublic,
    group_id: &[u8],
    leaf: u32,
    commit: &[u8],
) -> Result<Begun, GroupError> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(commit)
        .map_err(|_| GroupError::Refused("malformed commit"))?
        .try_into_protocol_message()
        .map_err(|_| GroupError::Refused("no protocol message"))?;
    let mut group = load(provider, group_id)?;
    let before = begun(provider, &group, own)?;
    if message.epoch() != group.epoch() {
        return Err(GroupError::Refused("commit of another epoch"));
    }
    clear(provider, &mut group)?;
    let processed =
        group.process_message(provider, message).map_err(|_| GroupError::Refused("commit does not open"))?;
    if *processed.sender() != Sender::Member(LeafNodeIndex::new(leaf)) {
        return Err(GroupError::Refused("commit of another member"));
    }
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
        return Err(GroupError::Refused("no commit"));
    };
    if staged.update_path_leaf_node().is_none() {
        return Err(GroupError::Refused("commit renews no leaf"));
    }
    let renews = |proposal: &Proposal| matches!(proposal, Proposal::GroupContextExtensions(_));
    if !staged.queued_proposals().all(|queued| renews(queued.proposal())) {
        return Err(GroupError::Refused("commit does more than renew"));
    }
    group.merge_staged_commit(provider, *staged).map_err(state)?;
    let after = begun(provider, &group, own)?;
    if after.peer.inbox != before.peer.inbox || after.peer.leaf != before.peer.leaf {
        return Err(GroupError::Refused("a leaf changed its owner"));
    }
    if after.generation < before.generation {
        return Err(GroupError::Refused("commit goes back to an older generation"));
    }
    Ok(after)
}

/// Keeps the means to open messages of at most `epochs` epochs before the current one.
///
/// # Errors
/// [`GroupError::State`].
pub fn forget_past(provider: &Provider<'_>, group_id: &[u8], epochs: usize) -> Result<(), GroupError> {
    let mut group = load(provider, group_id)?;
    let what = if epochs == 0 {
        PastEpochDeletion::delete_all()
    } else {
        // nothing is older than this: the number decides alone, no clock
        PastEpochDeletion::before_timestamp(SystemTime::UNIX_EPOCH).max_past_epochs(epochs)
    };
    group.delete_past_epoch_secrets(provider, what).map_err(state)
}

fn framed(message: &[u8]) -> Vec<u8> {
    // as every signature of the protocol: the context is a literal of 20 bytes
    let length = u8::try_from(ENTRY_CONTEXT.len()).unwrap_or(u8::MAX);
    [&[length], ENTRY_CONTEXT.as_bytes(), message].concat()
}

/// Signs an entry of a commit slot with the signature key of the own leaf. Gives the leaf's index to `message`.
///
/// # Errors
/// [`GroupError::State`].
pub fn sign_entry(
    provider: &Provider<'_>,
    group_id: &[u8],
    message: impl FnOnce(u32) -> Vec<u8>,
) -> Result<(u32, [u8; 64]), GroupError> {
    let group = load(provider, group_id)?;
    let leaf = group.own_leaf_index().u32();
    let signature = own_signer(provider, &group)?.sign(&framed(&message(leaf))).map_err(state)?;
    let signature = signature.as_slice().try_into().map_err(|_| state("a signature of another length"))?;
    Ok((leaf, signature))
}

/// Whose entry of a commit slot this is, by the signature key of its leaf in the group's current epoch.
///
/// # Errors
/// [`GroupError::State`].
pub fn whose_entry(
    provider: &Provider<'_>,
    group_id: &[u8],
    leaf: u32,
    message: &[u8],
    signature: &[u8; 64],
) -> Result<Author, GroupError> {
    let group = load(provider, group_id)?;
    let found = group.treesync().full_leaves().find(|(index, _)| index.u32() == leaf);
    let key = found.and_then(|(_, leaf)| <[u8; 32]>::try_from(leaf.signature_key().as_slice()).ok());
    let signed = key.is_some_and(|key| Identity::from_bytes(key).verify(ENTRY_CONTEXT, message, signature));
    Ok(match (signed, leaf == group.own_leaf_index().u32()) {
        (false, _) => Author::Nobody,
        (true, true) => Author::Oneself,
        (true, false) => Author::Peer,
    })
}

/// Who signed an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// No member.
    Nobody,
    /// The own leaf.
    Oneself,
    /// Another member.
    Peer,
}
