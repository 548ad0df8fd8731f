//! What can be typed.

use clap::{Args, Parser, Subcommand};
use shoal_node::io::setup::PACKAGED_DIR;
use shoal_node::io::store_migrate::MigrateOptions;
use shoal_protocol::Role;
use std::net::SocketAddr;
use std::path::PathBuf;

const EXAMPLES: &str = "\
The way of an operator:
  shoal-node init --network network.toml --role mix --address mix.example.org:4433
                                        make a node; send the admission line it prints to the
                                        operators of the authorities
  systemctl enable --now shoal-node     or, in a terminal: shoal-node run
  shoal-node status                     where it stands, and what to do next
  shoal-node doctor                     looks at everything a node needs
  shoal-node keys export --to node.age  a backup: with it the node lives on elsewhere

Every command takes --dir DIR, the node's directory [default: /var/lib/shoal], and --json.
Exit codes: 0 done, 64 usage, 69 unreachable, 74 input/output, 75 temporary, 77 permission,
78 configuration. Logs go to standard error; SHOAL_LOG=debug shows more.";

/// A node of a Shoal network: a gateway, a mix or a store.
#[derive(Debug, Parser)]
#[command(name = "shoal-node", version, about, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Print JSON, one object a line; failures too.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Dir {
    /// Directory of the node: configuration, identity key, and below it boxes and runtime files.
    #[arg(long, default_value = PACKAGED_DIR)]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Network file from the network's operators.
    #[arg(long, value_name = "FILE")]
    pub(crate) network: PathBuf,
    /// What the node does: gateway, mix or store. A node keeps its role.
    #[arg(long)]
    pub(crate) role: Role,
    /// HOST:PORT (UDP) under which others reach the node. A name may have an IPv4 and an IPv6 address; a bare IPv6 address
    /// is written [2001:db8::1]:4433.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: String,
    /// UDP address to listen on, if it differs from the public one. Default: all addresses, the port of --address.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Loopback address of /livez, /readyz and /metrics. Default: 127.0.0.1:9464.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// 64 hexadecimal digits shared by all nodes of one operator; routes visit a family at most once.
    #[arg(long, value_name = "HEX")]
    pub(crate) family: Option<String>,
    #[command(flatten)]
    pub(crate) dir: Dir,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a node's directory and print its admission line. Never asks anything, never overwrites anything.
    #[command(after_help = "Example:
  shoal-node init --network network.toml --role mix --address mix.example.org:4433

Then send the admission line to the operators of the authorities, and `shoal-node run`. The line is no secret;
identity.key in the directory is: whoever has it can pose as this node.")]
    Init(Init),
    /// Run the node in the foreground. SIGTERM drains, a second SIGTERM or SIGINT stops now; SIGHUP reads node.toml again.
    #[command(after_help = "Example:
  shoal-node run --dir /var/lib/shoal

With systemd: systemctl start shoal-node; systemctl reload shoal-node after a change of node.toml;
systemctl stop shoal-node drains, which takes up to three epochs: the node is in documents that clients still use.")]
    Run(Dir),
    /// Read configuration, network file and identity key as `run` would, and print the admission line again.
    #[command(after_help = "Example, after an edit of node.toml and before the reload:
  shoal-node check-config && systemctl reload shoal-node")]
    CheckConfig(Dir),
    /// What the running node does: ready or why not, links, queue, packets forwarded and dropped.
    #[command(after_help = "Example:
  shoal-node status
  shoal-node status --json | jq -r .standing      one word; the table of them is in ops/runbooks/nodes.md")]
    Status(Dir),
    /// Check everything a node needs: files, limits, memory, disk, address, clock, authorities, admission, the running node.
    #[command(after_help = "Example:
  shoal-node doctor                               as the user who runs the node, or as root
  shoal-node doctor --json | jq '.findings[] | select(.ok | not)'

Exits 0 when all checks ran, whatever they found. BAD: must be put right. LOOK: works, and has something to be done.")]
    Doctor(Dir),
    /// Leave the network: publish nothing more, serve until the consensus lets go, then stop.
    #[command(after_help = "Example:
  shoal-node drain                                the same as SIGTERM; takes up to three epochs

