//! The log: standard error, a filter that can be changed while the node runs, and nothing but our own lines.

use std::io::IsTerminal as _;
use std::sync::Arc;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, filter, fmt, reload};

/// Changes the filter of the running log.
pub type SetFilter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Whether a line of this module is ever written. Lines of libraries are not, whatever the filter asks for: those for
/// QUIC and TLS name the addresses of peers, clients' among them.
fn is_ours(target: &str) -> bool {
    ["shoal_node", "shoal_protocol"]
        .iter()
        .any(|package| target.strip_prefix(package).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
}

/// Whether `text` is a filter: levels, or modules with a level each. A word alone that is no level would be taken for the
/// name of a module, and the log would be silent.
pub fn is_filter(text: &str) -> bool {
    let level = |part: &str| part.rsplit_once('=').map_or(part, |(_, level)| level).parse::<filter::LevelFilter>();
    EnvFilter::try_new(text).is_ok() && text.split(',').all(|part| level(part.trim()).is_ok())
}

/// Starts the log with `configured`, or with what the environment variable `SHOAL_LOG` says if it is set: then the
/// configuration does not change it either.
pub fn start(configured: &str) -> SetFilter {
    let environment = EnvFilter::try_from_env("SHOAL_LOG").ok();
    let fixed = environment.is_some();
    let filter = environment.unwrap_or_else(|| EnvFilter::new(configured));
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(filter)
        .with(filter::filter_fn(|metadata| is_ours(metadata.target())))
        .with(fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()))
        .init();
    Arc::new(move |text| {
        if fixed {
            return Err("SHOAL_LOG is set and goes before it".to_owned());
        }
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_silent() {
        for target in ["shoal_node", "shoal_node::io::run", "shoal_protocol::quic"] {
            assert!(is_ours(target), "{target}");
        }
        for target in [
            "quinn",
            "quinn_proto::connection",
            "rustls",
            "hyper::server",
            "tokio_postgres::query",
            "log",
            "shoal_nodes",
        ] {
            assert!(!is_ours(target), "{target}");
        }
    }

    #[test]
    fn filters_are_told_from_mistakes() {
        assert!(is_filter("info") && is_filter("warn,shoal_node::io::links=debug"));
        assert!(!is_filter("shoal_node=loud") && !is_filter("loud"), "no level");
    }
}
