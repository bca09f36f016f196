use std::time::Duration;

use prost_types::{ListValue, Struct, Value, value::Kind};

use super::{Any, LbPolicy, LoadBalancingPolicy, Policy, TypedExtensionConfig};
use crate::codec::tests::{ignored, read, typed_struct};
use crate::codec::{Context, decode, encode};
use crate::resource::{
    Finite, Metric, PeakEwma, Resource, ResourceType, SlowStart, WeightedRoundRobin,
};
use crate::wire::cluster::cluster::{LbConfig, RoundRobinLbConfig, SlowStartConfig as EnumConfig};
use crate::wire::core::RuntimeDouble;
use crate::wire::load_balancing::{
    self, ClientSideWeightedRoundRobin, RoundRobin, SlowStartConfig,
};
use crate::wire::number::Percent;
use crate::wire::{cluster, core};

const TYPE: ResourceType = ResourceType::Cluster;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn cluster(policies: &[Any]) -> cluster::Cluster {
    let policy = |any: &Any| Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: "label".into(),
            typed_config: Some(any.clone()),
        }),
    };
    cluster::Cluster {
        load_balancing_policy: Some(LoadBalancingPolicy {
            policies: policies.iter().map(policy).collect(),
        }),
        ..base()
    }
}

fn base() -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
    use core::config_source::ConfigSourceSpecifier;
    let ads = core::ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(Default::default())),
        ..Default::default()
    };
    cluster::Cluster {
        name: "a".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads),
            service_name: String::new(),
        }),
        ..Default::default()
    }
}

fn policy(wire: &cluster::Cluster) -> Result<LbPolicy, String> {
    let resource = read(TYPE, wire)?;
    // What is written reads back as the same.
    let again = decode(TYPE, &encode(&resource), &Context::default());
    assert_eq!(again.expect("can be named").result, Ok(resource.clone()));
    let Resource::Cluster(cluster) = resource else {
        panic!("not a cluster");
    };
    Ok(cluster.lb_policy.clone())
}

#[track_caller]
fn refused(policies: &[Any], expected: &str) {
    let found = policy(&cluster(policies)).expect_err("is refused");
    assert!(found.contains(expected), "{found}");
}

