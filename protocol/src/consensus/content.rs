//! What must hold between the fields of a document, whoever signed it.

use super::codec::{Parsed, strictly_sorted};
use super::{AbsentNode, CONSENSUS_FORMAT, Consensus, DrawState, EPOCHS_COVERED, Generation, NodeEntry, Suspect};
use crate::parameters::Parameters;
use crate::types::{Epoch, Hash, Role, StoreIndex, UnixMillis};

impl Consensus {
    /// The first document of a network whose epoch `epoch` begins at `begins`, as far as that says: no authority certifies the
    /// next one, and there is no node, generation or draw. A beginning for whoever makes a document by hand; authorities
    /// say every field.
    #[must_use]
    pub fn blank(network: Hash, epoch: Epoch, begins: UnixMillis, parameters: Parameters) -> Self {
        Self {
            version: CONSENSUS_FORMAT,
            network,
            height: 1,
            epoch,
            previous: network,
            valid_from: begins,
            valid_until: UnixMillis(begins.0.saturating_add(EPOCHS_COVERED.saturating_mul(parameters.epoch_ms))),
            parameters,
            previous_mean_delay_ms: parameters.mean_delay_ms,
            mean_delay_since: Epoch(0),
            authorities: Vec::new(),
            addresses: Vec::new(),
            nodes: Vec::new(),
            absent: Vec::new(),
            suspects: Vec::new(),
            next_store_index: 0,
            generations: Vec::new(),
            randomness: [0; 32],
            draw: DrawState::default(),
            commitments: Vec::new(),
            reveals: Vec::new(),
            lists: Vec::new(),
        }
    }

    /// Checks every relation; names the first that does not hold.
    pub(super) fn check(&self) -> Parsed<()> {
        self.parameters.validate().map_err(|_| "parameters (out of range)")?;
        if self.height == 0 {
            return Err("height (starts at 1)");
        }
        let epoch_ms = self.parameters.epoch_ms;
        let lasts = self.valid_until.0.checked_sub(self.valid_from.0);
        if lasts != Some(EPOCHS_COVERED * epoch_ms) {
            return Err("valid_until (must be three epochs after valid_from)");
        }
        if self.epoch.0.checked_mul(epoch_ms).is_none_or(|since_genesis| since_genesis > self.valid_from.0) {
            return Err("valid_from (before genesis)");
        }
        if self.addresses.last().is_some_and(|last| usize::from(last.authority) >= self.authorities.len()) {
            return Err("addresses of authorities (of one that is not there)");
        }
        if !strictly_sorted(&self.nodes, |node| node.identity) {
            return Err("nodes (not sorted, or one twice)");
        }
        if !strictly_sorted(&self.absent, |node| node.identity) {
            return Err("absent nodes (not sorted, or one twice)");
        }
        self.check_generations()?;
        self.check_draw()?;
        for node in &self.nodes {
            self.check_node(node)?;
        }
        for node in &self.absent {
            check_absent(node)?;
            if self.node(&node.identity).is_some() {
                return Err("absent nodes (one is listed)");
            }
        }
        if !strictly_sorted(&self.suspects, |suspect| suspect.identity) {
            return Err("suspects (not sorted, or one twice)");
        }
        for suspect in &self.suspects {
            self.check_suspect(suspect)?;
        }
        self.check_indices()
    }

    /// Who was demoted has no seat, and only for a time that is not over.
    fn check_suspect(&self, suspect: &Suspect) -> Parsed<()> {
        if suspect.strikes == 0 || [suspect.before, suspect.behind].iter().any(|share| share.losing > share.of) {
            return Err("suspects (nothing to remember)");
        }
        let node = self.node(&suspect.identity);
        if node.is_some_and(|node| node.role != Role::Mix) {
            return Err("suspects (not a mix)");
        }
        let Some(until) = suspect.demoted_until else { return Ok(()) };
        if until <= self.epoch {
            return Err("suspects (demoted until an epoch that has begun)");
        }
        if node.is_some_and(|node| !node.standby) {
            return Err("suspects (a demoted mix has a seat)");
        }
        Ok(())
    }

    fn check_generations(&self) -> Parsed<()> {
        if !strictly_sorted(&self.generations, |generation| generation.number)
            || !strictly_sorted(&self.generations, |generation| generation.since)
        {
            return Err("generations (not in order)");
        }
        let Some((current, retired)) = self.generations.split_last() else { return Ok(()) };
        if current.number == 0 || current.retired.is_some() || retired.iter().any(|old| old.retired.is_none()) {
            return Err("generations (exactly the last one is current)");
        }
        for generation in &self.generations {
            check_generation(generation, self.epoch, self.next_store_index)?;
        }
        Ok(())
    }

