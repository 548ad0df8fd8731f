//! `shoal-ops`: a whole Shoal network on this machine, for people to watch and for tests to use, and the prober with its
//! status page.

mod arguments;
mod chart;
mod draw;
mod failure;
mod findings;
mod history;
mod io;
mod metrics;
mod page;
mod plan;
mod ready;
mod samples;
mod transcript;
mod view;

use std::{io::Write as _, process::ExitCode};

use arguments::{Arguments, Command};
use clap::Parser as _;
use failure::{ExitKind, Failure};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap writes help to standard output and mistakes to standard error
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
            if std::env::args().any(|argument| argument == "--json") {
                let text = error.to_string();
                // up to the first empty line: what is wrong, and the names of the arguments it is about
                let said: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
                let message = said.join(" ");
                let message = message.trim_start_matches("error: ");
                say(&Failure::new(ExitKind::Usage, message, "see shoal-ops --help").to_json());
            }
            return ExitCode::from(ExitKind::Usage.code());
        }
    };
    log();

    let json = arguments.json();
    let result =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Into::into).and_then(|runtime| {
            runtime.block_on(async {
                match arguments.command {
                    Command::Testnet(options) => io::testnet::command(&options).await,
                    Command::Demo(options) => io::demo::command(&options).await,
                    Command::Probe(options) => io::probe::command(&options).await,
                    Command::Bench(options) => io::bench::command(&options).await,
                }
            })
        });
    let failure = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) => Failure::from_error(&error),
    };
    eprintln!("shoal-ops: {}\n  next: {}", failure.message, failure.next);
    if json {
        say(&failure.to_json());
    }
    ExitCode::from(failure.kind.code())
}

/// Starts the log at the level of `SHOAL_LOG`. Only our own code writes to it: libraries for QUIC and TLS name addresses.
fn log() {
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, filter, fmt};
    let filter = EnvFilter::try_from_env("SHOAL_LOG").unwrap_or_else(|_| "warn".into());
    let ours = filter::filter_fn(|metadata| metadata.target().starts_with("shoal_"));
    let lines = fmt::layer().with_writer(std::io::stderr).with_filter(ours);
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// Writes a line to standard output; one that is closed is no reason for another exit code.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
