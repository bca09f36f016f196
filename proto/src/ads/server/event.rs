//! What a server stream says and reports.

use super::response::ServerResponse;
use crate::wire::core::Node;

/// What the driver of a [`super::ServerStream`] has to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerOutput {
    /// Write this to the stream.
    Send(ServerResponse),
    /// Something others want to know: who runs what.
    Event(ServerEvent),
}

/// What happened on the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerEvent {
    /// The peer said who it is.
    Node(Box<Node>),
    /// The peer's subscription of a type changed.
    Request {
        /// Which type.
        type_url: String,
        /// All names it wants now; `*` for a wildcard.
        names: Vec<String>,
    },
    /// The peer accepted a response.
    Ack {
        /// Of which type.
        type_url: String,
        /// The accepted version.
        version: String,
        /// The accepted response; empty if the peer brought this, current, version along.
        nonce: String,
    },
    /// The peer refused a response. What is in it is not sent again until it changes.
    Nack {
        /// Of which type.
        type_url: String,
        /// The refused version.
        version: String,
        /// The refused response.
        nonce: String,
        /// The peer's reasons.
        message: String,
    },
    /// A response was given out.
    Sent {
        /// Of which type.
        type_url: String,
        /// Its version.
        version: String,
        /// Its nonce.
        nonce: String,
        /// How many resources are in it.
        count: usize,
        /// The view's revision it was made from.
        revision: u64,
    },
}
