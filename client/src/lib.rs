//! The Shoal client, as a library.
//!
//! ```text
//! io (clock, link, daemon) → traffic, emission (when) → requests (what a packet is) ⇄ mail (what is wanted)
//! ```
//!
//! The rooms are pure: they are given the time, bytes and a random generator, and say what to do. [`io`] is the shell
//! around them: [`io::Client`] is the handle for programs, [`io::serve`] serves it to other processes over a Unix
//! socket, and the command `shoal` is built from both. `client/README.md` describes the JSON that all of it speaks.

#[cfg(test)]
extern crate self as shoal_client;

pub mod anonymity;
pub mod blobs;
mod blobs_store;
pub mod budget;
pub mod card;
mod chains;
mod commit_slots;
mod commits;
pub mod commits_mls;
pub mod contacts;
pub mod conversations;
pub mod conversations_mls;
pub mod decoys;
pub mod emission;
mod ends;
pub mod estimate;
mod group_changes;
mod group_epochs;
pub mod guard;
pub mod inbox_letter;
mod invites;
pub mod io;
pub mod key_packages_mls;
pub mod lack;
pub mod leaves_mls;
pub mod loops;
pub mod mail;
mod marks;
mod marks_heard;
mod members;
pub mod names;
mod notices;
mod offer;
pub mod own_keys;
mod pace;
pub mod polls;
pub mod profile;
mod proofs_owed;
pub mod reach;
pub mod records;
pub mod requests;
pub mod session;
pub mod silence;
#[cfg(test)]
mod testing;
pub mod traffic;
pub mod view;
pub mod want;
mod web;
pub mod witness;
