//! The prober: a client without a person, whose every packet measures. No node can tell it from others.

use std::{collections::BTreeMap, fs, io::Write as _, time::Duration};

use anyhow::Context as _;
use serde_json::json;
use shoal_client::io::Client;
use shoal_protocol::network::NetworkFile;
use tokio::{sync::broadcast::error::RecvError, task::JoinSet};

use super::{
    directory::Directory, network, progress::Progress, serve::Server, signals::Stop, testnet::WATCH_PERIOD,
    watch::Board,
};
use crate::{
    arguments::ProbeOptions,
    failure::{ExitKind, Failure},
    ready::{Note, Ready},
    view::Known,
};

/// How often the prober's own state is copied to the board.
const LOOK: Duration = Duration::from_secs(1);

/// How often documents are asked for on a network that cannot be asked for its parties' health.
const PUBLIC_PERIOD: Duration = Duration::from_secs(10);

/// Sends loops until dropped, and keeps the board informed.
pub(crate) async fn probe(network: NetworkFile, board: Board) -> anyhow::Result<()> {
    let client = Client::prober(network);
    let mut reports = client.reports();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            report = reports.recv() => match report {
                Ok(report) => board.probed(|history, _, _| {
                    history.ended(report.ended_at, &report.nodes, report.round_trip);
                }),
                // the reports missed are counted as sent and never as ended
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => anyhow::bail!("the prober has stopped"),
            },
            _ = looks.tick() => {
                let snapshot = client.snapshot();
                let anonymity = snapshot.anonymity();
                board.probed(|history, probing, now| {
                    history.sent_total(now, snapshot.loops.sent_total());
                    probing.running = true;
                    probing.connected = snapshot.connected();
                    probing.anonymity_bits = anonymity.map(|anonymity| anonymity.bits);
                    probing.hiding_among = anonymity.map(|anonymity| anonymity.hiding_among);
                    probing.trouble = snapshot.trouble;
                });
            }
        }
    }
}

/// `shoal-ops probe`.
pub(crate) async fn command(options: &ProbeOptions) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let progress = Progress::new();
    let file = network::read(&options.network)?;
    let known = match &options.testnet {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            known(&text).map_err(|error| {
                Failure::new(
                    ExitKind::Configuration,
                    format!("{}: {error}", path.display()),
                    "give the testnet.json in the directory of a test network that has become ready",
                )
            })?
        }
        None => Vec::new(),
    };
    let period = if known.is_empty() { PUBLIC_PERIOD } else { WATCH_PERIOD };
    let server = Server::bind(options.listen).await?;
    let url = server.url();
    let board = Board::new(&file, known);
    let mut tasks = JoinSet::new();
    tasks.spawn(board.clone().watch(Directory::open(file.clone())?, period));
    tasks.spawn(server.run(board.clone(), WATCH_PERIOD));
    tasks.spawn(probe(file, board));
    progress.say(&format!("status page at {url}"));
    if options.json {
        let mut stdout = std::io::stdout();
        // who started this and does not listen can still look at the page
        let _ = writeln!(stdout, "{}", json!({"ready": true, "status": url})).and_then(|()| stdout.flush());
    }
    tokio::select! {
        () = stop.wait() => Ok(()),
        Some(ended) = tasks.join_next() => ended.context("the prober was cut short")?,
    }
}

/// The parties that a testnet.json names.
fn known(text: &str) -> anyhow::Result<Vec<Known>> {
    let note: Note = serde_json::from_str(text)?;
    let Ready { authorities, nodes, .. } =
        note.ready.context("the test network was not ready when this was written")?;
    let mut known: Vec<Known> = (1..)
        .zip(authorities)
        .map(|(n, line)| Known { name: format!("authority-{n}"), identity: None, metrics: line.metrics })
        .collect();
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    for line in nodes {
        let number = numbers.entry(line.role.clone()).or_default();
        *number += 1;
        let name = format!("{}-{number}", line.role);
        known.push(Known { name, identity: Some(line.identity.parse()?), metrics: line.metrics });
    }
    Ok(known)
}
