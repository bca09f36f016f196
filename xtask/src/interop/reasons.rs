//! Why a cell of the matrix is not "yes". A cell without a scenario must have its reason here: a
//! test sees to it. What stands before the colon is shown in the cell.

use super::cast::Column;
use super::feature::Feature;
use super::peer::{Client, Plane, Server};

/// What a reason is about.
struct Reason {
    /// These rows; none: all.
    features: &'static [Feature],
    /// These columns; none: all.
    columns: &'static [Column],
    words: &'static str,
}

const EVERY: &[Feature] = &[];
const EVERYBODY: &[Column] = &[];

const PLANES: &[Column] = &[
    Column::Under(Plane::GoControlPlane),
    Column::Under(Plane::Istio),
];

/// What is about programs of ours and nobody else's.
const OURS_ALONE: &[Feature] = &[
    Feature::Drain,
    Feature::Hostile,
    Feature::Nack,
    Feature::SlowPlane,
    Feature::Tears,
    Feature::Rotation,
    Feature::Skew,
    Feature::Stubs,
    Feature::Machines,
];

/// The first one that fits counts.
const REASONS: &[Reason] = &[
    Reason {
        features: &[
            Feature::FaultInjection,
            Feature::Authorization,
            Feature::LoadReports,
        ],
        columns: EVERYBODY,
        words: "to come: the runtime does not have it yet",
    },
    Reason {
        features: &[Feature::SessionAffinity],
        columns: &[
            Column::TheirClient(Client::Go),
            Column::TheirClient(Client::Node),
            Column::TheirClient(Client::Java),
        ],
        words: "no: this client has no sessions",
    },
    Reason {
        features: &[Feature::AggregateClusters],
        columns: &[
            Column::TheirClient(Client::Node),
            Column::TheirClient(Client::Java),
        ],
        words: "to come: aggregates are not tried with this client yet",
    },
    Reason {
        features: &[Feature::Delta],
        columns: &[
            Column::TheirClient(Client::Go),
            Column::TheirClient(Client::Python),
            Column::TheirClient(Client::Node),
            Column::TheirClient(Client::Java),
        ],
        words: "no: gRPC's own clients speak the state of the world only",
    },
    Reason {
        features: &[Feature::Delta],
        columns: EVERYBODY,
        words: "no: the contract's client speaks the state of the world; our own ends speak delta with each other in the tests of the workspace, and Envoy speaks it with us",
    },
    Reason {
        features: &[Feature::WeightedRoundRobin],
        columns: &[Column::TheirClient(Client::Node)],
        words: "no: the client of the matrix has no such policy",
    },
    Reason {
        features: &[Feature::LeastRequest],
        columns: &[
            Column::TheirClient(Client::Python),
            Column::TheirClient(Client::Node),
        ],
        words: "no: this client has no such policy",
    },
    Reason {
        features: &[Feature::LeastRequest],
        columns: &[Column::TheirClient(Client::Java)],
        words: "no: grpc-java has the policy behind a flag of its process only",
    },
    Reason {
        features: &[Feature::PlainGrpc],
        columns: PLANES,
        words: "no: no control plane takes part in it",
    },
    Reason {
        features: &[Feature::PlainGrpc],
        columns: EVERYBODY,
        words: "to come: this peer's programs of the cases are not installed yet",
    },
    Reason {
        features: &[Feature::Sidecar],
        columns: EVERYBODY,
        words: "no: the sidecar is Envoy",
    },
    Reason {
        features: &[Feature::Refusal, Feature::WireTruth],
        columns: EVERYBODY,
        words: "no: grpc-go and the control planes are the judges",
    },
    Reason {
        features: &[Feature::Skew],
        columns: &[Column::OurClient(Server::Ours)],
        words: "no: no earlier tag",
    },
    Reason {
        features: OURS_ALONE,
        columns: &[Column::OurClient(Server::Ours)],
        words: "to come: no scenario yet",
    },
    Reason {
        features: OURS_ALONE,
        columns: EVERYBODY,
        words: "no: about our own programs",
    },
    Reason {
        features: EVERY,
        columns: &[Column::OurClient(Server::Envoy)],
        words: "no: of Envoy as a server only the connections matter, see the sidecar",
    },
    Reason {
        features: EVERY,
        columns: &[Column::TheirClient(Client::Envoy)],
        words: "to come: no scenario with Envoy as the client yet",
    },
    Reason {
        features: EVERY,
        columns: &[Column::Under(Plane::GoControlPlane)],
        words: "to come: no scenario under go-control-plane yet",
    },
    Reason {
        features: EVERY,
        columns: &[Column::Under(Plane::Istio)],
        words: "to come: no scenario under Istio yet",
    },
    Reason {
        features: &[Feature::Federation, Feature::Fallback],
        columns: &[Column::TheirClient(Client::Node)],
        words: "to come: not tried with grpc-node yet",
    },
    Reason {
        features: &[Feature::Federation, Feature::Fallback],
        columns: &[
            Column::OurClient(Server::Go),
            Column::OurClient(Server::Python),
            Column::OurClient(Server::Node),
            Column::OurClient(Server::Java),
        ],
        words: "no: a server has no part in it",
    },
    Reason {
        features: EVERY,
        columns: &[
            Column::OurClient(Server::Java),
            Column::TheirClient(Client::Java),
        ],
        words: "to come: not tried with grpc-java yet",
    },
];

/// Whether nobody else takes part in it.
pub(super) fn is_ours_alone(feature: Feature) -> bool {
    OURS_ALONE.contains(&feature)
}

/// Why this cell is not played.
pub(crate) fn reason(feature: Feature, column: Column) -> Option<&'static str> {
    let fits = |reason: &&Reason| {
        (reason.features.is_empty() || reason.features.contains(&feature))
            && (reason.columns.is_empty() || reason.columns.contains(&column))
    };
    REASONS.iter().find(fits).map(|reason| reason.words)
}
