//! Calls with one hash meet one endpoint: the next one on a ring (gRFC A42, A61).
//!
//! Each endpoint stands on the ring in proportion to its weight times that of its locality. When
//! one of n endpoints leaves, about one n-th of the hashes move, all of them to the endpoints that
//! stood next. The states and the walk are those of [`super::consistent_hash`].

use sidestep_proto::resource::LbPolicy;
use xxhash_rust::xxh64::xxh64;

use super::consistent_hash::{ConsistentHash, Share, Table};
use super::{LoadBalancer, LoadBalancerFactory};

/// No ring has more entries, whatever the control plane asks for (gRFC A42).
const CAP: u32 = 4096;

/// Makes ring hash balancers.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "ring_hash"
    }

    fn build(&self, policy: &LbPolicy, _seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::RingHash {
            min_ring_size,
            max_ring_size,
        } = *policy
        else {
            return None;
        };
        let (min, max) = (min_ring_size.min(CAP), max_ring_size.min(CAP));
        Some(Box::new(ConsistentHash::new(move |shares| {
            Box::new(Ring::new(shares, min, max))
        })))
    }
}

/// Hashes in ascending order, each with the place of its endpoint.
#[derive(Debug)]
struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// The smallest ring of at least `min` entries on which the lightest endpoint has a whole
    /// number of them, but no larger than `max`.
    fn new(shares: &[Share<'_>], min: u32, max: u32) -> Self {
        let lightest = shares.iter().map(|s| s.share).fold(1.0, f64::min);
        let whole = (lightest * f64::from(min)).ceil() / lightest;
        let scale = whole.min(f64::from(max));
        let mut entries = Vec::with_capacity(scale.ceil() as usize);
        // Sums instead of products: what one endpoint is rounded down by, the next one gets.
        let (mut placed, mut target) = (0.0, 0.0);
        let mut name = String::new();
        for (place, share) in (0..).zip(shares) {
            target += scale * share.share;
            let mut nth = 0_u32;
            while placed < target {
                name.clear();
                name.push_str(share.key);
                name.push('_');
                name.push_str(&nth.to_string());
                entries.push((xxh64(name.as_bytes(), 0), place));
                nth += 1;
                placed += 1.0;
            }
        }
        entries.sort_unstable();
        Self(entries.into())
    }
}

impl Table for Ring {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn start(&self, hash: u64) -> usize {
        let at = self.0.partition_point(|(entry, _)| *entry < hash);
        if at == self.0.len() { 0 } else { at }
    }

    fn endpoint(&self, position: usize) -> u32 {
        self.0[position].1
    }
}

#[cfg(test)]
mod tests {
    use super::super::consistent_hash::tests::{moved, shares, spread};
    use super::*;

    fn ring(weights: &[f64], min: u32, max: u32) -> Ring {
        Ring::new(&shares(weights), min, max)
    }

    #[test]
    fn the_lightest_endpoint_has_a_whole_number_of_entries() {
        for (weights, min, max, len) in [
            (&[1.0][..], 1024, 4096, 1024),
            (&[1.0, 1.0], 1024, 4096, 1024),
            (&[1.0, 1.0, 1.0], 1024, 4096, 1026),
            (&[1.0, 2.0], 1, 4096, 3),
            (&[1.0, 2.0], 4, 4096, 6),
            (&[1.0, 2.0], 1, 2, 2),
            // The bound is stronger.
            (&[1.0, 9_999.0], 1024, 4096, 4096),
        ] {
            assert_eq!(ring(weights, min, max).len(), len, "{weights:?}");
        }
    }

    #[test]
    fn entries_are_in_proportion() {
        let ring = ring(&[1.0, 2.0, 5.0], 1024, 4096);
        let count = |place| ring.0.iter().filter(|(_, p)| *p == place).count();
        assert_eq!([count(0), count(1), count(2)], [128, 256, 640]);
    }

    #[test]
    fn a_hash_belongs_to_the_next_entry() {
        let ring = Ring(Box::new([(10, 0), (20, 1), (30, 2)]));
        for (hash, place) in [(0, 0), (10, 0), (11, 1), (30, 2), (31, 0)] {
            assert_eq!(ring.endpoint(ring.start(hash)), place, "{hash}");
        }
    }

    #[test]
    fn about_one_in_n_moves_when_one_leaves() {
        let share = moved(|shares| Box::new(Ring::new(shares, 4096, 4096)));
        // 40 entries each: the share of one of them varies by 1/sqrt(40), 16 %.
        assert!((0.005..0.02).contains(&share), "{share}");
    }

    #[test]
    fn the_spread_is_bounded() {
        let (least, most) = spread(|shares| Box::new(Ring::new(shares, 4096, 4096)));
        assert!(least > 0.4 && most < 1.8, "{least} to {most} of the mean");
    }
}
