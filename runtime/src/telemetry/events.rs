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
use std::sync::Arc;
use std::time::Instant;

use http::{Extensions, HeaderMap, Uri};

use super::Backend;
use super::messages::Passed;
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
    /// What the server will see, unless the call's extensions say otherwise.
    pub authority: &'a str,
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
    /// Whether [`AttemptEnd`] is to tell of each message.
    fn wants_messages(&self) -> bool {
        false
    }

    /// A route takes the call; `waited` for a configuration. Comes again where the route is taken
    /// away while the call waits.
    fn routed(&mut self, route: &str, waited: bool) {}

    /// An attempt begins; the pick comes next.
    fn attempt_started(&mut self, at: Instant, kind: AttemptKind) {}

    /// An endpoint was picked. `headers` go out next and may be added to.
    fn picked(&mut self, pick: &Picked<'_>, headers: &mut HeaderMap) {}

    /// The head of the attempt's response is there.
    fn answered(&mut self, status: http::StatusCode, headers: &HeaderMap) {}

    /// The attempt is over.
    fn attempt_ended(&mut self, end: &AttemptEnd<'_>) {}

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
    pub endpoint: &'a Arc<str>,
    /// The pick had to wait: for a connection, or for a new picker.
    pub waited: bool,
}

/// How an attempt ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct AttemptEnd<'a> {
    /// Now.
    pub at: Instant,
    /// gRPC status code.
    pub code: u32,
    /// Bytes of messages sent, compressed, without framing.
    pub sent: u64,
    /// Bytes of messages received, compressed, without framing.
    pub received: u64,
    /// Bytes of the request's body.
    pub body_sent: u64,
    /// Bytes of the response's body.
    pub body_received: u64,
    /// The first messages sent, where they are wanted.
    pub sent_messages: &'a [Passed],
    /// The first messages received, where they are wanted.
    pub received_messages: &'a [Passed],
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
    /// The trailers, where there were any.
    pub trailers: Option<&'a HeaderMap>,
    /// What ended it, where that was this process.
    pub error: Option<&'a CallError>,
    /// The retry policy would have it tried again, but allows no further attempt.
    pub exhausted: bool,
    /// Where no endpoint was found: a connection to one could not be made.
    pub unreachable: bool,
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
    pub method: &'a http::Method,
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
    /// Whether [`ServerEnd`] is to tell of each message.
    fn wants_messages(&self) -> bool {
        false
    }

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
    /// Bytes of the reply's body.
    pub body_sent: u64,
    /// Bytes of the request's body.
    pub body_received: u64,
    /// The first messages sent, where they are wanted.
    pub sent_messages: &'a [Passed],
    /// The first messages received, where they are wanted.
    pub received_messages: &'a [Passed],
    /// The trailers, where there were any.
    pub trailers: Option<&'a HeaderMap>,
    /// What this process refused it for, or gave it up for: it was no answer of the handler.
    pub refusal: Option<Refusal>,
    /// The caller or the connection went away before the end.
    pub dropped: bool,
}

/// Why a server answers in its handler's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// No route of the Listener lets the call through.
    NoRoute,
    /// `grpc-timeout` is not one.
    Malformed,
    /// The caller's deadline passed before the reply was complete.
    Deadline,
}
