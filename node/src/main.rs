//! `shoal-node`: makes, runs and inspects a relay.

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use shoal_node::config_versions::{CONFIG_VERSION, Upgraded};
use shoal_node::failure::{Failure, Kind};
use shoal_node::io::control::{self, Command};
use shoal_node::io::host::{self, Clock};
use shoal_node::io::setup::{self, InitRequest, Setup};
use shoal_node::io::store_migrate::{MigrateOptions, Tell};
use shoal_node::io::{doctor, logging, run, store_migrate};
use shoal_node::report as sentences;
use shoal_protocol::Role;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A node of a Shoal network: a gateway, a mix or a store.
///
/// The way of an operator: get the network file, `shoal-node init`, send the admission line it prints to the
/// authorities' operators, `shoal-node run`, and `shoal-node doctor` when anything seems wrong.
#[derive(Parser)]
#[command(
    name = "shoal-node",
    version,
    after_help = "Exit codes: 0 done, 64 usage, 69 unreachable, 74 input/output, \
    75 temporary, 77 permission, 78 configuration. Logs go to standard error; SHOAL_LOG=debug shows more."
)]
struct Cli {
    /// Print JSON, one object a line; failures too.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Sub,
}

#[derive(Args)]
struct Dir {
    /// Directory of the node: configuration, identity key, and below it boxes and runtime files.
    #[arg(long, default_value = shoal_node::io::setup::PACKAGED_DIR)]
    dir: PathBuf,
}

#[derive(Subcommand)]
enum Sub {
    /// Make a node's directory and print its admission line. Never asks anything, never overwrites anything.
    #[command(
        after_help = "Example: shoal-node init --network network.toml --role mix --address mix.example.org:4433 \
        --dir /var/lib/shoal"
    )]
    Init {
        /// Network file from the network's operators.
        #[arg(long, value_name = "FILE")]
        network: PathBuf,
        /// What the node does: gateway, mix or store. A node keeps its role.
        #[arg(long)]
        role: Role,
        /// HOST:PORT (UDP) under which others reach the node.
        #[arg(long, value_name = "HOST:PORT")]
        address: String,
        /// UDP address to listen on, if it differs from the public one. Default: all addresses, the port of --address.
        #[arg(long, value_name = "IP:PORT")]
        listen: Option<SocketAddr>,
        /// Loopback address of /livez, /readyz and /metrics. Default: 127.0.0.1:9464.
        #[arg(long, value_name = "IP:PORT")]
        metrics: Option<SocketAddr>,
        /// 64 hexadecimal digits shared by all nodes of one operator; routes visit a family at most once.
        #[arg(long, value_name = "HEX")]
        family: Option<String>,
        #[command(flatten)]
        dir: Dir,
    },
    /// Run the node in the foreground. SIGTERM drains, a second SIGTERM or SIGINT stops now; SIGHUP reads node.toml again.
    Run(Dir),
    /// Read configuration, network file and identity key as `run` would, and print the admission line again.
    CheckConfig(Dir),
    /// What the running node does: ready or why not, links, queue, packets forwarded and dropped.
    Status(Dir),
    /// Check everything a node needs: files, limits, address, clock, authorities, admission, the running node.
    Doctor(Dir),
    /// Leave the network: publish nothing more, serve until the consensus lets go, then stop.
    Drain(Dir),
    /// List every secret the running node holds: where it is, when it is erased, what it would tell whoever took it.
    Secrets(Dir),
    /// The descriptor that the running node published last.
    Descriptor(Dir),
    /// Where a store keeps its boxes.
    #[command(subcommand)]
    Store(Store),
}

#[derive(Subcommand)]
enum Store {
    /// Move boxes and inboxes into another engine. A running node serves meanwhile; what was acknowledged stays so. The old
    /// engine's records stay where they are until you remove them.
    #[command(after_help = "Example: shoal-node store migrate --to postgres \
        --url 'postgres://shoal@/shoal?host=/run/postgresql'")]
    Migrate {
        #[command(flatten)]
        dir: Dir,
        #[command(flatten)]
        options: MigrateOptions,
    },
}

/// Shows how far a move is: to programs on standard output, to people on standard error.
struct Shown {
    json: bool,
}

impl Tell for Shown {
    fn progress(&mut self, progress: &Value) {
        if self.json {
            return say(&progress.to_string());
        }
        let number = |key| progress.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (done, buckets, records) = (number("buckets_done"), number("buckets"), number("records"));
        let waits =
            progress.get("problem").and_then(Value::as_str).map(|text| format!("; waits: {text}")).unwrap_or_default();
        // nothing can be done about a standard error that is closed
        let _ =
            writeln!(std::io::stderr(), "{records} records copied and compared, {done} of {buckets} buckets{waits}");
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.json;
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, json);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // help and version
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args().any(|argument| argument == "--json") {
        let text = error.to_string();
        // up to the first empty line: what is wrong, and the names of the arguments it is about
        let said: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let message = said.join(" ");
        let message = message.trim_start_matches("error: ");
        report(&Failure::new(Kind::Usage, message, "see `shoal-node --help`"), true);
    } else {
        let _ = error.print();
    }
    ExitCode::from(Kind::Usage.exit_code())
}

fn report(failure: &Failure, json: bool) {
    if json {
        say(&failure.to_json().to_string());
    } else {
        // nothing can be done about a standard error that is closed
        let _ = writeln!(std::io::stderr(), "shoal-node: {}\n  next: {}", failure.message, failure.next);
    }
}

