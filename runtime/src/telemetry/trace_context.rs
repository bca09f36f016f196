//! W3C trace context, carried from incoming to outgoing calls.
//!
//! ```text
//!   caller ── traceparent ──> Server ─ handler's task: TraceContext::current() ─> Channel ── traceparent ──> next
//! ```
//!
//! A [`Server`](crate::Server) polls its handler, and then the body of its answer, with the
//! context of the incoming call set; every call of a [`Channel`](crate::Channel) made meanwhile
//! in the same task goes out with it, unchanged (a process that records no span must not pretend
//! to be one). No code of the service takes part.
//!
//! What that cannot see: work that the handler *spawns*, or hands to another task through a
//! queue, runs outside. Take the context along there:
//!
//! ```
//! # use sidestep::telemetry::trace_context::{self, TraceContext};
//! # async fn call_others() {}
//! # async fn handler() {
//! let context = TraceContext::current();
//! tokio::spawn(trace_context::scope(context, async { call_others().await }));
//! # }
//! ```
//!
//! or put a [`TraceContext`] into the extensions of one request. The same goes for services that
//! are served by tonic's own server over [`Mesh::incoming`](crate::Mesh::incoming): make the
//! context by [`TraceContext::from_headers`].
//!
//! A channel never replaces a `traceparent` that the application wrote. With the cargo feature
//! `opentelemetry` and a tracer, the context that goes out is that of the attempt's span instead.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Request};
use pin_project_lite::pin_project;

#[cfg(feature = "opentelemetry")]
use super::trace_spans::HandlerContext;

/// W3C's header: version, trace id, parent id, flags.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C's header of the vendors' own state.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// What gRPC's OpenCensus plugins send; carried where it is all there is (gRFC A72).
pub const GRPC_TRACE_BIN: HeaderName = HeaderName::from_static("grpc-trace-bin");

/// The place of a call in a trace. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceContext {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq)]
struct Inner {
    header: Header,
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<HeaderValue>,
}

/// As it came, and as it goes on.
#[derive(PartialEq, Eq)]
enum Header {
    W3c(HeaderValue),
    Binary(HeaderValue),
}

/// Why a `traceparent` is not one (W3C Trace Context, section 3.2). The trace is then not carried
/// on, as the recommendation asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTraceparent {
    /// Not `version-trace_id-parent_id-flags` in lower-case hexadecimal digits of the right number.
    #[error("traceparent is not version-trace_id-parent_id-flags in lower-case hexadecimal digits")]
    Form,
    /// Version `ff` is forbidden.
    #[error("traceparent has the forbidden version ff")]
    Version,
    /// The trace id is all zeros.
    #[error("traceparent has no trace id: all its digits are 0")]
    NoTrace,
    /// The parent's id is all zeros.
    #[error("traceparent has no parent id: all its digits are 0")]
    NoParent,
}

