//! `/livez`, `/readyz` and `/metrics` on a loopback address of their own, never on the mix port.

use crate::io::phase::{self, Phase};
use crate::io::status::Status;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
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
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { phase::reached(&mut phase, Phase::Stopping).await })
        .await
        .context("the metrics server")
}

/// A web page that made a browser resolve its own name to this address must not read anything: only requests that name
/// the loopback by itself are answered.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    match host.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => host == "localhost" || host.starts_with("localhost:") || host == "127.0.0.1" || host == "[::1]",
    }
}

const FOREIGN: (StatusCode, &str) = (StatusCode::FORBIDDEN, "only requests to the loopback address are answered\n");

/// Whether the process should live on: that it answers says that its runtime turns; the rest is said by the threads.
async fn live(State(status): State<Arc<Status>>) -> Response {
    match status.hung() {
        None => "ok\n".into_response(),
        Some(thread) => (StatusCode::SERVICE_UNAVAILABLE, format!("{thread} hangs\n")).into_response(),
    }
}

async fn ready(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    if !is_local(&headers) {
        return FOREIGN.into_response();
    }
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

async fn metrics(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    if !is_local(&headers) {
        return FOREIGN.into_response();
    }
    match status.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_the_loopback_by_its_own_name_is_answered() {
        for (host, local) in [
            ("127.0.0.1:9464", true),
            ("[::1]:9464", true),
            ("localhost:9464", true),
            ("localhost", true),
            ("evil.example:9464", false),
            ("localhost.evil.example", false),
            ("192.0.2.1:9464", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            assert_eq!(is_local(&headers), local, "{host}");
        }
        assert!(is_local(&HeaderMap::new()));
    }
}
