//! `node.toml`: what an operator sets. Network-wide rates are not here: they come from the consensus only.

pub use crate::config_versions::CONFIG_VERSION;

use crate::config_store::StoreConfig;
use serde::{Deserialize, Serialize};
use shoal_protocol::toml_problem;
use shoal_protocol::types::Role;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Links that are left for handshakes (1,024) and nodes (1,024) when a gateway has all its clients.
const PLACES_BESIDE_SESSIONS: usize = 2_048;
/// Workers at most.
const WORKERS_MAX: usize = 256;
/// File name inside the node's directory.
pub const FILE_NAME: &str = "node.toml";

/// The whole file. Unknown keys are refused, so that a misspelt one is not silently ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Format of this file.
    pub config_version: u32,
    /// What the node does. The authorities admit a node for one role; changing it here needs a new admission.
    pub role: Role,
    /// Network file, relative to the node's directory.
    #[serde(default = "default_network")]
    pub network: PathBuf,
    /// UDP address to listen on.
    pub listen: SocketAddr,
    /// `HOST:PORT` under which others reach the node; published. Names are resolved when the node
    /// publishes. A SIGHUP changes it; where the node listens changes at the next start only.
    pub address: String,
    /// Loopback address of `/livez`, `/readyz` and `/metrics`.
    pub metrics: SocketAddr,
    /// 64 hexadecimal digits shared by all nodes of one operator: routes visit a family at most once. None: the node is
    /// a family of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Where mix keys, replay log and control socket live; best on memory that survives a restart of the service
    /// (`/run/shoal`). Relative to the node's directory.
    #[serde(default = "default_runtime_dir")]
    pub runtime_dir: PathBuf,
    /// A store that is to go for good: draws from now on leave it out, and it serves what it holds until that is over.
    /// `status` says when it may be stopped. A SIGHUP changes it.
    #[serde(default)]
    pub leaving: bool,
    /// Which log lines are written: a level (error, warn, info, debug), or levels by module as in `SHOAL_LOG`, which goes
    /// before it. A SIGHUP changes it.
    #[serde(default = "default_log")]
    pub log: String,
    /// Bounds of memory and work.
    #[serde(default)]
    pub limits: Limits,
    /// Where a store keeps its boxes. A gateway or mix has none.
    #[serde(default)]
    pub store: StoreConfig,
}

/// Keys that differ between two configurations, by when they take effect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// While the node runs (`limits.link_queue_packets`: for links made from then on).
    pub now: Vec<&'static str>,
    /// At the next start only.
    pub at_start: Vec<&'static str>,
}

/// Bounds of memory and work. The defaults suit a machine with 2 GB for the node. A SIGHUP changes `sessions` and
/// `link_queue_packets`; the others size what is made at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Threads that unwrap packets and hold them for their mixing delay; each does about 8,000 packets/s. 0: one for each
    /// core of the machine.
    pub workers: usize,
    /// Packets waiting to be unwrapped, per worker. 4,096 × 2.8 kB = 11.5 MB; half a second of work, of which one link gets a
    /// third: a datagram lost on its way holds a link up, and then everything comes at once. At a gateway one half is for
    /// what comes from nodes and one for what comes from clients.
    pub worker_queue_packets: usize,
    /// Packets in the delay queues of all workers. 65,536 × 2.9 kB = 190 MB at most; 16,000 packets/s at 500 ms mean fill an eighth.
    pub delay_queue_packets: usize,
    /// Packets waiting for one outgoing link. 1,024 × 2.8 kB = 2.9 MB a link.
    pub link_queue_packets: usize,
    /// Packets accepted under one mix key. 12 million × at most 36.6 bytes = 440 MB; at a mix or store 10,000 packets/s for a
    /// 20-minute epoch, but 5,000 packets/s if none of them is to depend on what a flooding neighbour leaves
    /// ([`crate::portions`]). At a gateway what its sessions may bring: with the rates of a public network 11,180 for each
    /// ([`crate::needs::packets_of_seat`]). `check-config` and `doctor` compare.
    pub replay_capacity_packets: usize,
    /// Client sessions of a gateway, and links of clients: raised above what it was at the start, a SIGHUP is not enough.
    /// Each has a queue of at most 64 packets: 1,024 × 190 kB = 190 MB if all clients
    /// stopped reading at once. With what they bring under two mix keys a session costs 1 MB.
    pub sessions: usize,
    /// Links at a time per address prefix (/24, /48), and four times as many per /16 of IPv4 or /32 of IPv6: a quarter of
    /// the sessions. 127.0.0.0/24 and ::1 are not counted, nor are nodes and authorities at their listed addresses, each of
    /// which has as many by itself.
    pub links_per_prefix: usize,
    /// Links at a time.
    pub links: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: 0,
            worker_queue_packets: 4_096,
            delay_queue_packets: 65_536,
            link_queue_packets: 1_024,
            replay_capacity_packets: 12_000_000,
            sessions: 1_024,
            links_per_prefix: 64,
            links: 3_072,
        }
    }
}

