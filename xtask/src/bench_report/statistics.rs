//! From paired rounds to a ratio that one can believe: pure, and the same for the same rounds.

use std::fmt;

/// Drawings of the bootstrap. More of them move the interval's ends by less than a hundredth of
/// its width.
const DRAWINGS: usize = 2_000;
/// The seed of the drawings: a report of the same rounds says the same.
const SEED: u64 = 0x5EED;
/// What is left out on each side of the interval.
const TAIL: f64 = 0.025;

/// A median and where the true one lies with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub(super) median: f64,
    /// `None` for what is counted rather than timed, and for a single round.
    pub(super) interval: Option<(f64, f64)>,
}

/// What became of a bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// Also what is aimed at beyond the bar.
    Moonshot,
    Met,
    /// By this share of the bar: 0.05 is five per cent above it.
    Missed(f64),
}

impl Estimate {
    /// What is counted: the same in every run.
    pub(super) fn counted(value: f64) -> Self {
        Self {
            median: value,
            interval: None,
        }
    }

    /// Of values that vary from round to round; `None` if there are none.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            median: median(values)?,
            interval: (values.len() > 1).then(|| bootstrap(values)),
        })
    }

    /// Of the ratios `a / b`, formed within each round: what disturbs a round disturbs both.
    /// Rounds that only one of them has are left out, and so are those without a base.
    pub(super) fn ratio(a: &[f64], b: &[f64]) -> Option<Self> {
        let pairs = a.iter().zip(b).filter(|(_, b)| **b > 0.0);
        let ratios: Vec<f64> = pairs.map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }

    /// A bar is met unless the measurement shows that it is not: unless the whole interval lies
    /// above it.
    pub(super) fn verdict(self, bar: f64, moonshot: Option<f64>) -> Verdict {
        let least = self.interval.map_or(self.median, |(low, _)| low);
        if moonshot.is_some_and(|moonshot| least <= moonshot) {
            Verdict::Moonshot
        } else if least <= bar {
            Verdict::Met
        } else {
            Verdict::Missed(self.median / bar - 1.0)
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moonshot => f.write_str("met, moonshot too"),
            Self::Met => f.write_str("met"),
            Self::Missed(by) => write!(f, "missed by {:.0} %", by * 100.0),
        }
    }
}

/// The middle one; of an even number the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(upper, sorted[sorted.len() / 2 - 1]))
}

/// The percentile interval of the median: samples of the same size are drawn from the values, with
/// replacement, and their medians tell how far the median may be off.
fn bootstrap(values: &[f64]) -> (f64, f64) {
    let mut state = SEED;
    let mut draw = || values[below(&mut state, values.len())];
    let mut medians: Vec<f64> = (0..DRAWINGS)
        .filter_map(|_| median(&values.iter().map(|_| draw()).collect::<Vec<_>>()))
        .collect();
    medians.sort_by(f64::total_cmp);
    (quantile(&medians, TAIL), quantile(&medians, 1.0 - TAIL))
}

/// The value below which this share of ascending values lies.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The next number below `limit` of a generator that is good enough to draw with (splitmix64).
fn below(state: &mut u64, limit: usize) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    let wide = u128::from(mixed) * limit as u128;
    // Below `limit`, so it fits.
    (wide >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_table() {
        let table: [(&[f64], Option<f64>); 4] = [
            (&[], None),
            (&[3.0], Some(3.0)),
            (&[9.0, 1.0, 2.0], Some(2.0)),
            (&[4.0, 1.0, 2.0, 9.0], Some(3.0)),
        ];
        for (values, expected) in table {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn ratios_are_formed_within_a_round() {
        // The second round was twice as slow for both.
        let estimate = Estimate::ratio(&[8.0, 16.0, 8.0], &[10.0, 20.0, 10.0]).unwrap();
        assert_eq!(estimate.median, 0.8);
        assert_eq!(estimate.interval, Some((0.8, 0.8)));
        // A round more on one side, and a base of zero, say nothing.
        assert_eq!(Estimate::ratio(&[1.0, 2.0], &[2.0]).unwrap().median, 0.5);
        assert_eq!(Estimate::ratio(&[1.0], &[0.0]), None);
        assert_eq!(Estimate::ratio(&[], &[1.0]), None);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_rounds() {
        let noisy = |rounds: usize| -> Vec<f64> {
            let mut state = 1;
            let value = |_| 1.0 + below(&mut state, 1000) as f64 / 10_000.0;
            (0..rounds).map(value).collect()
        };
        let width = |rounds| {
            let estimate = Estimate::of(&noisy(rounds)).unwrap();
            let (low, high) = estimate.interval.unwrap();
            assert!(low <= estimate.median && estimate.median <= high);
            assert_eq!(Estimate::of(&noisy(rounds)), Some(estimate), "same again");
            high - low
        };
        assert!(width(101) < width(9) / 2.0);
    }

    #[test]
    fn the_interval_holds_the_true_median_as_often_as_it_says() {
        let mut state = 77;
        let experiments = 400;
        let held = (0..experiments).filter(|_| {
            let values: Vec<f64> = (0..21).map(|_| below(&mut state, 10_001) as f64).collect();
            let (low, high) = bootstrap(&values);
            low <= 5_000.0 && 5_000.0 <= high
        });
        let held = held.count();
        assert!((360..=396).contains(&held), "{held} of {experiments}");
    }

    #[test]
    fn verdict_table() {
        let timed = |median, low, high| Estimate {
            median,
            interval: Some((low, high)),
        };
        let table = [
            (Estimate::counted(0.89), Verdict::Met),
            (Estimate::counted(0.90), Verdict::Met),
            (Estimate::counted(0.99), Verdict::Missed(0.1)),
            (Estimate::counted(0.70), Verdict::Moonshot),
            // Above the bar, but not shown to be.
            (timed(0.95, 0.88, 1.1), Verdict::Met),
            (timed(0.99, 0.91, 1.1), Verdict::Missed(0.1)),
            (timed(0.80, 0.74, 0.9), Verdict::Moonshot),
        ];
        for (estimate, expected) in table {
            let verdict = estimate.verdict(0.9, Some(0.75));
            match (verdict, expected) {
                (Verdict::Missed(by), Verdict::Missed(expected)) => {
                    assert!((by - expected).abs() < 1e-9, "{estimate:?}");
                }
                _ => assert_eq!(verdict, expected, "{estimate:?}"),
            }
        }
        assert_eq!(Estimate::counted(0.1).verdict(0.9, None), Verdict::Met);
        assert_eq!(Verdict::Missed(0.123).to_string(), "missed by 12 %");
    }
}
