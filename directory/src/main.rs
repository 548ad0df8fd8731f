//! `shoal-directory`: runs a directory authority and shows what it does.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use serde_json::Value;
use shoal_directory::io::failure::{Failure, Kind};

mod commands;

use commands::Cli;

/// Libraries whose log lines name addresses of peers, clients' among them: silent whatever the environment asks for.
const SILENT: [&str; 4] = ["quinn=off", "quinn_proto=off", "quinn_udp=off", "rustls=off"];

fn main() -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_usage(&error, wants_json),
    };
    let level = tracing_subscriber::EnvFilter::try_from_env("SHOAL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let level =
        SILENT.iter().filter_map(|text| text.parse().ok()).fold(level, tracing_subscriber::EnvFilter::add_directive);
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
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
}

impl Output {
    fn print(&self, json: bool) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        if json {
            writeln!(stdout, "{}", self.json)?
        } else {
            writeln!(stdout, "{}", self.text.trim_end())?
        }
        stdout.flush()
    }
}
