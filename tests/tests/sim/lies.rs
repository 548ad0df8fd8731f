//! Lists that no honest authority would send.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rand::RngExt as _;
use shoal_directory::list_message::ListMessage;
use shoal_directory::randomness;
use shoal_directory::signed_list::{List, Place};
use shoal_protocol::consensus::codec::{self, Put as _};
use shoal_protocol::{Epoch, Role, UnixMillis};

use crate::forger::{Forger, newest};
use crate::nodes::Node;
use crate::world::{NETWORK, World};

/// Nodes that only liars name. Their numbers begin where the network's end.
pub(crate) fn invented(count: u16) -> Vec<Node> {
    (0..count).map(|n| Node::new([Role::Gateway, Role::Mix, Role::Store][usize::from(n % 3)], 500 + n)).collect()
}

/// Where a liar wants all to be looked for.
const LURE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66)), 66);

impl Forger {
    /// A signed list: some that nobody takes, some that everybody has to.
    pub(crate) fn forge_list(&mut self, world: &mut World) -> Option<Vec<u8>> {
        let before = newest(world);
        let genesis = world.genesis.clone();
        let rules = genesis.rules();
        let place = Place::after(&rules, before.as_deref());
        let base = self.heard(&place).pop()?;
        let mut descriptors: BTreeMap<_, _> =
            base.descriptors().iter().map(|signed| (signed.descriptor.identity, signed.clone())).collect();
        let secret = world.members[usize::from(self.me)].secret.clone();
        let epoch = base.list().epoch;
        let mut head = List {
            network: NETWORK,
            authority: self.me,
            height: place.height,
            epoch,
            // newer than what it said before
            made_at: UnixMillis(world.now),
            entries: Vec::new(),
            contribution: randomness::contribution(&secret, &NETWORK, before.as_ref().map(|before| &***before), epoch),
            parameters: base.list().parameters,
            authorities: None,
            // wants everybody to be looked for at its own address
            addresses: world.members.iter().map(|member| (member.identity(), LURE)).collect(),
        };
        match world.rng.random_range(0..9) {
            // leaves nodes out
            0 | 1 => descriptors.retain(|_, _| world.rng.random()),
            2 => descriptors.clear(),
            // invents nodes that sign for themselves
            3 | 4 => {
                for node in invented(world.rng.random_range(1..30)) {
                    let bytes = node.descriptor(&genesis.schedule, UnixMillis(world.now), "0.1.0");
                    let signed = self.cache.verify(&bytes).expect("signed by itself");
                    descriptors.insert(node.identity(), signed);
                }
            }
            // for another document
            5 => head.height = head.height.saturating_add_signed(world.rng.random_range(-1..=2)),
            6 => head.epoch = Epoch(epoch.0.saturating_add_signed(world.rng.random_range(-3..=3))),
            // wants everything otherwise, and hides its part of the randomness
            7 => {
                head.parameters.service_ms += 1;
                head.authorities = Some(genesis.authorities[1..].to_vec());
                head.contribution.reveal = Some(world.rng.random());
            }
            // says it was made long ago, or in a year
            _ => head.made_at = UnixMillis(world.rng.random_range(0..2) * (world.now + 31_536_000_000)),
        }
        let bytes = ListMessage::freeze(head, &descriptors, &secret).ok()?.to_bytes();
        // more than anybody reads, with something true at its beginning
        if world.rng.random_range(0..200) == 0 {
            let rest = vec![0; shoal_directory::list_message::MAX_MESSAGE_SIZE];
            return Some([bytes, rest].concat());
        }
        // names what does not verify
        if world.rng.random_range(0..12) == 0 {
            let garbage = codec::encode(|writer| writer.put_bytes(&[0x5a; 300]));
            return Some([bytes, garbage].concat());
        }
        Some(bytes)
    }
}
