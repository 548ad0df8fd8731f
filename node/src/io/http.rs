//! `/livez`, `/readyz` and `/metrics` on a loopback address of their own, never on the mix port.

use crate::io::phase::{self, Phase};
use crate::io::status::Status;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use shoal_protocol::pages;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Opens the port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen for metrics on {address} (key `metrics`)"))
}

/// Serves until the process stops.
pub async fn serve(listener: TcpListener, status: Arc<Status>, mut phase: watch::Receiver<Phase>) -> Result<()> {
    let router = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status);
    let stop = async move { phase::reached(&mut phase, Phase::Stopping).await };
    pages::serve(listener, router, stop).await.context("the metrics server")
}

/// Whether the process should live on: that it answers says that its runtime turns; the rest is said by the threads.
async fn live(State(status): State<Arc<Status>>) -> Response {
    match status.hung() {
        None => "ok\n".into_response(),
        Some(thread) => (StatusCode::SERVICE_UNAVAILABLE, format!("{thread} hangs\n")).into_response(),
    }
}

async fn ready(State(status): State<Arc<Status>>) -> Response {
    let health = status.health();
    // a node that can serve is ready; what somebody should look at stands below, whether it is or not
    let (code, lines) = if health.standing.is_ready() {
        (StatusCode::OK, vec!["ready".to_owned()])
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, health.problems)
    };
    let lines = lines.into_iter().chain(health.warnings);
    (code, lines.map(|line| line + "\n").collect::<String>()).into_response()
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    match status.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}
