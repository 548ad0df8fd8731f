//! A Shoal directory authority: collects what nodes say about themselves and certifies, once an epoch, the one document
//! that everybody acts on.
//!
//! Pure rooms decide: [`schedule`] when a document is due, [`lists`] which descriptors are listed and why others are
//! not, [`signed_list`] and [`list_message`] what one authority says, [`proposal`] what all of them compute from,
//! [`choice`] which descriptor of each node counts,
//! [`randomness`] what they commit to and reveal, [`wishes`] what they want changed, [`topology`] who sits where,
//! [`document`] what the next consensus says, [`agreement`] when it is agreed, [`admission`] and [`config`] what the
//! operator's files say. [`authority`] holds them together as one state machine; [`io`] acts: files, links, health.

pub mod admission;
pub mod agreement;
pub mod authority;
pub mod choice;
pub mod config;
pub mod document;
pub mod io;
pub mod list_message;
pub mod lists;
pub mod outlook;
pub mod proposal;
pub mod randomness;
pub mod refusals;
pub mod schedule;
pub mod signed_list;
pub mod topology;
pub mod wishes;

#[cfg(test)]
mod testing;
