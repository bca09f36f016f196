//! Shares of calls, judged so that chance fails a check once in millions of runs.

use anyhow::{Result, ensure};
use serde_json::Value;

/// How far a count may be from what is expected.
const DEVIATIONS: f64 = 5.0;

/// Of `n` independent events with this chance each, about so many came.
pub(crate) fn is_about(what: &str, count: usize, n: usize, chance: f64) -> Result<()> {
    let (count, n) = (to_float(count), to_float(n));
    let expected = n * chance;
    let allowed = DEVIATIONS * (n * chance * (1.0 - chance)).sqrt();
    ensure!(
        (count - expected).abs() <= allowed,
        "{what}: {count} of {n}, expected {expected:.0} ± {allowed:.0}"
    );
    Ok(())
}

/// Of these calls, `server` answered about this share.
pub(crate) fn share(calls: &[Value], server: &str, chance: f64) -> Result<()> {
    let count = calls.iter().filter(|call| call["server"] == server);
    is_about(server, count.count(), calls.len(), chance)
}

#[expect(clippy::cast_precision_loss, reason = "no run has 2^52 calls")]
fn to_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_allowed_for_and_nothing_else() {
        // Half of 400: 200 ± 5·10.
        for count in [150, 200, 250] {
            is_about("x", count, 400, 0.5).unwrap();
        }
        for count in [149, 251] {
            assert!(is_about("x", count, 400, 0.5).is_err());
        }
    }
}
