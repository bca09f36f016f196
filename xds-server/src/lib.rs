//! Sidestep's xDS management server as a library: the mesh file, its compiler, the snapshot store
//! and the ADS service.
//!
//! ```text
//!   mesh file ──> model ──> compile ─┐
//!                                    v
//!   source (file, memory) ──> Configuration ──> Snapshot::build ──> Store ──> ClientView ──> ServerStream
//!                                               closed, hashed,     newest,   as one client  what to send
//!                                               encoded once        watched   sees it        when
//! ```
//!
//! Read in this order: [`model`], [`compile`], [`source`], [`snapshot`], [`store`], `view`, `stream`, [`server`]. The
//! protocol itself (versions, nonces, ordering) lives in [`sidestep_proto::ads`], without I/O.
//!
//! A change is taken whole or not at all: if anything in it is wrong, the last good state stays
//! and [`store::Report`] says what was refused and why.

mod api;
pub mod bundle;
mod check;
pub mod compile;
#[cfg(test)]
mod fixture;
pub mod load;
pub mod model;
mod native;
pub use sidestep_proto::nearest;
pub mod observer;
pub mod profile;
mod proxy;
mod reference;
pub mod server;
pub mod snapshot;
pub mod socket;
pub mod source;
pub mod store;
mod stream;
pub mod tls;
pub mod tracker;
mod view;

pub use api::{OPERATIONS_SERVICE, OPERATIONS_STATUS};
pub use bundle::Bundle;
pub use check::{Checked, check};
pub use load::{LoadClient, LoadEvent, LoadObserver, LoadReporting};
pub use observer::{StreamEvent, StreamInfo, StreamObserver};
pub use profile::Profile;
pub use server::{ManagementServer, Running, StartError};
pub use socket::ListenAddress;
pub use source::{Configuration, FileSource, RawResources, Source, SourceError};
pub use store::Store;
pub use tls::ServerTls;
