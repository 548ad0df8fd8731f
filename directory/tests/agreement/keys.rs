//! Real keys, and a cheap keyed hash in their place for very many schedules.

use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use shoal_directory::agreement::{Keyring, Scheme};
use shoal_protocol::Hash;
use shoal_protocol::authority::{AuthorityKey, AuthoritySecret, HYBRID_SIGNATURE_SIZE, HybridSignature, quorum};
use shoal_protocol::certificate::{COMMIT_CONTEXT, Certificate, commit_message};

pub(crate) const NETWORK: Hash = Hash::from_bytes([7; 32]);

#[derive(Clone, Debug)]
pub(crate) enum Keys {
    Cheap { me: u16, count: usize },
    Real(Keyring),
}

/// All parties' keys, and the public list if they are real.
pub(crate) struct Ring {
    pub(crate) keys: Vec<Keys>,
    pub(crate) public: Option<Arc<[AuthorityKey]>>,
}

impl Ring {
    pub(crate) fn new(count: u16, real: bool) -> Self {
        if !real {
            let keys = (0..count).map(|me| Keys::Cheap { me, count: usize::from(count) }).collect();
            return Self { keys, public: None };
        }
        let mut rng = StdRng::seed_from_u64(u64::from(count));
        let secrets: Vec<_> = (0..count).map(|_| Arc::new(AuthoritySecret::generate(&mut rng))).collect();
        let public: Arc<[AuthorityKey]> = secrets.iter().map(|secret| secret.public().clone()).collect();
        let keys = secrets.into_iter().map(|secret| Keys::Real(Keyring::new(public.clone(), secret))).collect();
        Self { keys, public: Some(public) }
    }

    /// Whether a certificate proves what it says: by the protocol's own check when the keys are real.
    pub(crate) fn verify(&self, certificate: &Certificate) -> bool {
        if let Some(public) = &self.public {
            return certificate.verify(&NETWORK, public).is_ok();
        }
        let message = commit_message(&NETWORK, certificate.mark(), certificate.round);
        let signatures = &certificate.signatures;
        signatures.len() >= quorum(self.keys.len())
            && signatures.windows(2).all(|pair| pair[0].authority < pair[1].authority)
            && signatures.iter().all(|s| self.keys[0].verify(s.authority, COMMIT_CONTEXT, &message, &s.signature))
    }
}

fn cheap(authority: u16, context: &'static str, message: &[u8]) -> HybridSignature {
    let mut covered = authority.to_be_bytes().to_vec();
    covered.push(u8::try_from(context.len()).unwrap());
    covered.extend_from_slice(context.as_bytes());
    covered.extend_from_slice(message);
    let mut bytes = vec![0; HYBRID_SIGNATURE_SIZE];
    bytes[..32].copy_from_slice(Hash::of("a signature that only tests believe", &covered).as_bytes());
    HybridSignature::from_slice(&bytes).unwrap()
}

impl Scheme for Keys {
    fn count(&self) -> usize {
        match self {
            Self::Cheap { count, .. } => *count,
            Self::Real(keyring) => keyring.count(),
        }
    }

    fn sign(&self, context: &'static str, message: &[u8]) -> HybridSignature {
        match self {
            Self::Cheap { me, .. } => cheap(*me, context, message),
            Self::Real(keyring) => keyring.sign(context, message),
        }
    }

    fn verify(&self, authority: u16, context: &'static str, message: &[u8], signature: &HybridSignature) -> bool {
        match self {
            Self::Cheap { count, .. } => {
                usize::from(authority) < *count && cheap(authority, context, message) == *signature
            }
            Self::Real(keyring) => keyring.verify(authority, context, message, signature),
        }
    }
}
