//! What endpoints weigh against each other, as whole numbers.

use super::Endpoint;

/// The heaviest after scaling: fine enough that rounding shows in no share, and the sum of any
/// number of endpoints fits into 64 bits.
const HEAVIEST: f64 = 16_777_216.0;

/// As the control plane says, but for endpoints that are held back while they warm up.
pub(super) fn configured<'a>(endpoints: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<u32> {
    let held_back = endpoints.clone().any(|e| e.load.share() < 1.0);
    if !held_back {
        return endpoints.map(|e| e.weight).collect();
    }
    let held = endpoints.map(|e| f64::from(e.weight) * e.load.share());
    scaled(held.collect())
}

/// In proportion to these, which are positive; each at least 1.
pub(super) fn scaled(weights: Vec<f64>) -> Vec<u32> {
    let heaviest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let scaled = weights.into_iter().map(|weight| {
        // At most the heaviest, so it fits.
        (weight / heaviest * HEAVIEST).round() as u32
    });
    scaled.map(|weight| weight.max(1)).collect()
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::LbPolicy;

    use super::super::conformance::Rig;
    use super::super::endpoint_balancer;
    use super::*;

    #[test]
    fn weights_are_as_configured_unless_something_is_held_back() {
        let rig = Rig::new(endpoint_balancer(&LbPolicy::RoundRobin, 1));
        let endpoints = [(0, 1), (1, 3)].map(|(id, weight)| Endpoint {
            weight,
            ..rig.endpoint(id)
        });
        assert_eq!(configured(endpoints.iter()), [1, 3]);
        endpoints[1].load.set_share(0.25);
        let held = configured(endpoints.iter());
        let ratio = f64::from(held[1]) / f64::from(held[0]);
        assert!((ratio - 0.75).abs() < 1e-6, "{held:?}");
    }

    #[test]
    fn nobody_weighs_nothing() {
        assert_eq!(scaled(vec![1e9, 1e-9]), [1 << 24, 1]);
        assert_eq!(scaled(vec![0.0, 0.0]), [1, 1]);
    }
}
