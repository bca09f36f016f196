//! The surface by which the public suite for proxyless meshes drives a client and a server: the flags
//! of its two programs, and the services on their second ports.

pub mod client;
pub mod server;
mod stats;
