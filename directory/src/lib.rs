//! A Shoal directory authority: collects what nodes say about themselves and certifies, once an epoch, the one document
//! that everybody acts on.
//!
//! Pure rooms decide: [`schedule`] when a document is due, [`lists`] which descriptors are listed and why others are
//! not, [`randomness`] what the authority commits to and reveals, [`topology`] who sits where, [`document`] what the
//! next consensus says, [`admission`] and [`config`] what the operator's files say. [`io`] acts: files, links, health.

pub mod admission;
pub mod agreement;
pub mod config;
pub mod document;
pub mod io;
pub mod lists;
pub mod randomness;
pub mod schedule;
pub mod topology;

#[cfg(test)]
mod testing;
