//! `init`: keys, network file and configuration of a new network.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use rand::{SeedableRng as _, rngs::StdRng, rngs::SysRng};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shoal_directory::config::{CONFIG_VERSION, Config, files as names};
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::home::Home;
use shoal_directory::io::votes::VoteLog;
use shoal_directory::io::{files, now};
use shoal_protocol::UnixMillis;
use shoal_protocol::authority::{AuthorityKey, AuthoritySecret};
use shoal_protocol::network::{Founding, Hint, Hints, NetworkFile};
use shoal_protocol::parameters::{Parameters, Rate};
use shoal_protocol::toml_problem;

use super::Common;
use super::units::{milliseconds, per_second};
use crate::Output;

/// Prepares an authority. In three steps for several operators, or in one for a network of a single authority:
///
///   1. every operator:  init --dir D --key-only --listen IP:PORT --address IP:PORT --metrics 127.0.0.1:PORT
///      makes the keys and writes D/authority.pub, which is public: send it to the founder.
///   2. one founder, who has done step 1 too, with the others' files:
///      init --dir D --name NAME --authority bob.pub --authority carol.pub ...
///      writes D/network.toml with everybody's keys: send it to all. The own key is taken from D.
///   3. every other:     init --dir D --network network.toml
///      takes it, if the own key is in it. Compare the fingerprint words by voice before you run.
///
/// A network of this authority alone takes one step: step 2 without --authority, with the addresses of step 1. Every parameter has a default: those of a public
/// network, or with --test-network those of a network that lives for minutes on one machine. Durations are written as
/// 20ms, 20s, 10m, 2h, 14d; rates as events per second.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Init {
    #[command(flatten)]
    common: Common,
    /// Found a network of this name: 1 to 64 printable ASCII characters.
    #[arg(long, required_unless_present_any = ["key_only", "network"], conflicts_with_all = ["key_only", "network"])]
    name: Option<String>,
    /// Make keys and configuration only.
    #[arg(long, conflicts_with = "network")]
    key_only: bool,
    /// Take this network file.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// The network runs already: this authority watches until the others have taken it into their set.
    #[arg(long, requires = "network")]
    later: bool,
    /// Another authority of the network: the authority.pub of its operator.
    #[arg(long, value_name = "FILE", requires = "name")]
    authority: Vec<PathBuf>,
    /// UDP address to listen on.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// UDP address that others reach the authority at, if it is not the one it listens on.
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// Loopback TCP address of /livez, /readyz and /metrics.
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// List every node that publishes a good descriptor, without admission.
    #[arg(long)]
    open: bool,
    /// Begin with the parameters of a test network.
    #[arg(long)]
    test_network: bool,
    /// Stores the first document waits for; for the founder.
    #[arg(long, value_name = "N", default_value_t = 3)]
    genesis_stores: u16,
    /// Gateways the first document waits for; for the founder.
    #[arg(long, value_name = "N", default_value_t = 1)]
    genesis_gateways: u16,
    /// Start of epoch 0 in milliseconds since 1970; now, if not given.
    #[arg(long, value_name = "MS")]
    genesis_time: Option<u64>,
    #[command(flatten)]
    scale: Scale,
}

