//! What travels between the two machines.

use crate::wire::core::Node;
use crate::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::wire::rpc::Status;

/// Explicitly names everything of a type (LDS and CDS only).
pub(super) const WILDCARD: &str = "*";

/// The two variants of the aggregated discovery service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// `StreamAggregatedResources`: requests list all names, LDS and CDS responses all resources.
    StateOfTheWorld,
    /// `DeltaAggregatedResources`: both directions carry differences.
    Delta,
}

/// From the client to the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// On a state-of-the-world stream.
    StateOfTheWorld(DiscoveryRequest),
    /// On a delta stream.
    Delta(DeltaDiscoveryRequest),
}

impl Request {
    /// Which of the two streams it belongs on.
    #[must_use]
    pub fn variant(&self) -> Variant {
        match self {
            Self::StateOfTheWorld(_) => Variant::StateOfTheWorld,
            Self::Delta(_) => Variant::Delta,
        }
    }

    /// The type it is about.
    #[must_use]
    pub fn type_url(&self) -> &str {
        match self {
            Self::StateOfTheWorld(r) => &r.type_url,
            Self::Delta(r) => &r.type_url,
        }
    }

    /// The response it acknowledges or refuses; empty for none.
    #[must_use]
    pub fn nonce(&self) -> &str {
        match self {
            Self::StateOfTheWorld(r) => &r.response_nonce,
            Self::Delta(r) => &r.response_nonce,
        }
    }

    /// Present exactly if it refuses a response.
    #[must_use]
    pub fn error_detail(&self) -> Option<&Status> {
        match self {
            Self::StateOfTheWorld(r) => r.error_detail.as_ref(),
            Self::Delta(r) => r.error_detail.as_ref(),
        }
    }

    /// Who asks; only the first request of a stream says so.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        match self {
            Self::StateOfTheWorld(r) => r.node.as_ref(),
            Self::Delta(r) => r.node.as_ref(),
        }
    }

    pub(super) fn set_node(&mut self, node: Node) {
        match self {
            Self::StateOfTheWorld(r) => r.node = Some(node),
            Self::Delta(r) => r.node = Some(node),
        }
    }
}

/// From the server to the client.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// On a state-of-the-world stream.
    StateOfTheWorld(DiscoveryResponse),
    /// On a delta stream.
    Delta(DeltaDiscoveryResponse),
}

impl Response {
    /// Which of the two streams it belongs on.
    #[must_use]
    pub fn variant(&self) -> Variant {
        match self {
            Self::StateOfTheWorld(_) => Variant::StateOfTheWorld,
            Self::Delta(_) => Variant::Delta,
        }
    }

    /// The type it is about.
    #[must_use]
    pub fn type_url(&self) -> &str {
        match self {
            Self::StateOfTheWorld(r) => &r.type_url,
            Self::Delta(r) => &r.type_url,
        }
    }

    /// What the answer to it has to repeat.
    #[must_use]
    pub fn nonce(&self) -> &str {
        match self {
            Self::StateOfTheWorld(r) => &r.nonce,
            Self::Delta(r) => &r.nonce,
        }
    }
}
