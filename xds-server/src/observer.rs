//! What happens on the ADS streams, for whoever wants to know.

use sidestep_proto::ads::{Request, Variant};
use sidestep_proto::wire::core::Node;

/// Hears what happens on every ADS stream. Called on the stream's own task: must not block.
pub trait StreamObserver: Send + Sync + 'static {
    /// Something happened on `stream`.
    fn observe(&self, stream: &StreamInfo, event: StreamEvent<'_>);
}

/// One ADS stream.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Unique within this server's life.
    pub id: u64,
    /// Where it comes from: `127.0.0.1:49152`, or `unix` for a Unix socket.
    pub peer: String,
    /// The protocol variant.
    pub variant: Variant,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum StreamEvent<'a> {
    /// The stream was opened.
    Opened,
    /// A request arrived, as it was sent; what comes of it is told after this. The first one of a
    /// stream says who asks.
    Received(&'a Request),
    /// The client said who it is.
    Identified(&'a Node),
    /// The client changed its subscription.
    Requested {
        /// Of which type.
        type_url: &'a str,
        /// All names subscribed now; `*` stands for all there are.
        names: &'a [String],
    },
    /// A response was handed to the transport.
    Responded {
        /// Of which type.
        type_url: &'a str,
        /// `version_info` or `system_version_info`.
        version: &'a str,
        /// What an ACK or NACK will refer to.
        nonce: &'a str,
        /// How many resources it carries.
        count: usize,
        /// The revision of the configuration they are from.
        revision: u64,
    },
    /// The client came with what it would be sent now, from an earlier stream.
    Resumed {
        /// Of which type.
        type_url: &'a str,
        /// What it has.
        version: &'a str,
        /// The revision in use.
        revision: u64,
    },
    /// The client accepted a response.
    Acked {
        /// Of which type.
        type_url: &'a str,
        /// Of that response.
        version: &'a str,
        /// Of that response.
        nonce: &'a str,
    },
    /// The client refused a response, or part of it.
    Nacked {
        /// Of which type.
        type_url: &'a str,
        /// Of that response.
        version: &'a str,
        /// Of that response.
        nonce: &'a str,
        /// The client's words.
        message: &'a str,
    },
    /// The client has answered everything that it asked for of this revision, by ACK or NACK.
    /// Told once for each revision that it gets to; what it asks for later does not take it back.
    Settled {
        /// Which.
        revision: u64,
    },
    /// The stream is over.
    Closed {
        /// Why.
        reason: &'a str,
    },
}
