//! How much of a process's calls stays in its own zone.
//!
//! ```text
//!   fit      the weight of a zone's endpoints that can take calls, or may yet: not failing, and fit
//!            in the eyes of the control plane
//!   known    the weight of all its endpoints, but for those that drain
//!
//!   all calls stay          while the own zone's fit / known is at least 70 %
//!   below that, they spill  until it is back at 75 %: of the calls, fit / known / 75 % stay, and the
//!                           rest goes to the other zones, by their weight and by how fit they are
//! ```
//!
//! So an endpoint that stays gets at most 1 / 0.7 of its usual load, and one that comes and goes
//! does not turn the calls around each time. It is decided by each client alone, from what all
//! clients see: the control plane need not send each zone another list. Envoy compares the size of
//! the caller's own cluster in each zone instead, which a client does not know.
//!
//! Everything goes by the localities' weights where the process has no zone, where no endpoint is
//! in it, and where a priority has fewer endpoints than asked for.

use sidestep_proto::resource::{LbPolicy, ZoneAware};

use super::LoadBalancer;
use super::LoadBalancerFactory;
use super::locality::LocalityBalancer;

/// Below this share of a zone's capacity, in parts of a million, calls begin to leave it.
const SPILL_BELOW: u64 = 700_000;
/// From here on they stay again.
const STAY_FROM: u64 = 750_000;
/// The sum of the shares of all localities, but for what rounding loses.
const WHOLE: u64 = 1_000_000;

/// Makes balancers of localities that prefer one zone.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "zone_aware"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::ZoneAware(aware) = policy else {
            return None;
        };
        let zones = Some(Zones::new(aware));
        Some(Box::new(LocalityBalancer::new(&aware.policy, seed, zones)))
    }
}

/// One locality, as the decision sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Zone {
    /// Whether it is in the process's own zone.
    pub(super) own: bool,
    /// Whether calls can be sent there.
    pub(super) open: bool,
    /// Relative to the other localities.
    pub(super) weight: u64,
    /// How many endpoints it has.
    pub(super) endpoints: usize,
    /// What it could carry.
    pub(super) known: u64,
    /// What it can carry.
    pub(super) fit: u64,
}

/// The decision, and what it depends on from one time to the next.
#[derive(Debug)]
pub(super) struct Zones {
    /// Of a million calls, those that prefer their zone.
    share: u64,
    min_endpoints: usize,
    spilling: bool,
}

impl Zones {
    pub(super) fn new(aware: &ZoneAware) -> Self {
        Self {
            share: aware.share.parts().into(),
            min_endpoints: aware.min_endpoints as usize,
            spilling: false,
        }
    }

    /// The share of the calls that each locality gets, in the same order. One that is not open gets
    /// none; of those that are, at least one gets some.
    pub(super) fn shares(&mut self, zones: &[Zone]) -> Vec<u64> {
        let endpoints: usize = zones.iter().map(|zone| zone.endpoints).sum();
        let weight = |zone: &Zone| if zone.open { zone.weight } else { 0 };
        let fitness = |zone: &Zone| weight(zone) * parts(zone.fit, zone.known);
        let own = sum(zones, |zone| if zone.own { weight(zone) } else { 0 });
        let others = sum(zones, |zone| if zone.own { 0 } else { fitness(zone) });
        let all = sum(zones, weight);
        let staying = match (own, others) {
            _ if endpoints < self.min_endpoints => None,
            (0, _) => None,
            (_, 0) => Some(WHOLE),
            (_, _) => Some(self.staying(zones)),
        };
        let Some(staying) = staying else {
            return zones.iter().map(weight).collect();
        };
        let each = zones.iter().map(|zone| {
            let preferring = match zone.own {
                true => portion(staying, weight(zone), own),
                false => portion(WHOLE - staying, fitness(zone), others),
            };
            let any = portion(WHOLE - self.share, weight(zone), all);
            portion(self.share, preferring, WHOLE) + any
        });
        each.collect()
    }

    /// What stays of a million calls that prefer their zone.
    fn staying(&mut self, zones: &[Zone]) -> u64 {
        let fit = sum(zones, |zone| if zone.own { zone.fit } else { 0 });
        let known = sum(zones, |zone| if zone.own { zone.known } else { 0 });
        let fit = parts(fit, known);
        self.spilling = fit
            < if self.spilling {
                STAY_FROM
            } else {
                SPILL_BELOW
            };
        match self.spilling {
            true => portion(WHOLE, fit, STAY_FROM),
            false => WHOLE,
        }
    }
}

fn sum(zones: &[Zone], of: impl Fn(&Zone) -> u64) -> u64 {
    zones.iter().map(of).sum()
}

