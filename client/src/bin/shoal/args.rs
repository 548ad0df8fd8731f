//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use shoal_client::io::{Exit, Failure};
use shoal_client::mail::MessageState;
use shoal_protocol::duration;

const EXAMPLES: &str = "\
Examples:
  shoal init --network reef.toml          make a profile; prints your address
  shoal add bob shoal1qq...               give an address a name
  shoal invite bob                        an invite for bob; they type: shoal add NAME shoal-invite1...
  shoal send bob 'hello' --wait stored    send, and wait until two stores have it on disk
  git log -1 | shoal send bob -           send what comes in
  shoal send-file bob holiday.jpg
  shoal group create 'reef crew'          found a group; shoal group add 'reef crew' bob
  shoal read                              show what is new
  shoal read --follow --json | jq .text   for programs
  shoal verify bob                        compare your safety number with bob's
  shoal address --qr                      your address, for a camera
  shoal status                            connection, anonymity now, queue
  shoal chat                              all of it in this terminal
  shoal web                               a link to all of it in a browser
  shoal export me.shoal                   move to another machine; there: shoal import me.shoal

The first command that needs it starts a daemon in the background; it keeps sending cover
traffic until `shoal down`. Exit codes: 0 done, 64 wrong use, 69 not reachable, 74 file or profile missing
or not readable, disk or pipe, 75 try again later, 77 not allowed, 78 wrong profile or
network file. Logs go to standard error; SHOAL_LOG=debug shows more.";

