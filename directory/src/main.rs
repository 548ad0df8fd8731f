//! `shoal-directory`: runs a directory authority and shows what it does.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use serde_json::Value;
use shoal_directory::io::failure::{Failure, Kind};

mod commands;

use commands::Cli;

fn main() -> ExitCode {
    // before any key is read
    shoal_protocol::memory::refuse_dumps();
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_usage(&error, wants_json),
    };
    log();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(cli)),
        Err(error) => Err(Failure::new(Kind::InputOutput, error.to_string(), "check the limits of this process")),
    };
    match result {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(output)) => match output.print(wants_json) {
            Ok(()) => ExitCode::SUCCESS,
            // whoever reads our output has gone away
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(Kind::InputOutput.code()),
        },
        Err(failure) => report(&failure, wants_json),
    }
}

/// Tells what went wrong: people on standard error, programs on standard output.
fn report(failure: &Failure, json: bool) -> ExitCode {
    // there is nobody left to tell when this cannot be written
    let _ = if json {
        writeln!(std::io::stdout(), "{}", failure.to_json())
    } else {
        writeln!(std::io::stderr(), "shoal-directory: {}\n  next: {}", failure.message, failure.next)
    };
    ExitCode::from(failure.kind.code())
}

fn refuse_usage(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() {
        // --help and --version
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::from(Kind::InputOutput.code()) };
    }
    if json {
        let text = error.to_string();
        // up to the first empty line: what is wrong, and the names of the arguments it is about
        let said: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let message = said.join(" ").trim_start_matches("error: ").to_owned();
        return report(&Failure::new(Kind::Usage, message, "see shoal-directory --help"), true);
    }
    // there is nobody left to tell when this cannot be written
    let _ = error.print();
    ExitCode::from(Kind::Usage.code())
}

/// What a command prints.
struct Output {
    /// With `--json`: one compact object.
    json: Value,
    /// Otherwise: lines for people.
    text: String,
    /// What the operator should know beside; `"warnings"` in JSON.
    warnings: Vec<String>,
}

impl Output {
    /// Without warnings.
    fn new(json: Value, text: String) -> Self {
        Self { json, text, warnings: Vec::new() }
    }

    fn print(mut self, json: bool) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        if json {
            if let Some(object) = self.json.as_object_mut().filter(|_| !self.warnings.is_empty()) {
                object.insert("warnings".to_owned(), self.warnings.into());
            }
            writeln!(stdout, "{}", self.json)?
        } else {
            writeln!(stdout, "{}", self.text.trim_end())?;
            for warning in &self.warnings {
                writeln!(stdout, "warning: {warning}")?;
            }
        }
        stdout.flush()
    }
}

/// Starts the log at the level of `SHOAL_LOG`. Only our own code writes to it: libraries name peers' addresses, and the
/// agreement's names every vote.
fn log() {
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, filter, fmt};
    let ours = |target: &str| target.starts_with("shoal_directory") || target.starts_with("shoal_protocol");
    let level = EnvFilter::try_from_env("SHOAL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).with_target(false);
    let lines = lines.with_filter(filter::filter_fn(move |metadata| ours(metadata.target())));
    tracing_subscriber::registry().with(level).with(lines).init();
}
