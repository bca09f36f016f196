//! Turns in proportion to weights, without a lock and without a queue.
//!
//! Where all weights are equal, the turns go round. Otherwise each entry is a stretch of a line, as
//! long as its weight, and turn `t` falls on the point `t · φ` of it, taken modulo the line: the
//! golden section leaves the most even gaps of all steps, so that an entry's turns are spread over
//! time and after any number of turns each has had its share to within a few. A guide says where
//! on the line to begin to look, which makes a turn cost the same whatever the weights are.

/// The golden section of 2^64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Which entry has its turn.
#[derive(Debug)]
pub(super) struct Stride {
    count: u64,
    line: Option<Line>,
}

impl Stride {
    /// A weight of 0 counts as 1.
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Self {
        let weights = weights.map(|weight| weight.max(1));
        let first = weights.clone().next();
        let equal = weights.clone().all(|weight| Some(weight) == first);
        Self {
            count: weights.clone().count() as u64,
            line: (!equal).then(|| Line::new(weights)),
        }
    }

    /// The entry whose turn it is, given a counter that yields 0, 1, 2, … from any start and may
    /// wrap. There must be at least one entry.
    pub(super) fn next(&self, turn: u32) -> usize {
        match &self.line {
            // Below the count, so it fits.
            None => (u64::from(turn) % self.count) as usize,
            Some(line) => line.at(u64::from(turn).wrapping_mul(GOLDEN)),
        }
    }

    /// An entry by a random number that is uniform over `u64`.
    pub(super) fn at(&self, random: u64) -> usize {
        match &self.line {
            None => scaled(random, self.count) as usize,
            Some(line) => line.at(random),
        }
    }
}

/// Entries side by side, each as long as its weight.
#[derive(Debug)]
struct Line {
    /// Where each ends.
    ends: Box<[u64]>,
    /// Cuts the line into as many equal parts as there are entries: in which entry each part
    /// begins, and at last the last one.
    guide: Box<[u32]>,
}

impl Line {
    fn new(weights: impl Iterator<Item = u32>) -> Self {
        let mut end = 0;
        let ends: Box<[u64]> = weights
            .map(|weight| {
                end += u64::from(weight);
                end
            })
            .collect();
        let parts = ends.len() as u64;
        let mut entry = 0;
        let mut guide: Vec<u32> = (0..parts)
            .map(|part| {
                let begin = scaled_up(part, end, parts);
                while ends[entry] <= begin {
                    entry += 1;
                }
                // Tables of endpoints are indexed by u32.
                entry as u32
            })
            .collect();
        guide.push((parts - 1) as u32);
        Self {
            ends,
            guide: guide.into(),
        }
    }

    /// The entry at this point: a fraction of 2^64 of the line.
    fn at(&self, point: u64) -> usize {
        let parts = self.ends.len();
        let part = scaled(point, parts as u64) as usize;
        let place = scaled(point, self.ends[parts - 1]);
        let (first, last) = (self.guide[part] as usize, self.guide[part + 1] as usize);
        first + self.ends[first..last].partition_point(|end| *end <= place)
    }
}

/// This fraction of 2^64 of `whole`: less than `whole`.
fn scaled(fraction: u64, whole: u64) -> u64 {
    ((u128::from(fraction) * u128::from(whole)) >> 64) as u64
}

/// The place where a part begins, not before it: `part / parts` of `whole`.
fn scaled_up(part: u64, whole: u64, parts: u64) -> u64 {
    // Below `whole`, so it fits.
    (u128::from(part) * u128::from(whole) / u128::from(parts)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far any entry was from its share after any number of turns.
    fn furthest(weights: &[u32], turns: u32) -> f64 {
        let stride = Stride::new(weights.iter().copied());
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let mut counts = vec![0_u32; weights.len()];
        let mut furthest: f64 = 0.0;
        for turn in 0..turns {
            counts[stride.next(turn)] += 1;
            for (weight, count) in weights.iter().zip(&counts) {
                let share = f64::from(turn + 1) * f64::from(*weight) / sum;
                furthest = furthest.max((f64::from(*count) - share).abs());
            }
        }
        furthest
    }

    #[test]
    fn equal_weights_take_turns() {
        for count in [1, 3, 7] {
            let stride = Stride::new(std::iter::repeat_n(5, count));
            let taken: Vec<_> = (0..30).map(|turn| stride.next(turn)).collect();
            let round: Vec<_> = (0..30).map(|turn| turn % count).collect();
            assert_eq!(taken, round);
        }
    }

    #[test]
    fn nobody_is_ever_far_from_its_share() {
        for weights in [
            &[1, 2][..],
            &[5, 1, 1],
            &[1, 1000],
            &[3, 2, 7, 11],
            &[u32::MAX, 1 << 30],
            &[100, 101, 99, 100, 102],
            &[u32::MAX, 0, u32::MAX],
        ] {
            let furthest = furthest(weights, 60_000);
            assert!(furthest <= 4.0, "{weights:?}: {furthest}");
        }
        let many: Vec<u32> = (1..=100).collect();
        let furthest = furthest(&many, 60_000);
        assert!(furthest <= 4.0, "1 to 100: {furthest}");
    }

    #[test]
    fn turns_are_spread_over_time() {
        let stride = Stride::new([90, 10].into_iter());
        let mut last = 0;
        for turn in (1..10_000).filter(|turn| stride.next(*turn) == 1) {
            assert!(turn - last <= 21, "one in ten, and {} without", turn - last);
            last = turn;
        }
    }

    #[test]
    fn one_heavy_entry_among_light_ones_costs_no_search() {
        let weights = || std::iter::once(1 << 30).chain(std::iter::repeat_n(1, 100_000));
        let stride = Stride::new(weights());
        let line = stride.line.as_ref().expect("weights differ");
        let widest = line.guide.windows(2).map(|part| part[1] - part[0]).max();
        // All the light ones share ten parts or so, and those are searched by halves.
        assert!(widest < Some(20_000), "{widest:?}");
        let heavy = (0..100_000).filter(|turn| stride.next(*turn) == 0).count();
        let share = 100_000.0 * f64::from(1 << 30) / f64::from((1 << 30) + 100_000);
        assert!((heavy as f64 - share).abs() <= 3.0, "{heavy}");
    }

    #[test]
    fn every_entry_is_met_and_the_counter_may_wrap() {
        let weights: Vec<u32> = (0..1000).map(|i| i % 7).collect();
        let stride = Stride::new(weights.iter().copied());
        let mut met = vec![false; weights.len()];
        for turn in 0..40_000_u32 {
            met[stride.next(turn.wrapping_sub(20_000))] = true;
        }
        assert!(met.iter().all(|met| *met));
    }

    #[test]
    fn the_guide_never_misses_an_entry() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let count = random.usize(2..50);
            let weights: Vec<u32> = (0..count)
                .map(|_| random.u32(..) >> random.u32(..32))
                .collect();
            let line = Line::new(weights.iter().map(|w| (*w).max(1)));
            for point in [0, 1, u64::MAX / 2, u64::MAX]
                .into_iter()
                .chain((0..200).map(|_| random.u64(..)))
            {
                let place = scaled(point, line.ends[count - 1]);
                let walked = line.ends.iter().position(|end| *end > place);
                assert_eq!(Some(line.at(point)), walked, "{weights:?} {point}");
            }
        }
    }
}
