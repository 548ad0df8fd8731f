//! Connections to the database of a store: how one is made, what it must promise before it is used, and what is left of an
//! error when it is told: the kind and the SQLSTATE, never the server's text, which may name a box.

use crate::config_store::PostgresConfig;
use crate::engine::EngineError;
use crate::io::files;
use deadpool_postgres::{
    Connect, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long making a connection may take. A database that needs longer is down for those who wait: a replica answers
/// after 100 ms, with or without it.
pub const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a statement may run or wait for a lock; the server's own limit.
const STATEMENT_MAX: &str = "1s";
/// Oldest server: partitions with `ON CONFLICT`, `log_parameter_max_length_on_error`.
const VERSION_MIN: i32 = 130_000;

/// What a call of the engine failed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What can be done about it.
    pub kind: FaultKind,
    /// For the operator. No name, no address, nothing of a box.
    pub text: String,
}

/// What can be done about a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A connection was lost, or another transaction was in the way: at once again, on another connection.
    Again,
    /// Not before some time.
    Later,
    /// Not before the operator has done something.
    Refused,
}

impl Fault {
    /// A fault that goes away by itself.
    pub fn later(text: impl Into<String>) -> Self {
        Self { kind: FaultKind::Later, text: text.into() }
    }
    /// A fault that somebody has to mend.
    pub fn refused(text: impl Into<String>) -> Self {
        Self { kind: FaultKind::Refused, text: text.into() }
    }
}

impl From<Fault> for EngineError {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::Again | FaultKind::Later => Self::Unavailable(fault.text),
            FaultKind::Refused => Self::Refused(fault.text),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let text =
                if error.is_closed() { "the database closed the connection" } else { "the link to the database broke" };
            return Self { kind: FaultKind::Again, text: text.to_owned() };
        };
        let code = db.code().code();
        let (kind, what) = meaning(code);
        Self { kind, text: format!("the database: {what} (SQLSTATE {code})") }
    }
}

/// What a SQLSTATE means to an operator.
fn meaning(code: &str) -> (FaultKind, &'static str) {
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "57P01" | "57P02") => (FaultKind::Again, "it stops or has crashed"),
        (_, "57P03") => (FaultKind::Later, "it is starting"),
        (_, "57014") => (FaultKind::Later, "a statement took too long"),
        (_, "55P03") => (FaultKind::Later, "another session holds a table for too long"),
        (_, "42501") => (FaultKind::Refused, "the user lacks a permission"),
        (_, "25006") => (FaultKind::Later, "it only reads"),
        (_, "53100") => (FaultKind::Later, "its disk is full"),
        (_, "53300") => (FaultKind::Later, "it has too many connections"),
        ("08", _) => (FaultKind::Again, "the connection failed"),
        ("28", _) => (FaultKind::Refused, "it does not let this user in"),
        ("3D" | "3F", _) => (FaultKind::Refused, "there is no such database or schema"),
        ("40" | "23", _) => (FaultKind::Again, "another transaction was in the way"),
        ("53", _) => (FaultKind::Later, "it lacks memory or another resource"),
        ("58" | "XX", _) => (FaultKind::Later, "it has an internal error or its files are damaged"),
        _ => (FaultKind::Later, "it refused a statement"),
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            // nothing was sent yet: what the system or TLS says tells nothing of a box
            PoolError::Backend(error) if error.as_db_error().is_none() => {
                let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(" ({cause})"));
                Self::later(format!("the database cannot be reached{cause}"))
            }
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => Self::from(error),
            PoolError::PostCreateHook(HookError::Message(text)) => Self::refused(text),
            PoolError::Timeout(_) => Self::later("the database cannot be reached in time"),
            PoolError::Closed | PoolError::NoRuntimeSpecified => Self::later("the pool of connections is closed"),
        }
    }
}

/// Where the database is and how it is reached.
#[derive(Clone)]
pub struct Place {
    /// Host, user, database, password.
    pub config: Config,
    /// Schema of this store: its namespace. Lower-case letters, digits and underscores.
    pub schema: String,
    /// Connections at most.
    pub connections: usize,
    /// Certificates that the server's must lead to, in PEM; needed for a server that is reached over a network.
    pub authorities: Option<PathBuf>,
}

// the configuration holds a password
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Place {
    /// The database of a store: what `node.toml` in `dir` says, with the password that a file holds.
    pub fn of(config: &PostgresConfig, dir: &Path, identity: &[u8; 32]) -> Result<Self, Fault> {
        let mut connection =
            config.connection().map_err(|(key, problem)| Fault::refused(format!("{key}: {problem}")))?;
        if let Some(file) = &config.password_file {
            let path = dir.join(file);
            let unusable = |problem: String| Fault::refused(format!("store.postgres.password_file: {problem}"));
            if files::is_exposed(&path).map_err(|error| unusable(format!("{error:#}")))? {
                return Err(unusable(format!("{0} can be read by other users; chmod 600 {0}", path.display())));
            }
            let password = files::read(&path).map_err(|error| unusable(format!("{error:#}")))?;
            connection.password(password.trim_ascii_end());
        }
        Ok(Self {
            config: connection,
            schema: config.schema_of(identity),
            connections: config.connections,
            authorities: config.ca_file.as_ref().map(|file| dir.join(file)),
        })
    }
}

