//! The topology: which step a packet or a link may take.

use crate::consensus::NodeEntry;
use crate::types::{Layer, Role};

/// Where a party stands on a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A client, or a client's session behind its gateway.
    Client,
    /// Entry and exit of clients.
    Gateway,
    /// An active mix of one layer.
    Mix(Layer),
    /// A store, as courier.
    Store,
}

impl Place {
    /// Where `node` stands; `None` for a mix that stands by, which may neither send nor receive packets.
    #[must_use]
    pub fn of(node: &NodeEntry) -> Option<Self> {
        match node.role {
            Role::Gateway => Some(Self::Gateway),
            Role::Mix => node.layer.map(Self::Mix),
            Role::Store => Some(Self::Store),
        }
    }
}

/// Whether a packet may go from `from` to `to` in one step: client→gateway, gateway→L1, L1→L2, L2→L3, L3→{store,
/// gateway}, store→L1, gateway→client session. Everything else is dropped, and a link for it is refused.
#[must_use]
pub fn allowed_step(from: Place, to: Place) -> bool {
    matches!(
        (from, to),
        (Place::Client, Place::Gateway)
            | (Place::Gateway, Place::Mix(Layer::L1) | Place::Client)
            | (Place::Mix(Layer::L1), Place::Mix(Layer::L2))
            | (Place::Mix(Layer::L2), Place::Mix(Layer::L3))
            | (Place::Mix(Layer::L3), Place::Store | Place::Gateway)
            | (Place::Store, Place::Mix(Layer::L1))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_listed_steps_are_allowed() {
        let [l1, l2, l3] = Layer::ALL.map(Place::Mix);
        let places = [Place::Client, Place::Gateway, l1, l2, l3, Place::Store];
        let allowed = [
            (Place::Client, Place::Gateway),
            (Place::Gateway, l1),
            (Place::Gateway, Place::Client),
            (l1, l2),
            (l2, l3),
            (l3, Place::Store),
            (l3, Place::Gateway),
            (Place::Store, l1),
        ];
        for from in places {
            for to in places {
                assert_eq!(allowed_step(from, to), allowed.contains(&(from, to)), "{from:?} → {to:?}");
            }
        }
    }
}
