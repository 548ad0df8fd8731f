//! The shell: everything that reads a clock, a socket or a disk. It asks the pure rooms what to do and does it.

pub mod accept;
pub mod bucket_file;
pub mod changes;
pub mod control;
pub mod counters;
pub mod delay_thread;
pub mod directory;
pub mod disk;
pub mod doctor;
pub mod drain;
#[cfg(test)]
mod engine_conformance;
pub mod engine_redb;
pub mod engine_thread;
pub mod evidence;
pub mod files;
pub mod gateway_io;
pub mod handing;
pub mod host;
pub mod http;
pub mod key_files;
pub mod links;
pub mod live_keys;
pub mod logging;
pub mod loop_task;
pub mod metrics;
pub mod phase;
pub mod process;
pub mod publish;
pub mod reload;
pub mod run;
pub mod setup;
pub mod status;
pub mod store;
pub mod store_links;
pub mod store_seam;
pub mod supervise;
pub mod tag_log;
#[cfg(test)]
mod torn_disk;
pub mod workers;