/// What an operator sends to the founder: `authority.pub`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicHalf {
    /// Where nodes and other authorities reach it.
    address: SocketAddr,
    /// Its keys.
    key: AuthorityKey,
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
        if home.path(names::NETWORK).exists() {
            return Err(Failure::new(
                Kind::Configuration,
                format!("{} exists: this directory belongs to a network already", home.path(names::NETWORK).display()),
                "use another --dir",
            ));
        }
        let own = self.own(&home)?;
        if let Some(path) = &self.network {
            return self.join(&home, &own, path);
        }
        let Some(name) = &self.name else { return Ok(self.key_made(&home, &own)) };
        let mut others = Vec::new();
        for path in &self.authority {
            let text = read(
                path,
                "--authority",
                "ask that authority's operator for authority.pub, which step 1 of init made",
            )?;
            // without the text around the mistake: it may be a secret key, given by mistake
            let other: PublicHalf = toml::from_str(&text).map_err(|error| {
                Failure::content(path, &format!("is no authority.pub: {}", toml_problem(&text, &error)))
            })?;
            others.push(other);
        }
        let count = 1 + others.iter().filter(|other| other.key != own.key).count();
        if count % 3 != 1 {
            return Err(usage(&format!(
                "{count} authorities: there must be 3f+1 (1, 4, 7, 10, …), so that f of them may fail"
            )));
        }
        let base = if self.test_network { Parameters::test_network() } else { Parameters::production() };
        let network = network(
            name,
            &own,
            others,
            self.scale.apply(base),
            self.genesis_time.map_or_else(now, UnixMillis),
            self.founding(),
        );
        // nothing is written unless all of it is right
        network.validate().map_err(|error| usage(&error))?;
        home.write_network(&network)?;
        Ok(self.founded(&home, &own, &network))
    }

    fn founding(&self) -> Founding {
        Founding { gateways: self.genesis_gateways, stores: self.genesis_stores }
    }

    /// Keys and configuration of this authority: those of the directory, or new ones.
    fn own(&self, home: &Home) -> Result<PublicHalf, Failure> {
        let path = home.path(names::PUBLIC);
        if home.path(names::KEY).exists() {
            let text = files::read_text(&path)?;
            let own: PublicHalf =
                toml::from_str(&text).map_err(|error| Failure::content(&path, &toml_problem(&text, &error)))?;
            return if own.key == *home.secret()?.public() {
                Ok(own)
            } else {
                Err(Failure::content(&path, &"holds other keys than authority.key"))
            };
        }
        let (Some(listen), Some(metrics)) = (self.listen, self.metrics) else {
            return Err(self.without_keys());
        };
        let address = self.address.unwrap_or(listen);
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(usage(&format!("nobody can be reached at {address}: name the public address with --address")));
        }
        let config =
            Config { config_version: CONFIG_VERSION, listen, address: Some(address), metrics, open: self.open };
        config.validate().map_err(|error| usage(&error))?;
        let mut rng = StdRng::try_from_rng(&mut SysRng)
            .map_err(|error| Failure::new(Kind::InputOutput, format!("no randomness: {error}"), "try again"))?;
        let secret = AuthoritySecret::generate(&mut rng);
        let own = PublicHalf { address, key: secret.public().clone() };
        files::create_dir(&self.common.dir)?;
        home.write_secret(&secret)?;
        files::replace(&home.path(names::CONFIG), config.to_toml().as_bytes(), files::PUBLIC, true)?;
        // an authority that never voted may vote at once; one whose log is gone must not
        VoteLog::begin(&home.path(names::VOTES))?;
        let text = toml::to_string(&own)
            .map_err(|error| Failure::new(Kind::InputOutput, error.to_string(), "report this: it is a mistake"))?;
        files::replace(&path, text.as_bytes(), files::PUBLIC, true)?;
        Ok(own)
    }

    /// The directory holds no keys, and not all is given that making them takes: all of it at once.
    fn without_keys(&self) -> Failure {
        let given = [("--listen IP:PORT", self.listen), ("--metrics 127.0.0.1:PORT", self.metrics)];
        let missing: Vec<_> = given.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        let dir = self.common.dir.display();
        let next = if self.network.is_some() {
            format!(
                "if the keys were made before, name their directory with --dir; else make them and send authority.pub to the \
                 founder first: shoal-directory init --dir {dir} --key-only --listen IP:PORT --metrics 127.0.0.1:PORT"
            )
        } else {
            "give them too, and --address IP:PORT if others reach it at another one; see shoal-directory init --help"
                .to_owned()
        };
        let message = format!("{dir} holds no keys yet; what is missing to make them: {}", missing.join(", "));
        Failure::new(Kind::Usage, message, next)
    }

    fn key_made(&self, home: &Home, own: &PublicHalf) -> Output {
        let (identity, public) = (own.key.identity, home.path(names::PUBLIC));
        Output {
            json: json!({"identity": identity, "authority": public}),
            text: format!(
                "Authority {identity} at {}.\nSend {} to the founder of the network; it is public. When you get \
                 network.toml:\n  shoal-directory init --dir {dir} --network network.toml\nIf you are the founder, and have the \
                 others' files:\n  shoal-directory init --dir {dir} --name NAME --authority bob.pub --authority carol.pub ...",
                own.address,
                public.display(),
                dir = self.common.dir.display()
            ),
        }
    }

    fn join(&self, home: &Home, own: &PublicHalf, path: &Path) -> Result<Output, Failure> {
        let network = NetworkFile::parse(&read(path, "--network", "ask the founder of the network for network.toml")?)
            .map_err(|error| Failure::content(path, &error))?;
        if !network.authorities.contains(&own.key) && !self.later {
            return Err(Failure::new(
                Kind::Configuration,
                format!("{}: the key of this directory is not among the authorities", path.display()),
                "send authority.pub to the founder, and take the network file that names it; if the network runs already and \
                 is to take this authority in, say --later",
            ));
        }
        home.write_network(&network)?;
        Ok(self.founded(home, own, &network))
    }

    fn founded(&self, home: &Home, own: &PublicHalf, network: &NetworkFile) -> Output {
        let identity = own.key.identity;
        let (path, fingerprint) = (home.path(names::NETWORK), network.fingerprint_words());
        let count = network.authorities.len();
        let member = network.authorities.contains(&own.key);
        let place = if member { format!(", one of {count}") } else { ", not yet one of those who certify".to_owned() };
        let members: Vec<_> = network.authorities.iter().map(|key| format!("  {}", key.identity)).collect();
        let members = members.join("\n");
        let whom = if count == 1 { "node operators" } else { "the other authorities and node operators" };
        Output {
            json: json!({
                "identity": identity,
                "network": path,
                "genesis": network.genesis_hash(),
                "fingerprint": fingerprint,
                "authorities": count,
            }),
            text: format!(
                "Authority {identity}{place}, of network \"{}\".\nNetwork file: {}\nFingerprint:  {fingerprint}\n\
                 Authorities:\n{members}\n\nCompare each identity with its operator by voice. Give the network file to {whom}, compare the fingerprint with them, then start \
                 with\n  shoal-directory run --dir {}",
                network.name,
                path.display(),
                self.common.dir.display()
            ),
        }
    }
}

/// A file that another operator gave.
fn read(path: &Path, option: &str, next: &str) -> Result<String, Failure> {
    if path.exists() {
        return files::read_text(path);
    }
    Err(Failure::new(Kind::InputOutput, format!("there is no file {} ({option})", path.display()), next))
}

/// A network of `own` and `others`.
fn network(
    name: &str,
    own: &PublicHalf,
    others: Vec<PublicHalf>,
    parameters: Parameters,
    genesis_time: UnixMillis,
    founding: Founding,
) -> NetworkFile {
    let mut hints = vec![Hint { identity: own.key.identity, address: own.address }];
    let mut authorities = vec![own.key.clone()];
    for other in others.into_iter().filter(|other| other.key != own.key) {
        hints.push(Hint { identity: other.key.identity, address: other.address });
        authorities.push(other.key);
    }
    authorities.sort_by_key(|key| key.identity);
    NetworkFile {
        name: name.to_owned(),
        genesis_time,
        authorities,
        parameters,
        founding,
        hints: Hints { authorities: hints, gateways: Vec::new() },
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
