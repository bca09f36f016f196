//! One HTTP/2 connection to one endpoint, straight on h2.
//!
//! ```text
//!   connect ── race of addresses (250 ms apart): dial, TLS, HTTP/2 ──> (Connection, Driver)
//!
//!   Connection ── send ──> Exchange ──> Response<Incoming>      in the caller's task
//!       │                     └─ pump   (only for bodies that are not there at once)
//!       └ draining, in_flight, has_room
//!   Driver ── spawned once: frames, keepalive, notices GOAWAY and the end
//! ```
//!
//! A unary call makes no task, no box, no channel and takes no lock of ours: the caller's own
//! task puts HEADERS and DATA into h2 and waits for the answer there.
//!
//! Everything above [`Connection`] (names, picks, retries, deadlines) is none of this module's
//! business; [`state`] is the pure backoff machine that `control` keeps for each endpoint.

mod connect;
mod connection;
mod connections;
mod disconnect;
mod driver;
mod exchange;
pub mod growth;
mod incoming;
mod pump;
pub mod race;
mod request_body;
mod single;
pub mod state;
mod watched;

#[cfg(test)]
mod tests;

pub use connect::{
    Attempt, AttemptError, ConnectError, ConnectTarget, Connector, Http2Options, Io, connect,
    default_connector,
};
pub use connection::Connection;
pub use connections::{Choice, Connections, Turn};
pub use disconnect::Disconnect;
pub use driver::{Closed, Driver};
pub use exchange::{Exchange, SendError, SendFailure};
pub use incoming::{Incoming, IncomingError};
pub use request_body::{BoxError, RequestBody};
pub use single::{Single, SingleExchange};
