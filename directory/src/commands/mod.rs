//! The commands, one file each.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use shoal_directory::io::failure::Failure;
use shoal_directory::io::home::Home;

use crate::Output;

mod admit;
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
    /// Run the authority until SIGTERM or SIGINT. SIGHUP reads the admission list again.
    Run(run::Run),
    /// Admit a node by the line that its operator sent; or remove one.
    Admit(admit::Admit),
    /// Show the consensus in force.
    Show(show::Show),
    /// Verify certificates, hashes and order of all stored documents, or of a document in a file.
    Verify(verify::Verify),
    /// Show what the authority does, whom it lists and whom it refuses, and why.
    Status(status::Status),
    /// Show the network file, or add addresses to it that nodes and clients begin with.
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
        Command::Init(init) => init.run().map(Some),
        Command::Run(run) => run.run().await.map(|()| None),
        Command::Admit(admit) => admit.run().await.map(Some),
        Command::Show(show) => show.run().map(Some),
        Command::Verify(verify) => verify.run().map(Some),
        Command::Status(status) => status.run().await.map(Some),
        Command::Network(network) => network.run().map(Some),
    }
}
