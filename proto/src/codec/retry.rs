//! `RetryPolicy` of routes and virtual hosts (gRFC A44).

use std::time::Duration;

use super::at::{At, Result, wire_duration};
use crate::resource::{RetryOn, RetryPolicy};
use crate::wire::route::{self, retry_policy::RetryBackOff};

/// Attempts beyond this are not made, first try included.
const MAX_ATTEMPTS: u32 = 5;
const DEFAULT_BASE: Duration = Duration::from_millis(25);
/// Shorter delays are raised to this.
const SHORTEST: Duration = Duration::from_millis(1);
/// `max_interval` relative to `base_interval` where it is not said.
const DEFAULT_MAX_FACTOR: u32 = 10;

/// A policy, or `None` if it names no condition that gRPC has, which turns retries off.
pub(super) fn decode(at: &At<'_>, wire: route::RetryPolicy) -> Result<Option<RetryPolicy>> {
    note_ignored(at, &wire);
    let retries = wire.num_retries.unwrap_or(1);
    if retries == 0 {
        return Err(at.field("num_retries").out_of_range(retries, "at least 1"));
    }
    let (base_interval, max_interval) = match wire.retry_back_off {
        Some(backoff) => decode_backoff(&at.field("retry_back_off"), backoff)?,
        None => (DEFAULT_BASE, DEFAULT_BASE * DEFAULT_MAX_FACTOR),
    };
    let on = RetryOn::parse(&wire.retry_on.to_ascii_lowercase());
    Ok((!on.is_empty()).then(|| RetryPolicy {
        on,
        max_attempts: retries.saturating_add(1).min(MAX_ATTEMPTS),
        base_interval,
        max_interval,
    }))
}

fn decode_backoff(at: &At<'_>, wire: RetryBackOff) -> Result<(Duration, Duration)> {
    let place = at.field("base_interval");
    let base = positive(&place, place.required(wire.base_interval)?)?;
    let place = at.field("max_interval");
    let max = match wire.max_interval {
        Some(max) => positive(&place, max)?,
        None => base.saturating_mul(DEFAULT_MAX_FACTOR),
    };
    if max < base {
        place.note("is below base_interval and bounds that too");
    }
    Ok((base.min(max).max(SHORTEST), max.max(SHORTEST)))
}

fn positive(at: &At<'_>, wire: prost_types::Duration) -> Result<Duration> {
    let duration = at.duration(wire)?;
    if duration.is_zero() {
        return Err(at.out_of_range("0s", "more than 0s"));
    }
    Ok(duration)
}

fn note_ignored(at: &At<'_>, wire: &route::RetryPolicy) {
    const HOSTS: &str = "each attempt picks any endpoint";
    const CONDITIONS: &str = "only the five gRPC codes in retry_on count";
    const TIMEOUT: &str = "attempts share the call's deadline";
    at.ignore("per_try_timeout", wire.per_try_timeout.is_some(), TIMEOUT);
    at.ignore(
        "per_try_idle_timeout",
        wire.per_try_idle_timeout.is_some(),
        TIMEOUT,
    );
    at.ignore("retry_priority", wire.retry_priority.is_some(), HOSTS);
    at.ignore(
        "retry_host_predicate",
        !wire.retry_host_predicate.is_empty(),
        HOSTS,
    );
    at.ignore(
        "host_selection_retry_max_attempts",
        wire.host_selection_retry_max_attempts != 0,
        HOSTS,
    );
    at.ignore(
        "retry_options_predicates",
        !wire.retry_options_predicates.is_empty(),
        CONDITIONS,
    );
    at.ignore(
        "retriable_status_codes",
        !wire.retriable_status_codes.is_empty(),
        CONDITIONS,
    );
    at.ignore(
        "retriable_headers",
        !wire.retriable_headers.is_empty(),
        CONDITIONS,
    );
    at.ignore(
        "retriable_request_headers",
        !wire.retriable_request_headers.is_empty(),
        CONDITIONS,
    );
    at.ignore(
        "rate_limited_retry_back_off",
        wire.rate_limited_retry_back_off.is_some(),
        "servers say when to retry by grpc-retry-pushback-ms",
    );
}

pub(super) fn encode(policy: &RetryPolicy) -> route::RetryPolicy {
    route::RetryPolicy {
        retry_on: policy.on.to_wire(),
        num_retries: Some(policy.max_attempts.saturating_sub(1)),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(wire_duration(policy.base_interval)),
            max_interval: Some(wire_duration(policy.max_interval)),
        }),
        ..Default::default()
    }
}
