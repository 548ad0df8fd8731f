//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use shoal_protocol::duration;

use crate::plan::{STORES_MIN, Shape};

/// Test networks, the demonstration, and the prober with its status page.
#[derive(Debug, Parser)]
#[command(name = "shoal-ops", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a whole network on this machine; print one JSON line when a message could be sent
    Testnet(TestnetOptions),
    /// Watch two people talk over a whole network on this machine
    Demo(DemoOptions),
    /// Send loops through a network and serve its status page
    Probe(ProbeOptions),
    /// Measure what the design promises figures for
    Bench(BenchOptions),
}

/// What is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchOptions {
    /// Nodes in the document
    #[arg(long, default_value_t = 1_000)]
    pub(crate) nodes: u16,
    /// Authorities that certify it
    #[arg(long, default_value_t = 7)]
    pub(crate) authorities: u16,
    /// Runs of the node part, and small files of the client part; medians are shown. One takes about a minute
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub(crate) runs: u8,
    /// Boxes in a store
    #[arg(long, default_value_t = 20_000)]
    pub(crate) boxes: u64,
    /// Size of the client part's large file; 5 MiB take about 20 minutes
    #[arg(long, default_value_t = 5_120, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) file_kib: u16,
    /// Measure this part only; may be given more than once
    #[arg(long, value_enum)]
    pub(crate) part: Vec<Part>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// A part of what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// What a document of many nodes costs
    Directory,
    /// What a mix passes on, and how punctually; wants two cores that do nothing else, and the release build
    Node,
    /// Both engines of a store, side by side
    Store,
    /// How long files take between two people, over a network of its own
    Client,
}

impl BenchOptions {
    /// The parts asked for: all, if none was named.
    pub(crate) fn parts(&self) -> Vec<Part> {
        use clap::ValueEnum as _;
        if self.part.is_empty() { Part::value_variants().to_vec() } else { self.part.clone() }
    }
}

/// The size and the clockwork of a test network.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShapeOptions {
    /// Directory authorities: 1, or 3f+1, of which f may fail
    #[arg(long, default_value_t = 4)]
    pub(crate) authorities: u16,
    /// Gateways
    #[arg(long, default_value_t = 2)]
    pub(crate) gateways: u16,
    /// Mixes in each of the three layers
    #[arg(long, default_value_t = 2)]
    pub(crate) mixes_per_layer: u16,
    /// Stores
    #[arg(long, default_value_t = STORES_MIN)]
    pub(crate) stores: u16,
    /// Length of an epoch
    #[arg(long, default_value = "20s", value_parser = duration::parse)]
    pub(crate) epoch: Duration,
    /// Mean mixing delay of a hop
    #[arg(long, default_value = "20ms", value_parser = duration::parse)]
    pub(crate) mean_delay: Duration,
    /// λ_P of every client, packets per second
    #[arg(long)]
    pub(crate) lambda_p: Option<f64>,
    /// How long boxes are kept
    #[arg(long, value_parser = duration::parse)]
    pub(crate) retention: Option<Duration>,
    /// Epochs between two draws of layers and store generations
    #[arg(long, value_name = "EPOCHS")]
    pub(crate) draw: Option<u32>,
    /// Repeat the draw of ports; keys and packets are always fresh
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Address of this machine on which every party listens; ::1 for IPv6
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) ip: IpAddr,
}

impl ShapeOptions {
    /// The shape asked for; not yet validated.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            authorities: self.authorities,
            gateways: self.gateways,
            mixes_per_layer: self.mixes_per_layer,
            stores: self.stores,
            epoch: self.epoch,
            mean_delay: self.mean_delay,
            lambda_p: self.lambda_p,
            retention: self.retention,
            draw: self.draw,
            seed: self.seed,
            ip: self.ip,
        }
    }
}

/// `testnet`.
#[derive(Debug, Args)]
pub(crate) struct TestnetOptions {
    /// Directory of the network: empty, or holding an earlier test network, which goes
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Where the status page is served; port 0 takes any
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) status: SocketAddr,
    /// Send no probing loops: the status page shows health only
    #[arg(long)]
    pub(crate) no_prober: bool,
    /// Accepted for symmetry: standard output is always JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Size and clockwork.
    #[command(flatten)]
    pub(crate) shape: ShapeOptions,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// End after the conversation: 0 when everything was delivered both ways, else 1
    #[arg(long)]
    pub(crate) once: bool,
    /// Print one JSON object instead of the transcript
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the status page is served; port 0 takes any
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) status: SocketAddr,
    /// Keep the network's directory (below the system's directory for temporary files) afterwards
    #[arg(long)]
    pub(crate) keep: bool,
    /// Size and clockwork.
    #[command(flatten)]
    pub(crate) shape: ShapeOptions,
}

/// `probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeOptions {
    /// The network file
    #[arg(long)]
    pub(crate) network: PathBuf,
    /// Where the status page is served; port 0 takes any
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// The testnet.json of a test network on this machine, to ask its parties for their health
    #[arg(long)]
    pub(crate) testnet: Option<PathBuf>,
    /// Print a JSON line when the page is served
    #[arg(long)]
    pub(crate) json: bool,
}

impl Arguments {
    /// Whether failures are told as JSON on standard output too.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Command::Testnet(_) => true,
            Command::Demo(options) => options.json,
            Command::Probe(options) => options.json,
            Command::Bench(options) => options.json,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_testnet_is_asked_for_in_full() {
        let line = "shoal-ops testnet --dir /net --authorities 1 --gateways 3 --mixes-per-layer 4 --stores 5 --epoch 30s \
                    --mean-delay 5ms --seed 9 --ip ::1 --lambda-p 4 --retention 10min";
        let arguments = Arguments::try_parse_from(line.split_whitespace()).expect("is a command");
        assert!(arguments.json());
        let Command::Testnet(options) = arguments.command else { panic!("is a testnet") };
        let expected = Shape {
            authorities: 1,
            gateways: 3,
            mixes_per_layer: 4,
            stores: 5,
            epoch: Duration::from_secs(30),
            mean_delay: Duration::from_millis(5),
            lambda_p: Some(4.0),
            draw: None,
            retention: Some(Duration::from_secs(600)),
            seed: Some(9),
            ip: std::net::Ipv6Addr::LOCALHOST.into(),
        };
        assert_eq!(options.shape.shape(), expected);
    }

    #[test]
    fn the_defaults_are_a_possible_network() {
        let arguments = Arguments::try_parse_from(["shoal-ops", "demo", "--once"]).expect("is a command");
        let Command::Demo(options) = arguments.command else { panic!("is a demo") };
        assert!(options.once && options.shape.shape().validate().is_ok());
        assert_eq!(options.shape.shape(), Shape::default());
    }

    #[test]
    fn mistakes_are_refused() {
        for line in ["shoal-ops testnet", "shoal-ops testnet --dir /x --epoch soon", "shoal-ops fly", "shoal-ops probe"]
        {
            assert!(Arguments::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
