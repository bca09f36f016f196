//! What the interop programs are made of: the public interop service, its client, and the flags and
//! events by which others drive them.

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

pub mod behavior;
pub mod cases;
pub mod client;
pub mod cookies;
pub mod corpus;
pub mod flags;
pub mod framed;
pub mod frames;
pub mod mgmt;
pub mod process;
pub mod psm;
pub mod run;
pub mod server;
pub mod service;
pub mod truth;
pub mod wire;
