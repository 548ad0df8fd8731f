//! `init`: keys, network file and configuration of a new network.

use std::net::SocketAddr;

use clap::Args;
use rand::{SeedableRng as _, rngs::StdRng, rngs::SysRng};
use serde_json::json;
use shoal_directory::config::{CONFIG_VERSION, Config, files as names};
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::{files, now};
use shoal_protocol::UnixMillis;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::network::{Hint, Hints, NetworkFile};
use shoal_protocol::parameters::{Parameters, Rate};

use super::Common;
use super::units::{milliseconds, per_second};
use crate::Output;

/// Makes a network of one authority. Every parameter has a default: those of a public network, or with --test-network
/// those of a network that lives for minutes on one machine. Durations are written as 20ms, 20s, 10m, 2h, 14d; rates as
/// events per second.
#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    common: Common,
    /// Name of the network: 1 to 64 printable ASCII characters.
    #[arg(long)]
    name: String,
    /// UDP address to listen on.
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// UDP address that others reach the authority at, if it is not the one it listens on.
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// Loopback TCP address of /livez, /readyz and /metrics.
    #[arg(long, value_name = "IP:PORT")]
    metrics: SocketAddr,
    /// List every node that publishes a good descriptor, without admission.
    #[arg(long)]
    open: bool,
    /// Begin with the parameters of a test network.
    #[arg(long)]
    test_network: bool,
    /// Stores the first document waits for.
    #[arg(long, value_name = "N", default_value_t = 3)]
    genesis_stores: usize,
    /// Gateways the first document waits for.
    #[arg(long, value_name = "N", default_value_t = 1)]
    genesis_gateways: usize,
    /// Start of epoch 0 in milliseconds since 1970; now, if not given.
    #[arg(long, value_name = "MS")]
    genesis_time: Option<u64>,
    #[command(flatten)]
    scale: Scale,
}

/// What a network may set otherwise than the default.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Parameters")]
struct Scale {
    /// Length of an epoch. Sets --skew to a tenth of it, if that is not given.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    epoch: Option<u64>,
    /// Skew tolerance.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    skew: Option<u64>,
    /// Mean mixing delay per hop.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    mean_delay: Option<u64>,
    /// Largest mean that the authorities may ever set.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    mean_delay_max: Option<u64>,
    /// λ_P of normal clients, per second.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    lambda_p: Option<Rate>,
    /// λ_L of normal clients, per second.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    lambda_l: Option<Rate>,
    /// λ_P + λ_L of low-rate clients, per second.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    lambda_low: Option<Rate>,
    /// λ_M of node loops, per second.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    lambda_m: Option<Rate>,
    /// Service time of couriers.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    service: Option<u64>,
    /// Answer time of replicas.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    answer: Option<u64>,
    /// Frames per second between two stores.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    store_rate: Option<Rate>,
    /// Mean gap between polls of an active chain.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    poll_hot: Option<u64>,
    /// Mean gap between polls of a chain that was active lately.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    poll_warm: Option<u64>,
    /// Mean gap between polls of an idle chain.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    poll_idle: Option<u64>,
    /// Mean gap between reads of the own inbox.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    poll_inbox: Option<u64>,
    /// How long stores keep a box.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    retention: Option<u64>,
    /// Epochs between two draws of layers and generations.
    #[arg(long, value_name = "EPOCHS")]
    draw: Option<u32>,
    /// Packets that should wait in every mix on average; 0 switches the floor off.
    #[arg(long, value_name = "N")]
    anonymity_floor: Option<u32>,
    /// Mixes in each layer.
    #[arg(long, value_name = "N")]
    mixes_per_layer: Option<u16>,
    /// Leading zero bits of the proof of work for an empty inbox.
    #[arg(long, value_name = "BITS")]
    append_bits: Option<u8>,
}

