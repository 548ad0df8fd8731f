//! `shoal-node`: makes, runs and inspects a relay.

mod args;
mod backup;
mod output;
mod store;

use args::{Cli, Command, Dir, Init};
use clap::Parser as _;
use output::say;
use shoal_node::failure::{Failure, Kind};
use shoal_node::io::backlog::Backlog;
use shoal_node::io::control::{self, Command as Question};
use shoal_node::io::host::{self, Clock};
use shoal_node::io::setup::{self, InitRequest};
use shoal_node::io::stopped::{self, Stopped};
use shoal_node::io::{doctor, logging, run, runtime_dir};
use shoal_node::report;
use shoal_protocol::memory;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // before any key is read
    memory::refuse_dumps();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::misunderstood(&error),
    };
    let json = cli.json;
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::fail(&failure, json);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let json = cli.json;
    match cli.command {
        Command::Init(Init { network, role, address, listen, metrics, family, dir: Dir { dir } }) => {
            let request = InitRequest { network, role, address, listen, metrics, family, dir };
            output::admission(&setup::init(&request)?, json, "made", "then: ");
            Ok(())
        }
        Command::CheckConfig(Dir { dir }) => {
            let setup = setup::load(&dir)?;
            run::as_listed(&setup)?;
            output::admission(&setup, json, "checked", "then: ");
            Ok(())
        }
        Command::Run(Dir { dir }) => {
            // first thing: what is read from now on must not reach a swap device
            memory::lock_memory();
            let backlog = Backlog::default();
            node_runtime(&backlog)?.block_on(async {
                let (lock, setup) = setup::load_locked(&dir).await?;
                let set_filter = logging::start(&setup.config.log);
                run::run(setup, lock, set_filter, backlog).await
            })
        }
        Command::Status(Dir { dir }) => ask(&dir, Question::Status, json),
        Command::Drain(Dir { dir }) => ask(&dir, Question::Drain, json),
        Command::Secrets(Dir { dir }) => match ask(&dir, Question::Secrets, json) {
            Err(failure) if failure.kind == Kind::Unreachable => left_behind(&dir, json),
            answered => answered,
        },
        Command::Descriptor(Dir { dir }) => ask(&dir, Question::Descriptor, json),
        Command::Doctor(Dir { dir }) => {
            output::findings(&runtime()?.block_on(doctor::examine(&dir)), json);
            Ok(())
        }
        Command::Keys(keys) => backup::run(keys, json),
        Command::Store(store) => store::run(&store, json),
    }
}

/// The runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| no_runtime(&error))
}

/// The runtime of a node that runs.
fn node_runtime(backlog: &Backlog) -> Result<tokio::runtime::Runtime, Failure> {
    host::runtime(backlog).map_err(|error| no_runtime(&error))
}

fn no_runtime(error: &std::io::Error) -> Failure {
    let next = "check the limits on threads and files";
    Failure::new(Kind::Temporary, format!("the runtime cannot start: {error}"), next)
}

/// The secrets of a node that does not run.
fn left_behind(dir: &Path, json: bool) -> Result<(), Failure> {
    let now = stopped::now();
    let secrets = Stopped::of(dir)?.secrets(now)?;
    if json {
        say(&secrets.to_string());
    } else {
        say("the node does not run; this lies in its directories:\n");
        say(&report::secrets(&secrets, now));
    }
    Ok(())
}

/// Asks the running node and prints its answer.
fn ask(dir: &Path, question: Question, json: bool) -> Result<(), Failure> {
    let setup = setup::load(dir)?;
    let runtime_dir = setup.config.runtime_path(dir);
    runtime_dir::is_mine(&runtime_dir, &setup.identity.identity())?;
    let answer = runtime()?.block_on(control::ask(&runtime_dir, question)).map_err(|error| {
        let next = format!("start it: {}", setup::start_command(dir));
        // what only root or the node's user may ask is not a node that does not run
        match Failure::io(&error, &next) {
            failure if failure.kind == Kind::Permission => failure,
            failure => Failure { kind: Kind::Unreachable, ..failure },
        }
    })?;
    if json {
        say(&answer.to_string());
    } else {
        match question {
            Question::Status => say(&report::status(&answer)),
            Question::Secrets => say(&report::secrets(&answer, Clock::start().wall())),
            Question::Drain => say("draining: the node leaves the next consensus, serves until it is out, and stops"),
            Question::Descriptor | Question::Move | Question::Moving | Question::Stay => output::fields(&answer),
        }
    }
    Ok(())
}
