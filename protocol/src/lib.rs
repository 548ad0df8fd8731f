//! What two Shoal roles must agree on: sizes, packets, requests, boxes, documents and links.
//!
//! Everything here is pure: it is given bytes, a time and a random generator, and returns bytes or a typed refusal.
//! The exceptions have a feature each: [`quic`], the links themselves; [`memory`], what keeps the memory of a daemon from
//! others; [`pages`], what a daemon serves to its own machine. The byte-exact description for a second
//! implementation is `protocol/spec/`.

pub mod address;
pub mod authority;
pub mod boxes;
pub mod certificate;
pub mod consensus;
pub mod descriptor;
pub mod duration;
pub mod epoch;
pub mod geometry;
pub mod inbox;
pub mod invite;
pub mod link;
#[cfg(feature = "memory")]
pub mod memory;
pub mod network;
#[cfg(feature = "pages")]
pub mod pages;
pub mod parameters;
pub mod poisson;
#[cfg(feature = "quic")]
pub mod quic;
pub mod request;
pub mod route;
pub mod safety_number;
pub mod sphinx;
pub mod surb;
mod toml_problem;
pub mod topology;
pub mod types;
pub mod words;
pub mod x25519;

pub use sphinx::Packet;
pub use toml_problem::toml_problem;
pub use types::{Epoch, Hash, Identity, IdentityKey, Layer, Role, StoreIndex, UnixMillis};
pub use x25519::{X25519Public, X25519Secret};
