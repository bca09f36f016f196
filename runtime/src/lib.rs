//! The service mesh that needs no sidecar: client and server runtime, in your process.
//!
//! ```text
//!   stub -> Channel -> snapshot -> routes.find -> picker.pick -> Connection -> h2
//!                        ^                          ^
//!                        |   swapped whole          |   swapped by policy
//!   xDS server == ADS ==> control ( cache -> join -> reconcile -> load balancers )
//! ```
//!
//! Read in this order: [`mesh`], [`channel`], [`snapshot`], [`routing`], [`balancer`],
//! [`subchannel`], then [`control`], where everything that changes is owned; [`server`] is the
//! other end, with [`orca`] for what it says of its load. What is told of it all is in
//! [`telemetry`].

pub mod admin;
pub mod balancer;
pub mod channel;
pub mod circuit_breaker;
pub mod control;
pub mod explain;
pub mod inspect;
pub mod mesh;
pub mod mode;
pub mod orca;
pub mod resolver;
pub mod retry;
pub mod routing;
pub mod security;
pub mod server;
pub mod snapshot;
pub mod source;
pub mod subchannel;
pub mod telemetry;

pub use admin::AdminError;
pub use channel::{Authority, CallError, CallInfo, Channel, WaitForReady};
pub use mesh::{BuildError, Mesh, MeshBuilder};
pub use mode::Mode;
pub use security::PeerIdentity;
pub use server::{BoundServer, Server, ServerError, ServerMode};
pub use source::static_::StaticResources;
pub use telemetry::access_log::AccessLog;
pub use telemetry::trace_context::TraceContext;
pub use telemetry::{Telemetry, TelemetryOptions};
