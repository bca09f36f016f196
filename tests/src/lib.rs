//! What the end-to-end tests and the interop programs share: the public interop service.

/// `grpc.testing`: stubs generated from `protos/grpc/testing/test.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::use_self,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
pub mod testing {
    include!("generated/grpc.testing.rs");
}

pub mod admin;
pub mod client;
pub mod events;
pub mod fixture;
pub mod flags;
pub mod load;
pub mod raw;
pub mod scripted;
pub mod service;
