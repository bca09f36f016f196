//! Casts that many scenarios share.

use super::cast::Cast;
use super::peer::{Client, Plane, Server};

/// Each client with our control plane and our servers, each server and each control plane with our
/// client.
pub(crate) const EVERYBODY: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Ours, Server::Python, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Node, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Java, Plane::Mgmt),
    Cast::new(Client::Go, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Python, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Node, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Java, Server::Ours, Plane::Mgmt),
];
