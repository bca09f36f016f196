//! What travels between the two machines.

use crate::wire::core::Node;
use crate::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    ResourceLocator,
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

    /// `version_info`: what was last accepted. Delta requests name no version.
    #[must_use]
    pub fn version(&self) -> &str {
        match self {
            Self::StateOfTheWorld(r) => &r.version_info,
            Self::Delta(_) => "",
        }
    }

    /// The names it asks for, those of resource locators last: in state of the world all that are
    /// wanted, in delta those wanted from now on.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (names, locators) = match self {
            Self::StateOfTheWorld(r) => (&r.resource_names, &r.resource_locators),
            Self::Delta(r) => (&r.resource_names_subscribe, &r.resource_locators_subscribe),
        };
        both(names, locators)
    }

    /// The names that a delta request takes back.
    pub fn unsubscribed(&self) -> impl Iterator<Item = &str> {
        let (names, locators): (&[String], &[ResourceLocator]) = match self {
            Self::StateOfTheWorld(_) => (&[], &[]),
            Self::Delta(r) => (
                &r.resource_names_unsubscribe,
                &r.resource_locators_unsubscribe,
            ),
        };
        both(names, locators)
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

fn both<'a>(names: &'a [String], locators: &'a [ResourceLocator]) -> impl Iterator<Item = &'a str> {
    let located = locators.iter().map(|locator| &locator.name);
    names.iter().chain(located).map(String::as_str)
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
