//! The shape of a test network: how many parties of each role, where each lives, what it is called.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use thiserror::Error;

/// Most parties of one role in a test network: beyond this one machine does not carry them.
pub(crate) const PARTIES_MAX: u16 = 64;

/// Fewest stores: a courier is never one of the two replicas of its request.
pub(crate) const STORES_MIN: u16 = 3;

/// Shortest epoch. Documents, keys and descriptors are made and fetched at fractions of it.
pub(crate) const EPOCH_MIN: Duration = Duration::from_secs(5);

/// How a test network is asked for on the command line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    /// Directory authorities.
    pub(crate) authorities: u16,
    /// Gateways.
    pub(crate) gateways: u16,
    /// Mixes in each of the three layers.
    pub(crate) mixes_per_layer: u16,
    /// Stores.
    pub(crate) stores: u16,
    /// Length of an epoch.
    pub(crate) epoch: Duration,
    /// Mean mixing delay of a hop.
    pub(crate) mean_delay: Duration,
    /// λ_P of clients in packets per second; the test network's default when absent.
    pub(crate) lambda_p: Option<f64>,
    /// How long boxes are kept; the test network's default when absent.
    pub(crate) retention: Option<Duration>,
    /// Epochs between two draws of layers and store generations; the test network's default when absent.
    pub(crate) draw: Option<u32>,
    /// Makes this program's own draws (ports, the order of the start) repeatable. Keys and packets are never seeded.
    pub(crate) seed: Option<u64>,
    /// Address of this machine on which every party listens.
    pub(crate) ip: IpAddr,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            authorities: 4,
            gateways: 2,
            mixes_per_layer: 2,
            stores: STORES_MIN,
            epoch: Duration::from_secs(20),
            mean_delay: Duration::from_millis(20),
            lambda_p: None,
            retention: None,
            draw: None,
            seed: None,
            ip: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// Why a test network of this shape cannot be.
#[derive(Debug, Clone, PartialEq, Error)]
pub(crate) enum ShapeError {
    /// Not 3f+1.
    #[error("--authorities {0}: 1, or 3f+1 (4, 7, 10, …) so that f of them may fail; at most {PARTIES_MAX}")]
    Authorities(u16),
    /// Draws that nobody has time to prepare.
    #[error("--draw: at least two epochs")]
    Draw,
    /// A role without parties, or with too many.
    #[error("--{option} {given}: between {min} and {PARTIES_MAX} are possible")]
    Count {
        /// The option's name without dashes.
        option: &'static str,
        /// What was given.
        given: u16,
        /// The fewest.
        min: u16,
    },
    /// The epoch is too short to make and fetch a document in.
    #[error("--epoch: at least {} s, else documents are not fetched in time", EPOCH_MIN.as_secs())]
    Epoch,
    /// The mixing delay is zero or does not fit the epoch.
    #[error("--mean-delay: between 1 ms and a hundredth of the epoch")]
    MeanDelay,
    /// The rate is not a positive number, or more than a client on this machine can build.
    #[error("--lambda-p: a number of packets per second between 0.01 and 200")]
    LambdaP,
    /// Boxes would expire before they are read.
    #[error("--retention: at least three epochs")]
    Retention,
}

impl Shape {
    /// Checks that such a network can be started.
    pub(crate) fn validate(&self) -> Result<(), ShapeError> {
        if self.authorities % 3 != 1 || self.authorities > PARTIES_MAX {
            return Err(ShapeError::Authorities(self.authorities));
        }
        let counts = [
            ("gateways", self.gateways, 1),
            ("mixes-per-layer", self.mixes_per_layer, 1),
            ("stores", self.stores, STORES_MIN),
        ];
        for (option, given, min) in counts {
            if !(min..=PARTIES_MAX).contains(&given) {
                return Err(ShapeError::Count { option, given, min });
            }
        }
        if self.epoch < EPOCH_MIN {
            return Err(ShapeError::Epoch);
        }
        if self.mean_delay < Duration::from_millis(1) || self.mean_delay > self.epoch / 100 {
            return Err(ShapeError::MeanDelay);
        }
        if self.lambda_p.is_some_and(|rate| !(0.01..=200.0).contains(&rate)) {
            return Err(ShapeError::LambdaP);
        }
        if self.retention.is_some_and(|retention| retention < self.epoch * 3) {
            return Err(ShapeError::Retention);
        }
        if self.draw.is_some_and(|epochs| epochs < 2) {
            return Err(ShapeError::Draw);
        }
        Ok(())
    }

    /// Every party of the network with its number, counted from one within its role: the authorities first.
    pub(crate) fn names(&self) -> Vec<PartyName> {
        let counts = [
            (PartyRole::Authority, self.authorities),
            (PartyRole::Gateway, self.gateways),
            (PartyRole::Store, self.stores),
            (PartyRole::Mix, self.mixes_per_layer.saturating_mul(3)),
        ];
        counts.into_iter().flat_map(|(role, count)| (1..=count).map(move |number| PartyName { role, number })).collect()
    }
}

/// What a party of the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PartyRole {
    /// A directory authority.
    Authority,
    /// A node that clients enter by.
    Gateway,
    /// A node that keeps boxes.
    Store,
    /// A node of one of the three layers.
    Mix,
}

