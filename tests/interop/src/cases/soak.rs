//! The same call many times, each in time.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep_until};

use super::{Client, Stage, failed, large_request, unary, wanted, zeros};
use crate::testing::SimpleRequest;

/// What the flags of the soak cases say.
struct Soak {
    iterations: u64,
    max_failures: u64,
    max_latency: Duration,
    overall: Duration,
    pause: Duration,
    threads: u64,
    request: SimpleRequest,
    response_size: usize,
}

impl Soak {
    fn of(stage: &Stage) -> Result<Self, String> {
        let milliseconds = |name, default| stage.number(name, default).map(Duration::from_millis);
        let large = large_request();
        let request_size = stage
            .flags
            .number("soak_request_size", super::LARGE_REQUEST)?;
        let response_size: i32 = stage
            .flags
            .number("soak_response_size", large.response_size)?;
        Ok(Self {
            iterations: stage.number("soak_iterations", 10)?,
            max_failures: stage.number("soak_max_failures", 0)?,
            max_latency: milliseconds("soak_per_iteration_max_acceptable_latency_ms", 1000)?,
            overall: Duration::from_secs(stage.number("soak_overall_timeout_seconds", 10)?),
            pause: milliseconds("soak_min_time_ms_between_rpcs", 0)?,
            threads: stage.number("soak_num_threads", 1)?.max(1),
            request: SimpleRequest {
                response_size,
                payload: zeros(request_size),
                ..large
            },
            response_size: usize::try_from(response_size).unwrap_or(0),
        })
    }

    /// Whether a call succeeds, and in time.
    async fn once(&self, mut client: Client) -> Result<(), String> {
        let begun = Instant::now();
        let answer = client.unary_call(self.request.clone()).await;
        let payload = answer.map_err(failed)?.into_inner().payload;
        let size = payload.map_or(0, |payload| payload.body.len());
        wanted("bytes of payload", size, self.response_size)?;
        match begun.elapsed() {
            late if late > self.max_latency => Err(format!("took {late:?}")),
            _ => Ok(()),
        }
    }
}

pub(super) async fn rpc(stage: &Stage) -> Result<(), String> {
    soak(stage, false).await
}

pub(super) async fn channel(stage: &Stage) -> Result<(), String> {
    soak(stage, true).await
}

async fn soak(stage: &Stage, always_another: bool) -> Result<(), String> {
    let soak = Soak::of(stage)?;
    let end = Instant::now() + soak.overall;
    let each = soak.iterations / soak.threads;
    let threads = (0..soak.threads).map(|_| thread(stage, &soak, each, end, always_another));
    let failures: Vec<_> = try_join_all(threads).await?.concat();
    let shown = failures.first().map_or("", String::as_str);
    let n = failures.len();
    match u64::try_from(n).is_ok_and(|n| n <= soak.max_failures) {
        true => Ok(()),
        false => Err(format!(
            "{n} of {} failed, the first: {shown}",
            soak.iterations
        )),
    }
}

/// The failures of so many calls.
async fn thread(
    stage: &Stage,
    soak: &Soak,
    iterations: u64,
    end: Instant,
    always_another: bool,
) -> Result<Vec<String>, String> {
    let mut failures = Vec::new();
    for i in 0..iterations {
        let begun = Instant::now();
        if begun >= end {
            return Err(format!("{i} of {iterations} calls in {:?}", soak.overall));
        }
        let outcome = match always_another {
            false => soak.once(stage.client()).await,
            true => {
                let (_mesh, client) = stage.another_client()?;
                soak.once(client).await
            }
        };
        failures.extend(outcome.err());
        sleep_until(begun + soak.pause).await;
    }
    Ok(failures)
}

/// Calls over one channel, with pauses between them.
pub(super) async fn long_lived_channel(stage: &Stage) -> Result<(), String> {
    let soak = Soak::of(stage)?;
    for _ in 0..soak.iterations {
        unary::large(stage).await?;
        tokio::time::sleep(soak.pause).await;
    }
    Ok(())
}
