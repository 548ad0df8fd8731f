//! The ports of a node: links, metrics, control socket.

use crate::config::Config;
use crate::io::{control, http};
use anyhow::{Context as _, Result};
use shoal_protocol::quic::{Endpoint, Limits, Protocol};
use shoal_protocol::types::{IdentityKey, Role};
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};

/// Ports that are open.
pub struct Ports {
    /// Links.
    pub endpoint: Arc<Endpoint>,
    /// `/livez`, `/readyz`, `/metrics`.
    pub metrics: TcpListener,
    /// What the operator's commands ask.
    pub control: Arc<UnixListener>,
}

impl Ports {
    /// Opens all of them. What is taken is said before anything else happens.
    pub async fn open(config: &Config, identity: &IdentityKey, runtime_dir: &Path) -> Result<Self> {
        let accept: &[Protocol] = match config.role {
            Role::Gateway => &[Protocol::Mix, Protocol::Client, Protocol::Directory],
            Role::Mix => &[Protocol::Mix],
            Role::Store => &[Protocol::Mix, Protocol::Store],
        };
        let limits = Limits {
            connections: config.limits.links,
            guests: config.limits.sessions,
            per_prefix: config.limits.links_per_prefix,
            ..Limits::default()
        };
        let endpoint = Endpoint::bind_with(config.listen, identity, accept, limits)
            .with_context(|| format!("cannot listen on UDP {} (key `listen`)", config.listen))?;
        let metrics = http::bind(config.metrics).await?;
        Ok(Self { endpoint: Arc::new(endpoint), metrics, control: Arc::new(control::bind(runtime_dir)?) })
    }
}
