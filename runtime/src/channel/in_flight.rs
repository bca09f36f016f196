//! One attempt at its endpoint: counted while it lasts, and what becomes of it written down where
//! a policy wants to know.
//!
//! Retried attempts are each told to their own endpoint. Nothing is told of an attempt that never
//! reached it, nor of one that its caller gave up, but for the time that it had taken by then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, Response};
use http_body::Body;

use super::deadline;
use super::status::{
    DATA_LOSS, DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED, UNAVAILABLE, UNKNOWN, code_of_head,
    code_of_headers,
};
use crate::balancer::{Blame, Interest, Load};
use crate::circuit_breaker::Permit;
use crate::orca;
use crate::snapshot::Slot;
use crate::subchannel::SendFailure;
use crate::telemetry::Backend;

/// Counts a call as in flight, at its endpoint and its cluster, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    slot: Arc<Slot>,
    _permit: Permit,
    /// What is still to be written down.
    wanted: Interest,
    /// Only if the time it takes is wanted.
    started: Option<Instant>,
}

impl InFlight {
    pub(crate) fn new(slot: Arc<Slot>, permit: Permit) -> Self {
        slot.load.in_flight.fetch_add(1, Ordering::Relaxed);
        let wanted = slot.load.interest();
        let timed = wanted.contains(Interest::LATENCY);
        Self {
            started: timed.then(|| start(&slot.load)),
            slot,
            _permit: permit,
            wanted,
        }
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.slot.address
    }

    /// Its addresses, comma-separated.
    pub(crate) fn hosts(&self) -> &str {
        &self.slot.hosts
    }

    pub(crate) fn backend(&self) -> Arc<Backend> {
        self.slot.backend.load_full()
    }

    /// The head of the response came.
    pub(crate) fn answered<B: Body>(&mut self, response: &Response<B>, grpc: bool) {
        if self.wanted.is_empty() {
            return;
        }
        let (status, headers) = (response.status(), response.headers());
        if code_of_headers(headers).is_some() || response.body().is_end_stream() {
            let code = match grpc {
                true => code_of_head(status, headers).unwrap_or(UNKNOWN),
                false => code_of_http(status),
            };
            self.conclude(code, Some(headers));
        } else if grpc && let Some(code) = code_of_head(status, headers) {
            // No gRPC answer at all: what else comes changes nothing.
            self.conclude(code, None);
        } else if !grpc && code_of_http(status) != 0 {
            self.conclude(code_of_http(status), None);
        }
    }

    /// A part of the response's body came. The first tells how long the endpoint took: what comes
    /// after it may be a stream of any length.
    pub(crate) fn message(&mut self) {
        if self.wanted.contains(Interest::LATENCY)
            && let Some(started) = self.started
        {
            let now = deadline::now();
            self.slot.load.took(now, elapsed(now, started));
            self.started = None;
        }
    }

    /// The response is complete with these trailers; `None`: it ended without any.
    pub(crate) fn ended(&mut self, trailers: Option<&HeaderMap>, grpc: bool) {
        if self.wanted.is_empty() {
            return;
        }
        let code = trailers.and_then(code_of_headers);
        self.conclude(code.unwrap_or(if grpc { UNKNOWN } else { 0 }), trailers);
    }

    /// The exchange broke before an answer.
    pub(crate) fn unsent(&mut self, cause: &SendFailure, unbegun: bool) {
        match cause {
            // The caller's own doing, or that of this process.
            SendFailure::Full | SendFailure::Invalid(_) | SendFailure::RequestBody(_) => {
                self.withdraw();
            }
            // An endpoint that goes in good order; its connection's state says the rest.
            SendFailure::ConnectionClosed(_) | SendFailure::GoAway(_) if unbegun => {
                self.withdraw();
            }
            _ => self.failed(UNAVAILABLE),
        }
    }

    /// What becomes of it says nothing of the endpoint.
    pub(crate) fn withdraw(&mut self) {
        self.wanted = Interest::NONE;
    }

    /// The deadline passed, or the response broke off.
    pub(crate) fn failed(&mut self, code: u32) {
        if !self.wanted.is_empty() {
            self.conclude(code, None);
        }
    }

