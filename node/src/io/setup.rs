//! A node's directory: making one, reading one, and holding its lock.

use crate::config::{CONFIG_VERSION, Config, FILE_NAME, Limits};
use crate::config_store::StoreConfig;
use crate::config_versions::Upgraded;
use crate::failure::{Failure, Kind};
use crate::io::config_file;
use crate::io::files;
use crate::io::host::generator;
use anyhow::{Context as _, Result};
use shoal_protocol::network::NetworkFile;
use shoal_protocol::types::{Identity, IdentityKey, Role};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// File with the identity key's seed, in hexadecimal digits.
pub const IDENTITY_FILE: &str = "identity.key";
/// The directory of a packaged node, whose mix keys live in `/run/shoal` (memory).
pub const PACKAGED_DIR: &str = "/var/lib/shoal";
/// Loopback port of metrics if the operator names none.
const METRICS_PORT: u16 = 9_464;
/// How long `run` waits for a lock that another process (one that is just ending) still holds.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A node's directory as it was read.
pub struct Setup {
    /// The directory.
    pub dir: PathBuf,
    /// `node.toml`.
    pub config: Config,
    /// What `run` writes in its place, if it is of an older version.
    pub upgrade: Option<Upgraded>,
    /// The network.
    pub network: NetworkFile,
    /// The identity key.
    pub identity: IdentityKey,
}

/// What `init` was asked for.
pub struct InitRequest {
    /// Network file to copy.
    pub network: PathBuf,
    /// Role.
    pub role: Role,
    /// `HOST:PORT` for others.
    pub address: String,
    /// UDP address to listen on.
    pub listen: Option<SocketAddr>,
    /// Loopback address of metrics.
    pub metrics: Option<SocketAddr>,
    /// Operator.
    pub family: Option<String>,
    /// Directory to make.
    pub dir: PathBuf,
}

/// The line an authority's operator is given: `shoal-node-1 ROLE IDENTITY ADDRESS`, and ` family=FAMILY` if the node has
/// one: only an admitted family counts.
pub fn admission_line(role: Role, identity: &Identity, address: &str, family: Option<&str>) -> String {
    let family = family.map(|family| format!(" family={family}")).unwrap_or_default();
    format!("shoal-node-1 {role} {identity} {address}{family}")
}

fn configuration(message: String, next: &str) -> Failure {
    Failure::new(Kind::Configuration, message, next)
}

/// Makes a node's directory. An existing one is left alone.
pub fn init(request: &InitRequest) -> Result<Setup, Failure> {
    let InitRequest { network, role, address, listen, metrics, family, dir } = request;
    let retry = "choose another --dir or check the disk, then run init again";
    if dir.join(FILE_NAME).exists() || dir.join(IDENTITY_FILE).exists() {
        return Err(Failure::new(
            Kind::Usage,
            format!("{} already holds a node; init changes nothing there", dir.display()),
            "choose another --dir, or see `shoal-node check-config` for what is there",
        ));
    }
    let network_file = read_network(network)?;
    let config = Config {
        config_version: CONFIG_VERSION,
        role: *role,
        network: "network.toml".into(),
        listen: listen.map_or_else(|| default_listen(address), Ok)?,
        address: address.clone(),
        metrics: metrics.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT))),
        family: family.clone(),
        // the packaged place has a packaged directory in memory; anywhere else `run` warns when it is not
        runtime_dir: if dir.as_path() == Path::new(PACKAGED_DIR) { "/run/shoal".into() } else { "run".into() },
        leaving: false,
        log: "info".into(),
        limits: Limits::default(),
        store: StoreConfig::default(),
    };
    let text = config.to_toml().map_err(|error| configuration(error.to_string(), "report this as a bug"))?;
    // what would be refused at the start is refused here
    let config = Config::parse(&text).map_err(|error| {
        Failure::new(
            Kind::Usage,
            error.to_string(),
            "correct the option and run init again; see `shoal-node init --help`",
        )
    })?;
    let identity = IdentityKey::generate(&mut generator());
    let write = || -> Result<()> {
        files::private_dir(dir)?;
        files::write_private(&dir.join("network.toml"), network_file.to_toml().as_bytes())?;
        let mut seed = Zeroizing::new(String::with_capacity(2 * 32 + 1));
        identity.seed().iter().for_each(|byte| {
            // writing into a string cannot fail
            let _ = write!(seed, "{byte:02x}");
        });
        seed.push('\n');
        files::write_private(&dir.join(IDENTITY_FILE), seed.as_bytes())?;
        // last: a directory without it is not a node yet
        files::write_private(&dir.join(FILE_NAME), text.as_bytes())
    };
    write().map_err(|error| Failure::io(&error, retry))?;
    Ok(Setup { dir: dir.clone(), config, upgrade: None, network: network_file, identity })
}

