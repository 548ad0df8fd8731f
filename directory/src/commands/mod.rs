//! The commands, one file each.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use shoal_directory::config::files as names;
use shoal_directory::io::control;
use shoal_directory::io::failure::Failure;
use shoal_directory::io::home::Home;
use shoal_protocol::network::Hint;

use crate::Output;

mod admit;
mod check_config;
mod init;
mod network;
mod run;
mod show;
mod status;
mod units;
mod verify;

/// Runs a directory authority of a Shoal network and shows what it does.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 done, 64 usage, 69 unreachable, 74 input/output, 75 temporary, \
    77 permission, 78 configuration.\nLogs go to standard error; SHOAL_LOG=debug shows more."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the keys of an authority and the network file of a new network.
    Init(Box<init::Init>),
    /// Run the authority until SIGTERM or SIGINT. SIGHUP reads admitted.toml, parameters.toml,
    /// authorities.toml and the addresses in network.toml again.
    Run(run::Run),
    /// Read all files as `run` and SIGHUP would, and say what is wrong with each.
    CheckConfig(check_config::CheckConfig),
    /// Admit a node by the line that its operator sent; remove one; or list them.
    Admit(admit::Admit),
    /// Show the consensus in force.
    Show(show::Show),
    /// Verify certificates, hashes and order of all stored documents, or of a document in a file.
    Verify(verify::Verify),
    /// Show what the authority does, whom it lists and whom it refuses, and why.
    Status(status::Status),
    /// Show the network file, or add and remove addresses in it that nodes and clients begin with.
    Network(network::Network),
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn home(&self) -> Home {
        Home::new(&self.dir)
    }
}

/// Runs the command; returns what it prints.
pub(crate) async fn run(cli: Cli) -> Result<Option<Output>, Failure> {
    match cli.command {
        Command::Init(init) => init.run().await.map(Some),
        Command::Run(run) => run.run().await.map(|()| None),
        Command::CheckConfig(check) => check.run().map(Some),
        Command::Admit(admit) => admit.run().await.map(Some),
        Command::Show(show) => show.run().map(Some),
        Command::Verify(verify) => verify.run().map(Some),
        Command::Status(status) => status.run().await.map(Some),
        Command::Network(network) => network.run().await.map(Some),
    }
}

/// What a running authority made of changed files.
#[derive(Debug, Default)]
struct Told {
    /// Whether one runs here.
    running: bool,
    /// Files that it refused, and what stays in force.
    problems: Vec<String>,
}

impl Told {
    fn text(&self) -> &'static str {
        match (self.running, self.problems.is_empty()) {
            (true, true) => "and the running authority has taken it over",
            (true, false) => "and the running authority was told, but refused a file",
            (false, _) => "for the next start: no authority runs here",
        }
    }
}

/// Has the running authority, if there is one, read its files again.
async fn tell(home: &Home) -> Result<Told, Failure> {
    let Some(answer) = control::ask(&home.path(names::CONTROL), "reload").await? else { return Ok(Told::default()) };
    let problems = answer.get("problems").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |problem: &Value| problem.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
    Ok(Told { running: true, problems: problems.iter().map(text).collect() })
}

/// One address a party: the last one given.
fn put(hints: &mut Vec<Hint>, hint: Hint) {
    match hints.iter_mut().find(|held| held.identity == hint.identity) {
        Some(held) => *held = hint,
        None => hints.push(hint),
    }
}
