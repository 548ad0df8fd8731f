//! The `[store]` table of `node.toml`: where a store keeps its boxes.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use tokio_postgres::Config as Connection;
use tokio_postgres::config::{Host, SslMode};
use zeroize::ZeroizeOnDrop;

/// Names of a schema that are the database's own.
const SCHEMAS_TAKEN: [&str; 2] = ["public", "information_schema"];
/// Longest name in PostgreSQL.
const NAME_MAX: usize = 63;
/// Connections to the database at most. Each is a process of its server.
const CONNECTIONS_MAX: usize = 64;
const RECORDS_MAX: usize = 1 << 30;

/// What boxes are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Files of the store's own, in `store.dir`.
    Redb,
    /// A database, as `store.postgres` says.
    Postgres,
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Redb => "redb",
            Self::Postgres => "postgres",
        })
    }
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// What boxes are kept in. To change it, see `shoal-node store migrate`.
    pub engine: EngineKind,
    /// Folder of the files of `redb`. Relative to the node's directory.
    pub dir: PathBuf,
    /// Boxes and inbox entries that a store holds. What comes when it is full is refused, nothing is evicted. On the disk
    /// one takes up to 5.3 kB in files and 2.2 kB in a database (decision 0004): 8.4 million are 44 or 18 GB.
    pub records: usize,
    /// The database of `postgres`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresConfig>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { engine: EngineKind::Redb, dir: PathBuf::from("store"), records: 1 << 23, postgres: None }
    }
}

/// The table `[store.postgres]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Server, user and database: `postgres://USER@/DATABASE?host=/run/postgresql` over a Unix socket,
    /// `postgres://USER@HOST:PORT/DATABASE` over a network. A password may stand in it; better in a file.
    pub url: DatabaseUrl,
    /// The store's own schema in the database. `shoal_` and the first 16 digits of the identity, if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// File with the password and nothing else, of mode 0600. Relative to the node's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file with the certificates that vouch for the server: makes TLS a must. Needed unless the server is reached over
    /// a Unix socket or the loopback. Relative to the node's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Connections at most: one writes, all look up.
    #[serde(default = "default_connections")]
    pub connections: usize,
}

fn default_connections() -> usize {
    4
}

/// Where a database is; may hold a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct DatabaseUrl(pub String);

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(redacted)")
    }
}

/// A key whose value cannot work, and why.
pub type Problem = (&'static str, String);

impl StoreConfig {
    /// Checks the table. An unused `[store.postgres]` is checked as well: it is what the next migration goes to.
    pub fn check(&self) -> Result<(), Problem> {
        if self.records == 0 || self.records > RECORDS_MAX {
            return Err(("store.records", format!("must be between 1 and {RECORDS_MAX}")));
        }
        match (&self.postgres, self.engine) {
            (Some(postgres), _) => postgres.check(),
            (None, EngineKind::Redb) => Ok(()),
            (None, EngineKind::Postgres) => {
                Err(("store.postgres", "is missing: engine = \"postgres\" needs to know its database".to_owned()))
            }
        }
    }

    /// Folder of the files.
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(&self.dir)
    }
}

impl PostgresConfig {
    /// The connection that the URL names, without a password from a file.
    pub fn connection(&self) -> Result<Connection, Problem> {
        let bad = |problem: &str| ("store.postgres.url", problem.to_owned());
        // its errors name an option, never a value
        let connection = Connection::from_str(&self.url.0).map_err(|error| bad(&error.to_string()))?;
        if connection.get_hosts().is_empty() {
            return Err(bad("names no server; for a Unix socket: postgres://USER@/DATABASE?host=/run/postgresql"));
        }
        if connection.get_user().is_none() {
            return Err(bad("names no user"));
        }
        Ok(connection)
    }

    fn check(&self) -> Result<(), Problem> {
        let connection = self.connection()?;
        let is_local = is_local(&connection);
        if !is_local && self.ca_file.is_none() {
            let problem = "is missing: a server that is reached over a network needs TLS, and its certificate checked";
            return Err(("store.postgres.ca_file", problem.to_owned()));
        }
        if connection.get_ssl_mode() == SslMode::Require && self.ca_file.is_none() {
            let problem = "is missing: sslmode=require is worth nothing while the server's certificate is not checked";
            return Err(("store.postgres.ca_file", problem.to_owned()));
        }
        if connection.get_password().is_some() && self.password_file.is_some() {
            return Err(("store.postgres.password_file", "there is a password in the URL already".to_owned()));
        }
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            return Err(("store.postgres.connections", format!("must be between 1 and {CONNECTIONS_MAX}")));
        }
        self.schema.as_ref().map_or(Ok(()), |schema| check_schema(schema))
    }

    /// The schema: the one that is set, or the one that is the identity's.
    pub fn schema_of(&self, identity: &[u8; 32]) -> String {
        self.schema.clone().unwrap_or_else(|| {
            let digits: String = hex::encode(identity).chars().take(16).collect();
            format!("shoal_{digits}")
        })
    }
}