fn default_listen(address: &str) -> Result<SocketAddr, Failure> {
    let bad = || {
        let next = "give --address HOST:PORT, such as mix.example.org:4433";
        Failure::new(Kind::Usage, format!("`{address}` is not HOST:PORT"), next)
    };
    if let Ok(exact) = address.parse::<SocketAddr>() {
        let ip = match exact.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        return Ok(SocketAddr::new(ip, exact.port()));
    }
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).ok_or_else(bad)?;
    // a name may have addresses of both families
    Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
}

fn read_network(path: &Path) -> Result<NetworkFile, Failure> {
    let next = "get the network file from the network's operators and give its path with --network";
    let bytes = files::read(path).map_err(|error| Failure::io(&error, next))?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| configuration(format!("{} is not text", path.display()), next))?;
    NetworkFile::parse(text).map_err(|error| configuration(format!("{}: {error}", path.display()), next))
}

/// Reads a node's directory.
pub fn load(dir: &Path) -> Result<Setup, Failure> {
    let config_file::Read { config, upgrade } = config_file::read(dir)?;
    let network = read_network(&config.network_path(dir))?;
    let identity = read_identity(&dir.join(IDENTITY_FILE))?;
    Ok(Setup { dir: dir.to_owned(), config, upgrade, network, identity })
}

/// Takes the lock of a node's directory, waiting for a process that is just ending, and reads the directory then: that
/// process may have moved the store and written into `node.toml` where it is now.
pub async fn load_locked(dir: &Path) -> Result<(DirectoryLock, Setup), Failure> {
    // a directory that holds no node is left as it is, and is not waited for
    load_config(dir)?;
    refuse_stranger(dir)?;
    let lock = lock(dir).await?;
    let setup = load(dir)?;
    Ok((lock, setup))
}

/// How the node of a directory is started: the packaged one by its unit, as its own user.
pub fn start_command(dir: &Path) -> String {
    if dir == Path::new(PACKAGED_DIR) {
        "systemctl start shoal-node".to_owned()
    } else {
        format!("shoal-node run --dir {}", dir.display())
    }
}

/// Refuses to run a node as another user than the one who owns its directory: keys and logs would be that user's, and the
/// owner could not erase them.
fn refuse_stranger(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt as _;
    // what cannot be looked at is told by the lock
    let Ok(owner) = std::fs::metadata(dir).map(|held| held.uid()) else { return Ok(()) };
    let me = rustix::process::geteuid().as_raw();
    if owner == me {
        return Ok(());
    }
    let message = format!("{} belongs to user {owner}, and this is user {me}", dir.display());
    Err(Failure::new(
        Kind::Permission,
        message,
        format!(
            "{}, as its owner; or chown -R it, and its runtime directory, to the user that is to run it",
            start_command(dir)
        ),
    ))
}

/// Reads `node.toml` alone.
pub fn load_config(dir: &Path) -> Result<Config, Failure> {
    config_file::read(dir).map(|read| read.config)
}

fn read_identity(path: &Path) -> Result<IdentityKey, Failure> {
    let next = "restore the identity key from its backup; without it the node has to be admitted anew";
    let bytes = files::read(path).map_err(|error| Failure::io(&error, next))?;
    if files::is_exposed(path).map_err(|error| Failure::io(&error, next))? {
        let message = format!("{} can be read by other users", path.display());
        return Err(Failure::new(Kind::Permission, message, format!("chmod 600 {}", path.display())));
    }
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(bytes.trim_ascii(), &mut *seed)
        .map_err(|_| configuration(format!("{} does not hold 64 hexadecimal digits", path.display()), next))?;
    Ok(IdentityKey::from_seed(&seed))
}

