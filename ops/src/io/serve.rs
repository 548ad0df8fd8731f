//! Serves the status page. It is read-only and says nothing about a client, so it needs no login; it still allows no
//! script, style or picture but its own, and no other page to frame it.
#![expect(clippy::disallowed_methods, reason = "IO shell: each page gets a random nonce")]

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use rand::RngExt as _;
use shoal_protocol::pages;
use tokio::net::TcpListener;

use super::watch::Board;
use crate::{metrics, page};

const FAVICON: &str = include_str!("../../assets/favicon.svg");

/// The page and its companions on one address.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    listener: TcpListener,
}

impl Server {
    /// Listens on `address`; port 0 lets the system choose.
    pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot serve the status page on {address}"))?;
        let address = listener.local_addr().context("the status page has no address")?;
        Ok(Self { address, listener })
    }

    /// The page's address for a browser.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until the task is dropped. The page looks again every `refresh`.
    pub(crate) async fn run(self, board: Board, refresh: Duration) -> anyhow::Result<()> {
        let shown = Shown { board, refresh };
        let router = Router::new()
            .route("/", get(html))
            .route("/live", get(live))
            .route("/status.json", get(json))
            .route("/favicon.svg", get(favicon))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(prometheus))
            .with_state(shown)
            .layer(middleware::map_response(allow_nothing_else));
        pages::serve(self.listener, router, std::future::pending()).await.context("the status page's server ended")
    }
}

/// What every answer allows a browser that is not told otherwise, an error's included: nothing.
const NOTHING_ALLOWED: HeaderValue =
    HeaderValue::from_static("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");

async fn allow_nothing_else(mut response: Response) -> Response {
    response.headers_mut().entry(header::CONTENT_SECURITY_POLICY).or_insert(NOTHING_ALLOWED);
    response
}

#[derive(Debug, Clone)]
struct Shown {
    board: Board,
    refresh: Duration,
}

async fn html(State(shown): State<Shown>) -> Response {
    let nonce = format!("{:032x}", rand::rng().random::<u128>());
    let body = match page::render(&shown.board.view(), &nonce, shown.refresh) {
        Ok(body) => body,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = answer("text/html; charset=utf-8", body);
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn live(State(shown): State<Shown>) -> Response {
    match page::render_live(&shown.board.view()) {
        Ok(body) => answer("text/html; charset=utf-8", body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn json(State(shown): State<Shown>) -> Response {
    match serde_json::to_string(&shown.board.view()) {
        Ok(body) => answer("application/json", body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn favicon() -> Response {
    answer("image/svg+xml", FAVICON.to_owned())
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let view = shown.board.view();
    match (view.certificate, view.probing.running && !view.probing.connected) {
        (None, _) => (StatusCode::SERVICE_UNAVAILABLE, "no certified document yet\n").into_response(),
        (Some(_), true) => (StatusCode::SERVICE_UNAVAILABLE, "not connected to a gateway\n").into_response(),
        (Some(_), false) => answer("text/plain; charset=utf-8", "ok\n".to_owned()),
    }
}

async fn prometheus(State(shown): State<Shown>) -> Response {
    match metrics::page(&shown.board.view()) {
        Ok(body) => answer("text/plain; version=0.0.4; charset=utf-8", body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// An answer that is not kept, not guessed at and does not tell other sites where one came from.
fn answer(kind: &'static str, body: String) -> Response {
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (fixed, body).into_response()
}

#[cfg(test)]
mod tests {
    use shoal_protocol::{authority::AuthoritySecret, network::Hints, parameters::Parameters, types::UnixMillis};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    async fn ask(address: SocketAddr, path: &str, host: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("listens");
        let question = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(question.as_bytes()).await.expect("takes a question");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answers");
        answer
    }

    #[tokio::test]
    async fn every_answer_has_a_policy_and_strangers_names_get_none_of_it() {
        let authority = AuthoritySecret::generate(&mut rand::rng());
        let network = shoal_protocol::network::NetworkFile {
            name: "nowhere".into(),
            genesis_time: UnixMillis(1_750_000_000_000),
            authorities: vec![authority.public().clone()],
            parameters: Parameters::test_network(),
            founding: shoal_protocol::network::Founding::default(),
            hints: Hints::default(),
        };
        let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("loopback has a free port");
        let address = server.address;
        let serving = tokio::spawn(server.run(Board::new(&network, Vec::new()), Duration::from_secs(2)));
        for path in ["/", "/live", "/status.json", "/favicon.svg", "/livez", "/readyz", "/metrics", "/nothing"] {
            let answer = ask(address, path, &address.to_string()).await;
            assert_eq!(answer.matches("content-security-policy: default-src 'none'").count(), 1, "{path}: {answer}");
            let answer = ask(address, path, "evil.example").await;
            assert!(answer.starts_with("HTTP/1.1 421") && !answer.contains("nowhere"), "{path}: {answer}");
        }
        serving.abort();
    }
}
