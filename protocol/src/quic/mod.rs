//! Links: authenticated, post-quantum QUIC connections between the parties, and fixed-size frames on them.
//!
//! The crate's only input and output. A link is TLS 1.3 with X25519MLKEM768 and nothing else, RFC 7250 raw public keys
//! (Ed25519), no certificates, no tickets, no early data, no server name. The ALPN says which protocol is spoken; the
//! dialler pins the identity it dials. Who may speak a protocol is not decided here: [`Link::peer`] is what the caller
//! looks up in the consensus right after [`Arrival::admit`].
//!
//! What an observer of a link sees is the size and time of datagrams. The spin bit is off, nothing carries over from
//! one connection to the next (no tickets, no address tokens), and what QUIC adds (acknowledgements, keep-alives, path
//! probes) is a function of what can be seen anyway. Datagrams are not padded: a packet fills two of them by its own
//! size, and padding would make every acknowledgement as big as half a packet.

mod endpoint;
mod error;
mod frames;
mod gate;
mod group;
mod link;
mod pieces;
mod protocol;
mod question;
mod reset;
mod tls;
mod transport;

pub use endpoint::{Arrival, CONNECT_TIMEOUT, Endpoint, HANDSHAKE_TIMEOUT};
pub use error::{CloseReason, QuicError};
pub use frames::{FrameError, FrameReader, FrameWriter};
pub use gate::{Limits, TurnedAway};
pub use link::Link;
pub use pieces::{Pieces, pushed};
pub use protocol::{DiallerKey, Protocol};
pub use question::{ANSWER_TIMEOUT, Answerer, AskError, PEER_QUESTION_TIMEOUT, QUESTION_TIMEOUT, ask, read_question};