impl Scale {
    fn apply(&self, base: Parameters) -> Parameters {
        let mut parameters = base;
        let set = |field: &mut u64, value: Option<u64>| {
            if let Some(value) = value {
                *field = value;
            }
        };
        set(&mut parameters.epoch_ms, self.epoch);
        set(&mut parameters.skew_ms, self.skew.or(self.epoch.map(|epoch| epoch / 10)));
        set(&mut parameters.mean_delay_ms, self.mean_delay);
        set(&mut parameters.service_ms, self.service);
        set(&mut parameters.answer_ms, self.answer);
        set(&mut parameters.poll_hot_ms, self.poll_hot);
        set(&mut parameters.poll_warm_ms, self.poll_warm);
        set(&mut parameters.poll_idle_ms, self.poll_idle);
        set(&mut parameters.poll_inbox_ms, self.poll_inbox);
        set(&mut parameters.retention_ms, self.retention);
        parameters.lambda_p = self.lambda_p.unwrap_or(base.lambda_p);
        parameters.lambda_l = self.lambda_l.unwrap_or(base.lambda_l);
        parameters.lambda_low = self.lambda_low.unwrap_or(base.lambda_low);
        parameters.lambda_m = self.lambda_m.unwrap_or(base.lambda_m);
        parameters.store_rate = self.store_rate.unwrap_or(base.store_rate);
        parameters.draw_epochs = self.draw.unwrap_or(base.draw_epochs);
        parameters.anonymity_floor = self.anonymity_floor.unwrap_or(base.anonymity_floor);
        parameters.mixes_per_layer = self.mixes_per_layer.unwrap_or(base.mixes_per_layer);
        parameters.append_bits = self.append_bits.unwrap_or(base.append_bits);
        // Without a floor nobody ever raises the mean, so nothing larger needs to be waited for.
        let widest = if parameters.anonymity_floor == 0 { parameters.mean_delay_ms } else { base.mean_delay_max_ms };
        parameters.mean_delay_max_ms = self.mean_delay_max.unwrap_or(widest.max(parameters.mean_delay_ms));
        parameters
    }
}

impl Init {
    pub(super) fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        let base = if self.test_network { Parameters::test_network() } else { Parameters::production() };
        let parameters = self.scale.apply(base);
        let address = self.address.unwrap_or(self.listen);
        let config = Config {
            config_version: CONFIG_VERSION,
            listen: self.listen,
            metrics: self.metrics,
            open: self.open,
            genesis_stores: self.genesis_stores,
            genesis_gateways: self.genesis_gateways,
        };
        config.validate().map_err(|error| usage(&error))?;
        let mut rng = StdRng::try_from_rng(&mut SysRng)
            .map_err(|error| Failure::new(Kind::InputOutput, format!("no randomness: {error}"), "try again"))?;
        let secret = AuthoritySecret::generate(&mut rng);
        let identity = secret.public().identity;
        let network = NetworkFile {
            name: self.name.clone(),
            genesis_time: self.genesis_time.map_or_else(now, UnixMillis),
            authorities: vec![secret.public().clone()],
            parameters,
            hints: Hints { authorities: vec![Hint { identity, address }], gateways: Vec::new() },
        };
        // nothing is written unless all of it is right
        network.validate().map_err(|error| usage(&error))?;
        files::create_dir(&self.common.dir)?;
        home.write_secret(&secret)?;
        home.write_network(&network)?;
        files::replace(&home.path(names::CONFIG), config.to_toml().as_bytes(), files::PUBLIC, true)?;
        let network_path = home.path(names::NETWORK);
        let fingerprint = network.fingerprint_words();
        Ok(Output {
            json: json!({
                "identity": identity,
                "network": network_path,
                "genesis": network.genesis_hash(),
                "fingerprint": fingerprint,
            }),
            text: format!(
                "Authority {identity} of network \"{}\".\nNetwork file: {}\nFingerprint:  {fingerprint}\n\nGive the \
                 network file to node operators, compare the fingerprint with them, then start with\n  \
                 shoal-directory run --dir {}",
                self.name,
                network_path.display(),
                self.common.dir.display()
            ),
        })
    }
}

/// A value on the command line that cannot be.
fn usage(problem: &dyn std::fmt::Display) -> Failure {
    Failure::new(Kind::Usage, problem.to_string(), "see shoal-directory init --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_a_production_network_down_is_valid() {
        let scale = Scale {
            epoch: Some(20_000),
            mean_delay: Some(20),
            lambda_p: Some(Rate(10_000)),
            retention: Some(600_000),
            anonymity_floor: Some(0),
            draw: Some(500),
            ..Scale::default()
        };
        let parameters = scale.apply(Parameters::production());
        assert_eq!(parameters.validate(), Ok(()));
        assert_eq!((parameters.skew_ms, parameters.mean_delay_max_ms), (2_000, 20));
    }

    #[test]
    fn the_base_stays_when_nothing_is_given() {
        for base in [Parameters::production(), Parameters::test_network()] {
            assert_eq!(Scale::default().apply(base), base);
        }
    }
}
