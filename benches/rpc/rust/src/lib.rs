//! Whole calls beside peers: what the programs `rpc-client` and `rpc-server` are made of.
//!
//! A client is a [`transport`](transport) under a [`load`](load), which gives an
//! [`outcome`](outcome). `benches/README.md` has the method.

/// The service that is called: stubs generated from `../protos/rpc.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated")]
pub mod echo {
    include!("generated/bench.rs");
}

pub mod bare;
pub mod lab;
pub mod load;
pub mod outcome;
pub mod pace;
pub mod transport;
pub mod xds;