/// Send and read messages without anyone learning who talks to whom.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, about, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Folder of the profile; profiles share nothing [default: $XDG_DATA_HOME/shoal]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) profile: Option<PathBuf>,
    /// Print JSON, one object a line; failures too. Nothing asks for anything then
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Take the passphrase from the first line of this file instead of asking [env: SHOAL_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a profile and print its address
    ///
    /// Compare the fingerprint words with the person who gave you the network file: they name the network and the
    /// keys of its authorities.
    Init {
        /// The network file, as its operators publish it
        #[arg(long, value_name = "FILE")]
        network: PathBuf,
        /// The low rate class, for a phone: less traffic, slower messages. Which class you use is visible
        #[arg(long)]
        low: bool,
        /// Close the profile with a passphrase; asks for it, unless --passphrase-file is given
        #[arg(long, conflicts_with = "keyring")]
        passphrase: bool,
        /// Keep the profile's key in the keyring of the desktop session (Secret Service)
        #[arg(long, conflicts_with = "passphrase_file")]
        keyring: bool,
    },
    /// Run the daemon in the foreground
    ///
    /// Prints {"ready":true} when commands are served and the network was tried. Stops on Ctrl-C or `shoal down`.
    Up {
        /// Serve /livez, /readyz and /metrics here; loopback only
        #[arg(long, value_name = "HOST:PORT")]
        metrics: Option<SocketAddr>,
        /// Serve the web page; loopback only, a free port unless one is named
        ///
        /// The line that says ready then has a link, good for one use. Without a profile the page makes one.
        #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:0")]
        web: Option<SocketAddr>,
        /// The passphrase comes on standard input, from the command that starts this one
        #[arg(long, hide = true)]
        passphrase_stdin: bool,
    },
    /// Print a link to the web page, for a browser on this machine
    ///
    /// The link is good once, for ten minutes, and opens everything: it is for you alone.
    Web,
    /// Read and write in this terminal: conversations, contacts, files, status
    ///
    /// F1 shows the keys. When it is left, the daemon goes on.
    Chat,
    /// Stop the daemon (its cover traffic stops too)
    Down,
    /// Print your address: what you give to others; or give it up for another one
    Address {
        /// Draw it as a QR code too
        #[arg(long)]
        qr: bool,
        /// Take another address
        ///
        /// For an address that has come into wrong hands. People with whom there is a conversation follow by themselves,
        /// in groups too; whoever only has the old address does not reach you any more. It cannot be taken back.
        #[arg(long)]
        new: bool,
    },
    /// Add a contact by an address or an invite, or give one another name
    ///
    /// An invite is used at once, and works for whoever uses it first: get it over a channel that you trust.
    Add {
        /// Your name for the contact
        name: String,
        /// The address, shoal1..., or the invite, shoal-invite1...; - reads it from standard input
        #[arg(value_name = "ADDRESS|INVITE")]
        address: String,
    },
    /// Make an invite: for one person, once
    ///
    /// Whoever uses it is in your contacts without a request, and nobody can see that two of your invites are of one
    /// person. Give it only over a channel that you trust: it works for whoever has it first. It ends by itself.
    Invite {
        /// Your name for whoever uses it
        name: Option<String>,
        /// Draw it as a QR code too
        #[arg(long)]
        qr: bool,
        /// List those that nobody has used yet
        #[arg(long, conflicts_with_all = ["name", "qr"])]
        list: bool,
        /// Take one back, by its number
        #[arg(long, value_name = "NUMBER", conflicts_with_all = ["name", "qr", "list"])]
        withdraw: Option<u64>,
    },
    /// List contacts and requests of strangers
    Contacts,
    /// List conversations
    Conversations,
    /// Groups: conversations of many
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Accept a stranger's request: only then can they learn that you read it
    ///
    /// `shoal contacts` lists the requests, each with the command that accepts it.
    Accept {
        /// Address of the stranger, the conversation, or a name that you gave
        who: String,
    },
    /// Want nothing more from somebody; they do not learn of it
    ///
    /// In groups that you share what they write is not shown, and not later either; that it arrived is confirmed as before.
    Block {
        /// Name, address or conversation
        who: String,
    },
    /// Show the safety number of a contact, compare it, or note that you compared it
    ///
    /// Both sides see the same number when each has the other's true address on the same network. Compare it in person
    /// or on a call; then note it with --confirm.
    Verify {
        /// Name or address
        who: String,
        /// Note that you compared it
        #[arg(long)]
        confirm: bool,
        /// What the other side sees: the digits, the words, or the content of the QR code
        #[arg(long, value_name = "TEXT")]
        code: Option<String>,
    },
    /// Change what protects the profile's key
    Passphrase {
        #[command(subcommand)]
        command: PassphraseCommand,
    },
    /// Move the profile into one encrypted file, to import it on another machine
    ///
    /// The profile here is not used any more afterwards: the state of a conversation must not be in two places. Asks for
    /// a passphrase of the file; --passphrase-file is that one. An export that was interrupted is finished by running it
    /// again.
    Export {
        /// The new file
        file: PathBuf,
    },
    /// Make the profile of a file that `shoal export` wrote
    ///
    /// The file is used up by it, so that nobody imports it a second time. --passphrase-file is the file's passphrase.
    Import {
        /// The file
        file: PathBuf,
        /// Lay the key of a profile that a keyring protected into its folder; shoal passphrase set closes it
        #[arg(long)]
        without_keyring: bool,
    },
    /// Send a text
    ///
    /// Without --wait the message is queued on disk and the command returns; the daemon sends it, also after a
    /// restart.
    Send {
        /// Contact, address or conversation
        to: String,
        /// The text; - reads it from standard input, byte for byte
        #[arg(allow_hyphen_values = true)]
        text: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Send a file
    SendFile {
        /// Contact, address or conversation
        to: String,
        /// The file
        path: PathBuf,
        #[command(flatten)]
        patience: Patience,
    },
    /// Take back a file that is still on its way, or a message that waits
    ///
    /// A message waits while the other side's card is not found, or behind many others. Of a text that has left nothing can be
    /// taken back, and what the other side has as a whole stays there.
    Cancel {
        /// The ID as `send-file` or `send` printed it
        id: String,
    },
    /// Show messages of others that were not shown before
    ///
    /// What was shown is not shown again, unless with --since. Prints nothing when nothing is new.
    Read {
        /// Go on until interrupted
        #[arg(long)]
        follow: bool,
        /// Show what came after this message, and leave the mark of what was shown where it is
        ///
        /// The ID as `read --ids`, `read --json` or `send` prints it.
        #[arg(long, value_name = "ID")]
        since: Option<String>,
        /// Print the id of each message before it
        #[arg(long)]
        ids: bool,
    },
    /// Which network this is, and the gateways that its file names
    Network {
        #[command(subcommand)]
        command: Option<NetworkCommand>,
    },
    /// Show the rate class and what each costs in traffic and time, or change it
    ///
    /// The low class is for a phone or a metered line. Everybody on the way sees which class you use, and a change of it.
    Rate {
        /// The class to use from now on; the daemon is started again
        #[arg(value_enum)]
        class: Option<Class>,
    },
    /// Connection, anonymity now, queue, and what you may have missed
    Status {
        /// Forget the notices once they are shown
        #[arg(long)]
        seen: bool,
    },
    /// Look for what may be wrong, and say what to do
    Doctor,
}

/// GROUP is a conversation as `group list` prints it, or the group's name.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Found a group; you are alone in it until you add others
    Create {
        /// Its name; all members see it
        name: String,
    },
    /// Add somebody, and wait until they are invited
    ///
    /// Every member may add, remove and rename. Who is added sees what is written from then on. A stranger, and whoever left the
    /// group before, is asked first: shoal accept. To take it back: shoal group remove.
    Add {
        /// The group
        #[arg(value_name = "GROUP")]
        conversation: String,
        /// Contact or address
        who: String,
        /// How long to wait; it is tried further after that
        #[arg(long, default_value = "60s", value_parser = patience)]
        timeout: Duration,
    },
    /// Remove a member
    ///
    /// It takes some seconds, in which shoal group list shows them as leaving. What you write waits until it is done; what others
    /// write before they know of it they can still read. What they wrote before you read it is not shown to all.
    Remove {
        /// The group
        #[arg(value_name = "GROUP")]
        conversation: String,
        /// Contact or address
        who: String,
    },
    /// Leave a group; the others are told
    Leave {
        /// The group
        #[arg(value_name = "GROUP")]
        conversation: String,
    },
    /// Give a group another name, for all of its members
    Rename {
        /// The group
        #[arg(value_name = "GROUP")]
        conversation: String,
        /// The new name
        name: String,
    },
    /// List groups and their members
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PassphraseCommand {
    /// Close the profile with a new passphrase
    ///
    /// Only the key is wrapped anew. A daemon that runs is stopped and started again.
    Set {
        /// Take the new passphrase from the first line of this file instead of asking
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// Have the keyring of the desktop session keep the key instead of a passphrase
        #[arg(long, conflicts_with = "new_passphrase_file")]
        keyring: bool,
    },
    /// Let the profile open without a passphrase or keyring
    Remove,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Show it
    Show,
    /// Take up a newer file of the same network
    ///
    /// Its gateways replace those of the old file, at once. Everything else of the network stays what it was: a file of
    /// another network is refused.
    Update {
        /// The network file
        file: PathBuf,
    },
}

/// How long to wait for a message to get somewhere.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Patience {
    /// Wait until two stores have it on disk (stored) or the other side has it (delivered)
    #[arg(long, value_enum)]
    pub(crate) wait: Option<Wait>,
    /// How long to wait: 500ms, 60s, 5m, 1h, 2d; a plain number is seconds
    #[arg(long, default_value = "60s", value_parser = patience)]
    pub(crate) timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Class {
    Normal,
    Low,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    Stored,
    Delivered,
}

impl Wait {
    pub(crate) fn state(self) -> MessageState {
        match self {
            Self::Stored => MessageState::Stored,
            Self::Delivered => MessageState::Delivered,
        }
    }
}

/// A time as all commands write it; of a plain number nobody means anything but seconds.
fn patience(text: &str) -> Result<Duration, duration::DurationError> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { duration::parse(&format!("{text}s")) } else { duration::parse(text) }
}

