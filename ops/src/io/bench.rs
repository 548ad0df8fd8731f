//! `shoal-ops bench`: the figures of the design, as ratios and sizes measured in one run, on the machine that is named.
//!
//! Here the directory's: what a document of many nodes costs its makers, its readers and a client's line. The store's are in
//! [`bench_store`].

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use rand::{SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use shoal_directory::{
    document::{Rules, next_document},
    list_message::{DescriptorCache, ListMessage},
    proposal::{UnverifiedProposal, VerifiedProposal},
    randomness,
    signed_list::{List, Place},
};
use shoal_protocol::{
    authority::{AuthoritySecret, quorum},
    certificate::Certificate,
    consensus::{Consensus, TrustAnchor, UnverifiedConsensus, VerifiedConsensus, assemble, difference},
    descriptor::{Descriptor, SignedDescriptor, UnverifiedDescriptor},
    epoch::Schedule,
    parameters::Parameters,
    types::{Epoch, Hash, Identity, IdentityKey, Role, UnixMillis},
    x25519::X25519Secret,
};

use super::{bench_store, clock::Stopwatch, progress::Progress};
use crate::arguments::{BenchOptions, Part};

/// Each time is the median of so many runs.
const RUNS: usize = 5;
/// Sizes of the sample network; a third of the mixes in each layer. What is more than the widest layers take are gateways.
const GATEWAYS: u16 = 20;
const WIDTH_MAX: u16 = 256;
const STORES: u16 = 50;

/// What a document of many nodes costs.
#[derive(Debug, Serialize)]
struct DirectoryFigures {
    nodes: usize,
    authorities: usize,
    /// The certified document.
    document_bytes: usize,
    /// One authority's list with its descriptors, as it travels.
    list_bytes: usize,
    /// A proposal, as it travels.
    proposal_bytes: usize,
    /// Taking another authority's list whose descriptors are all new.
    list_first_ms: f64,
    /// The same when another list has brought the descriptors already.
    list_again_ms: f64,
    /// Computing the document from a proposal.
    build_ms: f64,
    /// Judging a proposal of others: signatures of its lists, and the document computed again.
    judge_ms: f64,
    /// Verifying the certified document from its bytes, as a client does.
    verify_ms: f64,
    /// What leads a reader from one document to the next, in which every node has one new key.
    difference_bytes: usize,
    /// Making it.
    difference_ms: f64,
    /// Making the document of it, without verifying that.
    apply_ms: f64,
    /// What a client downloads a day: one document whole and then the differences.
    client_bytes_a_day: usize,
    /// The same if every document were handed over whole.
    client_bytes_a_day_whole: usize,
}

#[derive(Debug, Serialize)]
struct Figures {
    machine: String,
    profile: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<DirectoryFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<bench_store::StoreFigures>,
}

struct Sample {
    secrets: Vec<AuthoritySecret>,
    parameters: Parameters,
    network: Hash,
    schedule: Schedule,
    descriptors: BTreeMap<Identity, Arc<SignedDescriptor>>,
}

impl Sample {
    fn new(nodes: u16, authorities: usize) -> anyhow::Result<Self> {
        let mut rng = StdRng::seed_from_u64(1);
        let mut secrets: Vec<_> = (0..authorities).map(|_| AuthoritySecret::generate(&mut rng)).collect();
        secrets.sort_by_key(|secret| secret.public().identity);
        let width = (nodes.saturating_sub(GATEWAYS + STORES) / 3).min(WIDTH_MAX);
        let gateways = if width < WIDTH_MAX { GATEWAYS } else { nodes - STORES - 3 * WIDTH_MAX };
        let parameters = Parameters { mixes_per_layer: width, ..Parameters::production() };
        let network = Hash::of("shoal bench", b"network");
        let schedule = Schedule { genesis: UnixMillis(1_750_000_000_000), epoch_ms: parameters.epoch_ms };
        let roles = [(Role::Gateway, gateways), (Role::Mix, width * 3), (Role::Store, STORES)];
        let mut descriptors = BTreeMap::new();
        let all = roles.iter().flat_map(|(role, count)| (0..*count).map(|_| *role));
        for (number, role) in (0_u16..).zip(all) {
            let key = IdentityKey::generate(&mut rng);
            let mut keys = || (0..4).map(|n| (Epoch(n), X25519Secret::generate(&mut rng).public())).collect::<Vec<_>>();
            let [high, low] = number.to_be_bytes();
            let descriptor = Descriptor {
                network,
                identity: key.identity(),
                role,
                addresses: vec![SocketAddr::from(([10, 0, high, low], 4000))],
                family: None,
                published: schedule.genesis,
                version: env!("CARGO_PKG_VERSION").into(),
                mix_keys: keys(),
                envelope_keys: if role == Role::Store { keys() } else { Vec::new() },
                loops: Vec::new(),
                leaving: false,
            };
            let bytes = descriptor.sign(&key);
            let signed = UnverifiedDescriptor::parse(&bytes)?.verify(&network, schedule.genesis, Duration::ZERO)?;
            descriptors.insert(key.identity(), Arc::new(signed));
        }
        Ok(Self { secrets, parameters, network, schedule, descriptors })
    }

    fn measure(&self) -> anyhow::Result<DirectoryFigures> {
        let keys: Vec<_> = self.secrets.iter().map(|secret| secret.public().clone()).collect();
        let rules = Rules {
            network: self.network,
            schedule: self.schedule,
            parameters: self.parameters,
            authorities: &keys,
            genesis_stores: 3,
            genesis_gateways: 1,
        };
        let place = Place::after(&rules, None);
        let messages = self.lists(None, Epoch(0))?;
        let (first, second) = (messages.first().context("a list")?.to_bytes(), messages.last().context("a list")?);
        let second = second.to_bytes();
        let list_first_ms = median(|| {
            let mut cache = DescriptorCache::new(self.network);
            ListMessage::open(&first, &place, &mut cache).map(drop)
        })?;
        let mut cache = DescriptorCache::new(self.network);
        ListMessage::open(&first, &place, &mut cache)?;
        let list_again_ms = median(|| ListMessage::open(&second, &place, &mut cache).map(drop))?;

        let all: Vec<_> = messages.iter().collect();
        let proposal = VerifiedProposal::compose(&place, Epoch(0), &all)?;
        let build_ms = median(|| next_document(&rules, None, &proposal).map(drop))?;
        let judge_ms = median(|| -> anyhow::Result<()> {
            let proposal = UnverifiedProposal::parse(proposal.bytes())?.verify(&place, &mut cache)?;
            let _ = next_document(&rules, None, &proposal)?.document.hash();
            Ok(())
        })?;

        let document = next_document(&rules, None, &proposal)?.document;
        let certified = self.certify(&document);
        let anchor = TrustAnchor { network: self.network, authorities: keys.clone() };
        let now = document.valid_from;
        let verify_ms = median(|| {
            UnverifiedConsensus::parse(&certified).and_then(|parsed| parsed.verify(&anchor, now, None)).map(drop)
        })?;

        // the document after it, of the same descriptors: every node's next key comes into it
        let held = Arc::new(UnverifiedConsensus::parse(&certified)?.verify(&anchor, now, None)?);
        let lists = self.lists(Some(&held), Epoch(1))?;
        let place = Place::after(&rules, Some(&held));
        let proposal_after = VerifiedProposal::compose(&place, Epoch(1), &lists.iter().collect::<Vec<_>>())?;
        let next = next_document(&rules, Some(&held), &proposal_after)?.document;
        let next = UnverifiedConsensus::parse(&self.certify(&next))?;
        let next = next.verify(&anchor, self.schedule.start(Epoch(1)), Some(held.mark()))?;
        let step = difference(&held, &next).context("a difference")?;
        let difference_ms = median(|| difference(&held, &next).map(drop).context("a difference"))?;
        let apply_ms = median(|| held.apply(&step).map(drop))?;
        ensure!(held.apply(&step)? == next.bytes(), "the difference leads elsewhere");
        let a_day = usize::try_from(86_400_000 / self.parameters.epoch_ms)?;
        Ok(DirectoryFigures {
            nodes: document.nodes.len(),
            authorities: keys.len(),
            document_bytes: certified.len(),
            list_bytes: first.len(),
            proposal_bytes: proposal.bytes().len(),
            list_first_ms,
            list_again_ms,
            build_ms,
            judge_ms,
            verify_ms,
            difference_bytes: step.len(),
            difference_ms,
            apply_ms,
            client_bytes_a_day: certified.len() + (a_day - 1) * step.len(),
            client_bytes_a_day_whole: a_day * certified.len(),
        })
    }

    /// Every authority's list for the document after `before`.
    fn lists(&self, before: Option<&VerifiedConsensus>, epoch: Epoch) -> anyhow::Result<Vec<ListMessage>> {
        let before = before.map(|before| &**before);
        let lists = (0_u16..).zip(&self.secrets).map(|(authority, secret)| {
            let head = List {
                network: self.network,
                authority,
                height: before.map_or(1, |before| before.height + 1),
                epoch,
                made_at: self.schedule.start(epoch),
                entries: Vec::new(),
                contribution: randomness::contribution(secret, &self.network, before, epoch),
                parameters: self.parameters,
                authorities: None,
                addresses: BTreeMap::new(),
            };
            ListMessage::freeze(head, &self.descriptors, secret)
        });
        Ok(lists.collect::<Result<_, _>>()?)
    }

    /// The certified bytes, signed by a quorum.
    fn certify(&self, document: &Consensus) -> Vec<u8> {
        let signers: Vec<_> = (0_u16..).zip(&self.secrets).take(quorum(self.secrets.len())).collect();
        assemble(document, &Certificate::sign(&self.network, document.mark(), 0, &signers))
    }
}

/// Median of the times that `work` takes, in ms.
fn median<E: Into<anyhow::Error>>(mut work: impl FnMut() -> Result<(), E>) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let watch = Stopwatch::start();
        work().map_err(Into::into)?;
        times.push(watch.elapsed());
    }
    times.sort_unstable();
    let middle = times.get(RUNS / 2).context("at least one run")?;
    Ok((middle.as_secs_f64() * 1e6).round() / 1e3)
}