impl TraceContext {
    /// The context that the headers of a request carry. `None` if there is none, or if it is not
    /// valid.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        match headers.get(TRACEPARENT) {
            Some(value) => Self::from_traceparent(value.clone(), state(headers)).ok(),
            None => Self::from_binary(headers.get(GRPC_TRACE_BIN)?.clone()),
        }
    }

    /// A context from a `traceparent`, as one's own code may have it.
    ///
    /// # Errors
    /// It is not valid by W3C's rules.
    pub fn parse(traceparent: &str) -> Result<Self, InvalidTraceparent> {
        let value = HeaderValue::from_str(traceparent).map_err(|_| InvalidTraceparent::Form)?;
        Self::from_traceparent(value, None)
    }

    /// A context of known ids, version `00`. `None` if one of them is 0.
    #[must_use]
    pub fn new(
        trace_id: u128,
        span_id: u64,
        flags: u8,
        state: Option<HeaderValue>,
    ) -> Option<Self> {
        let text = format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}");
        let value = HeaderValue::try_from(text).ok()?;
        Self::from_traceparent(value, state).ok()
    }

    fn from_traceparent(
        value: HeaderValue,
        state: Option<HeaderValue>,
    ) -> Result<Self, InvalidTraceparent> {
        let (trace_id, span_id, flags) = traceparent(value.as_bytes())?;
        Ok(Self::made(
            Header::W3c(value),
            trace_id,
            span_id,
            flags,
            state,
        ))
    }

    fn from_binary(value: HeaderValue) -> Option<Self> {
        let (trace_id, span_id, flags) = binary(&unbase64(value.as_bytes())?)?;
        Some(Self::made(
            Header::Binary(value),
            trace_id,
            span_id,
            flags,
            None,
        ))
    }

    fn made(
        header: Header,
        trace_id: u128,
        span_id: u64,
        flags: u8,
        state: Option<HeaderValue>,
    ) -> Self {
        EVER.store(true, Ordering::Relaxed);
        let inner = Inner {
            header,
            trace_id,
            span_id,
            flags,
            state,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The context of the call that this task handles, if it is one and carries any.
    #[must_use]
    pub fn current() -> Option<Self> {
        if !EVER.load(Ordering::Relaxed) {
            return None;
        }
        CURRENT.with(|current| current.borrow().clone())
    }

    /// The same in all spans of a trace.
    #[must_use]
    pub fn trace_id(&self) -> u128 {
        self.inner.trace_id
    }

    /// The span that whoever hears this context is below.
    #[must_use]
    pub fn span_id(&self) -> u64 {
        self.inner.span_id
    }

    /// W3C's flags: bit 0 says that the trace is sampled.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.inner.flags
    }

    /// The vendors' state, as it came.
    #[must_use]
    pub fn state(&self) -> Option<&HeaderValue> {
        self.inner.state.as_ref()
    }

    /// Writes the context into a request, unless that has one.
    pub fn write(&self, headers: &mut HeaderMap) {
        if is_traced(headers) {
            return;
        }
        match &self.inner.header {
            Header::W3c(value) => {
                headers.insert(TRACEPARENT, value.clone());
                if let Some(state) = &self.inner.state {
                    headers.insert(TRACESTATE, state.clone());
                }
            }
            Header::Binary(value) => {
                headers.insert(GRPC_TRACE_BIN, value.clone());
            }
        }
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            trace_id,
            span_id,
            flags,
            ..
        } = &*self.inner;
        write!(
            f,
            "TraceContext({trace_id:032x}-{span_id:016x}-{flags:02x})"
        )
    }
}

/// Whether a request says itself which trace it belongs to.
pub(crate) fn is_traced(headers: &HeaderMap) -> bool {
    headers.contains_key(TRACEPARENT) || headers.contains_key(GRPC_TRACE_BIN)
}

/// Several header lines are one list (W3C Trace Context, section 3.3.1).
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let first = values.next()?;
    let mut joined = first.as_bytes().to_vec();
    let mut more = false;
    for value in values {
        more = true;
        joined.push(b',');
        joined.extend(value.as_bytes());
    }
    if more {
        return HeaderValue::from_bytes(&joined).ok();
    }
    Some(first.clone())
}

/// Reads `00-<32 digits>-<16 digits>-<2 digits>`; later versions may have more after that.
fn traceparent(text: &[u8]) -> Result<(u128, u64, u8), InvalidTraceparent> {
    const LENGTH: usize = 55;
    let form = InvalidTraceparent::Form;
    let head = text.get(..LENGTH).ok_or(form)?;
    if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
        return Err(form);
    }
    let hex = |range| lower_hex(&head[range]).ok_or(form);
    let version = hex(0..2)?;
    let (trace_id, span_id, flags) = (hex(3..35)?, hex(36..52)?, hex(53..55)?);
    if version == 0xff {
        return Err(InvalidTraceparent::Version);
    }
    let rest_is_good = match version {
        0 => text.len() == LENGTH,
        _ => text.len() == LENGTH || text[LENGTH] == b'-',
    };
    if !rest_is_good {
        return Err(form);
    }
    if trace_id == 0 {
        return Err(InvalidTraceparent::NoTrace);
    }
    if span_id == 0 {
        return Err(InvalidTraceparent::NoParent);
    }
    // At most 16 and 2 digits were read for these.
    #[allow(clippy::cast_possible_truncation)]
    Ok((trace_id, span_id as u64, flags as u8))
}

