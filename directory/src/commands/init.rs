//! `init`: keys, network file and configuration of a new network.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use shoal_directory::config::{PublicHalf, files as names};
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::home::Home;
use shoal_directory::io::{files, now};
use shoal_directory::wishes::set::waste;
use shoal_protocol::UnixMillis;
use shoal_protocol::network::{Founding, Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;

use super::{Common, put, tell};
use crate::Output;

mod keys;
mod scale;

use keys::Own;
use scale::Scale;

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
/// A network of this authority alone takes one step: step 2 without --authority, with the addresses of step 1. Every
/// parameter has a default: those of a public network, or with --test-network those of a network that lives for minutes on
/// one machine. Durations are written as 20ms, 20s, 10m, 2h, 14d; rates as events per second.
///
/// An authority that moves takes step 1 again with its new addresses: the keys stay, and what else is to do is said.
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

impl Init {
    pub(super) async fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        let founded = if home.path(names::NETWORK).exists() { Some(home.network()?) } else { None };
        if let Some(network) = &founded
            && !self.key_only
        {
            return match &self.network {
                Some(path) => self.take_again(&home, network.clone(), path).await,
                None => Err(self.belongs(network, "")),
            };
        }
        let own = self.own(&home)?;
        if let Some(path) = &self.network {
            return self.join(&home, &own.half, path);
        }
        let Some(name) = &self.name else {
            return match founded {
                Some(network) => self.moved(&home, &own, network).await,
                None => Ok(self.key_made(&home, &own)),
            };
        };
        let own = own.half;
        let mut others: Vec<PublicHalf> = Vec::new();
        for path in &self.authority {
            let text = read(
                path,
                "--authority",
                "ask that authority's operator for authority.pub, which step 1 of init made",
            )?;
            let other = PublicHalf::parse(&text).map_err(|error| Failure::content(path, &error))?;
            let same = |half: &PublicHalf| {
                half.key.identity == other.key.identity
                    || half.key.ml_dsa == other.key.ml_dsa
                    || half.address == other.address
            };
            if let Some(before) = others.iter().find(|half| same(half)) {
                return Err(usage(&format!(
                    "{}: its identity, key or address is that of {} at {}, which another --authority names: each once, with \
                     keys and an address of its own",
                    path.display(),
                    before.key.identity,
                    before.address
                )));
            }
            others.push(other);
        }
        let count = 1 + others.iter().filter(|other| other.key != own.key).count();
        if let Some(waste) = waste(count) {
            return Err(usage(&format!(
                "{count} authorities, this one among them; a network is founded with 3f+1 (1, 4, 7, 10, …), so that f may fail: \
                 {waste}"
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

    /// The directory has its network: another one is not founded or joined over it.
    fn belongs(&self, network: &NetworkFile, other: &str) -> Failure {
        let dir = self.common.dir.display();
        Failure::new(
            Kind::Configuration,
            format!(
                "{dir} is an authority of network \"{}\" ({}) already{other}",
                network.name,
                network.fingerprint_words()
            ),
            format!(
                "to go on with this authority: shoal-directory run --dir {dir}, or status, or check-config; to change its \
                 address: shoal-directory init --dir {dir} --key-only --address IP:PORT; only for another authority or another \
                 network name an empty --dir"
            ),
        )
    }

    /// The network file was taken before: nothing but addresses can be new in it.
    async fn take_again(&self, home: &Home, mut network: NetworkFile, path: &Path) -> Result<Output, Failure> {
        let given = self.given(path)?;
        if given.genesis_hash() != network.genesis_hash() {
            let other = format!("; {} is of \"{}\" ({})", path.display(), given.name, given.fingerprint_words());
            return Err(self.belongs(&network, &other));
        }
        let own = self.own(home)?.half;
        for hint in given.hints.authorities.into_iter().filter(|hint| hint.identity != own.key.identity) {
            put(&mut network.hints.authorities, hint);
        }
        for hint in given.hints.gateways {
            put(&mut network.hints.gateways, hint);
        }
        home.write_network(&network)?;
        self.keep_later(home, &own, &network)?;
        let told = tell(home).await?;
        let mut output = self.founded(home, &own, &network);
        output.text =
            format!("Taken before; the addresses in the file are taken over, {}.\n\n{}", told.text(), output.text);
        Ok(output)
    }

    /// Keys are there and so is the network: the addresses were changed.
    async fn moved(&self, home: &Home, own: &Own, mut network: NetworkFile) -> Result<Output, Failure> {
        let PublicHalf { address, key } = &own.half;
        let mut output = self.key_made(home, own);
        output.text = format!("Authority {} at {address}.\n", key.identity);
        if own.changed.is_empty() {
            output.text += "Nothing was changed.";
            return Ok(output);
        }
        put(&mut network.hints.authorities, Hint { identity: key.identity, address: *address });
        home.write_network(&network)?;
        let dir = self.common.dir.display();
        output.text += &format!(
            "Changed:\n  {}\nStart it again: listening addresses are read at the start. The next document has the new address, and everybody \
             goes there. {dir}/network.toml has it too: publish it again, for nodes and clients that begin. Only when more \
             authorities move at a time than may fail, no document is made before the others know where they are: then every \
             operator runs\n  shoal-directory network --dir DIR --add-authority {}@{address}",
            own.changed.join("\n  "),
            key.identity
        );
        Ok(output)
    }

    /// An authority that the network file does not name may run, if its operator says so.
    fn keep_later(&self, home: &Home, own: &PublicHalf, network: &NetworkFile) -> Result<(), Failure> {
        let mut config = home.config()?;
        if self.later && !config.later && !network.authorities.contains(&own.key) {
            config.later = true;
            home.write_config(&config)?;
        }
        Ok(())
    }

    fn given(&self, path: &Path) -> Result<NetworkFile, Failure> {
        let text = read(path, "--network", "ask the founder of the network for network.toml")?;
        NetworkFile::parse(&text).map_err(|error| Failure::content(path, &error))
    }

    fn key_made(&self, home: &Home, own: &Own) -> Output {
        let (identity, public) = (own.half.key.identity, home.path(names::PUBLIC));
        let changed = match own.changed.as_slice() {
            [] => String::new(),
            changed => format!("Changed, with the keys as they were:\n  {}\n", changed.join("\n  ")),
        };
        Output::new(
            json!({"identity": identity, "authority": public, "address": own.half.address, "changed": own.changed}),
            format!(
                "Authority {identity} at {}.\n{changed}Send {} to the founder of the network; it is public. When you get \
                 network.toml:\n  shoal-directory init --dir {dir} --network network.toml\nIf you are the founder, and have the \
                 others' files:\n  shoal-directory init --dir {dir} --name NAME --authority bob.pub --authority carol.pub ...",
                own.half.address,
                public.display(),
                dir = self.common.dir.display()
            ),
        )
    }

    fn join(&self, home: &Home, own: &PublicHalf, path: &Path) -> Result<Output, Failure> {
        let mut network = self.given(path)?;
        if !network.authorities.contains(&own.key) && !self.later {
            return Err(Failure::new(
                Kind::Configuration,
                format!("{}: the key of this directory is not among the authorities", path.display()),
                "send authority.pub to the founder, and take the network file that names it; if the network runs already and \
                 is to take this authority in, say --later",
            ));
        }
        let PublicHalf { address, ref key } = *own;
        if !network.hints.authorities.iter().any(|hint| hint.identity == key.identity) {
            network.hints.authorities.push(Hint { identity: key.identity, address });
        }
        home.write_network(&network)?;
        self.keep_later(home, own, &network)?;
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
        Output::new(
            json!({
                "identity": identity,
                "network": path,
                "genesis": network.genesis_hash(),
                "fingerprint": fingerprint,
                "authorities": count,
            }),
            format!(
                "Authority {identity}{place}, of network \"{}\".\nNetwork file: {}\nFingerprint:  {fingerprint}\n\
                 Authorities:\n{members}\n\nCompare each identity with its operator by voice. Give the network file to {whom}, \
                 compare the fingerprint with them, then start with\n  shoal-directory run --dir {}",
                network.name,
                path.display(),
                self.common.dir.display()
            ),
        )
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
