//! `/livez`, `/readyz`, `/metrics` on a loopback address of their own.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use shoal_protocol::pages;
use tokio::net::TcpListener;

use super::now;
use super::server::Shared;

/// Serves until `stop` resolves.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared);
    pages::serve(listener, routes, stop).await
}

/// The process answers, and no step of the authority hangs.
async fn livez(State(shared): State<Arc<Shared>>) -> &'static str {
    drop(shared.authority());
    "alive\n"
}

/// A document of the current epoch is certified.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let numbers = shared.authority().numbers(now());
    if numbers.ready {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        let reason = numbers.waiting_for.unwrap_or_else(|| "no document of the current epoch".to_owned());
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let numbers = shared.authority().numbers(now());
    match shared.metrics.render(&numbers) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
