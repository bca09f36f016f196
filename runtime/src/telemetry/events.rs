//! What may hang on calls beside the metrics: spans, access logs.
//!
//! ```text
//!   client:  started ─ attempt_started ─ picked ─ answered ─ attempt_ended ─ … ─ ended
//!                        └─────────────── once per attempt ──────────────┘
//!   server:  started ─ answered ─ ended
//! ```
//!
//! A [`CallSink`] is asked once per call whether it wants it; what it gives then is told the
//! call's events, in order, from whichever task the call is in at the time. `ended` comes exactly
//! once, also where a call is dropped (as `CANCELLED`). Sinks are installed when the mesh is made,
//! by [`TelemetryOptions::sink`](super::TelemetryOptions::sink). They must not block.

use std::fmt;
use std::time::Instant;

use http::{Extensions, HeaderMap, Uri};

use super::Backend;
use crate::channel::CallError;

/// Wants to be told of calls.
pub trait CallSink: fmt::Debug + Send + Sync {
    /// A client's call begins. `None`: this one is not of interest.
    fn client_call(&self, start: &ClientStart<'_>) -> Option<Box<dyn ClientEvents>> {
        let _ = start;
        None
    }

    /// A server's call begins. `None`: this one is not of interest.
    fn server_call(&self, start: &mut ServerStart<'_>) -> Option<Box<dyn ServerEvents>> {
        let _ = start;
        None
    }
}

/// A client's call as it was made.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClientStart<'a> {
    /// Now.
    pub at: Instant,
    /// The target as dialled, with its scheme.
    pub target: &'a str,
    /// Full method name without the leading slash; `other` if the caller is no generated client.
    pub method: &'a str,
    /// As the caller made it: no scheme and authority yet.
    pub uri: &'a Uri,
    /// As the caller made them.
    pub headers: &'a HeaderMap,
    /// As the caller made them.
    pub extensions: &'a Extensions,
}

/// Told of one client call.
#[allow(
    unused_variables,
    reason = "what a sink does not care for it leaves out"
)]
pub trait ClientEvents: Send + Sync {
    /// An attempt begins; the pick comes next.
    fn attempt_started(&mut self, at: Instant, kind: AttemptKind) {}

    /// An endpoint was picked. `headers` go out next and may be added to.
    fn picked(&mut self, pick: &Picked<'_>, headers: &mut HeaderMap) {}

    /// The head of the attempt's response is there.
    fn answered(&mut self, status: http::StatusCode, headers: &HeaderMap) {}

    /// The attempt is over.
    fn attempt_ended(&mut self, end: &AttemptEnd) {}

    /// The call is over. Nothing comes after it.
    fn ended(&mut self, end: &ClientEnd<'_>) {}
}

/// Why there is an attempt (gRFC A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// The first.
    Original,
    /// By the route's retry policy.
    Retry {
        /// How many before it were of the policy, the first included: the value of
        /// `grpc-previous-rpc-attempts`.
        previous: u32,
    },
    /// No server began with the one before.
    Transparent,
}

/// Where an attempt goes.
#[derive(Debug)]
#[non_exhaustive]
pub struct Picked<'a> {
    /// Its cluster and locality.
    pub backend: &'a Backend,
    /// Its address.
    pub endpoint: &'a str,
}

/// How an attempt ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct AttemptEnd {
    /// Now.
    pub at: Instant,
    /// gRPC status code.
    pub code: u32,
    /// Bytes of messages sent, compressed, without framing.
    pub sent: u64,
    /// Bytes of messages received, compressed, without framing.
    pub received: u64,
}

/// How a client's call ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClientEnd<'a> {
    /// Now.
    pub at: Instant,
    /// gRPC status code.
    pub code: u32,
    /// `grpc-message` as it came, where a server sent the status.
    pub message: Option<&'a http::HeaderValue>,
    /// What ended it, where that was this process.
    pub error: Option<&'a CallError>,
    /// The caller dropped it.
    pub dropped: bool,
    /// Attempts made.
    pub attempts: u32,
}

/// A server's call as it came.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServerStart<'a> {
    /// Now.
    pub at: Instant,
    /// As the caller sent it.
    pub uri: &'a Uri,
    /// As the caller sent them.
    pub headers: &'a HeaderMap,
    /// What the handler finds in the request; may be added to.
    pub extensions: &'a mut Extensions,
    /// The connection it came by.
    pub connection: &'a crate::server::ConnectInfo,
}

/// Told of one server call.
#[allow(
    unused_variables,
    reason = "what a sink does not care for it leaves out"
)]
pub trait ServerEvents: Send + Sync {
    /// The head of the reply is there.
    fn answered(&mut self, status: http::StatusCode, headers: &HeaderMap) {}

    /// The call is over. Nothing comes after it.
    fn ended(&mut self, end: &ServerEnd<'_>) {}
}

/// How a server's call ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServerEnd<'a> {
    /// Now.
    pub at: Instant,
    /// gRPC status code.
    pub code: u32,
    /// `grpc-message`, if there is one.
    pub message: Option<&'a http::HeaderValue>,
    /// Bytes of messages sent, compressed, without framing.
    pub sent: u64,
    /// Bytes of messages received, compressed, without framing.
    pub received: u64,
    /// The caller or the connection went away before the end.
    pub dropped: bool,
}