/// The processor's name, as the system tells it.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", name.map_or("unknown processor", str::trim))
}

/// Measures and prints.
pub(crate) fn command(options: &BenchOptions) -> anyhow::Result<()> {
    let parts = options.parts();
    let directory = parts.contains(&Part::Directory).then(|| {
        ensure!(options.nodes >= 100, "a document with fewer than 100 nodes costs nothing worth measuring");
        Sample::new(options.nodes, usize::from(options.authorities))?.measure()
    });
    let store = parts.contains(&Part::Store).then(|| bench_store::measure(options.boxes, Progress::new()));
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let (directory, store) = (directory.transpose()?, store.transpose()?);
    let figures = Figures { machine: machine(), profile, directory, store };
    if options.json {
        crate::say(&serde_json::to_string(&figures)?);
        return Ok(());
    }
    let Figures { machine, profile, directory, store } = figures;
    crate::say(&format!("{machine}; {profile} build"));
    if let Some(of) = directory {
        crate::say(&of.describe());
    }
    if let Some(of) = store {
        crate::say(&of.describe());
    }
    Ok(())
}

impl DirectoryFigures {
    /// For people.
    fn describe(&self) -> String {
        let of = self;
        let mib = |bytes: usize| bytes as f64 / 1024.0 / 1024.0;
        format!(
            "a document of {} nodes and {} authorities, medians of {RUNS}\n  \
             certified document  {:>9} bytes\n  \
             difference          {:>9} bytes, made in {:.2} ms, applied in {:.2} ms\n  \
             a client downloads  {:>9.2} MiB a day, {:.2} MiB if every document came whole\n  \
             verified in         {:>9.2} ms\n  \
             computed in         {:>9.2} ms from a proposal of {} bytes, judged in {:.2} ms\n  \
             another's list      {:>9.2} ms when all its descriptors are new, {:.2} ms when they are known ({} bytes)",
            of.nodes,
            of.authorities,
            of.document_bytes,
            of.difference_bytes,
            of.difference_ms,
            of.apply_ms,
            mib(of.client_bytes_a_day),
            mib(of.client_bytes_a_day_whole),
            of.verify_ms,
            of.build_ms,
            of.proposal_bytes,
            of.judge_ms,
            of.list_first_ms,
            of.list_again_ms,
            of.list_bytes,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_many_nodes_holds_them_all() {
        let figures = Sample::new(160, 4).expect("a sample").measure().expect("measured");
        assert_eq!((figures.nodes, figures.authorities), (160, 4));
        assert!(figures.document_bytes > 10_000 && figures.verify_ms > 0.0);
        // a key for each node, one more for each store, and the certificate of three
        let new = (160 + usize::from(STORES)) * 32 + 3 * 2_490;
        assert!((new..new + 600).contains(&figures.difference_bytes), "{} of {new}", figures.difference_bytes);
        assert!(figures.client_bytes_a_day * 2 < figures.client_bytes_a_day_whole);
    }
}
