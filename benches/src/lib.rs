//! What a call, a pick and a config change cost.
//!
//! The programs are in `src/bin`; `cargo xtask bench` builds them, runs them under valgrind where
//! that counts better than a clock, and compares with the bars. See `README.md`.

/// The service that is measured: stubs generated from `protos/bench.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::use_self,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
pub mod echo {
    include!("generated/bench.rs");
}

pub mod certificates;
pub mod client;
pub mod lab;
pub mod server;
pub mod unread;
