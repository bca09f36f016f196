//! How evenly policies spread calls: χ² against the shares that they promise, p > 0.001, with
//! fixed seeds. Where keys go (ring hash, Maglev) is tested beside these policies.

use sidestep_proto::resource::LbPolicy;

use super::super::{Connectivity, Endpoint};
use super::{Rig, build, counts, endpoint_balancer};

const CALLS: u64 = 60_000;

/// The value that χ² with so many degrees of freedom exceeds in one of a thousand draws, by
/// Wilson and Hilferty's approximation (to a percent from seven degrees on).
fn critical(freedom: usize) -> f64 {
    // A normal variable exceeds this in one of a thousand draws.
    const Z: f64 = 3.0902;
    let k = freedom as f64;
    let ninth = 2.0 / (9.0 * k);
    k * (1.0 - ninth + Z * ninth.sqrt()).powi(3)
}

fn chi_squared(counts: &[usize], weights: &[f64]) -> f64 {
    let (calls, sum) = (
        counts.iter().sum::<usize>() as f64,
        weights.iter().sum::<f64>(),
    );
    let terms = counts.iter().zip(weights).map(|(count, weight)| {
        let expected = calls * weight / sum;
        (*count as f64 - expected).powi(2) / expected
    });
    terms.sum()
}

/// Asserts that these counts are as likely as chance allows.
fn assert_spread(what: &str, counts: &[usize], weights: &[f64]) {
    assert_eq!(counts.len(), weights.len(), "{what}: {counts:?}");
    let (found, most) = (chi_squared(counts, weights), critical(weights.len() - 1));
    assert!(
        found < most,
        "{what}: χ² is {found:.1}, at most {most:.1}: {counts:?}"
    );
}

/// Counts by endpoint, all of them ready, in a policy on its own or as a whole cluster's.
fn spread(policy: &LbPolicy, seed: u64, endpoints: impl Fn(&Rig) -> Vec<Endpoint>) -> Vec<usize> {
    let whole = matches!(policy, LbPolicy::WrrLocality(_));
    let mut rig = Rig::new(match whole {
        true => build(policy, seed),
        false => endpoint_balancer(policy, seed),
    });
    let endpoints = endpoints(&rig);
    rig.update(&endpoints);
    for endpoint in &endpoints {
        rig.set(endpoint.id, Connectivity::Ready);
    }
    counts(&rig, CALLS)
}

fn leaves() -> [LbPolicy; 3] {
    let least = LbPolicy::LeastRequest { choice_count: 2 };
    [LbPolicy::RoundRobin, LbPolicy::Random, least]
}

#[test]
fn equal_endpoints_get_equal_shares() {
    for policy in leaves() {
        for seed in 1..=5 {
            let all = |rig: &Rig| (0..20).map(|id| rig.endpoint(id)).collect();
            let counts = spread(&policy, seed, all);
            assert_spread(&format!("{policy:?}, seed {seed}"), &counts, &[1.0; 20]);
        }
    }
}

#[test]
fn endpoints_get_shares_by_weight() {
    let weights = [1, 2, 3, 5, 8, 13, 21, 34];
    for seed in 1..=5 {
        let all = |rig: &Rig| {
            let weighted = |(id, weight): (u32, &u32)| Endpoint {
                weight: *weight,
                ..rig.endpoint(id)
            };
            (0..).zip(&weights).map(weighted).collect()
        };
        let counts = spread(&LbPolicy::RoundRobin, seed, all);
        let weights = weights.map(f64::from);
        assert_spread(&format!("seed {seed}"), &counts, &weights);
    }
}

#[test]
fn localities_get_shares_by_weight_whatever_is_in_them() {
    // Weight of the locality, endpoints in it.
    let localities = [(1, 3), (4, 1), (2, 5), (9, 2)];
    for leaf in leaves() {
        for seed in 1..=5 {
            let zones = ["a", "b", "c", "d"];
            let placed: Vec<(&str, u32, u32)> = zones
                .into_iter()
                .zip(localities)
                .flat_map(|(zone, (weight, count))| (0..count).map(move |_| (zone, weight, count)))
                .collect();
            let all = |rig: &Rig| {
                let place = |(id, (zone, weight, _)): (u32, &(&str, u32, u32))| {
                    rig.endpoint_in(id, zone, *weight, 0)
                };
                (0..).zip(&placed).map(place).collect()
            };
            let counts = spread(&leaf.clone().by_locality(), seed, all);
            let share =
                |(_, weight, count): &(&str, u32, u32)| f64::from(*weight) / f64::from(*count);
            let shares: Vec<f64> = placed.iter().map(share).collect();
            assert_spread(&format!("{leaf:?}, seed {seed}"), &counts, &shares);
        }
    }
}

#[test]
fn a_spread_that_is_off_by_a_few_percent_is_found() {
    // From tables of the distribution.
    for (freedom, tabled) in [(7, 24.32), (19, 43.82), (99, 148.23)] {
        assert!((critical(freedom) / tabled - 1.0).abs() < 0.01, "{freedom}");
    }
    let mut counts = [3_000; 20];
    assert!(chi_squared(&counts, &[1.0; 20]) < critical(19));
    counts[3] = 3_400;
    assert!(chi_squared(&counts, &[1.0; 20]) > critical(19));
}