/// Held while a node runs: two processes with one identity would replay each other's packets.
#[derive(Debug)]
pub struct DirectoryLock(#[expect(dead_code, reason = "held for its lock, which ends with the file")] File);

impl DirectoryLock {
    /// Keeps a locked file open.
    pub const fn held(file: File) -> Self {
        Self(file)
    }
}

/// Takes the lock of a node; waits for up to five seconds, because a service manager may start the new process while
/// the old one is ending.
pub async fn lock(dir: &Path) -> Result<DirectoryLock, Failure> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
        .map_err(|error| Failure::io(&error, "check the node's directory and its owner"))?;
    let step = Duration::from_millis(100);
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(DirectoryLock(file)),
            Err(TryLockError::WouldBlock) if waited < LOCK_WAIT => {
                tokio::time::sleep(step).await;
                waited += step;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    Kind::Temporary,
                    format!("another shoal-node runs in {}", dir.display()),
                    "stop it first, or give this node a directory of its own",
                ));
            }
            Err(TryLockError::Error(error)) => {
                let error = anyhow::Error::from(error).context(format!("cannot lock {}", path.display()));
                return Err(Failure::io(&error, "the file system must support locks"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listening_address_follows_the_public_one() {
        for (address, listen) in [
            ("127.0.0.1:4433", "127.0.0.1:4433"),
            ("192.0.2.1:4433", "0.0.0.0:4433"),
            ("[2001:db8::1]:4433", "[::]:4433"),
            ("mix.example.org:4433", "[::]:4433"),
        ] {
            assert_eq!(default_listen(address).map(|found| found.to_string()).as_deref(), Ok(listen));
        }
        assert!(default_listen("mix.example.org").is_err());
    }

    #[test]
    fn what_is_missing_decides_the_exit_code() {
        let dir = tempfile::tempdir().expect("a directory");
        let kind = |dir: &Path| load(dir).map(|_| ()).map_err(|failure| failure.kind);
        assert_eq!(kind(&dir.path().join("none")), Err(Kind::InputOutput));
        assert_eq!(kind(dir.path()), Err(Kind::InputOutput), "no node.toml");
        assert_eq!(load_config(dir.path()).map(|_| ()).map_err(|failure| failure.kind), Err(Kind::InputOutput));
        let config = "config_version = 1\nrole = \"mix\"\nlisten = \"127.0.0.1:4433\"\naddress = \"127.0.0.1:4433\"\n\
                      metrics = \"127.0.0.1:9464\"\n";
        std::fs::write(dir.path().join(FILE_NAME), config).expect("written");
        assert_eq!(kind(dir.path()), Err(Kind::InputOutput), "no network.toml");
        let request = InitRequest {
            network: dir.path().join("none.toml"),
            role: Role::Mix,
            address: "127.0.0.1:4433".into(),
            listen: None,
            metrics: None,
            family: None,
            dir: dir.path().join("new"),
        };
        assert_eq!(init(&request).map(|_| ()).map_err(|failure| failure.kind), Err(Kind::InputOutput));
    }

    #[tokio::test]
    async fn one_process_a_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = lock(dir.path()).await.expect("free");
        drop(held);
        lock(dir.path()).await.expect("free again");
    }

    #[tokio::test]
    async fn what_is_read_is_what_the_last_holder_of_the_lock_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let network = dir.path().join("given.toml");
        std::fs::write(&network, crate::testing::network(Vec::new()).to_toml()).expect("written");
        let node = dir.path().join("node");
        let request = InitRequest {
            network,
            role: Role::Store,
            address: "127.0.0.1:4433".into(),
            listen: None,
            metrics: None,
            family: None,
            dir: node.clone(),
        };
        let before = init(&request).expect("made").config.store;
        let held = lock(&node).await.expect("free");
        let mut starting = std::pin::pin!(load_locked(&node));
        // it waits for the lock
        assert!(look_once(starting.as_mut()).await.is_none());
        let after = StoreConfig { dir: "elsewhere".into(), ..before };
        config_file::record_store(&node, &after).expect("the store has moved");
        drop(held);
        let (_lock, setup) = starting.await.expect("starts");
        assert_eq!(setup.config.store, after);
    }

    /// Looks once whether something is done.
    async fn look_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[test]
    fn the_admission_line_has_its_parts_in_order() {
        let identity = Identity::from_bytes([0xab; 32]);
        let address = "mix.example.org:4433";
        let line = admission_line(Role::Mix, &identity, address, None);
        assert_eq!(line, format!("shoal-node-1 mix {identity} {address}"));
        let line = admission_line(Role::Mix, &identity, address, Some(&"cd".repeat(32)));
        assert_eq!(line, format!("shoal-node-1 mix {identity} {address} family={}", "cd".repeat(32)));
    }
}
