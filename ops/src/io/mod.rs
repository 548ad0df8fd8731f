//! The shell: processes, sockets, files and the clock.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod clock;
pub(crate) mod conversation;
pub(crate) mod demo;
pub(crate) mod directory;
pub(crate) mod http;
pub(crate) mod network;
pub(crate) mod observe;
pub(crate) mod parties;
pub(crate) mod person;
pub(crate) mod ports;
#[path = "../../../tests/src/postgres.rs"]
mod postgres;
pub(crate) mod prepare;
pub(crate) mod probe;
pub(crate) mod progress;
pub(crate) mod serve;
pub(crate) mod signals;
pub(crate) mod stale;
pub(crate) mod testnet;
pub(crate) mod watch;
