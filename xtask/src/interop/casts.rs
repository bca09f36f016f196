//! Casts that many scenarios share.

use super::cast::Cast;
use super::peer::{Client, Plane, Server};

/// Each client with our control plane and our servers, each server and each control plane with our
/// client.
pub(crate) const EVERYBODY: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Python, Plane::GoControlPlane),
    Cast::new(Client::Go, Server::Ours, Plane::GoControlPlane),
    Cast::new(Client::Python, Server::Ours, Plane::GoControlPlane),
];

/// Those of them with TLS by xDS on either side.
pub(crate) const SECURE: &[Cast] = EVERYBODY;

/// Clients that can be asked for their status.
pub(crate) const ADMIN: &[Cast] = EVERYBODY;

/// Clients with authorities that have control planes of their own.
pub(crate) const FEDERATION: &[Cast] = &[
    Cast::new(Client::Go, Server::Ours, Plane::GoControlPlane),
    Cast::new(Client::Python, Server::Ours, Plane::GoControlPlane),
];

/// Clients that go back to the first control plane.
pub(crate) const FALLBACK: &[Cast] = &[Cast::new(Client::Go, Server::Ours, Plane::GoControlPlane)];

/// Clients that have the policy.
pub(crate) const LEAST_REQUEST: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Python, Plane::GoControlPlane),
    Cast::new(Client::Go, Server::Ours, Plane::GoControlPlane),
];
