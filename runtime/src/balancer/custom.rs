//! Policies that a program brings itself (gRFC A52).
//!
//! One is registered with [`MeshBuilder::load_balancer`](crate::MeshBuilder::load_balancer); the
//! control plane chooses it for a cluster by a `TypedStruct` in `load_balancing_policy`, whose inner
//! type URL ends with its name and whose value is its configuration. Which endpoints there are,
//! priorities, connections and their repair, outlier detection and drops stay the runtime's
//! business.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::code;
use sidestep_proto::resource::{LbPolicy, RegisteredPolicy};

use super::{
    Action, Actions, Connectivity, Endpoint, Failing, Failure, LoadBalancer, LoadBalancerFactory,
    Picker, SubchannelId,
};

/// A load-balancing policy of a program's own.
///
/// Most need only say which of the endpoints that can take calls takes one:
/// [`over_ready`](super::over_ready) does all the rest.
///
/// ```
/// use std::sync::Arc;
///
/// use sidestep::Mesh;
/// use sidestep::balancer::{
///     Call, CustomPolicy, Endpoint, LoadBalancer, Pick, Picker, SubchannelId, over_ready,
/// };
///
/// /// Calls with the header `x-canary` go to one zone, the others anywhere else.
/// #[derive(Debug)]
/// struct Canary;
///
/// #[derive(serde::Deserialize)]
/// struct Config {
///     zone: String,
/// }
///
/// impl CustomPolicy for Canary {
///     fn name(&self) -> &str {
///         "com.example.Canary"
///     }
///
///     fn build(&self, config: &str, _seed: u64) -> Result<Box<dyn LoadBalancer>, String> {
///         let config: Config = serde_json::from_str(config).map_err(|error| error.to_string())?;
///         Ok(over_ready(move |ready: &[Endpoint]| {
///             let (canary, rest) = ready
///                 .iter()
///                 .partition::<Vec<_>, _>(|endpoint| endpoint.locality.zone == config.zone);
///             let ids = |endpoints: Vec<&Endpoint>| endpoints.iter().map(|e| e.id).collect();
///             Arc::new(ByHeader { canary: ids(canary), rest: ids(rest) })
///         }))
///     }
/// }
///
/// /// Asked by each call: must not wait, lock or allocate.
/// #[derive(Debug)]
/// struct ByHeader {
///     canary: Vec<SubchannelId>,
///     rest: Vec<SubchannelId>,
/// }
///
/// impl Picker for ByHeader {
///     fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
///         let wanted = match call.headers.contains_key("x-canary") {
///             true => [&self.canary, &self.rest],
///             false => [&self.rest, &self.canary],
///         };
///         let chosen = wanted.into_iter().find(|ids| !ids.is_empty());
///         match chosen {
///             Some(ids) => Pick::Ready(ids[call.random as usize % ids.len()]),
///             None => Pick::Queue,
///         }
///     }
/// }
///
/// let mesh = Mesh::builder().load_balancer(Canary).build()?;
/// # Ok::<(), sidestep::BuildError>(())
/// ```
pub trait CustomPolicy: Debug + Send + Sync + 'static {
    /// What the inner type URL ends with, such as `com.example.Canary`. The names that gRPC's
    /// service config has (`round_robin`, …) cannot be taken: they mean what they mean there.
    fn name(&self) -> &str;

    /// A balancer for a priority of a cluster. `config` is a JSON object, `{}` if the control plane
    /// says nothing; `seed` is the source of its random decisions.
    ///
    /// Called as well to check a configuration that arrives; what it makes then is dropped, so it
    /// should only build.
    ///
    /// # Errors
    /// What is wrong with the configuration: the cluster is refused with this text (NACK), and the
    /// last good version stays in use.
    fn build(&self, config: &str, seed: u64) -> Result<Box<dyn LoadBalancer>, String>;
}

/// A policy as the decoder knows it.
#[derive(Debug)]
struct Registered(Box<dyn CustomPolicy>);

impl RegisteredPolicy for Registered {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn check(&self, config: &str) -> Result<(), String> {
        self.0.build(config, 0).map(drop)
    }
}

/// What the decoder is told of a policy.
pub(crate) fn register(policy: impl CustomPolicy) -> Arc<dyn RegisteredPolicy> {
    Arc::new(Registered(Box::new(policy)))
}

/// Makes the balancers of all of them.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::Custom(custom) = policy else {
            return None;
        };
        let registered = custom.registered.as_ref().and_then(|registered| {
            let registered: &dyn std::any::Any = &**registered;
            registered.downcast_ref::<Registered>()
        });
        let name = &custom.name;
        let made = match registered {
            Some(Registered(policy)) => policy.build(&custom.config, seed),
            None => Err("this process has not registered it".to_owned()),
        };
        // It was checked when it arrived: only a policy that changes its mind comes here.
        Some(made.unwrap_or_else(|reason| {
            let text = format!("the load-balancing policy {name:?} cannot be made: {reason}");
            Box::new(Refusing(Failure::new(code::RESOURCE_RULE, text)))
        }))
    }
}

/// Fails every call.
#[derive(Debug)]
struct Refusing(Failure);

impl LoadBalancer for Refusing {
    fn update(&mut self, _: Instant, _: &[Endpoint], _: Option<&Failure>, out: &mut Actions) {
        out.push(Action::Changed);
    }

    fn subchannel_changed(
        &mut self,
        _: Instant,
        _: SubchannelId,
        _: &Connectivity,
        _: &mut Actions,
    ) {
    }

    fn connect_requested(&mut self, _: Instant, _: SubchannelId, _: &mut Actions) {}

    fn connectivity(&self) -> Connectivity {
        Connectivity::TransientFailure(self.0.clone())
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        Arc::new(Failing(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{First, Rig, custom};
    use super::super::{Pick, build};
    use super::*;

    #[test]
    fn what_is_wrong_with_a_configuration_is_said() {
        let first = register(First);
        assert_eq!(first.check("{}"), Ok(()));
        let refused = first.check("[]");
        assert_eq!(refused, Err("there is nothing to configure".to_owned()));
    }

    #[test]
    fn a_policy_that_cannot_be_made_fails_calls_with_its_reason() {
        let mut rig = Rig::new(build(&custom(&register(First), "[]"), 1));
        rig.update(&[rig.endpoint(0)]);
        let text =
            "the load-balancing policy \"org.First\" cannot be made: there is nothing to configure";
        let failure = Failure::new(code::RESOURCE_RULE, text);
        assert_eq!(rig.pick(0), Pick::Fail(&failure));
        assert_eq!(rig.connects, []);
    }
}
