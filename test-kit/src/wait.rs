//! Waiting for what must come, without a sleep in the test.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::Error;

/// Longest wait for something that must come. Reaching it is an error, never a success.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two attempts: others must get their turn, and paused time must be able to pass.
const PACE: Duration = Duration::from_millis(2);

/// Tries until it succeeds, for at most [`PATIENCE`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), sidestep_test::Error> {
/// let mut tries = 0;
/// let answer = sidestep_test::eventually(|| {
///     tries += 1;
///     let tries = tries;
///     async move { if tries < 3 { Err("not yet") } else { Ok(tries) } }
/// });
/// assert_eq!(answer.await?, 3);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Never`], with the last failure.
pub async fn eventually<T, E, F>(mut attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    let deadline = Instant::now() + PATIENCE;
    let mut last = "no attempt ended".to_owned();
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(failure)) => last = failure.to_string(),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return Err(Error::Never {
                after: PATIENCE,
                last,
            });
        }
        sleep(PACE).await;
    }
}
