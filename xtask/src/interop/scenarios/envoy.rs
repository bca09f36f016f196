//! Envoy under our control plane, alone and beside services.

use crate::interop::cast::{Cast, Tier};
use crate::interop::envoy::{self, Protocol};
use crate::interop::feature::Feature;
use crate::interop::peer::{Client, Peer, Plane, Server};
use crate::interop::scenario::Scenario;
use crate::interop::sidecar;

const CASTS: &[Cast] = &[Cast::new(Client::Envoy, Server::Ours, Plane::Serve)];

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "envoy-sotw",
        features: &[
            Feature::Baseline,
            Feature::TrafficSplit,
            Feature::EndpointChange,
            Feature::Timeout,
        ],
        about: "Envoy, configured by `sidestep serve` (state of the world), routes calls, follows edits, ends calls in time",
        casts: CASTS,
        helpers: &[Peer::Grpcio],
        tier: Tier::Quick,
        play: |stage| envoy::routes_calls(stage, Protocol::StateOfTheWorld),
    },
    Scenario {
        name: "envoy-delta",
        features: &[Feature::Delta],
        about: "Envoy, configured by `sidestep serve` (delta), routes calls, follows edits, ends calls in time",
        casts: CASTS,
        helpers: &[Peer::Grpcio],
        tier: Tier::Quick,
        play: |stage| envoy::routes_calls(stage, Protocol::Delta),
    },
    Scenario {
        name: "envoy-sidecar-mtls",
        features: &[
            Feature::Sidecar,
            Feature::Mtls,
            Feature::NoClientCertificate,
        ],
        about: "Envoy beside a service that is not meshed yet, as caller and as server, over strict mutual TLS with meshed peers",
        casts: &[
            Cast::new(Client::Envoy, Server::Ours, Plane::Serve),
            Cast::new(Client::Ours, Server::Envoy, Plane::Serve),
        ],
        helpers: &[Peer::Grpcio],
        tier: Tier::Quick,
        play: sidecar::play,
    },
];
