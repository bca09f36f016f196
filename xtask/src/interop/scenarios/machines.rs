//! More than one machine.

use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::namespaces;
use crate::interop::peer::{Client, Plane, Server};
use crate::interop::scenario::Scenario;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "namespaces",
    features: &[Feature::Machines],
    about: "control plane, server and client of ours on three machines (network namespaces), TLS everywhere; plaintext is refused",
    casts: &[Cast::new(Client::Ours, Server::Ours, Plane::Serve)],
    helpers: &[],
    tier: Tier::Quick,
    play: namespaces::play,
}];
