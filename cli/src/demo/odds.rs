//! What chance allows: bounds that a correct program crosses once in 3.5 million runs (5 sigma).

/// The one-sided probability of five standard deviations.
const FIVE_SIGMA: f64 = 2.87e-7;

/// The counts of a thing of probability `p` in `n` tries that are within 5 sigma of the
/// expected one. By the normal approximation: for large `n * p`.
pub(super) fn within_five_sigma(n: u64, p: f64) -> std::ops::RangeInclusive<u64> {
    let mean = n as f64 * p;
    let reach = 5.0 * (mean * (1.0 - p)).sqrt();
    ((mean - reach).max(0.0).ceil() as u64)..=((mean + reach).floor() as u64)
}

/// The highest count of a rare thing, expected `mean` times, that chance alone explains: the
/// Poisson distribution exceeds it with less than the probability of 5 sigma. (For small means
/// the normal approximation would be far too strict.)
pub(super) fn at_most(mean: f64) -> u64 {
    // The first term would underflow, and the distributions have long become one.
    if mean > 500.0 {
        return (mean + 5.0 * mean.sqrt()).floor() as u64;
    }
    let mut count = 0_u64;
    let mut term = (-mean).exp();
    let mut below = term;
    while 1.0 - below > FIVE_SIGMA {
        count += 1;
        term *= mean / count as f64;
        below += term;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fair_coin() {
        // 100 tosses: mean 50, standard deviation 5.
        assert_eq!(within_five_sigma(100, 0.5), 25..=75);
    }

    #[test]
    fn impossible_and_certain_things_vary_not_at_all() {
        assert_eq!(within_five_sigma(100, 0.0), 0..=0);
        assert_eq!(within_five_sigma(100, 1.0), 100..=100);
    }

    #[test]
    fn rare_things_may_happen_a_few_times() {
        assert_eq!(at_most(0.0), 0);
        // P(X > 3) = 3.8e-6 and P(X > 4) = 7.7e-8 for a mean of 0.1.
        assert_eq!(at_most(0.1), 4);
        // Large means approach the normal distribution, from above.
        assert!((150..160).contains(&at_most(100.0)), "{}", at_most(100.0));
    }
}
