//! Leaves of a group and what they and the group carry: whose a leaf is, its write key, the generation of an epoch, the
//! name of a group.

use crate::conversations_mls::{GroupError, Provider, SUITE, state};
use crate::names::Name;
use openmls::group::GroupContext;
use openmls::prelude::{
    BasicCredential, Capabilities, Credential, CredentialType, CredentialWithKey, Extension, ExtensionType, Extensions,
    LeafNode, ProtocolVersion, RequiredCapabilitiesExtension, UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider as _;
use openmls_traits::types::SignatureScheme;
use rand::CryptoRng;
use shoal_protocol::boxes::{WriteKey, WritePublic};
use shoal_protocol::inbox::{InboxKey, InboxPublic};

/// LeafNode extension (private use): public half of the member's write key, 32 bytes.
const WRITE_KEY_EXTENSION: u16 = 0xF0A1;
/// GroupContext extension (private use): generation of stores that keeps this epoch's boxes, u32 big-endian.
const GENERATION_EXTENSION: u16 = 0xF0A2;
/// GroupContext extension (private use): name of a group, UTF-8. A conversation of two has none.
const NAME_EXTENSION: u16 = 0xF0A3;

/// One member of a conversation, verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Index of its leaf.
    pub leaf: u32,
    /// Whose it is.
    pub inbox: InboxPublic,
    /// Whose it was before, when its owner has another address since.
    pub former: Option<InboxPublic>,
    /// The public half of its write key.
    pub writer: WritePublic,
}

/// The own keys of a leaf in the making.
pub(crate) struct OwnLeaf {
    pub(crate) signer: SignatureKeyPair,
    pub(crate) credential: CredentialWithKey,
    pub(crate) extensions: Extensions<LeafNode>,
}

impl OwnLeaf {
    /// Fresh signature key, credential over it, write key in the extension. The signer is stored with OpenMLS. `succeeds`: a
    /// former key of its owner, and what it signed of this one.
    pub(crate) fn new(
        provider: &Provider<'_>,
        inbox: &InboxKey,
        succeeds: Option<&(InboxPublic, [u8; 64])>,
        writer: &WriteKey,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, GroupError> {
        let key = shoal_protocol::IdentityKey::generate(rng);
        let public = key.identity().as_bytes().to_vec();
        let signer = SignatureKeyPair::from_raw(SignatureScheme::ED25519, key.seed().to_vec(), public.clone());
        signer.store(provider.storage()).map_err(state)?;
        let mut identity = [inbox.public().as_bytes().as_slice(), &inbox.sign_credential(&public)].concat();
        if let Some((former, signature)) = succeeds {
            identity.extend(former.as_bytes());
            identity.extend(signature);
        }
        let credential =
            CredentialWithKey { credential: BasicCredential::new(identity).into(), signature_key: public.into() };
        let extensions = Extensions::single(unknown(WRITE_KEY_EXTENSION, writer.public().as_bytes())).map_err(state)?;
        Ok(Self { signer, credential, extensions })
    }
}

fn unknown(kind: u16, value: &[u8]) -> Extension {
    Extension::Unknown(kind, UnknownExtension(value.to_vec()))
}

/// What the context of a group says beside what MLS needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Generation of stores that keeps the boxes of the epoch.
    pub generation: u32,
    /// Name of the group; `None`: a conversation of two.
    pub name: Option<Name>,
}

impl Context {
    /// The extensions of a group, and that every leaf must know ours. OpenMLS takes a change of a private extension only
    /// when the group requires it of its members.
    pub(crate) fn extensions(&self) -> Result<Extensions<GroupContext>, GroupError> {
        let required = [WRITE_KEY_EXTENSION, GENERATION_EXTENSION, NAME_EXTENSION].map(ExtensionType::Unknown);
        let required = RequiredCapabilitiesExtension::new(&required, &[], &[CredentialType::Basic]);
        let mut extensions = vec![
            Extension::RequiredCapabilities(required),
            unknown(GENERATION_EXTENSION, &self.generation.to_be_bytes()),
        ];
        if let Some(name) = &self.name {
            extensions.push(unknown(NAME_EXTENSION, name.as_str().as_bytes()));
        }
        Extensions::from_vec(extensions).map_err(state)
    }

    /// Reads them.
    pub(crate) fn read(extensions: &Extensions<GroupContext>) -> Result<Self, GroupError> {
        let generation = extensions
            .unknown(GENERATION_EXTENSION)
            .and_then(|extension| <[u8; 4]>::try_from(extension.0.as_slice()).ok())
            .map(u32::from_be_bytes)
            .ok_or(GroupError::Refused("no generation in the group context"))?;
        let name = extensions
            .unknown(NAME_EXTENSION)
            .map(|extension| {
                let text = std::str::from_utf8(&extension.0).ok().and_then(|text| text.parse::<Name>().ok());
                text.ok_or(GroupError::Refused("a group name that cannot be shown"))
            })
            .transpose()?;
        Ok(Self { generation, name })
    }
}

/// What every leaf can do.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[SUITE]),
        Some(&[
            ExtensionType::LastResort,
            ExtensionType::Unknown(WRITE_KEY_EXTENSION),
            ExtensionType::Unknown(GENERATION_EXTENSION),
            ExtensionType::Unknown(NAME_EXTENSION),
        ]),
        None,
        Some(&[CredentialType::Basic]),
    )
}

/// Checks a leaf's credential (inbox key ‖ its signature over the leaf's signature key, and when its owner had another inbox key
/// before: that one ‖ its signature over this one) and its write key.
pub(crate) fn verify_leaf(index: u32, leaf: &LeafNode) -> Result<Member, GroupError> {
    let (inbox, former) = verify_credential(leaf.credential(), leaf.signature_key().as_slice())?;
    let writer = leaf
        .extensions()
        .unknown(WRITE_KEY_EXTENSION)
        .and_then(|extension| <[u8; 32]>::try_from(extension.0.as_slice()).ok())
        .and_then(|bytes| WritePublic::parse(bytes).ok())
        .ok_or(GroupError::Refused("no write key in a leaf"))?;
    Ok(Member { leaf: index, inbox, former, writer })
}

fn verify_credential(
    credential: &Credential,
    signature_key: &[u8],
) -> Result<(InboxPublic, Option<InboxPublic>), GroupError> {
    const MALFORMED: GroupError = GroupError::Refused("malformed credential");
    let credential =
        BasicCredential::try_from(credential.clone()).map_err(|_| GroupError::Refused("credential of another type"))?;
    let (inbox, signature, succeeds) = split_signed(credential.identity()).ok_or(MALFORMED)?;
    if !inbox.verify_credential(signature_key, &signature) {
        return Err(GroupError::Refused("credential not signed by its inbox key"));
    }
    if succeeds.is_empty() {
        return Ok((inbox, None));
    }
    let (former, signature, rest) = split_signed(succeeds).ok_or(MALFORMED)?;
    if !rest.is_empty() {
        return Err(MALFORMED);
    }
    if former == inbox || !former.verify_succession(&inbox, &signature) {
        return Err(GroupError::Refused("another address that the former one did not sign"));
    }
    Ok((inbox, Some(former)))
}

/// An inbox key, a signature, and what follows.
fn split_signed(bytes: &[u8]) -> Option<(InboxPublic, [u8; 64], &[u8])> {
    let (inbox, rest) = bytes.split_first_chunk::<32>()?;
    let (signature, rest) = rest.split_first_chunk::<64>()?;
    Some((InboxPublic::parse(*inbox).ok()?, *signature, rest))
}
