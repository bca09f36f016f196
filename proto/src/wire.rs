//! The protobuf messages of xDS, as they travel: the part of the official API that Sidestep uses.
//!
//! One module per topic. Messages keep their official names, and what the API nests inside a message lies in a
//! module named after that message: [`cluster::Cluster`] has its enums and oneofs in [`cluster::cluster`].
//! The sources are our own `.proto` files in `proto/protos`; `cargo xtask codegen` turns them into the code below,
//! and a test compares them with the official descriptors.
//!
//! Maps are ordered, so equal messages have equal encodings. Fields that the `.proto` files leave out are skipped
//! when decoding.

mod any;
pub mod json;
// The generator decides how it looks, so that `codegen --check` means the same with every rustfmt.
#[rustfmt::skip]
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    rustdoc::all,
    clippy::all,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::redundant_clone,
    reason = "generated"
)]
mod generated;

pub use any::{Any, UnpackError};

/// The descriptors of every message in this module, as an encoded `google.protobuf.FileDescriptorSet`.
pub static DESCRIPTORS: &[u8] = include_bytes!("wire/descriptors.bin");

#[doc(inline)]
pub use generated::envoy::{
    config::{
        cluster::v3 as cluster, core::v3 as core, endpoint::v3 as endpoint,
        listener::v3 as listener, route::v3 as route,
    },
    extensions::{
        filters::network::http_connection_manager::v3 as hcm, transport_sockets::tls::v3 as tls,
        upstreams::http::v3 as upstream_http,
    },
    service::discovery::v3 as discovery,
    r#type::{matcher::v3 as matcher, v3 as number},
};
#[doc(inline)]
pub use generated::sidestep::operations::v1 as operations;

/// Errors as data.
pub mod rpc {
    pub use super::generated::google::rpc::Status;
}

/// What a data plane says about its resources (client status discovery).
pub mod status {
    pub use super::generated::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
    pub use super::generated::envoy::service::status::v3::{
        ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus, client_config,
    };
}

/// Load reports and the service that takes them.
pub mod load_stats {
    pub use super::generated::envoy::config::endpoint::v3::{
        ClusterStats, EndpointLoadMetricStats, UnnamedEndpointLoadMetricStats,
        UpstreamLocalityStats, cluster_stats,
    };
    pub use super::generated::envoy::service::load_stats::v3::{
        LoadStatsRequest, LoadStatsResponse,
    };
}

/// The few vendor-neutral types that matchers and sources refer to.
pub mod xds {
    pub use super::generated::xds::core::v3::{Authority, TypedExtensionConfig};
    pub use super::generated::xds::r#type::matcher::v3::Matcher;
}

/// Extension configurations spelled out as JSON-like structures, in their two official packages.
pub mod typed_struct {
    pub use super::generated::udpa::r#type::v1::TypedStruct as UdpaTypedStruct;
    pub use super::generated::xds::r#type::v3::TypedStruct;
}

/// What backends say of their load (ORCA), at the end of a call and beside calls.
pub mod orca {
    pub use super::generated::xds::data::orca::v3::OrcaLoadReport;
    pub use super::generated::xds::service::orca::v3::OrcaLoadReportRequest;
}

/// Configurations of HTTP filters.
pub mod http_filter {
    pub use super::generated::envoy::extensions::filters::common::fault::v3::{
        FaultDelay, FaultRateLimit,
    };
    pub use super::generated::envoy::extensions::filters::http::fault::v3::{
        FaultAbort, HttpFault,
    };
    pub use super::generated::envoy::extensions::filters::http::router::v3::Router;
    pub use super::generated::envoy::extensions::filters::http::stateful_session::v3::{
        StatefulSession, StatefulSessionPerRoute, stateful_session_per_route,
    };
}

/// Where session affinity keeps its state.
pub mod session_state {
    use super::generated::envoy::extensions::http::stateful_session as kinds;

    pub use super::generated::envoy::r#type::http::v3::Cookie;
    pub use kinds::cookie::v3::CookieBasedSessionState;
    pub use kinds::header::v3::HeaderBasedSessionState;
}

/// Configurations of listener filters.
pub mod listener_filter {
    pub use super::generated::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
}

/// Configurations of cluster types that are extensions.
pub mod cluster_type {
    pub use super::generated::envoy::extensions::clusters::aggregate::v3::ClusterConfig as AggregateCluster;
}

/// Configurations of load-balancing policies.
pub mod load_balancing {
    use super::generated::envoy::extensions::load_balancing_policies as policies;

    pub use policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
    pub use policies::common::v3::{
        ConsistentHashingLbConfig, LocalityLbConfig, OrcaOobReportingConfig, SlowStartConfig,
        locality_lb_config,
    };
    pub use policies::least_request::v3::{LeastRequest, least_request};
    pub use policies::maglev::v3::Maglev;
    pub use policies::peak_ewma::v3alpha::PeakEwma;
    pub use policies::pick_first::v3::PickFirst;
    pub use policies::random::v3::Random;
    pub use policies::random_subsetting::v3::RandomSubsetting;
    pub use policies::ring_hash::v3::{RingHash, ring_hash};
    pub use policies::round_robin::v3::RoundRobin;
    pub use policies::subset::v3::{Subset, subset};
    pub use policies::wrr_locality::v3::WrrLocality;
}
