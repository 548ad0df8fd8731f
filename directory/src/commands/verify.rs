//! `verify`: whether stored documents are what they claim to be.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use shoal_directory::config::files as names;
use shoal_directory::io::chain::{changes_dir, check_link, heights, read};
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::files;
use shoal_protocol::authority::AuthorityKey;
use shoal_protocol::certificate::Certificate;
use shoal_protocol::consensus::{DocumentError, TrustAnchor, UnverifiedConsensus, VerifiedConsensus};

use super::Common;
use super::network::no_gateways;
use crate::Output;

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    common: Common,
    /// A certified document, or a certificate alone as clients keep it in conflict/, to verify against the network file
    /// instead of the stored documents.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Verify {
    pub(super) fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        let network = home.network()?;
        let anchor = network.trust_anchor();
        if let Some(path) = &self.file {
            let wrong = |error: DocumentError| {
                Failure::new(Kind::Configuration, format!("{}: {error}", path.display()), "do not use it")
            };
            let bytes = files::read(path)?;
            let changes = changes(&home.path(names::DOCUMENTS), &anchor)?;
            if let Ok(certificate) = Certificate::decode(&bytes) {
                let set = set_before(&changes, certificate.height, &anchor);
                certificate.verify(&anchor.network, set).map_err(wrong)?;
                return Ok(bare(&certificate));
            }
            let parsed = UnverifiedConsensus::parse(&bytes).map_err(wrong)?;
            let authorities = set_before(&changes, parsed.height(), &anchor).to_vec();
            let document = parsed.verify_any_time(&TrustAnchor { authorities, ..anchor }).map_err(wrong)?;
            return Ok(output(1, Some(&document), Some(&document)));
        }
        let dir = home.path(names::DOCUMENTS);
        let heights = if dir.exists() { heights(&dir)? } else { Vec::new() };
        let changes = changes(&dir, &anchor)?;
        let (mut first, mut newest): (Option<VerifiedConsensus>, Option<VerifiedConsensus>) = (None, None);
        for height in &heights {
            let document = read(&dir, *height, &anchor.network)?;
            let wrong = |problem: &dyn std::fmt::Display| {
                Failure::new(
                    Kind::Configuration,
                    format!("document {height}: {problem}"),
                    "restore the directory from a copy",
                )
            };
            // every document names who certifies the next one; what lies before the first one kept is in the changes
            let set = match &newest {
                Some(before) => before.authorities.as_slice(),
                None => set_before(&changes, *height, &anchor),
            };
            document.certificate().verify(&anchor.network, set).map_err(|error| wrong(&error))?;
            match &newest {
                Some(before) => check_link(before, &document).map_err(|problem| wrong(&problem))?,
                None => first = Some(document.clone()),
            }
            newest = Some(document);
        }
        let mut output = output(heights.len(), first.as_ref(), newest.as_ref());
        output.warnings.extend(no_gateways(&network));
        Ok(output)
    }
}

/// The documents that changed the set of authorities, each certified by the set before.
fn changes(dir: &Path, anchor: &TrustAnchor) -> Result<Vec<VerifiedConsensus>, Failure> {
    let dir = changes_dir(dir);
    let mut changes: Vec<VerifiedConsensus> = Vec::new();
    for height in if dir.exists() { heights(&dir)? } else { Vec::new() } {
        let document = read(&dir, height, &anchor.network)?;
        let set = set_before(&changes, height, anchor);
        document.certificate().verify(&anchor.network, set).map_err(|error| {
            let problem = format!("the change of authorities in document {height}: {error}");
            Failure::new(Kind::Configuration, problem, "restore the directory from a copy")
        })?;
        changes.push(document);
    }
    Ok(changes)
}

/// Who certified the document of `height`.
fn set_before<'a>(changes: &'a [VerifiedConsensus], height: u64, anchor: &'a TrustAnchor) -> &'a [AuthorityKey] {
    let before = changes.iter().rev().find(|change| change.height < height);
    before.map_or(&anchor.authorities, |change| &change.authorities)
}

/// A certificate says of a document its height, epoch and hash.
fn bare(certificate: &Certificate) -> Output {
    let Certificate { height, epoch, document, signatures, .. } = certificate;
    Output::new(
        json!({"certificate": {"height": height, "epoch": epoch, "hash": document, "signatures": signatures.len()}}),
        format!("{} authorities certified document {height} of epoch {epoch}: {document}", signatures.len()),
    )
}

fn output(count: usize, first: Option<&VerifiedConsensus>, newest: Option<&VerifiedConsensus>) -> Output {
    let describe = |document: &VerifiedConsensus| {
        let (hash, signatures) = (document.hash(), document.signatures());
        json!({"height": document.height, "epoch": document.epoch, "hash": hash, "signatures": signatures})
    };
    let text = match (first, newest) {
        (Some(first), Some(newest)) => format!(
            "{count} documents verify: heights {} to {}, epochs {} to {}\nnewest: {}",
            first.height,
            newest.height,
            first.epoch,
            newest.epoch,
            newest.hash()
        ),
        _ => "there is no document yet".to_owned(),
    };
    Output::new(json!({"documents": count, "first": first.map(describe), "newest": newest.map(describe)}), text)
}
