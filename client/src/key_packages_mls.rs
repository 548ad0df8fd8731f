//! Key packages of cards: by them a stranger founds a conversation with somebody who is not there.

use openmls::prelude::{KeyPackage, KeyPackageBundle, KeyPackageRef, Lifetime};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider as _;
use openmls_traits::storage::StorageProvider as _;
use openmls_traits::types::SignatureScheme;
use rand::CryptoRng;
use shoal_protocol::boxes::WriteKey;
use shoal_protocol::inbox::InboxKey;
use tls_codec::Serialize as _;

use crate::conversations_mls::{GroupError, Provider, SUITE, state};
use crate::leaves_mls::{OwnLeaf, capabilities};

/// A lifetime that never ends: OpenMLS would compare it with the system's clock, which pure rooms do not know. What
/// bounds a key package is the card: it is signed for one period, and nobody takes one older than the previous.
pub(crate) fn lifetime() -> Lifetime {
    Lifetime::init(0, u64::MAX)
}

/// Makes a last-resort key package whose leaf carries the given write key: its TLS encoding and the reference under
/// which OpenMLS keeps its secrets.
///
/// # Errors
/// [`GroupError::State`].
pub fn make_key_package(
    provider: &Provider<'_>,
    inbox: &InboxKey,
    writer: &WriteKey,
    rng: &mut impl CryptoRng,
) -> Result<(Vec<u8>, Vec<u8>), GroupError> {
    let leaf = OwnLeaf::new(provider, inbox, None, writer, rng)?;
    let bundle = KeyPackage::builder()
        .key_package_lifetime(lifetime())
        .leaf_node_capabilities(capabilities())
        .leaf_node_extensions(leaf.extensions)
        .mark_as_last_resort()
        .build(SUITE, provider, &leaf.signer, leaf.credential)
        .map_err(state)?;
    let package = bundle.key_package();
    let encoded = package.tls_serialize_detached().map_err(state)?;
    let reference = package.hash_ref(provider.crypto()).map_err(state)?;
    Ok((encoded, serde_json::to_vec(&reference).map_err(state)?))
}

/// Forgets the secrets of a key package, by the reference that [`make_key_package`] gave. Its signature key goes on
/// signing in the conversations that were joined through it: `joined` keeps that one.
///
/// # Errors
/// [`GroupError::State`].
pub fn forget_key_package(provider: &Provider<'_>, reference: &[u8], joined: bool) -> Result<(), GroupError> {
    let reference: KeyPackageRef = serde_json::from_slice(reference).map_err(state)?;
    let bundle: Option<KeyPackageBundle> = provider.storage().key_package(&reference).map_err(state)?;
    if let (Some(bundle), false) = (bundle, joined) {
        let public = bundle.key_package().leaf_node().signature_key();
        SignatureKeyPair::delete(provider.storage(), public.as_slice(), SignatureScheme::ED25519).map_err(state)?;
    }
    provider.storage().delete_key_package(&reference).map_err(state)
}
