//! The shell: clock, files, links, health. Everything that is decided is decided in the pure rooms.

pub mod authority;
pub mod catch_up;
pub mod chain;
pub mod check;
pub mod control;
pub mod failure;
pub mod files;
pub mod home;
pub mod http;
pub mod metrics;
pub mod peers;
pub mod protection;
pub mod reach;
pub mod run;
pub mod server;
pub mod snapshot;
pub mod twin;
pub mod votes;

use shoal_protocol::UnixMillis;

/// Wall-clock time.
#[expect(clippy::disallowed_methods, reason = "the shell reads the clock, once, here")]
#[must_use]
pub fn now() -> UnixMillis {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}