impl Limits {
    /// Workers on a machine with so many cores.
    pub fn workers_on(&self, cores: usize) -> usize {
        if self.workers == 0 { cores.clamp(1, WORKERS_MAX) } else { self.workers }
    }
}

fn default_network() -> PathBuf {
    PathBuf::from("network.toml")
}
fn default_runtime_dir() -> PathBuf {
    PathBuf::from("run")
}
fn default_log() -> String {
    "info".to_owned()
}

/// Why a configuration is refused, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, a key is missing or unknown, or a value has the wrong form. The text names line and key.
    #[error("{0}")]
    Syntax(String),
    /// Written by a newer program.
    #[error("config_version {found} is newer than this program understands ({CONFIG_VERSION}); update shoal-node")]
    TooNew {
        /// Version in the file.
        found: u32,
    },
    /// A value that cannot work.
    #[error("{key}: {problem}")]
    BadValue {
        /// Key in the file.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
}

impl Config {
    /// Reads and checks a file's text, which is of this version: see [`crate::config_versions::upgrade`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct Version {
            config_version: Option<u32>,
        }
        let version: Version = toml::from_str(text).map_err(|error| ConfigError::Syntax(toml_problem(text, &error)))?;
        match version.config_version {
            Some(found) if found > CONFIG_VERSION => return Err(ConfigError::TooNew { found }),
            Some(0) => return Err(bad("config_version", "the first version is 1")),
            Some(found) if found < CONFIG_VERSION => {
                return Err(bad(
                    "config_version",
                    &format!("{found} is older than {CONFIG_VERSION}; bring it up to date first"),
                ));
            }
            Some(_) | None => {}
        }
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax(toml_problem(text, &error)))?;
        config.check()?;
        Ok(config)
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|error| ConfigError::Syntax(error.to_string()))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.metrics.ip().is_loopback() {
            return Err(bad("metrics", "must be a loopback address: whoever reads metrics learns about traffic"));
        }
        match self.address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {}
            _ => return Err(bad("address", "expected HOST:PORT with the port that others dial")),
        }
        self.family_bytes()?;
        if self.leaving && self.role != Role::Store {
            return Err(bad("leaving", "only a store keeps what others need later; any other node is just stopped"));
        }
        if !crate::io::logging::is_filter(&self.log) {
            return Err(bad("log", "expected error, warn, info or debug, or levels by module"));
        }
        let limits = self.limits;
        if limits.workers > WORKERS_MAX {
            return Err(bad("limits.workers", &format!("must be between 0 (one a core) and {WORKERS_MAX}")));
        }
        for (key, value, max) in [
            ("limits.worker_queue_packets", limits.worker_queue_packets, 1 << 20),
            ("limits.delay_queue_packets", limits.delay_queue_packets, 1 << 24),
            ("limits.link_queue_packets", limits.link_queue_packets, 1 << 20),
            ("limits.replay_capacity_packets", limits.replay_capacity_packets, 1 << 30),
            ("limits.sessions", limits.sessions, 1 << 20),
            ("limits.links_per_prefix", limits.links_per_prefix, 1 << 20),
            ("limits.links", limits.links, 1 << 20),
        ] {
            if value == 0 || value > max {
                return Err(bad(key, &format!("must be between 1 and {max}")));
            }
        }
        self.store.check().map_err(|(key, problem)| bad(key, &problem))?;
        let default = Limits::default();
        if limits.sessions > default.sessions && limits.links < limits.sessions.saturating_add(PLACES_BESIDE_SESSIONS) {
            let problem =
                format!("must be at least limits.sessions + {PLACES_BESIDE_SESSIONS}, or clients shut out nodes");
            return Err(bad("limits.links", &problem));
        }
        Ok(())
    }

    /// What differs between this configuration, which is in force, and `fresh`.
    pub fn changes(&self, fresh: &Self) -> Changes {
        let (old, new) = (&self.limits, &fresh.limits);
        let differing = |pairs: &[(&'static str, bool)]| {
            pairs.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key).collect::<Vec<_>>()
        };
        Changes {
            now: differing(&[
                ("address", self.address != fresh.address),
                ("leaving", self.leaving != fresh.leaving),
                ("log", self.log != fresh.log),
                ("limits.sessions", old.sessions != new.sessions),
                ("limits.link_queue_packets", old.link_queue_packets != new.link_queue_packets),
            ]),
            at_start: differing(&[
                ("role", self.role != fresh.role),
                ("network", self.network != fresh.network),
                ("listen", self.listen != fresh.listen),
                ("metrics", self.metrics != fresh.metrics),
                ("family", self.family != fresh.family),
                ("runtime_dir", self.runtime_dir != fresh.runtime_dir),
                ("store.engine", self.store.engine != fresh.store.engine),
                ("store.dir", self.store.dir != fresh.store.dir),
                ("store.records", self.store.records != fresh.store.records),
                ("store.postgres", self.store.postgres != fresh.store.postgres),
                ("limits.workers", old.workers != new.workers),
                ("limits.worker_queue_packets", old.worker_queue_packets != new.worker_queue_packets),
                ("limits.delay_queue_packets", old.delay_queue_packets != new.delay_queue_packets),
                ("limits.replay_capacity_packets", old.replay_capacity_packets != new.replay_capacity_packets),
                ("limits.links_per_prefix", old.links_per_prefix != new.links_per_prefix),
                ("limits.links", old.links != new.links),
            ]),
        }
    }

    /// Takes over from `fresh` what takes effect at once.
    pub fn take_over(&mut self, fresh: &Self) {
        self.address.clone_from(&fresh.address);
        self.leaving = fresh.leaving;
        self.log.clone_from(&fresh.log);
        self.limits.sessions = fresh.limits.sessions;
        self.limits.link_queue_packets = fresh.limits.link_queue_packets;
    }

    /// The family as bytes.
    pub fn family_bytes(&self) -> Result<Option<[u8; 32]>, ConfigError> {
        let Some(text) = &self.family else { return Ok(None) };
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| bad("family", "expected 64 hexadecimal digits"))?;
        Ok(Some(bytes))
    }

    /// Path of the network file.
    pub fn network_path(&self, dir: &Path) -> PathBuf {
        dir.join(&self.network)
    }

    /// Runtime directory.
    pub fn runtime_path(&self, dir: &Path) -> PathBuf {
        dir.join(&self.runtime_dir)
    }
}