    /// Writes down how it ended, once.
    #[cold]
    fn conclude(&mut self, code: u32, headers: Option<&HeaderMap>) {
        let wanted = std::mem::take(&mut self.wanted);
        let load = &self.slot.load;
        let failed = code != 0;
        if wanted.contains(Interest::OUTCOMES) {
            let wakes = match failed {
                false => load.succeeded(),
                true => load.failed(Blame::of(code)),
            };
            if wakes {
                self.slot.notice();
            }
        }
        if wanted.contains(Interest::LATENCY) {
            let now = deadline::now();
            let took = self.started.map(|started| elapsed(now, started));
            if is_trouble(code) {
                let pushback = headers.and_then(pushback);
                load.troubled(now, took.unwrap_or_default(), pushback);
            } else if let Some(took) = took {
                load.took(now, took);
            }
        }
        if wanted.contains(Interest::REPORTS)
            && let Some(headers) = headers
        {
            report(load, headers);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.slot.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.wanted.is_empty()
            && let Some(started) = self.started
        {
            let now = deadline::now();
            self.slot.load.gave_up(now, elapsed(now, started));
        }
    }
}

fn start(load: &Load) -> Instant {
    let now = deadline::now();
    load.started(now);
    now
}

fn elapsed(now: Instant, started: Instant) -> Duration {
    now.saturating_duration_since(started)
}

/// What an HTTP status means to who balances: the peer failed, or not.
fn code_of_http(status: http::StatusCode) -> u32 {
    match status.as_u16() {
        502..=504 => UNAVAILABLE,
        500.. => UNKNOWN,
        _ => 0,
    }
}

/// Statuses that tell of the endpoint, and not of what was asked of it: NOT_FOUND is an answer.
fn is_trouble(code: u32) -> bool {
    matches!(
        code,
        UNKNOWN | DEADLINE_EXCEEDED | RESOURCE_EXHAUSTED | INTERNAL | UNAVAILABLE | DATA_LOSS
    )
}

/// For how long the endpoint asks to be left alone.
fn pushback(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-retry-pushback-ms")?.to_str().ok()?;
    Some(Duration::from_millis(value.parse::<u32>().ok()?.into()))
}

/// Peers write binary metadata with padding and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Hands a report on. One of ordinary size is decoded in place.
fn report(load: &Load, headers: &HeaderMap) {
    let Some(value) = headers.get(orca::TRAILER) else {
        return;
    };
    let mut small = [0; 512];
    let mut large = Vec::new();
    let room = base64::decoded_len_estimate(value.len());
    let place = if room <= small.len() {
        &mut small[..]
    } else {
        large.resize(room, 0);
        &mut large[..]
    };
    if let Ok(length) = BASE64.decode_slice(value.as_bytes(), place) {
        load.reported(deadline::now(), &place[..length]);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use http_body_util::Full;
    use prost::Message as _;
    use sidestep_proto::wire::orca::OrcaLoadReport;

    use super::*;
    use crate::balancer::{LatencyTerms, Recipe};
    use crate::circuit_breaker::CircuitBreaker;

    const SECOND: Duration = Duration::from_secs(1);

    /// An endpoint whose load somebody watches.
    struct Watched {
        load: Arc<Load>,
        slot: Arc<Slot>,
        terms: Arc<LatencyTerms>,
        breaker: Arc<CircuitBreaker>,
    }

    impl Watched {
        fn new() -> Self {
            let load: Arc<Load> = Arc::default();
            let now = deadline::now();
            let terms = Arc::new(LatencyTerms::new(now, 10 * SECOND, 5 * SECOND));
            load.watch(Interest::OUTCOMES);
            load.watch_latency(&terms);
            load.watch_reports(&Arc::new(Recipe::new(now, 1.0, Box::default())), true);
            let slot = Slot::new("here".into(), Arc::default(), Arc::clone(&load));
            Self {
                load,
                slot: Arc::new(slot),
                terms,
                breaker: Arc::new(CircuitBreaker::new(10)),
            }
        }

        fn attempt(&self) -> InFlight {
            InFlight::new(self.slot.clone(), self.breaker.try_acquire().unwrap())
        }

        #[track_caller]
        fn latency(&self, expected: Duration) {
            let found = self.load.latency(&self.terms).expect("a latency");
            let expected = expected.as_secs_f32();
            assert!((found - expected).abs() < 0.01, "{found} {expected}");
        }
    }

    fn status(code: u32) -> HeaderMap {
        HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from(code))])
    }

    fn response(status: u16, headers: HeaderMap, body: &'static str) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = headers;
        response
    }

    fn head() -> Response<Full<Bytes>> {
        response(200, HeaderMap::new(), "message")
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_tell_the_outcome_and_the_first_message_the_time() {
        let here = Watched::new();
        let mut attempt = here.attempt();
        tokio::time::advance(SECOND).await;
        attempt.answered(&head(), true);
        attempt.message();
        tokio::time::advance(60 * SECOND).await;
        attempt.message();
        assert_eq!(here.load.take_outcomes(), (0, 0), "it still runs");
        attempt.ended(Some(&status(0)), true);
        drop(attempt);
        assert_eq!(here.load.take_outcomes(), (1, 0));
        here.latency(SECOND);
        assert_eq!(here.load.in_flight.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_message_takes_until_its_status() {
        let here = Watched::new();
        let mut attempt = here.attempt();
        tokio::time::advance(2 * SECOND).await;
        attempt.answered(&response(200, status(0), ""), true);
        drop(attempt);
        assert_eq!(here.load.take_outcomes(), (1, 0));
        here.latency(2 * SECOND);
    }

    #[tokio::test]
    async fn every_end_counts_once_and_as_what_it_is() {
        let here = Watched::new();
        let counted = |expected, end: &dyn Fn(&mut InFlight)| {
            let mut attempt = here.attempt();
            end(&mut attempt);
            drop(attempt);
            assert_eq!(here.load.take_outcomes(), expected);
        };
        counted((0, 1), &|a| a.ended(Some(&status(5)), true));
        counted((0, 1), &|a| {
            a.answered(&response(200, status(14), ""), true)
        });
        // No gRPC at all, with a page behind it that ends well.
        counted((0, 1), &|a| {
            a.answered(&response(503, HeaderMap::new(), "sorry"), true);
            a.ended(None, true);
        });
        // Ended without a status.
        counted((0, 1), &|a| a.ended(None, true));
        counted((0, 1), &|a| {
            a.answered(&response(200, HeaderMap::new(), ""), true)
        });
        counted((0, 1), &|a| a.failed(DEADLINE_EXCEEDED));
        // HTTP.
        counted((1, 0), &|a| {
            a.answered(&response(404, HeaderMap::new(), "who?"), false);
            a.ended(None, false);
        });
        counted((1, 0), &|a| {
            a.answered(&response(204, HeaderMap::new(), ""), false)
        });
        counted((0, 1), &|a| {
            a.answered(&response(500, HeaderMap::new(), "oh"), false);
            a.ended(None, false);
        });
        // Broken exchanges.
        let closed = SendFailure::ConnectionClosed("reset".to_owned());
        counted((0, 1), &|a| a.unsent(&closed, false));
        counted((0, 1), &|a| a.unsent(&SendFailure::Refused, true));
        // None of the endpoint's doing.
        counted((0, 0), &|a| a.unsent(&closed, true));
        counted((0, 0), &|a| a.unsent(&SendFailure::Full, true));
        counted((0, 0), &|a| {
            a.unsent(&SendFailure::RequestBody("no".into()), false);
        });
        counted((0, 0), &|a| {
            a.withdraw();
            a.failed(UNKNOWN);
        });
        counted((0, 0), &|_| ());
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_counts_as_slow_and_an_answer_does_not() {
        let here = Watched::new();
        here.attempt().ended(Some(&status(5)), true);
        here.latency(Duration::ZERO);
        let mut asked = status(14);
        asked.insert("grpc-retry-pushback-ms", HeaderValue::from(7000));
        here.attempt().ended(Some(&asked), true);
        here.latency(7 * SECOND);
        tokio::time::advance(120 * SECOND).await;
        here.attempt().failed(DEADLINE_EXCEEDED);
        here.latency(5 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_its_caller_gives_up_took_at_least_so_long() {
        let here = Watched::new();
        here.attempt().ended(Some(&status(0)), true);
        let attempt = here.attempt();
        tokio::time::advance(3 * SECOND).await;
        drop(attempt);
        here.latency(3 * SECOND);
        assert_eq!(here.load.take_outcomes(), (1, 0));
    }

    #[tokio::test]
    async fn reports_come_with_the_status_whatever_their_size_and_padding() {
        let weight = |load: &Load| load.weight(deadline::now(), Duration::ZERO, SECOND);
        for filler in [0, 2000] {
            for pad in [false, true] {
                let report = OrcaLoadReport {
                    cpu_utilization: 0.5,
                    rps_fractional: 100.0,
                    utilization: [("x".repeat(filler), 0.1)].into(),
                    ..OrcaLoadReport::default()
                };
                let config = GeneralPurposeConfig::new().with_encode_padding(pad);
                let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
                let value = engine.encode(report.encode_to_vec());
                let mut trailers = status(0);
                trailers.insert(orca::TRAILER, value.parse().unwrap());
                let here = Watched::new();
                assert_eq!(weight(&here.load), None);
                here.attempt().ended(Some(&trailers), true);
                assert_eq!(weight(&here.load), Some(200.0), "{filler} {pad}");
            }
        }
        let here = Watched::new();
        let mut trailers = status(0);
        trailers.insert(orca::TRAILER, "?!".parse().unwrap());
        here.attempt().ended(Some(&trailers), true);
        assert_eq!(weight(&here.load), None);
    }

    #[tokio::test(start_paused = true)]
    async fn unwatched_calls_write_nothing_down() {
        let here = Watched::new();
        here.load.forget();
        let mut attempt = here.attempt();
        tokio::time::advance(SECOND).await;
        attempt.answered(&head(), true);
        attempt.message();
        attempt.ended(Some(&status(14)), true);
        drop(attempt);
        assert_eq!(here.load.take_outcomes(), (0, 0));
        assert_eq!(here.load.latency(&here.terms), None);
        assert_eq!(here.load.consecutive_failures(), (0, 0));
    }
}