/// Writes a line to standard output. A reader that went away is not our failure.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let json = cli.json;
    match cli.command {
        Sub::Init { network, role, address, listen, metrics, family, dir: Dir { dir } } => {
            let request = InitRequest { network, role, address, listen, metrics, family, dir };
            admission(&setup::init(&request)?, json, "made");
            Ok(())
        }
        Sub::CheckConfig(Dir { dir }) => {
            let setup = setup::load(&dir)?;
            admission(&setup, json, "checked");
            if let (Some(upgrade), false) = (&setup.upgrade, json) {
                say(&upgrade_note(upgrade));
            }
            Ok(())
        }
        Sub::Run(Dir { dir }) => {
            let setup = setup::load(&dir)?;
            let set_filter = logging::start(&setup.config.log);
            node_runtime()?.block_on(run::run(setup, set_filter))
        }
        Sub::Status(Dir { dir }) => ask(&dir, Command::Status, json),
        Sub::Drain(Dir { dir }) => ask(&dir, Command::Drain, json),
        Sub::Secrets(Dir { dir }) => ask(&dir, Command::Secrets, json),
        Sub::Descriptor(Dir { dir }) => ask(&dir, Command::Descriptor, json),
        Sub::Store(Store::Migrate { dir: Dir { dir }, options }) => {
            let ended = runtime()?.block_on(store_migrate::migrate(&dir, &options, &mut Shown { json }))?;
            if json {
                say(&ended.to_string());
            } else if options.cancel {
                say("called off: the store stays where it is");
            } else {
                print(&ended);
                say("what the old engine holds is not used any more; ops/runbooks/store.md says how to remove it");
            }
            Ok(())
        }
        Sub::Doctor(Dir { dir }) => {
            let findings = runtime()?.block_on(doctor::examine(&dir));
            if json {
                say(&json!({"ok": findings.iter().all(|finding| finding.ok), "findings": findings}).to_string());
            } else {
                for finding in findings {
                    let mark = match (finding.ok, finding.next.is_empty()) {
                        (true, true) => "ok  ",
                        (true, false) => "LOOK",
                        (false, _) => "BAD ",
                    };
                    say(&format!("{mark} {}: {}", finding.check, finding.found));
                    if !finding.next.is_empty() {
                        say(&format!("     next: {}", finding.next));
                    }
                }
            }
            Ok(())
        }
    }
}

/// The runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(no_runtime)
}

/// The runtime of a node that runs.
fn node_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    host::runtime().map_err(no_runtime)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn no_runtime(error: std::io::Error) -> Failure {
    let next = "check the limits on threads and files";
    Failure::new(Kind::Temporary, format!("the runtime cannot start: {error}"), next)
}

fn admission(setup: &Setup, json: bool, verb: &str) {
    let Setup { dir, config, network, identity, .. } = setup;
    let identity = identity.identity();
    let line = setup::admission_line(config.role, &identity, &config.address, config.family.as_deref());
    let hints = &network.hints.authorities;
    if json {
        let send_to: Vec<Value> = hints
            .iter()
            .map(|hint| json!({"identity": hint.identity.to_string(), "address": hint.address.to_string()}))
            .collect();
        let answer = json!({
            "identity": identity.to_string(),
            "role": config.role.to_string(),
            "dir": dir.display().to_string(),
            "network": {"name": network.name, "genesis": network.genesis_hash().to_string(), "words": network.fingerprint_words()},
            "admission": line,
            "send_to": send_to,
            "config": {
                "version": setup.upgrade.as_ref().map_or(CONFIG_VERSION, |upgrade| upgrade.from),
                "upgrade": setup.upgrade.as_ref().map(|upgrade| json!({"to": CONFIG_VERSION, "changes": upgrade.changes})),
            },
        });
        say(&answer.to_string());
        return;
    }
    say(&format!("{verb}: a {} of network `{}` in {}", config.role, network.name, dir.display()));
    say(&format!("network fingerprint: {}", network.fingerprint_words()));
    say(&format!("\nadmission line:\n{line}\n"));
    say("Send it to the operators of these authorities; each runs `shoal-directory admit LINE`:");
    for hint in hints {
        say(&format!("  {} at {}", hint.identity, hint.address));
    }
    say(&format!("\nthen: shoal-node run --dir {}", dir.display()));
}

/// What `run` will do with a file of an older version.
fn upgrade_note(upgrade: &Upgraded) -> String {
    let Upgraded { from, changes, .. } = upgrade;
    let changes = if changes.is_empty() { "only the version changes".to_owned() } else { changes.join("; ") };
    format!(
        "\nnode.toml is of version {from}: `run` writes it anew as version {CONFIG_VERSION} ({changes}), and keeps the old \
         one as node.toml.v{from}"
    )
}

/// Asks the running node and prints its answer.
fn ask(dir: &Path, command: Command, json: bool) -> Result<(), Failure> {
    let config = setup::load_config(dir)?;
    let answer = runtime()?.block_on(control::ask(&config.runtime_path(dir), command)).map_err(|error| {
        let next = format!("start it: shoal-node run --dir {}", dir.display());
        Failure::new(Kind::Unreachable, format!("{error:#}"), next)
    })?;
    if json {
        say(&answer.to_string());
    } else {
        match command {
            Command::Status => say(&sentences::status(&answer)),
            Command::Secrets => say(&sentences::secrets(&answer, Clock::start().wall())),
            Command::Drain => say("draining: the node leaves the next consensus, serves until it is out, and stops"),
            Command::Descriptor | Command::Move | Command::Moving | Command::Stay => print(&answer),
        }
    }
    Ok(())
}

/// Prints the fields of an object for people, one a line.
fn print(answer: &Value) {
    for (key, field) in answer.as_object().into_iter().flatten() {
        let text = field.as_str().map_or_else(|| field.to_string(), str::to_owned);
        say(&format!("{}: {text}", key.replace('_', " ")));
    }
}