fn bad(key: &'static str, problem: &str) -> ConfigError {
    ConfigError::BadValue { key, problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        config_version = 2
        role = "mix"
        listen = "[::]:4433"
        address = "mix.example.org:4433"
        metrics = "127.0.0.1:9464"
    "#;

    #[test]
    fn a_short_file_gets_the_defaults_and_survives_a_round_trip() {
        let config = Config::parse(TEXT).expect("parses");
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.runtime_path(Path::new("/srv/node")), Path::new("/srv/node/run"));
        assert_eq!(Config::parse(&config.to_toml().expect("writes")).expect("reads back"), config);
    }

    #[test]
    fn a_reload_takes_what_it_can_and_names_the_rest() {
        let mut old = Config::parse(TEXT).expect("parses");
        let text = TEXT.replace(":4433", ":4434");
        let text = format!("{text}\nlog = \"debug\"\n[limits]\nsessions = 7\nlink_queue_packets = 8\nworkers = 2");
        let fresh = Config::parse(&text).expect("parses");
        let changes = old.changes(&fresh);
        assert_eq!(changes.now, ["address", "log", "limits.sessions", "limits.link_queue_packets"]);
        assert_eq!(changes.at_start, ["listen", "limits.workers"]);
        old.take_over(&fresh);
        let changes = old.changes(&fresh);
        assert!(changes.now.is_empty());
        assert_eq!(changes.at_start.len(), 2, "said again until the node is started anew");
    }

    #[test]
    fn an_absolute_runtime_directory_stays_as_it_is() {
        let text = format!("{TEXT}\nruntime_dir = \"/run/shoal\"");
        let config = Config::parse(&text).expect("parses");
        assert_eq!(config.runtime_path(Path::new("/srv/node")), Path::new("/run/shoal"));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for extra in ["listne = \"x\"", "[limits]\nworker = 2"] {
            let error = Config::parse(&format!("{TEXT}\n{extra}")).expect_err("refused").to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_key() {
        for (from, to, key) in [
            ("127.0.0.1:9464", "0.0.0.0:9464", "metrics"),
            ("mix.example.org:4433", "mix.example.org", "address"),
            ("mix.example.org:4433", "mix.example.org:0", "address"),
            ("config_version = 2", "config_version = 2\nfamily = \"xyz\"", "family"),
            ("config_version = 2", "config_version = 2\nlimits = { workers = 257 }", "limits.workers"),
            ("config_version = 2", "config_version = 2\nleaving = true", "leaving"),
            ("config_version = 2", "config_version = 2\nlog = \"shoal_node=loud\"", "log"),
            ("config_version = 2", "config_version = 2\nstore = { records = 0 }", "store.records"),
            ("config_version = 2", "config_version = 2\nlimits = { sessions = 5000 }", "limits.links"),
            ("config_version = 2", "config_version = 3", "config_version"),
            ("config_version = 2", "config_version = 1", "config_version"),
        ] {
            let error = Config::parse(&TEXT.replace(from, to)).expect_err(to).to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