/// A pool of connections, each settled before it is used. Connects to nothing yet.
pub fn pool(place: &Place) -> Result<Pool, Fault> {
    let mut config = place.config.clone();
    config
        .application_name("shoal-node")
        .connect_timeout(CONNECT_MAX)
        .tcp_user_timeout(Duration::from_secs(5))
        .keepalives_idle(Duration::from_secs(30))
        // a standby would answer `empty` for a box that it has not heard of yet
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    let tls = tls(place)?;
    config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
    let settings = settings(&place.schema);
    let manager =
        Manager::from_connect(config, Quiet { tls }, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    Pool::builder(manager)
        .max_size(place.connections)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_MAX))
        .create_timeout(Some(CONNECT_MAX))
        .recycle_timeout(Some(CONNECT_MAX))
        .post_create(Hook::async_fn(move |client, _| {
            let settings = settings.clone();
            Box::pin(async move { settle(client, &settings).await })
        }))
        .build()
        .map_err(|error| Fault::refused(error.to_string()))
}

/// TLS towards the server, if certificates are named. Hybrid key exchange is offered first; a server that cannot is taken
/// with a classical one, because it is the operator's own.
fn tls(place: &Place) -> Result<Option<ClientConfig>, Fault> {
    let Some(path) = &place.authorities else { return Ok(None) };
    let unusable = |cause: String| Fault::refused(format!("store.postgres.ca_file: {}: {cause}", path.display()));
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("no certificate in it".to_owned()));
    }
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(config))
}

/// Connects, and keeps the connection's last words to itself: what an engine's call says about it is enough.
struct Quiet {
    tls: Option<ClientConfig>,
}

type Connecting<'a> = Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + 'a>>;

impl Connect for Quiet {
    fn connect(&self, config: &Config) -> Connecting<'_> {
        let (config, tls) = (config.clone(), self.tls.clone());
        Box::pin(async move {
            match tls {
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    Ok((client, tokio::spawn(async move { drop(connection.await) })))
                }
                Some(tls) => {
                    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
                    Ok((client, tokio::spawn(async move { drop(connection.await) })))
                }
            }
        })
    }
}

/// What every session is set to, whatever the server's defaults are. Look-ups go by index whatever statistics say, so that
/// the time they take does not jump; nothing of a parameter is written to the server's log.
fn settings(schema: &str) -> String {
    format!(
        "SET synchronous_commit = on; SET search_path = {schema}; SET default_transaction_isolation = 'read committed'; \
         SET statement_timeout = '{STATEMENT_MAX}'; SET lock_timeout = '{STATEMENT_MAX}'; \
         SET idle_in_transaction_session_timeout = '5s'; SET client_min_messages = error; SET jit = off; \
         SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
         SET plan_cache_mode = force_generic_plan; SET log_parameter_max_length_on_error = 0"
    )
}

/// Sets a new session and asks for what an acknowledgement rests on.
async fn settle(client: &Client, settings: &str) -> Result<(), HookError> {
    const ASK: &str = "SELECT current_setting('server_version_num')::integer, current_setting('fsync'), \
                       current_setting('synchronous_commit')";
    let backend = HookError::Backend;
    let row = client.query_one(ASK, &[]).await.map_err(backend)?;
    let version: i32 = row.try_get(0).map_err(backend)?;
    if version < VERSION_MIN {
        return Err(HookError::message("the database server is older than PostgreSQL 13; update it"));
    }
    let fsync: String = row.try_get(1).map_err(backend)?;
    if fsync != "on" {
        return Err(HookError::message(
            "the database server runs with fsync = off, so that what it acknowledges may be lost; set fsync = on in \
             postgresql.conf and restart it",
        ));
    }
    client.batch_execute(settings).await.map_err(backend)?;
    let row = client.query_one(ASK, &[]).await.map_err(backend)?;
    let commit: String = row.try_get(2).map_err(backend)?;
    if commit != "on" {
        return Err(HookError::message("the database server does not let a session set synchronous_commit = on"));
    }
    Ok(())
}

/// Gives a connection back to nobody: what was begun on it is undone by the server.
pub fn discard(connection: Object) {
    drop(Object::take(connection));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_consequence() {
        for (code, kind) in [
            ("57P01", FaultKind::Again),
            ("57P03", FaultKind::Later),
            ("28P01", FaultKind::Refused),
            ("3D000", FaultKind::Refused),
            ("42501", FaultKind::Refused),
            ("40001", FaultKind::Again),
            ("23505", FaultKind::Again),
            ("53100", FaultKind::Later),
            ("57014", FaultKind::Later),
            ("42P01", FaultKind::Later),
            ("", FaultKind::Later),
        ] {
            assert_eq!(meaning(code).0, kind, "{code}");
        }
    }
}