impl PartyRole {
    /// The role as the commands spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Gateway => "gateway",
            Self::Store => "store",
            Self::Mix => "mix",
        }
    }

    /// The binary that runs this role.
    pub(crate) fn binary(self) -> &'static str {
        match self {
            Self::Authority => "shoal-directory",
            Self::Gateway | Self::Store | Self::Mix => "shoal-node",
        }
    }
}

/// A party's name in a test network, such as `mix-4`; also the name of its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartyName {
    /// What it does.
    pub(crate) role: PartyRole,
    /// Which one of its role, from one.
    pub(crate) number: u16,
}

impl fmt::Display for PartyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.role.name(), self.number)
    }
}

/// A party with its place on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Party {
    /// Its name.
    pub(crate) name: PartyName,
    /// Its directory, absolute.
    pub(crate) dir: PathBuf,
    /// Where packets or questions reach it (UDP).
    pub(crate) address: SocketAddr,
    /// Where its health is asked for (HTTP).
    pub(crate) metrics: SocketAddr,
}

impl Party {
    /// The file that its output goes to.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// Gives each party its directory below `dir` and its two ports. `None` when there are fewer than two ports a party.
pub(crate) fn place(names: &[PartyName], dir: &Path, ports: &[SocketAddr]) -> Option<Vec<Party>> {
    let pairs = ports.chunks_exact(2);
    if pairs.len() < names.len() {
        return None;
    }
    let party = |(name, pair): (&PartyName, &[SocketAddr])| match pair {
        [address, metrics] => {
            Some(Party { name: *name, dir: dir.join(name.to_string()), address: *address, metrics: *metrics })
        }
        _ => None,
    };
    names.iter().zip(pairs).map(party).collect()
}

/// Whether a process with this command line (arguments ended by NUL, as `/proc/PID/cmdline` has them) runs one of the
/// parties in `dirs`.
pub(crate) fn runs_party(cmdline: &[u8], dirs: &[PathBuf]) -> bool {
    let mut arguments = cmdline.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let Some(program) = arguments.next() else { return false };
    let binary = Path::new(program.as_ref()).file_name().and_then(|name| name.to_str());
    if !matches!(binary, Some("shoal-node" | "shoal-directory")) {
        return false;
    }
    arguments.any(|argument| {
        let value = argument.strip_prefix("--dir=").unwrap_or(&argument);
        dirs.iter().any(|dir| dir == Path::new(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(count: u16) -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from(([127, 0, 0, 1], 20_000 + n))).collect()
    }

    #[test]
    fn the_default_shape_is_possible() {
        let shape = Shape::default();
        assert_eq!(shape.validate(), Ok(()));
        let names: Vec<String> = shape.names().iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), 15);
        assert_eq!(names.first().map(String::as_str), Some("authority-1"));
        assert_eq!(names.last().map(String::as_str), Some("mix-6"));
    }

    #[test]
    fn impossible_shapes_say_which_option() {
        let of = |change: fn(&mut Shape)| {
            let mut shape = Shape::default();
            change(&mut shape);
            shape.validate().map_err(|error| error.to_string())
        };
        let said = |result: Result<(), String>, word: &str| {
            assert!(result.as_ref().is_err_and(|text| text.contains(word)), "{result:?} should name {word}");
        };
        said(of(|shape| shape.authorities = 3), "--authorities 3");
        said(of(|shape| shape.authorities = 0), "--authorities 0");
        said(of(|shape| shape.draw = Some(1)), "--draw");
        said(of(|shape| shape.gateways = 0), "--gateways 0");
        said(of(|shape| shape.stores = 2), "--stores 2");
        said(of(|shape| shape.mixes_per_layer = 1_000), "--mixes-per-layer 1000");
        said(of(|shape| shape.epoch = Duration::from_secs(1)), "--epoch");
        said(of(|shape| shape.mean_delay = Duration::ZERO), "--mean-delay");
        said(of(|shape| shape.mean_delay = Duration::from_secs(10)), "--mean-delay");
        said(of(|shape| shape.lambda_p = Some(f64::NAN)), "--lambda-p");
        said(of(|shape| shape.lambda_p = Some(-1.0)), "--lambda-p");
        said(of(|shape| shape.retention = Some(Duration::from_secs(1))), "--retention");
    }

    #[test]
    fn every_party_has_two_ports_of_its_own() {
        let names = Shape::default().names();
        let parties = place(&names, Path::new("/net"), &ports(30)).expect("ports suffice");
        let mut seen: Vec<SocketAddr> = parties.iter().flat_map(|party| [party.address, party.metrics]).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 30);
        assert_eq!(parties[4].dir, Path::new("/net/gateway-1"));
        assert_eq!(parties[4].log(), Path::new("/net/gateway-1/log"));
        assert_eq!(place(&names, Path::new("/net"), &ports(29)), None);
    }

    #[test]
    fn only_our_own_parties_are_recognised() {
        let dirs = [PathBuf::from("/net/mix-1")];
        assert!(runs_party(b"/x/shoal-node\0run\0--dir\0/net/mix-1\0", &dirs));
        assert!(runs_party(b"shoal-node\0run\0--dir=/net/mix-1\0", &dirs));
        assert!(!runs_party(b"/x/shoal-node\0run\0--dir\0/net/mix-2\0", &dirs));
        assert!(!runs_party(b"vim\0/net/mix-1\0", &dirs));
        assert!(!runs_party(b"", &dirs));
    }
}
