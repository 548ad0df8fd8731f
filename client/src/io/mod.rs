//! The shell around the pure rooms: the only part of the client that reads a clock, opens a socket or draws from the
//! system's randomness.
#![expect(clippy::disallowed_methods, reason = "IO shell: clocks, sockets and system randomness are its business")]

mod caller;
mod client;
mod clock;
mod condition;
mod control;
mod daemon;
mod failure;
mod gateway;
mod health;
mod keyring;
mod lines;
mod mailroom;
mod network_file;
mod rpc;
mod schedule;
mod screen;
mod snapshot;
mod socket;
mod web;

pub use caller::{Caller, CallerError};
pub use client::{Client, StartError, system_rng};
pub use clock::Clock;
pub use condition::Condition;
pub use control::{Call, NotACall, Page, PageEntry};
pub use daemon::{serve, serve_with};
pub use failure::{Exit, Failure};
pub use health::{HealthError, serve_health};
pub use keyring::{KeyringError, fetch as fetch_from_keyring, forget as forget_in_keyring, keep as keep_in_keyring};
pub use lines::{
    AcceptedLine, ContactLine, ConversationLine, CostLine, EventLine, FileLine, InviteLine, Kind, MemberLine,
    MessageLine, Parts, PathLine, RateLine, SentLine, VerifyLine, WaitsFor,
};
pub use mailroom::{Desk, MailRoom, Stopped};
pub use network_file::{
    GatewayLine, NetworkLine, newer_hints, parse as parse_network_file, usable as usable_network_file,
};
pub use screen::{EntryFile, EntryLine, EstimateLine, OverviewLine, TimelinePage};
pub use snapshot::{DisputeLine, LoopReport, NoticeLine, OLDER_COPY_NEXT, Snapshot, Status, WaitingLine};
pub use socket::{SOCKET_NAME, socket_path};
pub use web::{WEB_ADDRESS, Web, WebError};
