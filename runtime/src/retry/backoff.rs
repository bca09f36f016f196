//! The delay before a retry (gRFC A6, numbers from A44).
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use sidestep_proto::resource::RetryPolicy;

/// The delay before retry `nth` (1 is the first since the start or since the last pushback):
/// `min(base * 2^(nth-1), max)`, times 0.8 to 1.2 by `random`, uniform over `u64`.
#[must_use]
pub fn delay(policy: &RetryPolicy, nth: u32, random: u64) -> Duration {
    let factor = 2_u32.saturating_pow(nth.saturating_sub(1));
    let plain = policy.base_interval.saturating_mul(factor);
    let share = random as f64 / u64::MAX as f64;
    plain.min(policy.max_interval).mul_f64(0.8 + 0.4 * share)
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::RetryOn;

    use super::*;

    #[test]
    fn delay_table() {
        let ms = Duration::from_millis;
        let policy = RetryPolicy {
            on: RetryOn::default(),
            max_attempts: 5,
            base_interval: ms(25),
            max_interval: ms(250),
        };
        for (nth, least, most) in [
            (1, ms(20), ms(30)),
            (2, ms(40), ms(60)),
            (4, ms(160), ms(240)),
            (5, ms(200), ms(300)),
            (u32::MAX, ms(200), ms(300)),
        ] {
            assert_eq!(delay(&policy, nth, 0), least, "{nth}");
            assert_eq!(delay(&policy, nth, u64::MAX), most, "{nth}");
        }
    }
}
