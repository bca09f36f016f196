//! The gRPC services of the server, each a thin layer over the rest of the crate.

mod ads;
mod codec;
mod lrs;
mod operations;

pub(crate) use ads::AggregatedDiscovery;
pub(crate) use lrs::LoadReports;
pub(crate) use operations::Operations;
pub use operations::{OPERATIONS_SERVICE, OPERATIONS_STATUS};

/// The future that tonic's router expects of a service.
type Answer = futures_core::future::BoxFuture<
    'static,
    Result<http::Response<tonic::body::Body>, std::convert::Infallible>,
>;

/// What a method that does not exist is answered with.
fn unimplemented() -> Answer {
    Box::pin(async { Ok(tonic::Status::unimplemented("no such method").into_http()) })
}
