//! Independent decisions out of the one random number of a call.

/// What a number is drawn for. Two purposes of one call never share their number, so that, say,
/// the calls of a 10 % route still spread evenly over all endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `runtime_fraction` of the rule with this index.
    Fraction(u32),
    /// Choice among weighted clusters.
    Cluster,
    /// The drop category with this index.
    Overload(u32),
    /// Choice among localities.
    Locality,
    /// The n-th endpoint drawn by least request.
    Endpoint(u32),
    /// Jitter of the n-th retry.
    Backoff(u32),
}

impl Purpose {
    fn salt(self) -> u64 {
        let (kind, index) = match self {
            Self::Fraction(i) => (1_u64, i),
            Self::Cluster => (2, 0),
            Self::Overload(i) => (3, i),
            Self::Locality => (4, 0),
            Self::Endpoint(i) => (5, i),
            Self::Backoff(i) => (6, i),
        };
        (kind << 32) | u64::from(index)
    }
}

/// A number for one purpose, uniform over `u64`.
#[must_use]
pub fn draw(random: u64, purpose: Purpose) -> u64 {
    mix(random ^ mix(purpose.salt()))
}

/// Scales `number`, uniform over `u64`, to `0..bound`. Zero for a bound of zero.
#[must_use]
pub fn below(number: u64, bound: u64) -> u64 {
    let wide = u128::from(number) * u128::from(bound);
    (wide >> 64) as u64
}

/// A bijection of `u64` in which each input bit flips about half of the output bits (the
/// finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_are_independent() {
        // Of the calls that one draw puts into the lower half, about half must be in the lower
        // half of every other draw: 5 sigma of a binomial with 5,000 trials is 177.
        let purposes = [
            Purpose::Fraction(0),
            Purpose::Fraction(1),
            Purpose::Cluster,
            Purpose::Overload(0),
            Purpose::Locality,
            Purpose::Endpoint(0),
            Purpose::Endpoint(1),
            Purpose::Backoff(1),
        ];
        for a in purposes {
            for b in purposes.into_iter().filter(|b| *b != a) {
                let both = (0..10_000_u64)
                    .filter(|n| below(draw(*n, a), 2) == 0 && below(draw(*n, b), 2) == 0)
                    .count();
                assert!(both.abs_diff(2_500) < 220, "{a:?} and {b:?}: {both}");
            }
        }
    }

    #[test]
    fn below_stays_below() {
        for (number, bound, expected) in [
            (0, 10, 0),
            (u64::MAX, 10, 9),
            (u64::MAX, 0, 0),
            (1 << 63, 10, 5),
            (u64::MAX, u64::MAX, u64::MAX - 1),
        ] {
            assert_eq!(below(number, bound), expected, "{number} below {bound}");
        }
    }
}
