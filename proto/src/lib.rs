//! The xDS protocol, both ends, without I/O.
//!
//! What this crate promises: it opens no socket, reads no clock and needs no executor. Bytes and
//! points in time come in as arguments, and what should happen next comes out as return values.
//! So client and server share one truth, and both ends can be tested in one thread, in any order
//! of events.
//!
//! - [`wire`]: the protobuf messages as they travel;
//! - [`resource`]: what they mean, validated and comparable;
//! - [`codec`]: from one to the other and back;
//! - [`ads`]: the transport protocol as two state machines;
//! - [`bootstrap`]: the gRPC bootstrap file;
//! - [`code`]: the numbers of all errors.

pub mod ads;
pub mod bootstrap;
pub mod code;
pub mod codec;
pub mod nearest;
pub mod resource;
pub mod wire;
