//! Clusters made of clusters.

use anyhow::Result;
use serde_json::{Value, json};

use crate::interop::cast::Tier;
use crate::interop::casts::AGGREGATES;
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::resources::{all_to, cluster_at, kind, service};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "aggregate",
    features: &[Feature::AggregateClusters],
    about: "an aggregate of two clusters: calls go to the second one when the endpoint of the first dies, and back when it is there again",
    casts: AGGREGATES,
    helpers: &[],
    tier: Tier::Quick,
    play: aggregate,
}];

fn aggregate(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let resources = [
        service(&[all_to("all")]),
        vec![aggregate_of("all", &["first", "second"])],
        cluster_at("first", &[&a.address]),
        cluster_at("second", &[&b.address]),
    ]
    .concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a"])?;
    let listen = format!("--listen={}", a.address);
    drop(a);
    traffic.until_answered_by(&["b"])?;
    let _a = stage.backend("a", &[&listen])?;
    traffic.until_answered_by(&["a"])
}

/// The first of these clusters that can be used.
fn aggregate_of(name: &str, clusters: &[&str]) -> Value {
    json!({
        "@type": kind("envoy.config.cluster.v3.Cluster"),
        "name": name,
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": kind("envoy.extensions.clusters.aggregate.v3.ClusterConfig"),
                "clusters": clusters,
            },
        },
    })
}
