//! Pages that a process serves to its own machine: health, metrics, status. What every such server must withstand stands here
//! once: pages of a browser that point their own name at it, connections that are held open, and more of them than it may
//! have files.

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::serve::Listener;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at a time; further ones wait in the system's queue. A browser opens six, a scraper one.
const CONNECTIONS: usize = 32;
/// A connection on which nothing comes or goes for so long is closed. A scraper that asks every 15 s keeps its own.
const IDLE: Duration = Duration::from_secs(30);

/// Serves `router` until `stop` resolves. Whoever asks by another name than an address or `localhost` is refused.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let router = router.layer(middleware::from_fn(guard));
    axum::serve(Bounded { listener, places }, router).with_graceful_shutdown(stop).await
}

/// Refuses who asks for another host's page: a page elsewhere could point its own name at this address and read along.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    if host.is_none_or(is_own) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "ask by address or as localhost\n").into_response()
    }
}

/// Whether a `Host` is an address or `localhost`, with a port or without: names can be pointed anywhere.
fn is_own(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// A listener with so many connections at most.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        // never closed; if it were, there would be no bound, and still a server
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        // what fails there is tried again there
        let (stream, from) = Listener::accept(&mut self.listener).await;
        (Held { stream, patience: Box::pin(sleep(IDLE)), _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its place, closed when nothing happens on it.
struct Held {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// What an operation came to; when it waits, for not longer than the patience lasts.
    fn within<T>(&mut self, done: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.patience.set(sleep(IDLE));
            return done;
        }
        self.patience.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(cx, into);
        self.within(done, cx)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within(done, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(address: SocketAddr, host: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("listens");
        let question = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(question.as_bytes()).await.expect("takes a question");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answers");
        answer
    }

    #[tokio::test]
    async fn strangers_names_get_nothing_and_silent_connections_cost_no_more_than_their_places() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("its address");
        let router = Router::new().route("/", get(|| async { "a secret" }));
        let serving = tokio::spawn(serve(listener, router, std::future::pending()));
        assert!(ask(address, &address.to_string()).await.ends_with("a secret"));
        let refused = ask(address, "evil.example").await;
        assert!(refused.starts_with("HTTP/1.1 421") && !refused.contains("a secret"), "{refused}");

        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.expect("listens");
            stream.write_all(b"GET").await.expect("sent");
            silent.push(stream);
        }
        // the clock stands still, so that no patience ends before somebody waits for it
        tokio::time::pause();
        let late = tokio::time::timeout(10 * IDLE, ask(address, "localhost"));
        assert!(late.await.expect("the silent ones were closed").ends_with("a secret"));
        serving.abort();
    }

    #[test]
    fn addresses_and_localhost_are_our_own() {
        for own in ["127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8080", "localhost", "LocalHost:9", "192.0.2.7:1"] {
            assert!(is_own(own), "{own}");
        }
        for foreign in ["", "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "a:b:80"] {
            assert!(!is_own(foreign), "{foreign}");
        }
    }
}