/// In parts of a million, at most all.
fn parts(some: u64, all: u64) -> u64 {
    portion(WHOLE, some, all).min(WHOLE)
}

/// `whole` times `some` of `all`, rounded down.
fn portion(whole: u64, some: u64, all: u64) -> u64 {
    let part = u128::from(whole) * u128::from(some) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::PerMillion;

    use super::*;

    /// A zone of 10 endpoints, of which so many are fit.
    fn zone(own: bool, weight: u64, fit: u64) -> Zone {
        Zone {
            own,
            open: fit > 0,
            weight,
            endpoints: 10,
            known: 10,
            fit,
        }
    }

    fn zones() -> Zones {
        Zones::new(&ZoneAware::new(LbPolicy::RoundRobin))
    }

    /// In percent, so that a table can be read.
    fn percents(shares: &[u64]) -> Vec<u64> {
        let whole: u64 = shares.iter().sum();
        shares
            .iter()
            .map(|share| (share * 100 + whole / 2) / whole)
            .collect()
    }

    #[test]
    fn what_the_own_zone_cannot_carry_goes_to_the_others() {
        // Fit endpoints of the own zone and of two others, of weight 1 and 3; shares in percent.
        let table = [
            ((10, 10, 10), [100, 0, 0]),
            ((7, 10, 10), [100, 0, 0]),
            ((6, 10, 10), [80, 5, 15]),
            ((3, 10, 10), [40, 15, 45]),
            ((1, 10, 10), [13, 22, 65]),
            // Unfit zones get less of the rest, and closed ones nothing.
            ((3, 10, 5), [40, 24, 36]),
            ((3, 10, 0), [40, 60, 0]),
            ((3, 0, 0), [100, 0, 0]),
            // Without an open endpoint of its own, a process goes by weight.
            ((0, 10, 10), [0, 25, 75]),
        ];
        for ((own, one, two), expected) in table {
            let all = [zone(true, 1, own), zone(false, 1, one), zone(false, 3, two)];
            assert_eq!(
                percents(&zones().shares(&all)),
                expected,
                "{own} {one} {two}"
            );
        }
    }

    #[test]
    fn calls_turn_around_only_after_five_points() {
        let mut zones = zones();
        let mut stay = |fit| {
            let own = Zone {
                known: 100,
                ..zone(true, 1, fit)
            };
            percents(&zones.shares(&[own, zone(false, 1, 10)]))[0]
        };
        assert_eq!(stay(70), 100);
        assert_eq!(stay(69), 92);
        assert_eq!(stay(70), 93);
        assert_eq!(stay(74), 99);
        assert_eq!(stay(75), 100);
        assert_eq!(stay(70), 100);
    }

    #[test]
    fn localities_of_the_own_zone_share_by_weight() {
        let all = [zone(true, 1, 10), zone(true, 3, 10), zone(false, 9, 10)];
        assert_eq!(percents(&zones().shares(&all)), [25, 75, 0]);
    }

    #[test]
    fn few_endpoints_and_processes_without_a_zone_go_by_weight() {
        let all = [zone(true, 1, 10), zone(false, 1, 10)];
        let aware = ZoneAware {
            min_endpoints: 21,
            ..ZoneAware::new(LbPolicy::RoundRobin)
        };
        assert_eq!(percents(&Zones::new(&aware).shares(&all)), [50, 50]);
        let nowhere = [zone(false, 1, 10), zone(false, 3, 10)];
        assert_eq!(percents(&zones().shares(&nowhere)), [25, 75]);
    }

    #[test]
    fn a_share_of_the_calls_may_go_by_weight() {
        let aware = ZoneAware {
            share: PerMillion::new(600_000),
            ..ZoneAware::new(LbPolicy::RoundRobin)
        };
        let all = [zone(true, 1, 10), zone(false, 3, 10)];
        // 60 % stay, and a quarter of the others.
        assert_eq!(percents(&Zones::new(&aware).shares(&all)), [70, 30]);
    }

    #[test]
    fn one_of_the_open_zones_always_gets_calls() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut zones = zones();
        for _ in 0..10_000 {
            let all: Vec<_> = (0..random.usize(1..5))
                .map(|_| {
                    let known = random.u64(1..1_000);
                    let fit = random.u64(..=known);
                    Zone {
                        own: random.bool(),
                        open: fit > 0 && random.bool(),
                        weight: u64::from(random.u32(1..)),
                        endpoints: 10,
                        known,
                        fit,
                    }
                })
                .collect();
            let shares = zones.shares(&all);
            let sum: u64 = shares.iter().sum();
            assert_eq!(sum > 0, all.iter().any(|zone| zone.open), "{all:?}");
            for (zone, share) in all.iter().zip(shares) {
                assert!(zone.open || share == 0, "{all:?}");
            }
        }
    }
}
