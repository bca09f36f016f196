//! How long to wait before a retry (gRFC A6, A44).
//!
//! Pure: the random draw is an argument.

use std::time::Duration;

/// Delay before retry `n` (1 is the first): the base doubled each time, at most `max`, times a
/// factor between 0.8 and 1.2 that `random` draws.
pub(crate) fn delay(base: Duration, max: Duration, n: u32, random: u64) -> Duration {
    let doubled = base.checked_mul(1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX));
    let delay = doubled.map_or(max, |delay| delay.min(max));
    // 53 bits are what an f64 holds exactly.
    let share = (random >> 11) as f64 / (1u64 << 53) as f64;
    delay.mul_f64(0.8 + 0.4 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_with_a_fifth_of_jitter() {
        let (base, max) = (Duration::from_millis(25), Duration::from_millis(250));
        for (n, middle) in [
            (1, 25),
            (2, 50),
            (3, 100),
            (4, 200),
            (5, 250),
            (40, 250),
            (u32::MAX, 250),
        ] {
            for random in [0, u64::MAX / 2, u64::MAX] {
                let delay = delay(base, max, n, random).as_secs_f64() * 1000.0;
                let middle = f64::from(middle);
                assert!(
                    (middle * 0.799..=middle * 1.201).contains(&delay),
                    "{n}: {delay}"
                );
            }
        }
        assert!(delay(base, max, 1, 0) < delay(base, max, 1, u64::MAX));
    }
}
