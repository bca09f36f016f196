//! Casts that many scenarios share.

use super::cast::Cast;
use super::peer::{Client, Plane, Server};

/// Each client with our control plane and our servers; each server, and each control plane that serves
/// resources as they are, with our client.
pub(crate) const EVERYBODY: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Python, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Node, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Java, Plane::Mgmt).in_full_runs(),
    Cast::new(Client::Go, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Python, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Node, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Java, Server::Ours, Plane::Mgmt).in_full_runs(),
];

/// Those of them with the policy.
pub(crate) const LEAST_REQUEST: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Python, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Node, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Java, Plane::Mgmt).in_full_runs(),
    Cast::new(Client::Go, Server::Ours, Plane::Mgmt),
];

/// Those of them with weighted round robin.
pub(crate) const WEIGHTED_ROUND_ROBIN: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Python, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Node, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Java, Plane::Mgmt).in_full_runs(),
    Cast::new(Client::Go, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Python, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Java, Server::Ours, Plane::Mgmt).in_full_runs(),
];

/// Clients with authorities that have control planes of their own.
pub(crate) const FEDERATION: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Ours, Plane::GoControlPlane),
    Cast::new(Client::Go, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Python, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Java, Server::Ours, Plane::Mgmt).in_full_runs(),
];

/// Clients that go back to the first control plane.
pub(crate) const FALLBACK: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Ours, Plane::GoControlPlane),
    Cast::new(Client::Go, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Python, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Java, Server::Ours, Plane::Mgmt).in_full_runs(),
];

/// Clients that keep sessions in cookies.
pub(crate) const SESSION_AFFINITY: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Python, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Node, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Java, Plane::Mgmt).in_full_runs(),
    Cast::new(Client::Python, Server::Ours, Plane::Mgmt),
];

/// Clients whose aggregate clusters have been tried.
pub(crate) const AGGREGATES: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Python, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Node, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Java, Plane::Mgmt).in_full_runs(),
    Cast::new(Client::Go, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Python, Server::Ours, Plane::Mgmt),
];
