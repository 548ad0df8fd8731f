//! Where packets go when their delay is over.

use crate::drops::DropReason;
use crate::io::gateway_io::SessionSender;
use crate::io::links::LinkSender;
use crate::unwrap::Next;
use shoal_protocol::sphinx::Packet;

/// Ways out of the node. Clones share them.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Links to other nodes.
    pub links: LinkSender,
    /// Sessions of clients; gateways only.
    pub sessions: Option<SessionSender>,
}

impl Egress {
    /// Sends a packet on, or counts its drop. Never waits.
    pub fn send(&self, to: Next, packet: Packet) {
        // errors are counted where they arise
        match (to, &self.sessions) {
            (Next::Node(peer), _) => drop(self.links.forward(*peer.as_bytes(), packet)),
            (Next::Session(address), Some(sessions)) => sessions.send(&address, packet),
            (Next::Session(_), None) => self.links.count(DropReason::ForbiddenNextHop),
        }
    }
}
