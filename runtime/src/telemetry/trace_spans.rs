//! Spans of calls through the OpenTelemetry API (gRFC A72).
//!
//! ```text
//!   Sent.pkg.Service.Method ─┬─ Attempt.pkg.Service.Method ── traceparent ──> Recv.pkg.Service.Method
//!                            └─ Attempt.… (a retry)                             └─ spans of the handler,
//!                                                                                  Sent.… of its calls
//! ```
//!
//! The application brings the SDK and hands its tracer provider over when it makes the mesh:
//!
//! ```
//! use sidestep::{Mesh, telemetry::TelemetryOptions};
//! # fn main() -> Result<(), sidestep::BuildError> {
//! let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build(); // with an exporter
//! let options = TelemetryOptions::default().opentelemetry_traces(&provider);
//! let mesh = Mesh::builder().telemetry(options).build()?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing falls back on the global provider or propagator: contexts travel as W3C's headers, and
//! `grpc-trace-bin` is read where it is all there is. A handler is polled with OpenTelemetry's
//! current context set to its `Recv` span.
//!
//! Where A72 leaves a choice: one event for each message, with `message-size`, or with
//! `message-size-compressed` alone if it is compressed (what it was before that, only the layers
//! above know); at most the first 128 messages of each direction.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderMap, HeaderValue};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};

use super::cells::STATUS_NAMES;
use super::trace_context::{GRPC_TRACE_BIN, TRACEPARENT, TRACESTATE, TraceContext, is_traced};
use super::{
    AttemptEnd, AttemptKind, CallSink, ClientEnd, ClientEvents, ClientStart, Passed, Picked,
    ServerEnd, ServerEvents, ServerStart, TelemetryOptions,
};

impl TelemetryOptions {
    /// Makes spans of all calls by this provider's tracer `grpc-rust-sidestep` (gRFC A72). Needs
    /// the cargo feature `opentelemetry`.
    #[must_use]
    pub fn opentelemetry_traces<P>(self, provider: &P) -> Self
    where
        P: TracerProvider,
        P::Tracer: Send + Sync + 'static,
        <P::Tracer as Tracer>::Span: Send + Sync + 'static,
    {
        let tracer = provider.tracer("grpc-rust-sidestep");
        self.sink(Arc::new(Spans(Arc::new(tracer))))
    }
}

struct Spans<T>(Arc<T>);

impl<T> fmt::Debug for Spans<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spans")
    }
}

impl<T> CallSink for Spans<T>
where
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    fn client_call(&self, start: &ClientStart<'_>) -> Option<Box<dyn ClientEvents>> {
        let method = method(start.uri.path());
        let builder = SpanBuilder::from_name(format!("Sent.{method}")).with_kind(SpanKind::Client);
        let span = self.0.build_with_context(builder, &parent(start));
        Some(Box::new(Sent {
            tracer: Arc::clone(&self.0),
            name: format!("Attempt.{method}").into(),
            call: Context::new().with_span(span),
            attempt: None,
            previous: 0,
            traced_by_application: is_traced(start.headers),
        }))
    }

    fn server_call(&self, start: &mut ServerStart<'_>) -> Option<Box<dyn ServerEvents>> {
        let name = format!("Recv.{}", method(start.uri.path()));
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        let parent = start.extensions.get().map_or_else(Context::new, remote);
        let span = self.0.build_with_context(builder, &parent);
        let context = Context::new().with_span(span);
        if let Some(carried) = carried(context.span().span_context()) {
            start.extensions.insert(carried);
        }
        start.extensions.insert(HandlerContext(context.clone()));
        Some(Box::new(Received(context)))
    }
}

/// OpenTelemetry's context of a handler; in the extensions of its request.
#[derive(Debug, Clone)]
pub(super) struct HandlerContext(pub(super) Context);

/// `pkg.Service.Method` of `/pkg.Service/Method`.
fn method(path: &str) -> String {
    path.trim_start_matches('/').replace('/', ".")
}

/// What the application wrote, or said of this call, or has as its own span; else the call that
/// is being handled.
fn parent(start: &ClientStart<'_>) -> Context {
    let said = match is_traced(start.headers) {
        true => TraceContext::from_headers(start.headers),
        false => start.extensions.get().cloned(),
    };
    if let Some(said) = said {
        return remote(&said);
    }
    let current = Context::current();
    if current.has_active_span() {
        return current;
    }
    TraceContext::current().map_or_else(Context::new, |context| remote(&context))
}

fn remote(context: &TraceContext) -> Context {
    let state = context.state().and_then(|state| state.to_str().ok());
    let state = state.and_then(|state| TraceState::from_str(state).ok());
    let span = SpanContext::new(
        context.trace_id().into(),
        context.span_id().into(),
        TraceFlags::new(context.flags()),
        true,
        state.unwrap_or_default(),
    );
    Context::new().with_remote_span_context(span)
}

/// The context to send for a span. `None` for the span of a tracer that makes none.
fn carried(span: &SpanContext) -> Option<TraceContext> {
    let state = span.trace_state().header();
    let state = (!state.is_empty()).then(|| HeaderValue::try_from(state).ok());
    TraceContext::new(
        u128::from_be_bytes(span.trace_id().to_bytes()),
        u64::from_be_bytes(span.span_id().to_bytes()),
        span.trace_flags().to_u8(),
        state.flatten(),
    )
}

