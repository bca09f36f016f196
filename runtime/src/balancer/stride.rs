//! Turns in proportion to weights, without a lock and without a queue.
//!
//! A turn counter walks over the entries in order, round after round. In each round an entry of
//! the greatest weight is taken, and one with half of that weight in every second round, and so
//! on: an entry's turn counts when the multiples of its weight cross a multiple of the greatest.

/// The greatest weight after scaling. Small enough that round times weight never overflows.
const SCALE: u64 = 1 << 16;

/// Which entry has its turn.
#[derive(Debug)]
pub(super) struct Stride {
    /// 1 to `SCALE`; empty if all weights are equal.
    weights: Box<[u64]>,
    count: u64,
}

impl Stride {
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Self {
        let greatest = u64::from(weights.clone().max().unwrap_or(1)).max(1);
        let equal = weights.clone().all(|w| u64::from(w) == greatest);
        let scaled = |w| (u64::from(w) * SCALE / greatest).max(1);
        Self {
            count: weights.clone().count() as u64,
            weights: if equal {
                Box::default()
            } else {
                weights.map(scaled).collect()
            },
        }
    }

    /// The entry whose turn it is, given a counter that yields 0, 1, 2, … from any start and may
    /// wrap. There must be at least one entry.
    pub(super) fn next(&self, mut counter: impl FnMut() -> u32) -> usize {
        loop {
            let turn = u64::from(counter());
            let (round, index) = (turn / self.count, (turn % self.count) as usize);
            if self
                .weights
                .get(index)
                .is_none_or(|w| takes(round, index, *w))
            {
                return index;
            }
        }
    }
}

/// Whether an entry of this weight is taken in this round. Entries are out of phase with each
/// other, so that light ones do not all come in the same round.
fn takes(round: u64, index: usize, weight: u64) -> bool {
    let phase = (index as u64).wrapping_mul(SCALE / 2 + 7) % SCALE;
    (round * weight + phase) % SCALE >= SCALE - weight
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u32], turns: usize) -> Vec<usize> {
        let stride = Stride::new(weights.iter().copied());
        let mut counts = vec![0; weights.len()];
        let mut counter = 0_u32;
        for _ in 0..turns {
            counts[stride.next(|| {
                counter += 1;
                counter - 1
            })] += 1;
        }
        counts
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(shares(&[1], 5), [5]);
        assert_eq!(shares(&[7, 7, 7], 6), [2, 2, 2]);
    }

    #[test]
    fn turns_are_in_proportion() {
        for weights in [
            &[1, 2][..],
            &[5, 1, 1],
            &[1, 1000],
            &[3, 2, 7, 11],
            &[u32::MAX, 1 << 30],
        ] {
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            let counts = shares(weights, 60_000);
            for (weight, count) in weights.iter().zip(&counts) {
                let expected = 60_000.0 * f64::from(*weight) / sum;
                assert!(
                    (*count as f64 - expected).abs() <= 4.0,
                    "{weights:?}: {counts:?}"
                );
            }
        }
    }

    #[test]
    fn every_entry_gets_a_turn_and_the_counter_may_wrap() {
        let stride = Stride::new([u32::MAX, 1].into_iter());
        let mut counter = u32::MAX - 70_000;
        let mut next = || {
            stride.next(|| {
                counter = counter.wrapping_add(1);
                counter
            })
        };
        assert!((0..200_000).any(|_| next() == 1));
    }
}
