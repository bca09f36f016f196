//! Which endpoints of an assignment may take calls, and how they lie to this process. Pure.

use std::collections::BTreeMap;

use sidestep_proto::resource::{EndpointAssignment, Health, Locality, LocalityEndpoints};

/// What is known of an assignment as a whole.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    home: &'a Locality,
    /// Priorities of which so few endpoints are fit that the others are used as well.
    panicking: Vec<u32>,
}

impl<'a> Admission<'a> {
    /// By the health of the endpoints. `home` is where this process is; below `panic_threshold`
    /// percent of fit endpoints a priority is in a panic (0: never).
    ///
    /// Endpoints that drain do so on purpose: they are not used, and do not count. A priority
    /// without any fit endpoint is left to the next one, and is in a panic only if no priority has
    /// one.
    pub(super) fn new(
        assignment: &EndpointAssignment,
        home: &'a Locality,
        panic_threshold: u8,
    ) -> Self {
        // How many are fit, of how many.
        let mut counts = BTreeMap::<u32, (usize, usize)>::new();
        for group in &assignment.localities {
            let (fit, all) = counts.entry(group.priority).or_default();
            for endpoint in &group.endpoints {
                *fit += usize::from(endpoint.health.is_usable());
                *all += usize::from(endpoint.health != Health::Draining);
            }
        }
        let none_anywhere = counts.values().all(|(fit, _)| *fit == 0);
        let panics = |(fit, all): (usize, usize)| {
            fit * 100 < all * usize::from(panic_threshold) && (fit > 0 || none_anywhere)
        };
        let panicking = counts.into_iter().filter(|(_, counts)| panics(*counts));
        Self {
            home,
            panicking: panicking.map(|(priority, _)| priority).collect(),
        }
    }

    /// Whether an endpoint may take calls.
    pub(super) fn admits(&self, priority: u32, health: Health) -> bool {
        let panicking = || self.panicking.contains(&priority);
        health.is_usable() || (health != Health::Draining && panicking())
    }

    /// The part of a locality's endpoints that may take calls, by weight, in parts of a million.
    /// Those that drain are on their way out and do not count.
    pub(super) fn fitness(&self, group: &LocalityEndpoints) -> u32 {
        let sum = |counts: &dyn Fn(Health) -> bool| -> u64 {
            let endpoints = group.endpoints.iter().filter(|e| counts(e.health));
            endpoints.map(|endpoint| u64::from(endpoint.weight)).sum()
        };
        let all = sum(&|health| health != Health::Draining);
        let admitted = sum(&|health| self.admits(group.priority, health));
        let parts = (admitted * 1_000_000).checked_div(all).unwrap_or(1_000_000);
        u32::try_from(parts).unwrap_or(1_000_000)
    }

    /// Whether a locality is in the zone of this process. Regions count where both have one.
    pub(super) fn is_own(&self, locality: &Locality) -> bool {
        let home = self.home;
        let alike = |a: &str, b: &str| a == b || a.is_empty() || b.is_empty();
        !home.zone.is_empty() && home.zone == locality.zone && alike(&home.region, &locality.region)
    }
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::Health::{Draining, Healthy, Timeout, Unhealthy, Unknown};
    use sidestep_proto::resource::{Address, Endpoint, Labels};

    use super::*;

    fn group(priority: u32, health: &[Health]) -> LocalityEndpoints {
        let address = Address::Unix("x".into());
        let endpoint = |health: &Health| Endpoint {
            addresses: vec![address.clone()],
            hostname: String::new(),
            weight: 2,
            health: *health,
            hash_key: None,
            labels: Labels::default(),
        };
        LocalityEndpoints {
            locality: Locality::default(),
            priority,
            weight: 1,
            endpoints: health.iter().map(endpoint).collect(),
        }
    }

    fn panicking(threshold: u8, groups: Vec<LocalityEndpoints>) -> Vec<u32> {
        let assignment = EndpointAssignment {
            cluster: "c".into(),
            localities: groups,
            drops: Vec::new(),
        };
        Admission::new(&assignment, &Locality::default(), threshold).panicking
    }

    #[test]
    fn panic_begins_below_the_threshold() {
        let half = || vec![group(0, &[Healthy, Unknown, Unhealthy, Timeout])];
        assert_eq!(panicking(0, half()), [0_u32; 0]);
        assert_eq!(panicking(50, half()), [0_u32; 0]);
        assert_eq!(panicking(51, half()), [0]);
        assert_eq!(panicking(100, half()), [0]);
        assert_eq!(
            panicking(100, vec![group(0, &[Healthy, Unknown])]),
            [0_u32; 0]
        );
        assert_eq!(panicking(100, vec![group(0, &[])]), [0_u32; 0]);
    }

    #[test]
    fn draining_endpoints_do_not_count_and_are_never_used() {
        let groups = vec![group(0, &[Healthy, Draining, Draining, Draining])];
        assert_eq!(panicking(100, groups.clone()), [0_u32; 0]);
        let assignment = EndpointAssignment {
            cluster: "c".into(),
            localities: vec![group(0, &[Unhealthy, Draining])],
            drops: Vec::new(),
        };
        let home = Locality::default();
        let admission = Admission::new(&assignment, &home, 1);
        assert!(admission.admits(0, Unhealthy));
        assert!(!admission.admits(0, Draining));
        assert!(!admission.admits(1, Unhealthy));
        assert_eq!(admission.fitness(&groups[0]), 1_000_000);
    }

    #[test]
    fn fitness_is_a_share_of_weight() {
        let assignment = EndpointAssignment {
            cluster: "c".into(),
            localities: vec![group(0, &[Healthy, Unhealthy, Timeout, Unknown, Draining])],
            drops: Vec::new(),
        };
        let home = Locality::default();
        let mut fitness = Vec::new();
        for threshold in [0, 51] {
            let admission = Admission::new(&assignment, &home, threshold);
            fitness.push(admission.fitness(&assignment.localities[0]));
        }
        assert_eq!(fitness, [500_000, 1_000_000]);
        let nothing = group(0, &[Draining]);
        let admission = Admission::new(&assignment, &home, 0);
        assert_eq!(admission.fitness(&nothing), 1_000_000);
    }

    #[test]
    fn another_priority_goes_before_panic_over_nothing() {
        let groups = |second: &[Health]| vec![group(0, &[Unhealthy]), group(1, second)];
        assert_eq!(panicking(50, groups(&[Healthy])), [0_u32; 0]);
        assert_eq!(panicking(50, groups(&[Unhealthy])), [0, 1]);
        assert_eq!(panicking(50, groups(&[Healthy, Timeout, Timeout])), [1]);
    }

    #[test]
    fn the_own_zone_is_that_of_the_same_region() {
        let at = |region: &str, zone: &str| Locality {
            region: region.into(),
            zone: zone.into(),
            sub_zone: "x".into(),
        };
        for (home, other, own) in [
            (at("r", "a"), at("r", "a"), true),
            (at("", "a"), at("r", "a"), true),
            (at("r", "a"), at("", "a"), true),
            (at("r", "a"), at("s", "a"), false),
            (at("r", "a"), at("r", "b"), false),
            (at("r", ""), at("r", ""), false),
        ] {
            let none = EndpointAssignment {
                cluster: "c".into(),
                localities: Vec::new(),
                drops: Vec::new(),
            };
            let admission = Admission::new(&none, &home, 0);
            assert_eq!(admission.is_own(&other), own, "{home:?} {other:?}");
        }
    }
}