fn json(fields: &[(&str, Kind)]) -> Struct {
    let fields = fields.iter().map(|(name, kind)| {
        let kind = Some(kind.clone());
        ((*name).to_owned(), Value { kind })
    });
    Struct {
        fields: fields.collect(),
    }
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

fn finite(number: f64) -> Finite {
    Finite::new(number).unwrap()
}

fn weighted(change: impl FnOnce(&mut ClientSideWeightedRoundRobin)) -> Any {
    let mut config = ClientSideWeightedRoundRobin::default();
    change(&mut config);
    Any::pack(&config)
}

#[test]
fn weighted_round_robin_has_the_defaults_of_a58() {
    let found = policy(&cluster(&[weighted(|_| ())])).unwrap();
    let expected = WeightedRoundRobin {
        out_of_band: None,
        blackout: Duration::from_secs(10),
        expiration: Duration::from_secs(180),
        update_period: Duration::from_secs(1),
        error_penalty: finite(1.0),
        metrics: vec![],
    };
    assert_eq!(found, LbPolicy::WeightedRoundRobin(expected));
}

fn all_settings() -> WeightedRoundRobin {
    WeightedRoundRobin {
        out_of_band: Some(Duration::from_secs(3)),
        blackout: Duration::ZERO,
        expiration: Duration::from_secs(60),
        update_period: Duration::from_millis(100),
        error_penalty: finite(2.5),
        metrics: vec![Metric::Memory, Metric::Named("queue".into())],
    }
}

#[test]
fn weighted_round_robin_takes_every_setting() {
    let names = ["mem_utilization", "named_metrics.queue"];
    let any = weighted(|config| {
        config.enable_oob_load_report = Some(true);
        config.oob_reporting_period = seconds(3);
        config.blackout_period = seconds(0);
        config.weight_expiration_period = seconds(60);
        config.weight_update_period = seconds(0);
        config.error_utilization_penalty = Some(2.5);
        config.metric_names_for_computing_utilization = names.map(str::to_owned).to_vec();
    });
    let expected = LbPolicy::WeightedRoundRobin(all_settings());
    assert_eq!(policy(&cluster(&[any])).unwrap(), expected);

    let values = names.map(|name| Value {
        kind: Some(text(name)),
    });
    let list = ListValue {
        values: values.to_vec(),
    };
    let config = json(&[
        ("enableOobLoadReport", Kind::BoolValue(true)),
        ("oobReportingPeriod", text("3s")),
        ("blackoutPeriod", text("0s")),
        ("weightExpirationPeriod", text("60.000s")),
        ("weightUpdatePeriod", text("0.05s")),
        ("errorUtilizationPenalty", Kind::NumberValue(2.5)),
        ("metricNamesForComputingUtilization", Kind::ListValue(list)),
    ]);
    let any = typed_struct("weighted_round_robin", config);
    assert_eq!(policy(&cluster(&[any])).unwrap(), expected);
}

#[test]
fn weighted_round_robin_without_reports_beside_calls_has_no_period() {
    let any = weighted(|config| config.oob_reporting_period = seconds(3));
    let LbPolicy::WeightedRoundRobin(found) = policy(&cluster(&[any])).unwrap() else {
        panic!();
    };
    assert_eq!(found.out_of_band, None);
    let any = weighted(|config| config.enable_oob_load_report = Some(true));
    let LbPolicy::WeightedRoundRobin(found) = policy(&cluster(&[any])).unwrap() else {
        panic!();
    };
    assert_eq!(found.out_of_band, Some(Duration::from_secs(10)));
}

#[test]
fn weighted_round_robin_refuses_nonsense() {
    for penalty in [-0.5, f32::NAN, f32::INFINITY] {
        let any = weighted(|config| config.error_utilization_penalty = Some(penalty));
        refused(&[any], "error_utilization_penalty: ");
    }
    let any = weighted(|config| config.blackout_period = seconds(-1));
    refused(&[any], "blackout_period: ");
    let any = weighted(|config| config.weight_expiration_period = seconds(-1));
    refused(&[any], "weight_expiration_period: ");
    let any = weighted(|config| config.weight_update_period = seconds(-1));
    refused(&[any], "weight_update_period: ");
    for (name, kind) in [
        ("enableOobLoadReport", text("yes")),
        ("oobReportingPeriod", Kind::NumberValue(3.0)),
        ("blackoutPeriod", text("3")),
        ("blackoutPeriod", text("-3s")),
        ("blackoutPeriod", text("1.0000000001s")),
        ("blackoutPeriod", text("s")),
        ("weightUpdatePeriod", text("9999999999999s")),
        ("errorUtilizationPenalty", text("1")),
        ("errorUtilizationPenalty", Kind::NumberValue(-1.0)),
        ("metricNamesForComputingUtilization", text("a")),
    ] {
        let any = typed_struct("weighted_round_robin", json(&[(name, kind)]));
        refused(&[any], name);
    }
}

#[test]
fn what_weighted_round_robin_leaves_aside_is_noted() {
    let any = weighted(|config| {
        config.oob_reporting_config = Some(Default::default());
        let names = ["gpu", "cpu_utilization"];
        config.metric_names_for_computing_utilization = names.map(str::to_owned).to_vec();
    });
    let found = ignored(TYPE, &cluster(&[any]));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].ends_with("oob_reporting_config"), "{found:?}");
    assert!(
        found[1].ends_with("metric_names_for_computing_utilization[0]"),
        "{found:?}"
    );
}

#[test]
fn peak_ewma_by_either_name() {
    let any = Any::pack(&load_balancing::PeakEwma::default());
    let found = policy(&cluster(&[any])).unwrap();
    assert_eq!(found, LbPolicy::PeakEwma(PeakEwma::default()));

    let any = Any::pack(&load_balancing::PeakEwma {
        decay_time: seconds(3),
        default_rtt: seconds(1),
        ..Default::default()
    });
    let mut expected = PeakEwma {
        decay: Duration::from_secs(3),
        default_latency: Some(Duration::from_secs(1)),
        failure_penalty: Duration::from_secs(5),
    };
    let found = policy(&cluster(&[any])).unwrap();
    assert_eq!(found, LbPolicy::PeakEwma(expected.clone()));

    let config = json(&[
        ("decayTime", text("3s")),
        ("defaultRtt", text("1s")),
        ("failurePenalty", text("0.25s")),
    ]);
    expected.failure_penalty = Duration::from_millis(250);
    let any = typed_struct("sidestep.peak_ewma", config);
    let found = policy(&cluster(&[any])).unwrap();
    assert_eq!(found, LbPolicy::PeakEwma(expected));
}

#[test]
fn peak_ewma_must_forget() {
    let any = Any::pack(&load_balancing::PeakEwma {
        decay_time: seconds(0),
        ..Default::default()
    });
    refused(&[any], "decay_time: ");
    let config = json(&[("decayTime", text("0s"))]);
    refused(&[typed_struct("sidestep.peak_ewma", config)], "decayTime: ");
}