A restart (for an upgrade) needs no drain: kill the process twice with SIGTERM, or `systemctl kill -s INT shoal-node`,
and start it again; its keys wait for it in the runtime directory.")]
    Drain(Dir),
    /// List every secret the running node holds: where it is, when it is erased, what it would tell whoever took it.
    #[command(after_help = "Example:
  shoal-node secrets                              what an operator can show to whoever asks for what the node knows")]
    Secrets(Dir),
    /// The descriptor that the running node published last.
    #[command(after_help = "Example:
  shoal-node descriptor --json | jq .addresses")]
    Descriptor(Dir),
    /// Where a store keeps its boxes.
    #[command(subcommand)]
    Store(Store),
    /// Back up what makes the node this node, or put it back on another machine.
    #[command(subcommand)]
    Keys(Keys),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Move boxes and inboxes into another engine. A running node serves meanwhile; what was acknowledged stays so. The old
    /// engine's records stay where they are until you remove them.
    #[command(after_help = "Example:
  shoal-node store migrate --to postgres --url 'postgres://shoal@/shoal?host=/run/postgresql'

Begins where it was when it is interrupted. ops/runbooks/store.md has the whole of it.")]
    Migrate {
        #[command(flatten)]
        dir: Dir,
        #[command(flatten)]
        options: MigrateOptions,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Write an encrypted backup (age) from which the node can live on elsewhere.
    #[command(
        after_help = "In the backup: the identity key, node.toml, the network file, the admission line, the newest consensus (so that
nobody can show the restored node an older network), and the proof of a contradiction if there is one.
Not in it, and never: mix keys and envelope keys (they live in memory for hours), replay logs, boxes of a store.

Examples:
  shoal-node keys export --to node.age                       asks for a passphrase at the terminal
  shoal-node keys export --to node.age --passphrase-file p   the first line of p
  shoal-node keys export --to node.age --recipient age1...   for whoever holds that age identity; may be repeated

The file is an ordinary age file. Nothing is overwritten. Try the backup once: `shoal-node keys import` into an empty
directory, then `shoal-node check-config` there. Do not `run` it beside this node."
    )]
    Export(Export),
    /// Put a node back from a backup, into a directory that holds none.
    #[command(after_help = "Examples:
  shoal-node keys import node.age --dir /var/lib/shoal                     asks for the passphrase at the terminal
  shoal-node keys import node.age --identity key.txt --dir /var/lib/shoal  key.txt: an age identity file

Before `run`: stop the node on the other machine for good, and correct `address` and `listen` in node.toml if they
differ here. One identity may run once: of two, the authorities list one or the other, and packets are lost.
The restored node makes new mix keys; it serves from the second document after its start on.")]
    Import(Import),
    /// Of a node that does not run: erase mix keys and replay logs whose time is over. A running node does so itself.
    #[command(
        after_help = "Keys wait in the runtime directory for a restart. When it does not come, somebody has to erase them: the unit
shoal-keys.timer of the package runs this every five minutes. With --all also those of epochs that are not over: a node
that is started again after it needs two epochs until the documents have its new keys.

Examples:
  shoal-node keys erase             what is over; nothing while the node runs
  shoal-node keys erase --all       everything, before the machine is given away"
    )]
    Erase(Erase),
}

#[derive(Debug, Args)]
pub(crate) struct Erase {
    /// Also keys whose time is not over.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) dir: Dir,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// File to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// File whose first line is the passphrase.
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Encrypt to this age recipient instead of a passphrase.
    #[arg(long, value_name = "age1...")]
    pub(crate) recipient: Vec<String>,
    #[command(flatten)]
    pub(crate) dir: Dir,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The backup.
    #[arg(value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// File whose first line is the passphrase.
    #[arg(long, value_name = "FILE", conflicts_with = "identity")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// age identity file (AGE-SECRET-KEY-1...) of a recipient of the backup.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dir: Dir,
}
