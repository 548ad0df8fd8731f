//! Commits of a conversation's group: staging an own one, merging it when it won, applying another member's.
//!
//! A commit renews the keys of its writer's leaf — encryption, signature and write key. When it is due it names a new
//! generation of stores; in a group it also adds and removes members and changes the name; and it adds again who was away for
//! too long. Nothing else is written, and nothing else is accepted.

use crate::card::Card;
use crate::commit_slots::ENTRY_CONTEXT;
use crate::conversations_mls::{Begun, GroupError, Provider, begun, key_package_of, load, own_signer, state};
use crate::leaves_mls::{Context, Member, OwnLeaf, verify_leaf};
use crate::names::Name;
use crate::own_keys::OwnKeys;
use openmls::credentials::NewSignerBundle;
use openmls::group::PastEpochDeletion;
use openmls::prelude::{
    LeafNodeIndex, LeafNodeParameters, MlsGroup, MlsMessageIn, MlsMessageOut, ProcessedMessageContent, Proposal,
    Sender, StagedCommit,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider as _;
use openmls_traits::signatures::Signer as _;
use openmls_traits::types::SignatureScheme;
use rand::CryptoRng;
use shoal_protocol::Identity;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::inbox::InboxPublic;
use std::time::SystemTime;
use tls_codec::{DeserializeBytes as _, Serialize as _};

/// Past epochs whose messages can be opened at most, and thus how far the others go on without a member who does not
/// follow. A generation is drawn at most weekly and listed for two more, so that of a conversation of two whoever follows
/// at all is at most three behind; in a group every change of its members is an epoch too.
pub const PAST_EPOCHS_MAX: usize = 32;
/// Most people that one commit adds: the Welcome grows with each, and the commit by a key package of 2,700 bytes.
pub const ADDED_MAX: usize = 8;

/// What a commit does beside renewing the own leaf.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Names this generation.
    pub generation: Option<u32>,
    /// Gives the group this name.
    pub name: Option<Name>,
    /// Adds these people, with the key packages of their cards; their letters go to the pointer keys.
    pub add: Vec<(InboxPublic, Card)>,
    /// Removes the members at these leaves.
    pub remove: Vec<u32>,
    /// Says again of which key the own one is the successor: somebody who is added again may have missed it.
    pub succession: Option<(InboxPublic, [u8; 64])>,
}

/// A commit that is staged.
#[derive(Debug)]
pub struct Staged {
    /// The commit, TLS encoding.
    pub commit: Vec<u8>,
    /// The Welcome of those whom it adds, TLS encoding.
    pub welcome: Option<Vec<u8>>,
}

