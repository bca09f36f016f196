//! What a line can tell of one call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use super::flags::Flags;
use crate::security::PeerIdentity;

/// The end of the call that this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// A channel's call. Envoy's words as for an outbound sidecar: downstream is the application,
    /// upstream the endpoint.
    Client,
    /// A server's call. As for an inbound sidecar: downstream is the caller, upstream the handler.
    Server,
}

/// One call, whole once it has ended.
#[derive(Debug, Clone)]
pub struct Record {
    pub(crate) side: Side,
    pub(crate) start: SystemTime,
    pub(crate) duration: Duration,
    /// Until the head of the answer.
    pub(crate) answered: Option<Duration>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) authority: Option<String>,
    /// The headers that the format names, in its order.
    pub(crate) request: Captured,
    pub(crate) response: Captured,
    pub(crate) trailers: Captured,
    /// HTTP's code. 0: no answer was begun.
    pub(crate) response_code: u16,
    pub(crate) details: Option<&'static str>,
    pub(crate) failure: Option<String>,
    pub(crate) flags: Flags,
    pub(crate) grpc_status: Option<u32>,
    /// Body bytes from the caller.
    pub(crate) received: u64,
    /// Body bytes to the caller.
    pub(crate) sent: u64,
    pub(crate) attempts: u32,
    pub(crate) host: Option<Arc<str>>,
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    /// Not known of a channel's call.
    pub(crate) scheme: Option<Scheme>,
    pub(crate) peer: Option<PeerIdentity>,
}

impl Record {
    /// A call that has just begun.
    pub(crate) fn new(side: Side, start: SystemTime, method: Method, uri: Uri) -> Self {
        Self {
            side,
            start,
            duration: Duration::ZERO,
            answered: None,
            method,
            uri,
            authority: None,
            request: Captured::default(),
            response: Captured::default(),
            trailers: Captured::default(),
            response_code: 0,
            details: None,
            failure: None,
            flags: Flags::NONE,
            grpc_status: None,
            received: 0,
            sent: 0,
            attempts: 0,
            host: None,
            cluster: None,
            route: None,
            remote: None,
            local: None,
            scheme: None,
            peer: None,
        }
    }
}

/// Of the connection that a call came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(super) fn of(tls: bool) -> Self {
        if tls { Self::Https } else { Self::Http }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The values of the headers that a format names, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Captured(Box<[Option<HeaderValue>]>);

impl Captured {
    /// Takes the first value of each name. Values are shared with the map, not copied.
    pub(crate) fn take(names: &[HeaderName], headers: &HeaderMap) -> Self {
        Self(
            names
                .iter()
                .map(|name| headers.get(name).cloned())
                .collect(),
        )
    }

    pub(super) fn value(&self, index: usize) -> Option<&HeaderValue> {
        self.0.get(index)?.as_ref()
    }
}
