//! The command `shoal`: send and read messages through a Shoal network.
//!
//! Every command but `init` talks to the daemon of the profile, and starts it when it does not run.

#![expect(clippy::disallowed_methods, reason = "a command reads clocks: its deadlines")]

mod args;
mod asking;
mod chat;
mod daemon;
mod group_news;
mod groups;
mod init;
mod invites;
mod messages;
mod network;
mod output;
mod people;
mod protect;
mod qr;
mod rate;
mod status;
mod time;
mod transfer;
mod up;
mod verify;
mod web;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use args::{Args, Command, NetworkCommand, PassphraseCommand};
use clap::Parser as _;
use clap::error::ErrorKind;
use output::{Out, Problem};
use protect::Wish;
use shoal_client::io::{Exit, Failure};

fn main() -> ExitCode {
    // before the arguments are understood, this is all there is to go by
    let json = std::env::args_os().any(|argument| argument == "--json");
    let out = Out::new(json);
    let mut args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return misunderstood(&error, &out),
    };
    let out = out.with_passphrase_file(args.passphrase_file.take());
    // before a key is read
    shoal_protocol::memory::refuse_dumps();
    log(&args);
    match run(args, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => out.fail(&problem),
    }
}

/// Help and version are no failures; everything else is wrong use.
fn misunderstood(error: &clap::Error, out: &Out) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // nothing can be done when the terminal is gone
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if !out.json {
        let _ = error.print();
        return ExitCode::from(Exit::Usage.code());
    }
    let message = what_is_wrong(error);
    out.fail(&Failure::new(Exit::Usage, "usage", message, "see shoal --help").into())
}

/// What is wrong, with the names of the arguments it is about: all that clap says before its first empty line.
fn what_is_wrong(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing".to_owned();
    }
    let text = error.to_string();
    let said: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    said.join(" ").trim_start_matches("error: ").to_owned()
}

fn log(args: &Args) {
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{filter, fmt};
    let daemon = matches!(args.command, Command::Up { .. });
    let default = if daemon { "warn,shoal=info,shoal_client=info" } else { "warn" };
    let filter = std::env::var("SHOAL_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_default();
    // lines of libraries are never written, whatever the environment asks for: those for QUIC and TLS name addresses
    let ours = filter::filter_fn(|metadata| {
        let package = metadata.target().split("::").next().unwrap_or_default();
        ["shoal", "shoal_client", "shoal_protocol"].contains(&package)
    });
    let ansi = std::io::stderr().is_terminal();
    if ansi && matches!(args.command, Command::Chat) {
        // it would be written over the screen
        return;
    }
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
    // a daemon's log has times; a person who runs a command knows what time it is
    let lines = if daemon { lines.with_filter(ours).boxed() } else { lines.without_time().with_filter(ours).boxed() };
    tracing_subscriber::registry().with(filter).with(lines).init();
}

fn run(args: Args, out: &Out) -> Result<(), Problem> {
    let profile = args::profile(args.profile)?;
    let mut builder = match args.command {
        Command::Up { .. } => tokio::runtime::Builder::new_multi_thread(),
        Command::Init { .. }
        | Command::Chat
        | Command::Down
        | Command::Web
        | Command::Address { .. }
        | Command::Add { .. }
        | Command::Invite { .. }
        | Command::Contacts
        | Command::Conversations
        | Command::Group { .. }
        | Command::Accept { .. }
        | Command::Block { .. }
        | Command::Verify { .. }
        | Command::Passphrase { .. }
        | Command::Export { .. }
        | Command::Import { .. }
        | Command::Send { .. }
        | Command::SendFile { .. }
        | Command::Cancel { .. }
        | Command::Read { .. }
        | Command::Network { .. }
        | Command::Rate { .. }
        | Command::Status { .. }
        | Command::Doctor => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Temporary, "runtime", error.to_string(), "try again"))?;
    runtime.block_on(async {
        match args.command {
            Command::Init { network, low, passphrase, keyring } => {
                let wish = match (passphrase || out.passphrase_file.is_some(), keyring) {
                    (_, true) => Wish::Keyring,
                    (true, false) => Wish::Passphrase,
                    (false, false) => Wish::File,
                };
                init::init(&profile, &network, low, wish, out).await
            }
            Command::Up { metrics, web, passphrase_stdin } => {
                up::up(&profile, metrics, web, passphrase_stdin, out).await
            }
            Command::Chat => chat::chat(&profile, out).await,
            Command::Web => web::web(&profile, out).await,
            Command::Down => daemon::down(&profile, out).await,
            Command::Address { qr, new } => people::address(&profile, qr, new, out).await,
            Command::Add { name, address } => people::add(&profile, name, address, out).await,
            Command::Invite { list: true, .. } => invites::list(&profile, out).await,
            Command::Invite { withdraw: Some(number), .. } => invites::withdraw(&profile, number, out).await,
            Command::Invite { name, qr, .. } => invites::make(&profile, name, qr, out).await,
            Command::Contacts => people::contacts(&profile, out).await,
            Command::Conversations => people::conversations(&profile, out).await,
            Command::Group { command } => groups::group(&profile, command, out).await,
            Command::Accept { who } => people::accept(&profile, who, out).await,
            Command::Block { who } => people::block(&profile, who, out).await,
            Command::Verify { who, confirm, code } => verify::verify(&profile, who, confirm, code, out).await,
            Command::Passphrase { command: PassphraseCommand::Set { new_passphrase_file, keyring } } => {
                protect::set(&profile, new_passphrase_file, keyring, out).await
            }
            Command::Passphrase { command: PassphraseCommand::Remove } => protect::remove(&profile, out).await,
            Command::Export { file } => transfer::send_away(&profile, &file, out).await,
            Command::Import { file, without_keyring } => transfer::take_in(&profile, &file, without_keyring, out).await,
            Command::Send { to, text, patience } => messages::send(&profile, to, text, patience, out).await,
            Command::SendFile { to, path, patience } => messages::send_file(&profile, to, path, patience, out).await,
            Command::Cancel { id } => messages::cancel(&profile, id, out).await,
            Command::Read { follow, since, ids } => messages::read(&profile, follow, since, ids, out).await,
            Command::Network { command: None | Some(NetworkCommand::Show) } => network::show(&profile, out).await,
            Command::Network { command: Some(NetworkCommand::Update { file }) } => {
                network::update(&profile, &file, out).await
            }
            Command::Rate { class } => rate::rate(&profile, class, out).await,
            Command::Status { seen } => status::status(&profile, seen, out).await,
            Command::Doctor => status::doctor(&profile, out).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_use_names_the_argument() {
        for (line, name) in [
            (&["shoal", "init"][..], "--network <FILE>"),
            (&["shoal", "send", "bob"][..], "<TEXT>"),
            (&["shoal", "send", "bob", "hi", "--wait", "read"][..], "--wait"),
            (&["shoal", "send", "bob", "hi", "--timeout", "soon"][..], "--timeout"),
            (&["shoal"][..], "command"),
        ] {
            let message = what_is_wrong(&Args::try_parse_from(line).unwrap_err());
            assert!(message.contains(name) && !message.contains('\n'), "{line:?}: {message}");
        }
    }
}
