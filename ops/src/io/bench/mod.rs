//! `shoal-ops bench`: the figures of the design, as ratios and sizes measured in one run, on the machine that is named.
//!
//! Each part is one key of the JSON object, in a file of its own.

mod client;
mod directory;
mod machine;
mod node;
mod stage;
mod store;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use super::progress::Progress;
use crate::arguments::{BenchOptions, Part};

/// Measures and prints.
pub(crate) async fn command(options: &BenchOptions) -> anyhow::Result<()> {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let mut figures = Map::new();
    figures.insert("machine".into(), json!(machine::name()));
    figures.insert("profile".into(), json!(profile));
    if !options.json {
        crate::say(&format!("{}; {profile} build", machine::name()));
    }
    for part in options.parts() {
        let (name, measured, text): (_, Value, _) = match part {
            Part::Directory => {
                ensure!(options.nodes >= 100, "a document with fewer than 100 nodes costs nothing worth measuring");
                let figures = directory::measure(options.nodes, usize::from(options.authorities))?;
                ("directory", serde_json::to_value(&figures)?, figures.to_string())
            }
            Part::Node => {
                let figures = node::measure(options.runs).await?;
                ("node", serde_json::to_value(&figures)?, figures.to_string())
            }
            Part::Store => {
                let boxes = options.boxes;
                let measured = tokio::task::spawn_blocking(move || store::measure(boxes, Progress::new()));
                let figures = measured.await.context("measuring")??;
                ("store", serde_json::to_value(&figures)?, figures.describe())
            }
            Part::Client => {
                let bytes = usize::from(options.file_kib) << 10;
                let figures = client::measure(options.runs, bytes, Progress::new()).await?;
                ("client", serde_json::to_value(&figures)?, figures.to_string())
            }
        };
        if !options.json {
            crate::say(&text);
        }
        figures.insert(name.into(), measured);
    }
    if options.json {
        crate::say(&Value::Object(figures).to_string());
    }
    Ok(())
}