fn lower_hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// OpenCensus's form: version 0, then fields, each an id before so many bytes.
fn binary(bytes: &[u8]) -> Option<(u128, u64, u8)> {
    let (0, fields) = bytes.split_first()? else {
        return None;
    };
    let (0, rest) = fields.split_first()? else {
        return None;
    };
    let (trace_id, rest) = rest.split_first_chunk()?;
    let (1, rest) = rest.split_first()? else {
        return None;
    };
    let (span_id, rest) = rest.split_first_chunk()?;
    let flags = match rest {
        [2, flags, ..] => *flags,
        _ => 0,
    };
    let (trace_id, span_id) = (u128::from_be_bytes(*trace_id), u64::from_be_bytes(*span_id));
    (trace_id != 0 && span_id != 0).then_some((trace_id, span_id, flags))
}

/// gRPC's `-bin` headers: base64, with or without padding.
fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text
        .strip_suffix(b"==")
        .or_else(|| text.strip_suffix(b"="))
        .unwrap_or(text);
    let (mut bits, mut count) = (0_u32, 0_u32);
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for digit in text {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            // The lowest eight of what was shifted down; what is above was taken before.
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// Whether there ever was a context in this process: while not, asking costs one load.
static EVER: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Of the call whose handler is polled on this thread now.
    static CURRENT: RefCell<Option<TraceContext>> = const { RefCell::new(None) };
}

/// Sets a context while `work` runs on this thread, and what was before afterwards, panic or not.
pub(crate) fn with<T>(context: &Option<TraceContext>, work: impl FnOnce() -> T) -> T {
    let before = CURRENT.with(|current| current.replace(context.clone()));
    let _restore = Restore(before);
    work()
}

/// What a handler is polled in.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    trace: Option<TraceContext>,
    #[cfg(feature = "opentelemetry")]
    spans: Option<HandlerContext>,
}

impl Carried {
    /// What was found, or made, when the call came in.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        if !EVER.load(Ordering::Relaxed) {
            return Self::default();
        }
        Self {
            trace: extensions.get().cloned(),
            #[cfg(feature = "opentelemetry")]
            spans: extensions.get().cloned(),
        }
    }

    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "opentelemetry")]
        let _attached = self.spans.as_ref().map(|spans| spans.0.clone().attach());
        match &self.trace {
            None => work(),
            context => with(context, work),
        }
    }
}

/// Writes into an outgoing request what its extensions say, or else what its task handles, unless
/// the application wrote a context itself.
pub(crate) fn carry<B>(request: &mut Request<B>) {
    if !EVER.load(Ordering::Relaxed) {
        return;
    }
    let own = request.extensions().get().cloned();
    if let Some(context) = own.or_else(TraceContext::current) {
        context.write(request.headers_mut());
    }
}

struct Restore(Option<TraceContext>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.with(|current| *current.borrow_mut() = self.0.take());
    }
}

pin_project! {
    /// The future of [`scope`].
    #[derive(Debug)]
    pub struct Scope<F> {
        #[pin]
        future: F,
        context: Option<TraceContext>,
    }
}