/// `UNAVAILABLE, no connection` (A72).
fn status(code: u32, message: &str) -> Status {
    if code == 0 {
        return Status::Ok;
    }
    let index = usize::try_from(code).unwrap_or(usize::MAX);
    let name = STATUS_NAMES.get(index).copied().unwrap_or("UNKNOWN");
    Status::error(match message {
        "" => name.to_owned(),
        message => format!("{name}, {message}"),
    })
}

/// `grpc-message` as people read it.
fn decoded(message: Option<&HeaderValue>) -> Cow<'_, str> {
    let bytes = message.map_or(&[][..], |message| message.as_bytes());
    percent_encoding::percent_decode(bytes).decode_utf8_lossy()
}

/// Message events of both directions, in order of time.
fn messages<'a>(
    sent: &'a [Passed],
    received: &'a [Passed],
) -> impl Iterator<Item = (&'static str, &'a Passed, Vec<KeyValue>)> {
    let event = |name| {
        move |(i, passed): (usize, &'a Passed)| {
            let size = match passed.compressed {
                true => "message-size-compressed",
                false => "message-size",
            };
            let attributes = vec![
                KeyValue::new("sequence-number", i64::try_from(i).unwrap_or(i64::MAX)),
                KeyValue::new(size, i64::from(passed.size)),
            ];
            (name, passed, attributes)
        }
    };
    let sent = sent.iter().enumerate().map(event("Outbound message"));
    let received = received.iter().enumerate().map(event("Inbound message"));
    let mut all: Vec<_> = sent.chain(received).collect();
    all.sort_by_key(|(_, passed, _)| passed.at);
    all.into_iter()
}

/// A client's call.
struct Sent<T: Tracer> {
    tracer: Arc<T>,
    /// Of the attempts' spans.
    name: Cow<'static, str>,
    call: Context,
    attempt: Option<T::Span>,
    previous: u32,
    traced_by_application: bool,
}

impl<T> ClientEvents for Sent<T>
where
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    fn wants_messages(&self) -> bool {
        self.call.span().is_recording()
    }

    fn routed(&mut self, _route: &str, waited: bool) {
        if waited {
            let span = self.call.span();
            span.add_event("Delayed name resolution complete", Vec::new());
        }
    }

    fn attempt_started(&mut self, _at: Instant, kind: AttemptKind) {
        if let AttemptKind::Retry { previous } = kind {
            self.previous = previous;
        }
        let builder = SpanBuilder::from_name(self.name.clone()).with_attributes([
            KeyValue::new("previous-rpc-attempts", i64::from(self.previous)),
            KeyValue::new("transparent-retry", kind == AttemptKind::Transparent),
        ]);
        self.attempt = Some(self.tracer.build_with_context(builder, &self.call));
    }

    fn picked(&mut self, pick: &Picked<'_>, headers: &mut HeaderMap) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        if pick.waited {
            attempt.add_event("Delayed LB pick complete", Vec::new());
        }
        if self.traced_by_application {
            return;
        }
        if let Some(carried) = carried(attempt.span_context()) {
            for name in [TRACEPARENT, TRACESTATE, GRPC_TRACE_BIN] {
                headers.remove(name);
            }
            carried.write(headers);
        }
    }

    fn attempt_ended(&mut self, end: &AttemptEnd<'_>) {
        let Some(mut attempt) = self.attempt.take() else {
            return;
        };
        for (name, passed, attributes) in messages(end.sent_messages, end.received_messages) {
            attempt.add_event_with_timestamp(name, passed.at, attributes);
        }
        attempt.set_status(status(end.code, ""));
        attempt.end();
    }

    fn ended(&mut self, end: &ClientEnd<'_>) {
        let message = match end.error {
            Some(error) => Cow::Owned(error.to_string()),
            None => decoded(end.message),
        };
        let span = self.call.span();
        span.set_status(status(end.code, &message));
        span.end();
    }
}

/// A server's call.
struct Received(Context);

impl ServerEvents for Received {
    fn wants_messages(&self) -> bool {
        self.0.span().is_recording()
    }

    fn ended(&mut self, end: &ServerEnd<'_>) {
        let span = self.0.span();
        for (name, passed, attributes) in messages(end.sent_messages, end.received_messages) {
            span.add_event_with_timestamp(name, passed.at, attributes);
        }
        span.set_status(status(end.code, &decoded(end.message)));
        span.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_statuses() {
        assert_eq!(method("/pkg.Service/Method"), "pkg.Service.Method");
        assert_eq!(status(0, "ignored"), Status::Ok);
        assert_eq!(
            status(14, "unable to resolve host"),
            Status::error("UNAVAILABLE, unable to resolve host")
        );
        assert_eq!(status(3, ""), Status::error("INVALID_ARGUMENT"));
        assert_eq!(status(99, ""), Status::error("UNKNOWN"));
        let escaped = HeaderValue::from_static("50%25 of it");
        assert_eq!(decoded(Some(&escaped)), "50% of it");
    }

    #[test]
    fn contexts_go_there_and_back() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::parse(text).unwrap();
        let span = remote(&context).span().span_context().clone();
        assert!(span.is_remote() && span.is_sampled());
        assert_eq!(carried(&span), Some(context));
        assert_eq!(carried(&SpanContext::empty_context()), None);
    }
}
