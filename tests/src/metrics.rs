//! Reading a daemon's loopback HTTP: `/readyz` and `/metrics`, without an HTTP library.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// GET of `path` at `at` (`host:port`, with or without `http://`): status and body; `None` when nobody answers.
pub fn get(at: &str, path: &str) -> Option<(u16, String)> {
    let host = at.trim_start_matches("http://").split('/').next()?;
    let mut stream = TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// The value of one sample, named with its labels as it stands in the text format.
pub fn sample(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