/// The folder given, or the user's.
pub(crate) fn profile(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    given
        .or_else(|| folder("XDG_DATA_HOME").map(|data| data.join("shoal")))
        .or_else(|| folder("HOME").map(|home| home.join(".local/share/shoal")))
        .ok_or_else(|| {
            let next = "set HOME or XDG_DATA_HOME, or name a folder with --profile DIR";
            Failure::new(Exit::Configuration, "no_profile_folder", "there is no folder for the profile", next)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("shoal").chain(line.iter().copied()))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_anywhere() {
        for line in [
            &["--json", "--profile", "/p", "send", "bob", "hi", "--wait", "stored", "--timeout", "5s"][..],
            &["send", "--json", "--profile", "/p", "--wait", "stored", "--timeout", "5s", "bob", "hi"][..],
            &["send", "bob", "hi", "--timeout", "5s", "--wait=stored", "--json", "--profile=/p"][..],
        ] {
            let args = parse(line).unwrap();
            assert!(args.json);
            assert_eq!(args.profile, Some("/p".into()));
            let Command::Send { to, text, patience } = args.command else { panic!("{line:?}") };
            assert_eq!((to.as_str(), text.as_str()), ("bob", "hi"));
            assert_eq!((patience.wait, patience.timeout), (Some(Wait::Stored), Duration::from_secs(5)));
        }
    }

    #[test]
    fn any_text_can_be_sent() {
        for text in ["", "-", "--", "-5 degrees", "--wait for me", "שלום", "🐟🐟", "a\nb"] {
            let line = if text == "--" { vec!["send", "bob", "--", text] } else { vec!["send", "bob", text] };
            let Command::Send { text: parsed, .. } = parse(&line).unwrap().command else { panic!("{text:?}") };
            assert_eq!(parsed, text);
        }
        let long = "x".repeat(100_000);
        assert!(parse(&["send", "bob", &long]).is_ok());
    }

    #[test]
    fn a_time_has_a_unit_or_is_seconds() {
        for (text, seconds) in [("5", 5), ("60", 60), ("5s", 5), ("2m", 120)] {
            assert_eq!(patience(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "5 weeks", "-5", "5.5", "99999999999999999999"] {
            assert!(patience(text).is_err(), "{text}");
        }
    }

    #[test]
    fn wrong_use_is_refused() {
        for line in [
            &["send", "bob"][..],
            &["send", "bob", "hi", "--wait", "read"][..],
            &["send", "bob", "hi", "--timeout", "soon"][..],
            &["init"][..],
            &["fly"][..],
            &[][..],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }
}
