//! The xDS transport protocol as two state machines without sockets or clocks.
//!
//! Both have the same verbs: `handle_…(now, input)`, `poll_output()`, `poll_timeout()` and
//! `handle_timeout(now)`. [`ClientStream`] is a data plane's side, [`ServerStream`] one peer as
//! the management server sees it. Both speak state of the world and delta.
//!
//! The contract with whoever drives a machine: after every `handle_…` or `subscribe` call, take
//! outputs until `poll_output` returns `None`, then sleep until `poll_timeout` or the next input.

mod client;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fallback;
mod message;
#[cfg(test)]
mod pair;
mod server;
#[cfg(test)]
mod wildcard;

pub use crate::bootstrap::ServerFeatures;
pub use client::{
    Authorities, ClientConfig, ClientStream, Event, FailedUpdate, Known, Output, ResourceError,
    ServerInfo, Status, Timers, Updates,
};
pub use message::{Request, Response, Variant};
pub use server::{Entry, Missing, ServerEvent, ServerOutput, ServerResponse, ServerStream, View};