/// Whether nothing but this machine can hear what is said to these hosts.
fn is_local(connection: &Connection) -> bool {
    let host = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    };
    let given = connection.get_hosts();
    !given.is_empty() && given.iter().all(host) && connection.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// A schema's name is written into statements as it is, so it has no letter that would have to be quoted.
fn check_schema(schema: &str) -> Result<(), Problem> {
    let is_letter = |c: char| c.is_ascii_lowercase() || c == '_';
    let is_plain = schema.starts_with(is_letter) && schema.chars().all(|c| is_letter(c) || c.is_ascii_digit());
    if !is_plain || schema.len() > NAME_MAX || schema.starts_with("pg_") || SCHEMAS_TAKEN.contains(&schema) {
        let problem =
            format!("expected at most {NAME_MAX} of a-z, 0-9 and _, not a name that the database uses itself");
        return Err(("store.postgres.schema", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(url: &str) -> PostgresConfig {
        PostgresConfig {
            url: DatabaseUrl(url.to_owned()),
            schema: None,
            password_file: None,
            ca_file: None,
            connections: 4,
        }
    }

    #[test]
    fn local_is_what_stays_on_this_machine() {
        for (url, local) in [
            ("postgres://shoal@/shoal?host=/run/postgresql", true),
            ("postgres://shoal@127.0.0.1/shoal", true),
            ("postgres://shoal@[::1]:5433/shoal", true),
            ("postgres://shoal@localhost/shoal", true),
            ("postgres://shoal@db.example.org/shoal", false),
            ("postgres://shoal@127.0.0.1,db.example.org/shoal", false),
            ("postgres://shoal@192.0.2.1/shoal", false),
            ("postgres://shoal@localhost/shoal?hostaddr=192.0.2.1", false),
        ] {
            let connection: Connection = url.parse().expect(url);
            assert_eq!(is_local(&connection), local, "{url}");
        }
    }

    #[test]
    fn a_database_over_a_network_needs_its_certificate_checked() {
        let far = postgres("postgres://shoal@db.example.org/shoal");
        assert_eq!(far.check().expect_err("refused").0, "store.postgres.ca_file");
        assert!(PostgresConfig { ca_file: Some("ca.pem".into()), ..far }.check().is_ok());
        let near = postgres("postgres://shoal@/shoal?host=/run/postgresql");
        assert!(near.check().is_ok());
        let required = postgres("postgres://shoal@127.0.0.1/shoal?sslmode=require");
        assert_eq!(required.check().expect_err("refused").0, "store.postgres.ca_file");
    }

    #[test]
    fn what_cannot_work_is_refused_by_key() {
        let near = || postgres("postgres://shoal@127.0.0.1/shoal");
        for (config, key) in [
            (postgres("mysql://x"), "store.postgres.url"),
            (postgres("postgres:///shoal"), "store.postgres.url"),
            (PostgresConfig { connections: 0, ..near() }, "store.postgres.connections"),
            (PostgresConfig { schema: Some("a\"; DROP".into()), ..near() }, "store.postgres.schema"),
            (PostgresConfig { schema: Some("public".into()), ..near() }, "store.postgres.schema"),
            (PostgresConfig { schema: Some("pg_x".into()), ..near() }, "store.postgres.schema"),
            (PostgresConfig { schema: Some("9x".into()), ..near() }, "store.postgres.schema"),
            (
                PostgresConfig { password_file: Some("p".into()), ..postgres("postgres://a:b@127.0.0.1/c") },
                "store.postgres.password_file",
            ),
        ] {
            assert_eq!(config.check().expect_err(key).0, key);
        }
        let config = StoreConfig { engine: EngineKind::Postgres, ..StoreConfig::default() };
        assert_eq!(config.check().expect_err("refused").0, "store.postgres");
        let config = StoreConfig { records: 0, ..StoreConfig::default() };
        assert_eq!(config.check().expect_err("refused").0, "store.records");
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = postgres("postgres://shoal:hunter2@127.0.0.1/shoal");
        assert!(!format!("{config:?}").contains("hunter2"));
        let error = postgres("postgres://shoal:hunter2@127.0.0.1/shoal?colour=red").check().expect_err("refused").1;
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_examples_for_operators_are_of_this_version() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/config");
        let mut engines = Vec::new();
        for entry in std::fs::read_dir(folder).expect("reads") {
            let path = entry.expect("reads").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("node-") && name.ends_with(".toml") {
                let text = std::fs::read_to_string(&path).expect("reads");
                let config = crate::config::Config::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                engines.push(config.store.engine);
            }
        }
        assert!(engines.contains(&EngineKind::Redb) && engines.contains(&EngineKind::Postgres), "{engines:?}");
    }

    #[test]
    fn the_schema_follows_the_identity() {
        assert_eq!(postgres("postgres://a@/b?host=/c").schema_of(&[0xab; 32]), "shoal_abababababababab");
    }
}
