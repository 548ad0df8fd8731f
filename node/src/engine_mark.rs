//! The mark that a place of boxes bears while it is not the one in force: a copy is being made there, or the store has left it.
//!
//! Which engine a start opens is what `node.toml` says, and that may be an older one: put back by whoever manages
//! configurations, or out of a backup. So the place itself says too whether it may be opened:
//!
//! | step of a move from A to B | A | B | a start opens, whatever `node.toml` says |
//! |---|---|---|---|
//! | before it | no mark | anything | A |
//! | B is emptied of an older copy, and marked | no mark | *filling* | A |
//! | everything is copied and compared | no mark | *filling* | A |
//! | A is left: from here on the move is decided | *left* | *filling* | none of itself; the move that is noted goes on into B |
//! | B is in force | *left* | no mark | B |
//! | `node.toml` names B, and the note of the move goes | *left* | no mark | B |
//!
//! Nothing is acknowledged between the two steps in the middle. A mark names its move by an id drawn at random: a note of another
//! move, out of an old backup, leads nowhere.

use crate::report::utc;
use rand::Rng;
use serde::{Deserialize, Serialize};
use shoal_protocol::UnixMillis;

/// Name of one move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveId(String);

impl MoveId {
    /// A new one.
    pub fn draw(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(hex::encode(bytes))
    }
}

/// Why a place is not the one in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", deny_unknown_fields)]
pub enum Mark {
    /// A copy is being made here. What is here was copied, so it may be erased.
    Filling {
        /// The move.
        id: MoveId,
    },
    /// The store has left this place.
    Left {
        /// The move.
        id: MoveId,
        /// Where to, for people.
        to: String,
        /// When; milliseconds since 1970.
        at_ms: u64,
    },
}

/// A mark that cannot be read. It counts as one: what bears it may not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the mark of this place ({0}) cannot be understood; update shoal-node, or see ops/runbooks/store.md")]
pub struct Unreadable(pub String);

impl Mark {
    /// As it lies in a place.
    pub fn to_text(&self) -> Result<String, Unreadable> {
        toml::to_string(self).map_err(|error| Unreadable(error.to_string()))
    }

    /// Reads [`Mark::to_text`] back.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        toml::from_str(text).map_err(|error: toml::de::Error| Unreadable(error.message().to_owned()))
    }

    /// Whether the store has left this place in the course of that move.
    pub fn is_left_by(&self, move_id: &MoveId) -> bool {
        matches!(self, Self::Left { id, .. } if id == move_id)
    }

    /// Whether a copy is being made here in the course of that move.
    pub fn is_filled_by(&self, move_id: &MoveId) -> bool {
        matches!(self, Self::Filling { id } if id == move_id)
    }

    /// Why the place is not opened, and what to do.
    pub fn refusal(&self) -> String {
        match self {
            Self::Filling { .. } => {
                "a move of the store was making a copy here and did not end: this place is not the store. Let [store] in \
                 node.toml name the one it is (ops/runbooks/store.md, \"Which place is the store\")"
                    .to_owned()
            }
            Self::Left { to, at_ms, .. } => format!(
                "the store left this place on {} and is now in {to}: what was acknowledged since is there only. node.toml is \
                 older than the move; let its [store] say what it said after it, or move the store back from there with \
                 `shoal-node store migrate` (ops/runbooks/store.md, \"Which place is the store\")",
                utc(UnixMillis(*at_ms))
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    #[test]
    fn marks_read_back_and_anything_else_is_none_that_may_be_passed_over() {
        let mut rng = StdRng::seed_from_u64(1);
        let (id, other) = (MoveId::draw(&mut rng), MoveId::draw(&mut rng));
        let left = Mark::Left { id: id.clone(), to: "postgres, schema shoal_ab".to_owned(), at_ms: 1_750_000_000_000 };
        let filling = Mark::Filling { id: id.clone() };
        for mark in [&left, &filling] {
            assert_eq!(Mark::parse(&mark.to_text().expect("writes")).as_ref(), Ok(mark));
        }
        assert!(left.is_left_by(&id) && !left.is_left_by(&other) && !left.is_filled_by(&id));
        assert!(filling.is_filled_by(&id) && !filling.is_filled_by(&other) && !filling.is_left_by(&id));
        for text in
            ["", "state = \"gone\"", "state = \"left\"", "state = \"filling\"\nid = \"a\"\nmore = 1", "nonsense"]
        {
            assert!(Mark::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refusal_says_where_the_store_is_and_since_when() {
        let id = MoveId::draw(&mut StdRng::seed_from_u64(1));
        let left = Mark::Left { id, to: "postgres, schema shoal_ab".to_owned(), at_ms: 1_750_000_000_000 };
        let text = left.refusal();
        for part in ["2025-06-15", "postgres, schema shoal_ab", "node.toml", "store migrate"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
