//! The head of a request as it goes out: address, deadline, attempt.

use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::uri::{PathAndQuery, Scheme, Uri};

use super::Inner;
use super::deadline::{self, Deadline, GRPC_TIMEOUT};
use super::options::{Authority, WaitForReady};
use crate::routing::RouteTimeout;

/// What the caller said about a call, read once.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) start: Option<Instant>,
    /// The caller's own bound.
    pub(super) timeout: Option<Duration>,
    pub(super) wait_for_ready: bool,
    pub(super) grpc: bool,
    /// Every random decision of the call derives from it.
    pub(super) random: u64,
    /// By the hash policies of its route.
    pub(super) hash: Option<u64>,
}

impl Terms {
    pub(super) fn read<B>(inner: &Inner, request: &http::Request<B>) -> Self {
        let headers = request.headers();
        Self {
            start: None,
            timeout: deadline::read(headers),
            wait_for_ready: request
                .extensions()
                .get::<WaitForReady>()
                .map_or(inner.wait_for_ready, |wait| wait.0),
            grpc: is_grpc(headers),
            random: fastrand::u64(..),
            hash: None,
        }
    }

    /// The smaller of the caller's bound and the route's (gRFC A31). The clock is read only if
    /// there is one, and once a call.
    pub(super) fn deadline(&mut self, route: RouteTimeout) -> Option<Deadline> {
        let after = route.limit(self.timeout)?;
        Deadline::new(*self.start.get_or_insert_with(deadline::now), after)
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Gives the request its scheme, authority and user agent.
pub(super) fn address<B>(inner: &Inner, scheme: &Scheme, request: &mut http::Request<B>) {
    let authority = match request.extensions().get::<Authority>() {
        Some(own) => own.0.clone(),
        None => inner.shown_authority().clone(),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority);
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
    request.headers_mut().entry(USER_AGENT).or_insert(OUR_AGENT);
}

const OUR_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("grpc-rust-sidestep/", env!("CARGO_PKG_VERSION")));

/// Tells the server how long it has, in the form that `format` gives it, if that differs from
/// what the caller wrote.
pub(super) fn bound(
    headers: &mut HeaderMap,
    written: Option<Duration>,
    left: Option<Duration>,
    format: impl FnOnce(Duration) -> HeaderValue,
) {
    if let Some(left) = left
        && written != Some(left)
    {
        headers.insert(GRPC_TIMEOUT, format(left));
    }
}

/// Number of earlier attempts (gRFC A6).
pub(super) const PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");