/// Runs a future in a trace: the calls of channels that it makes go out with this context. `None`
/// takes it out of any.
pub fn scope<F: Future>(context: Option<TraceContext>, future: F) -> Scope<F> {
    Scope { future, context }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        with(this.context, || this.future.poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn map(all: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn traceparents_table() {
        use InvalidTraceparent as I;
        let context = TraceContext::parse(PARENT).unwrap();
        assert_eq!(
            context.trace_id(),
            0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c
        );
        assert_eq!(context.span_id(), 0xb7ad_6b71_6920_3331);
        assert_eq!(context.flags(), 1);
        for (text, expected) in [
            ("", I::Form),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
                I::Form,
            ),
            (
                "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                I::Form,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
                I::Form,
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
                I::Form,
            ),
            (
                "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                I::Form,
            ),
            (
                "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                I::Form,
            ),
            (
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                I::Version,
            ),
            (
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                I::NoTrace,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                I::NoParent,
            ),
        ] {
            assert_eq!(TraceContext::parse(text).unwrap_err(), expected, "{text}");
        }
        // A later version may say more.
        for later in [
            "cc",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            let text = match later.len() {
                2 => PARENT.replacen("00", later, 1),
                _ => later.to_owned(),
            };
            assert_eq!(
                TraceContext::parse(&text).unwrap().trace_id(),
                context.trace_id()
            );
        }
    }

    #[test]
    fn ids_make_a_traceparent() {
        let context = TraceContext::new(0xa, 0xb, 1, None).unwrap();
        let mut headers = HeaderMap::new();
        context.write(&mut headers);
        assert_eq!(
            headers[TRACEPARENT],
            "00-0000000000000000000000000000000a-000000000000000b-01"
        );
        assert_eq!(TraceContext::new(0, 1, 0, None), None);
        assert_eq!(TraceContext::new(1, 0, 0, None), None);
    }

    #[test]
    fn headers_go_on_as_they_came() {
        let incoming = map(&[
            (TRACEPARENT, PARENT),
            (TRACESTATE, "a=1"),
            (TRACESTATE, "b=2"),
            (GRPC_TRACE_BIN, "AAAK"),
        ]);
        let context = TraceContext::from_headers(&incoming).unwrap();
        let mut outgoing = HeaderMap::new();
        context.write(&mut outgoing);
        assert_eq!(
            outgoing,
            map(&[(TRACEPARENT, PARENT), (TRACESTATE, "a=1,b=2")])
        );
    }

    #[test]
    fn an_applications_own_is_never_replaced() {
        let context = TraceContext::parse(PARENT).unwrap();
        let own = PARENT.replace("b7", "c8");
        for own in [(TRACEPARENT, own.as_str()), (GRPC_TRACE_BIN, "AAAK")] {
            let mut headers = map(std::slice::from_ref(&own));
            context.write(&mut headers);
            assert_eq!(headers, map(&[own]));
        }
    }

    #[test]
    fn a_bad_context_is_not_carried() {
        for headers in [
            map(&[]),
            map(&[(TRACEPARENT, "00-zz")]),
            map(&[(TRACESTATE, "a=1")]),
            map(&[(GRPC_TRACE_BIN, "AAAK")]),
            map(&[(GRPC_TRACE_BIN, "!")]),
        ] {
            assert_eq!(TraceContext::from_headers(&headers), None, "{headers:?}");
        }
    }

    #[test]
    fn opencensus_binary_form() {
        // 00, 00 + 16 bytes 0x40.., 01 + 8 bytes 0x61.., 02 01.
        let text = "AABAQUJDREVGR0hJSktMTU5PAWFiY2RlZmdoAgE";
        for text in [text.to_owned(), format!("{text}=")] {
            let headers = map(&[(GRPC_TRACE_BIN, &text)]);
            let context = TraceContext::from_headers(&headers).unwrap();
            assert_eq!(
                context.trace_id(),
                0x4041_4243_4445_4647_4849_4a4b_4c4d_4e4f
            );
            assert_eq!(context.span_id(), 0x6162_6364_6566_6768);
            assert_eq!(context.flags(), 1);
            let mut outgoing = HeaderMap::new();
            context.write(&mut outgoing);
            assert_eq!(outgoing, headers);
        }
    }

    #[tokio::test]
    async fn a_scope_is_its_futures_alone() {
        let context = TraceContext::parse(PARENT).ok();
        let (inside, other) = tokio::join!(
            scope(context.clone(), async {
                tokio::task::yield_now().await;
                let within = scope(None, async { TraceContext::current() }).await;
                (TraceContext::current(), within)
            }),
            async {
                tokio::task::yield_now().await;
                TraceContext::current()
            },
        );
        assert_eq!(inside, (context, None));
        assert_eq!((other, TraceContext::current()), (None, None));
    }

    #[test]
    fn a_panic_leaves_nothing_behind() {
        let context = TraceContext::parse(PARENT).ok();
        let work = || with(&context, || panic!("on purpose"));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_err();
        assert_eq!(TraceContext::current(), None);
    }
}
