//! Two clients' states over an honest model of the stores, in virtual time: first contact, messages, blobs, lost answers,
//! crashes, older copies of a profile, lying replicas, forked networks.
//!
//! Every random choice comes from the seed in the test's name or message; OpenMLS's own randomness does not, so a run is
//! repeated in its schedule, not in its bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod addresses;
mod busy_group;
mod cancelling;
mod epochs;
mod faults;
mod first_contact;
mod forks;
mod groups;
mod invites;
mod messages;
mod sealed_files;
mod slow_files;
mod timeline;
mod world;
