//! Unwrapping a packet: every check of the Sphinx way through a node, in this order and no other.
//!
//! 1. exact length (a [`Packet`] has no other; links count what has) → 2. alpha canonical and of large order → 3. shared secret under the current key, else
//!    the grace key, else the next key → 4. header MAC → 5. insertion of the replay tag → 6. payload → 7. version 260 →
//!    8. delay cap → 9. next hop allowed by the topology (for the grace time also by that of the document before) → outcome.
//!
//! The replay tag comes before everything that looks inside, so that a packet cannot be used twice to learn anything;
//! and after the MAC, so that only real packets fill the set. The caller must not let a packet leave before its tag is
//! in the log.

use crate::drops::DropReason;
use crate::keys::OfEpoch;
use crate::onion::Onion;
use crate::view::View;
use shoal_protocol::X25519Secret;
use shoal_protocol::sphinx::{HeaderError, Packet, Payload, UnwrapError, Unwrapped};
use shoal_protocol::topology::{Place, allowed_step};
use shoal_protocol::types::{Identity, Layer};
use std::time::Duration;

/// Whose link a packet came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client of this gateway. Its packets go to L1 and nowhere else: a client may not reach another client's session
    /// past the mixes.
    Client,
    /// Another node.
    Node,
}

/// Where a packet goes after its delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Next {
    /// Another node.
    Node(Identity),
    /// A client session at this gateway. Whether it exists is looked up after the delay.
    Session([u8; 32]),
}

/// What is to be done with a packet that passed every check.
#[derive(Debug)]
pub enum Outcome {
    /// Into the delay queue.
    Forward {
        /// Where it goes.
        to: Next,
        /// How long it waits; within the cap.
        delay: Duration,
        /// What is sent.
        packet: Packet,
    },
    /// This node is the last hop: one of its own loops, or at a store a request for the courier.
    Final {
        /// Read by the sender of a loop, who wrote it.
        identifier: [u8; 16],
        /// The payload, not yet checked for tampering.
        payload: Payload,
    },
}

/// A mix key as the worker holds it, together with its replay set.
pub trait MixKey: OfEpoch {
    /// The secret.
    fn secret(&self) -> &X25519Secret;
}

/// A packet in the middle of its checks: opened under a key (its place in the list of keys), or dropped.
type Halfway<T> = Result<(T, usize), DropReason>;

/// Steps 2 to 4. `keys` in the order of [`crate::keys::in_order`]: those that one does not fit are tried under the next.
fn open<O: Onion, K: MixKey>(onion: &O, packets: &[&Packet], keys: &[&K]) -> Vec<Halfway<O::Opened>> {
    let reason = if keys.is_empty() { DropReason::NoMixKey } else { DropReason::BadMac };
    let mut opened: Vec<Halfway<O::Opened>> = packets.iter().map(|_| Err(reason)).collect();
    let mut left: Vec<usize> = (0..packets.len()).collect();
    for (number, key) in keys.iter().enumerate() {
        let tried: Vec<&Packet> = left.iter().filter_map(|at| packets.get(*at).copied()).collect();
        let results = onion.open(&tried, key.secret());
        left = left
            .into_iter()
            .zip(results)
            .filter_map(|(at, result)| {
                let result = match result {
                    Ok(header) => Ok((header, number)),
                    Err(HeaderError::BadAlpha) => Err(DropReason::BadAlpha),
                    Err(HeaderError::BadMac) => return Some(at),
                };
                if let Some(place) = opened.get_mut(at) {
                    *place = result;
                }
                None
            })
            .collect();
        if left.is_empty() {
            break;
        }
    }
    opened
}

/// Steps 8 and 9.
fn judge(unwrapped: Result<Unwrapped, UnwrapError>, origin: Origin, view: &View) -> Result<Outcome, DropReason> {
    match unwrapped {
        Err(UnwrapError::Malformed) => Err(DropReason::BadPayload),
        Err(UnwrapError::WrongVersion) => Err(DropReason::WrongVersion),
        Ok(Unwrapped::Final { identifier, payload }) => Ok(Outcome::Final { identifier, payload }),
        Ok(Unwrapped::Forward { next, delay, packet }) => {
            if delay > view.delay_cap {
                return Err(DropReason::DelayOverCap);
            }
            Ok(Outcome::Forward { to: next_hop(next, origin, view)?, delay, packet })
        }
    }
}

fn next_hop(next: [u8; 32], origin: Origin, view: &View) -> Result<Next, DropReason> {
    let identity = Identity::from_bytes(next);
    let (mut known, mut gateway) = (false, false);
    // a step is one of the newest document or of the one before, never half of each
    for layout in view.layouts() {
        let to = layout.place_of(&identity);
        known |= to.is_some();
        gateway |= layout.place == Place::Gateway;
        let allowed = to.is_some_and(|to| match origin {
            Origin::Client => to == Place::Mix(Layer::L1) && layout.place == Place::Gateway,
            Origin::Node => allowed_step(layout.place, to),
        });
        if allowed {
            return Ok(Next::Node(identity));
        }
    }
    if !known && gateway && origin == Origin::Node {
        // what is no node can only be a session, and only gateways have sessions
        Ok(Next::Session(next))
    } else if known || gateway {
        Err(DropReason::ForbiddenNextHop)
    } else {
        Err(DropReason::UnknownNextHop)
    }
}

/// All steps for some packets. `insert` puts the replay tag into the set (and, before the packet leaves, the log) of the key
/// that fitted; it is given the places of the packet in `packets` and of the key in `keys`. One result a packet, in the same order: what is to be done with
/// it, and the place of its key.
pub fn unwrap<O: Onion, K: MixKey>(
    onion: &O,
    packets: &[(&Packet, Origin)],
    keys: &[&K],
    view: &View,
    mut insert: impl FnMut(usize, usize, &[u8; 32]) -> Result<(), DropReason>,
) -> Vec<Result<(Outcome, usize), DropReason>> {
    let only: Vec<&Packet> = packets.iter().map(|(packet, _)| *packet).collect();
    let mut fresh = Vec::with_capacity(packets.len());
    let checked: Vec<Result<usize, DropReason>> = open(onion, &only, keys)
        .into_iter()
        .enumerate()
        .map(|(at, opened)| {
            let (header, key) = opened?;
            insert(at, key, &O::replay_tag(&header))?;
            fresh.push(header);
            Ok(key)
        })
        .collect();
    let mut finished = onion.finish(fresh).into_iter();
    let judged = checked.into_iter().zip(packets).map(|(checked, (_, origin))| {
        let key = checked?;
        // one result for each that was fresh, in the same order
        let unwrapped = finished.next().unwrap_or(Err(UnwrapError::Malformed));
        Ok((judge(unwrapped, *origin, view)?, key))
    });
    judged.collect()
}

#[cfg(test)]
mod tests;
