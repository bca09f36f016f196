//! The task against a real ADS server and real backends, over loopback.
//!
//! Real sockets, so real time: every wait is for an event, bounded by [`LIMIT`].

mod backend;
pub(super) mod fixtures;
mod plane;
mod scenarios;
mod servers;
mod work;

use std::time::Duration;

/// Generous: only a failing test reaches it.
const LIMIT: Duration = Duration::from_secs(20);

/// What `wait` gives, in time.
async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, wait).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}