#[test]
fn what_peak_ewma_leaves_aside_is_noted() {
    let any = Any::pack(&load_balancing::PeakEwma {
        aggregation_interval: seconds(1),
        max_samples_per_host: Some(1),
        penalty_value: Some(1.0),
        ..Default::default()
    });
    assert_eq!(ignored(TYPE, &cluster(&[any])).len(), 3);
}

/// Clients that lack the policy use the next one of the list.
#[test]
fn others_find_something_in_the_list() {
    for (policy, count) in [
        (LbPolicy::WeightedRoundRobin(Default::default()), 2),
        (LbPolicy::PeakEwma(Default::default()), 3),
        (LbPolicy::RoundRobin, 1),
    ] {
        let mut wire = base();
        super::encode(&policy, &mut wire);
        let list = wire.load_balancing_policy.unwrap();
        assert_eq!(list.policies.len(), count, "{policy:?}");
    }
}

fn growth(change: impl FnOnce(&mut SlowStartConfig)) -> Option<SlowStartConfig> {
    let mut config = SlowStartConfig {
        slow_start_window: seconds(30),
        ..Default::default()
    };
    change(&mut config);
    Some(config)
}

fn round_robin(slow_start_config: Option<SlowStartConfig>) -> Any {
    Any::pack(&RoundRobin {
        slow_start_config,
        ..Default::default()
    })
}

#[test]
fn slow_start_is_read_wherever_it_may_be() {
    let plain = growth(|_| ());
    let grown =
        |policy: LbPolicy| policy.with_slow_start(Some(SlowStart::over(Duration::from_secs(30))));
    let least = load_balancing::LeastRequest {
        slow_start_config: plain.clone(),
        ..Default::default()
    };
    let weighted = weighted(|config| config.slow_start_config = plain.clone());
    for (any, expected) in [
        (round_robin(plain), LbPolicy::RoundRobin),
        (
            Any::pack(&least),
            LbPolicy::LeastRequest { choice_count: 2 },
        ),
        (
            weighted,
            LbPolicy::WeightedRoundRobin(WeightedRoundRobin::default()),
        ),
    ] {
        assert_eq!(policy(&cluster(&[any])).unwrap(), grown(expected));
    }

    let mut wire = base();
    let slow_start_config = Some(EnumConfig {
        slow_start_window: seconds(30),
        ..Default::default()
    });
    wire.lb_config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
        slow_start_config: slow_start_config.clone(),
    }));
    let expected = grown(LbPolicy::RoundRobin).by_locality();
    assert_eq!(policy(&wire).unwrap(), expected);
    wire.lb_policy = cluster::cluster::LbPolicy::LeastRequest as i32;
    wire.lb_config = Some(LbConfig::LeastRequestLbConfig(
        cluster::cluster::LeastRequestLbConfig {
            slow_start_config,
            ..Default::default()
        },
    ));
    let expected = grown(LbPolicy::LeastRequest { choice_count: 2 }).by_locality();
    assert_eq!(policy(&wire).unwrap(), expected);
}

#[test]
fn slow_start_takes_every_setting() {
    let config = growth(|config| {
        config.aggression = Some(RuntimeDouble {
            default_value: 2.0,
            ..Default::default()
        });
        config.min_weight_percent = Some(Percent { value: 0.5 });
    });
    let expected = SlowStart {
        window: Duration::from_secs(30),
        aggression: finite(2.0),
        min_weight_percent: finite(0.5),
    };
    assert_eq!(
        policy(&cluster(&[round_robin(config)])).unwrap(),
        LbPolicy::RoundRobin.with_slow_start(Some(expected))
    );
}

#[test]
fn without_a_window_nothing_grows() {
    for window in [None, seconds(0)] {
        let config = growth(|config| config.slow_start_window = window);
        assert_eq!(
            policy(&cluster(&[round_robin(config)])).unwrap(),
            LbPolicy::RoundRobin
        );
    }
}

#[test]
fn slow_start_refuses_nonsense() {
    for aggression in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let config = growth(|config| {
            config.aggression = Some(RuntimeDouble {
                default_value: aggression,
                ..Default::default()
            });
        });
        refused(
            &[round_robin(config)],
            "slow_start_config.aggression.default_value: ",
        );
    }
    for percent in [-1.0, 100.1, f64::NAN] {
        let config = growth(|config| config.min_weight_percent = Some(Percent { value: percent }));
        refused(
            &[round_robin(config)],
            "slow_start_config.min_weight_percent: ",
        );
    }
    let config = growth(|config| config.slow_start_window = seconds(-1));
    refused(
        &[round_robin(config)],
        "slow_start_config.slow_start_window: ",
    );
}