/// Stages a commit that renews the own leaf, with this write key in it and under the own address of now, and does what `change`
/// says. The group stays in its epoch.
///
/// # Errors
/// [`GroupError::Refused`] when a key package is refused or the own leaf's key is gone, else [`GroupError::State`].
pub fn stage(
    provider: &Provider<'_>,
    own: &OwnKeys,
    writer: &WriteKey,
    group_id: &[u8],
    change: &Change,
    rng: &mut impl CryptoRng,
) -> Result<Staged, GroupError> {
    let mut group = load(provider, group_id)?;
    let signer = own_signer(provider, &group)?;
    let owner = group.own_leaf_node().ok_or_else(|| GroupError::State("no own leaf".to_owned()))?;
    let owner = verify_leaf(group.own_leaf_index().u32(), owner)?.inbox;
    let owner = own.by_public(&owner).ok_or(GroupError::Refused("the own leaf is under no own key"))?;
    // somebody who did not know that they are one person may have added the own address of now too; both cannot stay
    let twice = group.treesync().full_leaves().map(|(index, leaf)| verify_leaf(index.u32(), leaf));
    let twice = twice.collect::<Result<Vec<_>, _>>()?;
    let twice = twice.iter().any(|member| {
        member.inbox == own.public()
            && member.leaf != group.own_leaf_index().u32()
            && !change.remove.contains(&member.leaf)
    });
    let inbox = if twice { owner } else { own.current() };
    let moves = (inbox.public() != owner.public()).then(|| (owner.public(), owner.sign_succession(&inbox.public())));
    let again = change.succession.filter(|(former, word)| former.verify_succession(&inbox.public(), word));
    let succeeds = moves.or(again);
    let leaf = OwnLeaf::new(provider, inbox, succeeds.as_ref(), writer, rng)?;
    let before = Context::read(group.extensions())?;
    let context = Context {
        generation: change.generation.unwrap_or(before.generation),
        name: change.name.clone().or_else(|| before.name.clone()),
    };
    let packages = change.add.iter().map(|(person, card)| key_package_of(provider, person, &card.key_package));
    let packages = packages.collect::<Result<Vec<_>, _>>()?;
    let parameters = LeafNodeParameters::builder().with_extensions(leaf.extensions).build();
    let mut builder = group
        .commit_builder()
        .force_self_update(true)
        .leaf_node_parameters(parameters)
        .propose_removals(change.remove.iter().map(|leaf| LeafNodeIndex::new(*leaf)))
        .propose_adds(packages);
    if context != before {
        builder = builder.propose_group_context_extensions(context.extensions()?).map_err(state)?;
    }
    let renewed = NewSignerBundle { signer: &leaf.signer, credential_with_key: leaf.credential };
    let bundle = builder
        .load_psks(provider.storage())
        .map_err(state)?
        .build_with_new_signer(provider.rand(), provider.crypto(), &signer, renewed, |_| true)
        .map_err(state)?
        .stage_commit(provider)
        .map_err(state)?;
    let (commit, welcome, _) = bundle.into_messages();
    let bytes = |message: MlsMessageOut| message.tls_serialize_detached().map_err(state);
    Ok(Staged { commit: bytes(commit)?, welcome: welcome.map(bytes).transpose()? })
}

/// An epoch that a commit led to.
#[derive(Debug)]
pub struct Led {
    /// The group as it is now.
    pub begun: Begun,
    /// Leaves whose members were removed; another may have one of them now.
    pub removed: Vec<u32>,
    /// Leaves whose members have another address now.
    pub moved: Vec<u32>,
}

fn removed_by(staged: &StagedCommit) -> Vec<u32> {
    staged.remove_proposals().map(|queued| queued.remove_proposal().removed().u32()).collect()
}

