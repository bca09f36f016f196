//! What this server says of its load to those who call it (ORCA, gRFC A51): with each answer, and
//! on a stream beside the calls.
//!
//! ```text
//!   handler ──> LoadRecorder of the call ──┐
//!                                          ├─> CallReports   ──> trailer endpoint-load-metrics-bin
//!   process ──> LoadRecorder of the server ┤
//!                                          └─> ServerReports ──> OpenRcaService.StreamCoreMetrics
//! ```
//!
//! Both ends are opt-in and ordinary parts of a server, ours or tonic's own: [`CallReports`] is a
//! tower layer, [`ServerReports`] a service.
//!
//! ```no_run
//! # use sidestep::orca::{CallReports, LoadRecorder, ServerReports};
//! # fn main() -> Result<(), sidestep::BuildError> {
//! let load = LoadRecorder::new();
//! let mesh = sidestep::Mesh::from_env()?;
//! let server = mesh
//!     .server("0.0.0.0:50051")
//!     .add_service(ServerReports::new(load.clone()))
//!     .layer(CallReports::new().with_server(load.clone()));
//! load.cpu_utilization(0.7);
//! # let _ = server;
//! # Ok(())
//! # }
//! ```
//!
//! A handler finds the recorder of its call in the request's extensions:
//! `request.extensions().get::<LoadRecorder>()`.

mod call;
mod recorder;
mod service;

pub use call::{CallReports, Reported, ReportedBody, ReportingCalls};
pub use recorder::LoadRecorder;
pub use service::{SERVICE, ServerReports};

/// The trailer that carries the report of a call.
pub const TRAILER: &str = "endpoint-load-metrics-bin";
