//! `verify`: whether stored documents are what they claim to be.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use shoal_directory::config::files as names;
use shoal_directory::io::chain::{check_link, heights, read};
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::files;
use shoal_protocol::consensus::{UnverifiedConsensus, VerifiedConsensus};

use super::Common;
use crate::Output;

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    common: Common,
    /// A certified document to verify against the network file, instead of the stored ones.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Verify {
    pub(super) fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        let anchor = home.network()?.trust_anchor();
        if let Some(path) = &self.file {
            let document = UnverifiedConsensus::parse(&files::read(path)?)
                .and_then(|unverified| unverified.verify_any_time(&anchor))
                .map_err(|error| {
                    Failure::new(Kind::Configuration, format!("{}: {error}", path.display()), "do not use it")
                })?;
            return Ok(output(1, Some(&document), Some(&document)));
        }
        let dir = home.path(names::DOCUMENTS);
        let heights = if dir.exists() { heights(&dir)? } else { Vec::new() };
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
            // every document names who certifies the next one
            let set = newest.as_ref().map_or(&anchor.authorities, |before| &before.authorities);
            document.certificate().verify(&anchor.network, set).map_err(|error| wrong(&error))?;
            match &newest {
                Some(before) => check_link(before, &document).map_err(|problem| wrong(&problem))?,
                None => first = Some(document.clone()),
            }
            newest = Some(document);
        }
        Ok(output(heights.len(), first.as_ref(), newest.as_ref()))
    }
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
    Output { json: json!({"documents": count, "first": first.map(describe), "newest": newest.map(describe)}), text }
}