/// Merges the staged commit: it won. `keep`: the signature key so far belongs to a card and is erased with it.
///
/// # Errors
/// [`GroupError::State`].
pub fn merge_staged(provider: &Provider<'_>, group_id: &[u8], keep: bool) -> Result<Led, GroupError> {
    let mut group = load(provider, group_id)?;
    let Some(removed) = group.pending_commit().map(removed_by) else {
        return Err(GroupError::State("no staged commit".to_owned()));
    };
    let before = own_signature_key(&group);
    group.merge_pending_commit(provider).map_err(state)?;
    if let (Some(before), false) = (before, keep) {
        SignatureKeyPair::delete(provider.storage(), &before, SignatureScheme::ED25519).map_err(state)?;
    }
    Ok(Led { begun: begun(provider, &group, |_| true)?, removed, moved: Vec::new() })
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

/// Forgets the group, and the signature key of the own leaf unless it is a card's too.
///
/// # Errors
/// [`GroupError::State`].
pub fn forget(provider: &Provider<'_>, group_id: &[u8], of_card: bool) -> Result<(), GroupError> {
    let mut group = load(provider, group_id)?;
    clear(provider, &mut group)?;
    if let (Some(key), false) = (own_signature_key(&group), of_card) {
        SignatureKeyPair::delete(provider.storage(), &key, SignatureScheme::ED25519).map_err(state)?;
    }
    group.delete(provider.storage()).map_err(state)
}

/// What became of a commit that was applied.
#[derive(Debug)]
pub enum Applied {
    /// The group went on.
    On(Led),
    /// It removed the own leaf, and these all told; nothing was changed.
    Out(Vec<u32>),
    /// It removed the own leaf, and these all told, and adds its owner again: a Welcome will come. Nothing was changed.
    Again(Vec<u32>),
}

impl Applied {
    /// The leaves that it removed.
    #[must_use]
    pub fn removed(&self) -> &[u32] {
        match self {
            Self::On(led) => &led.removed,
            Self::Out(removed) | Self::Again(removed) => removed,
        }
    }
}

/// Applies a commit of the member at `leaf`; an own one that was staged is forgotten.
///
/// # Errors
/// [`GroupError::Refused`] when it is no commit of that member in the group's epoch, or does what no commit may; the
/// caller must then roll its transaction back.
pub fn apply(
    provider: &Provider<'_>,
    own: &OwnKeys,
    group_id: &[u8],
    leaf: u32,
    commit: &[u8],
) -> Result<Applied, GroupError> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(commit)
        .map_err(|_| GroupError::Refused("malformed commit"))?
        .try_into_protocol_message()
        .map_err(|_| GroupError::Refused("no protocol message"))?;
    let mut group = load(provider, group_id)?;
    // whose the own leaf is only we decide
    let before = begun(provider, &group, |_| true)?;
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
    let group_of_many = before.context.name.is_some();
    let may = |proposal: &Proposal| {
        matches!(proposal, Proposal::GroupContextExtensions(_))
            || matches!(proposal, Proposal::Add(_) | Proposal::Remove(_))
    };
    if !staged.queued_proposals().all(|queued| may(queued.proposal())) {
        return Err(GroupError::Refused("commit does more than it may"));
    }
    if staged.add_proposals().count() > ADDED_MAX {
        return Err(GroupError::Refused("commit adds too many"));
    }
    let added = staged
        .add_proposals()
        .map(|queued| verify_leaf(0, queued.add_proposal().key_package().leaf_node()).map(|member| member.inbox));
    let added = added.collect::<Result<Vec<_>, _>>()?;
    // a member may have another address, if the one before it signed that it is the same person's
    let is_of = |before: &Member, after: &Member| before.inbox == after.inbox || after.former == Some(before.inbox);
    let removed = removed_by(&staged);
    let context = Context::read(staged.group_context().extensions())?;
    if group_of_many != context.name.is_some() {
        return Err(GroupError::Refused("a group became none, or the other way round"));
    }
    if context.generation < before.context.generation {
        return Err(GroupError::Refused("commit goes back to an older generation"));
    }
    if staged.self_removed() {
        // whoever is put out cannot see the group after it, and judges as those who stay by what there is: else a commit that
        // all others pass over would put one out alone
        let renewed = staged.update_path_leaf_node().map(|node| verify_leaf(leaf, node)).transpose()?;
        let writer = before.others.iter().find(|member| member.leaf == leaf);
        if !renewed.zip(writer).is_some_and(|(renewed, writer)| is_of(writer, &renewed)) {
            return Err(GroupError::Refused("a leaf changed its owner"));
        }
        return match added.iter().any(|person| own.is_own(person)) {
            true => Ok(Applied::Again(removed)),
            false if group_of_many => Ok(Applied::Out(removed)),
            false => Err(GroupError::Refused("two cannot remove each other")),
        };
    }
    group.merge_staged_commit(provider, *staged).map_err(state)?;
    let after = begun(provider, &group, |_| true)?;
    let stays = |member: &&Member| !removed.contains(&member.leaf);
    let kept = |member: &Member| after.others.iter().any(|other| other.leaf == member.leaf && is_of(member, other));
    if !before.others.iter().filter(stays).all(kept) {
        return Err(GroupError::Refused("a leaf changed its owner"));
    }
    let same = |member: &Member| before.others.iter().any(|other| is_of(other, member));
    if !group_of_many && !after.others.iter().all(same) {
        return Err(GroupError::Refused("another person took the place of one of two"));
    }
    let moved =
        |member: &&Member| after.others.iter().any(|other| other.leaf == member.leaf && other.inbox != member.inbox);
    let moved = before.others.iter().filter(stays).filter(moved).map(|member| member.leaf).collect();
    Ok(Applied::On(Led { begun: after, removed, moved }))
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