    fn check_draw(&self) -> Parsed<()> {
        let DrawState { revealed_from, commit_before, reveal_from, due, ref excluded, .. } = self.draw;
        if commit_before > reveal_from || reveal_from >= due || revealed_from > self.epoch.plus(1) {
            return Err("draw (epochs contradict each other)");
        }
        if self.mean_delay_since > self.epoch {
            return Err("mean delay since (a later epoch)");
        }
        if !strictly_sorted(excluded, |authority| *authority) {
            return Err("excluded authorities (not sorted, or one twice)");
        }
        let committed = |authority: u16| self.commitments.iter().any(|entry| entry.authority == authority);
        if self.commitments.iter().any(|entry| excluded.contains(&entry.authority)) {
            return Err("commitments (of an excluded authority)");
        }
        if self.reveals.iter().any(|entry| !committed(entry.authority)) {
            return Err("reveals (by one that did not commit)");
        }
        let named = self.commitments.iter().map(|entry| entry.authority).chain(excluded.iter().copied());
        if named.into_iter().any(|authority| usize::from(authority) >= self.authorities.len()) {
            return Err("draw (an authority that is not in the set)");
        }
        Ok(())
    }

    fn check_node(&self, node: &NodeEntry) -> Parsed<()> {
        let seated = match node.role {
            Role::Gateway => node.layer.is_none() && !node.standby,
            Role::Mix => node.layer.is_some() != node.standby,
            Role::Store => node.layer.is_none() && node.standby != self.in_generation(node.store_index),
        };
        if !seated {
            return Err("node (role, layer and standby contradict each other)");
        }
        if node.store_index.is_some() != (node.role == Role::Store) {
            return Err("node (stores and only stores have an index)");
        }
        if node.since > self.epoch {
            return Err("node (known since a later epoch)");
        }
        let last = self.epoch.plus(EPOCHS_COVERED - 1);
        if node.mix_keys.first().map(|(epoch, _)| *epoch) != Some(self.epoch)
            || node.mix_keys.iter().any(|(epoch, _)| *epoch > last)
        {
            return Err("mix keys (must start at the document's epoch and end two later)");
        }
        let mix_epochs = node.mix_keys.iter().map(|(epoch, _)| epoch);
        let envelope_epochs = node.envelope_keys.iter().map(|(epoch, _)| epoch);
        let matching = match node.role {
            Role::Store => envelope_epochs.eq(mix_epochs),
            Role::Gateway | Role::Mix => node.envelope_keys.is_empty(),
        };
        if matching { Ok(()) } else { Err("envelope keys (a store has one per mix key, other roles none)") }
    }

    /// Every store index belongs to one node and was given out before.
    fn check_indices(&self) -> Parsed<()> {
        let listed = self.nodes.iter().filter_map(|node| node.store_index);
        let absent = self.absent.iter().filter_map(|node| node.store_index);
        let mut indices: Vec<StoreIndex> = listed.chain(absent).collect();
        indices.sort_unstable();
        if !strictly_sorted(&indices, |index| *index) {
            return Err("store index (given twice)");
        }
        if indices.last().is_some_and(|last| last.0 >= self.next_store_index) {
            return Err("store index (not below the next one)");
        }
        Ok(())
    }

    /// Whether a living generation names the store.
    fn in_generation(&self, index: Option<StoreIndex>) -> bool {
        index.is_some_and(|index| {
            self.generations.iter().any(|generation| generation.stores.binary_search(&index).is_ok())
        })
    }
}

fn check_generation(generation: &Generation, epoch: Epoch, next_store_index: u16) -> Parsed<()> {
    if generation.since > epoch
        || generation.retired.is_some_and(|retired| retired <= generation.since || retired > epoch)
    {
        return Err("generation (epochs contradict each other)");
    }
    if !strictly_sorted(&generation.stores, |index| *index) {
        return Err("generation stores (not sorted, or one twice)");
    }
    if generation.stores.last().is_some_and(|last| last.0 >= next_store_index) {
        return Err("generation stores (an index nobody has)");
    }
    Ok(())
}

fn check_absent(node: &AbsentNode) -> Parsed<()> {
    let kept = match node.role {
        Role::Gateway => false,
        Role::Mix => node.store_index.is_none(),
        Role::Store => node.layer.is_none() && node.store_index.is_some(),
    };
    if kept { Ok(()) } else { Err("absent node (nothing to keep for it)") }
}
