//! Calls with one hash meet one endpoint: the one in a table of fixed size, as in Google's Maglev
//! and in Envoy (xDS `MAGLEV`).
//!
//! Endpoints take turns in choosing places in the table, each by an order of its own; one with half
//! of the greatest weight chooses in every second round. Shares come out even, where those of a ring
//! of 4,096 entries are off by tens of percent; when an endpoint leaves, a few places of others move
//! as well. The states and the walk are those of [`super::consistent_hash`].

use sidestep_proto::resource::LbPolicy;
use xxhash_rust::xxh64::xxh64;

use super::consistent_hash::{ConsistentHash, Share, Table};
use super::{LoadBalancer, LoadBalancerFactory};

/// Makes Maglev balancers.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "maglev"
    }

    fn build(&self, policy: &LbPolicy, _seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::Maglev { table_size } = *policy else {
            return None;
        };
        Some(Box::new(ConsistentHash::new(move |shares| {
            Box::new(Places::new(shares, table_size))
        })))
    }
}

/// The place of an endpoint for each remainder of a hash.
#[derive(Debug)]
struct Places(Box<[u32]>);

/// The order in which one endpoint chooses.
struct Order {
    next: u64,
    skip: u64,
    /// The rounds to come are its own once they have brought it to this.
    target: f64,
    share: f64,
}

impl Places {
    /// `size` is prime, so each order leads through the whole table.
    fn new(shares: &[Share<'_>], size: u32) -> Self {
        const FREE: u32 = u32::MAX;
        let count = u64::from(size);
        let mut places = vec![FREE; size as usize].into_boxed_slice();
        let mut orders: Vec<Order> = shares
            .iter()
            .map(|share| Order {
                next: xxh64(share.key.as_bytes(), 0) % count,
                skip: xxh64(share.key.as_bytes(), 1) % (count - 1).max(1) + 1,
                target: 0.0,
                share: share.share,
            })
            .collect();
        let greatest = shares.iter().map(|s| s.share).fold(0.0, f64::max);
        let mut left = if shares.is_empty() { 0 } else { size };
        let mut round = 1.0;
        while left > 0 {
            for (endpoint, order) in (0..).zip(&mut orders) {
                if round * order.share < order.target {
                    continue;
                }
                order.target += greatest;
                while places[order.next as usize] != FREE {
                    order.next = (order.next + order.skip) % count;
                }
                places[order.next as usize] = endpoint;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            round += 1.0;
        }
        Self(places)
    }
}

impl Table for Places {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn start(&self, hash: u64) -> usize {
        // Below the length, so it fits.
        (hash % self.0.len() as u64) as usize
    }

    fn endpoint(&self, position: usize) -> u32 {
        self.0[position]
    }
}

#[cfg(test)]
mod tests {
    use super::super::consistent_hash::tests::{moved, shares, spread};
    use super::*;

    #[test]
    fn places_are_in_proportion() {
        let places = Places::new(&shares(&[1.0, 2.0, 5.0]), 65_537);
        for (endpoint, expected) in [(0, 8_192), (1, 16_384), (2, 40_960)] {
            let count = places.0.iter().filter(|p| **p == endpoint).count();
            assert!(count.abs_diff(expected) < 700, "{endpoint}: {count}");
        }
    }

    #[test]
    fn a_small_table_is_full_too() {
        for size in [2, 3, 5, 251] {
            let places = Places::new(&shares(&[1.0; 7]), size);
            assert!(places.0.iter().all(|p| *p < 7), "{size}");
        }
    }

    #[test]
    fn about_one_in_n_moves_when_one_leaves() {
        let share = moved(|shares| Box::new(Places::new(shares, 65_537)));
        assert!((0.009..0.03).contains(&share), "{share}");
    }

    #[test]
    fn the_spread_is_even() {
        let places = Places::new(&shares(&[1.0; 7]), 65_537);
        for endpoint in 0..7 {
            // They take turns, so nobody is more than a turn ahead.
            let count = places.0.iter().filter(|p| **p == endpoint).count();
            assert!((9_362..=9_363).contains(&count), "{endpoint}: {count}");
        }
        // What is left is chance: 5 sigma of 100,000 keys over 100 endpoints is 16 %.
        let (least, most) = spread(|shares| Box::new(Places::new(shares, 65_537)));
        assert!(least > 0.84 && most < 1.16, "{least} to {most} of the mean");
    }
}
