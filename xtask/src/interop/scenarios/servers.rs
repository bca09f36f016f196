//! More than one control plane.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use crate::interop::cast::Tier;
use crate::interop::casts::{FALLBACK, FEDERATION};
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::resources::{
    SERVICE, all_to, cluster, cluster_at, endpoints, listener, route_configuration, with,
};
use crate::interop::scenario::Scenario;
use crate::interop::stage::{Backend, Stage};
use crate::interop::traffic::answered_by;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "federation",
        features: &[Feature::Federation],
        about: "listener and routes come from one authority, cluster and endpoints from another one, and the default control plane is not there",
        casts: FEDERATION,
        helpers: &[],
        tier: Tier::Quick,
        play: federation,
    },
    Scenario {
        name: "fallback",
        features: &[Feature::Fallback],
        about: "the first control plane is not there, so the second one is used; it comes, and is used; it goes, and everything stays",
        casts: FALLBACK,
        helpers: &[],
        tier: Tier::Quick,
        play: fallback,
    },
];

fn server(address: &str) -> Value {
    json!({
        "server_uri": address,
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    })
}

fn bootstrap(stage: &Stage<'_>, servers: &[&str], authorities: Value) -> Result<PathBuf> {
    let servers: Vec<Value> = servers.iter().map(|address| server(address)).collect();
    let content = json!({
        "xds_servers": servers,
        "node": {"id": "web-node", "cluster": "web"},
        "authorities": authorities,
    });
    let file = stage.file("web-bootstrap.json");
    std::fs::write(&file, content.to_string())?;
    Ok(file)
}

/// A name in an authority.
fn name(authority: &str, kind: &str, name: &str) -> String {
    format!("xdstp://{authority}/envoy.config.{kind}/{name}")
}

fn federation(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let routes = name("one", "route.v3.RouteConfiguration", "routes");
    let listener_name = name("one", "listener.v3.Listener", "greeter");
    let cluster_name = name("two", "cluster.v3.Cluster", "greeter");
    let assignment = name("two", "endpoint.v3.ClusterLoadAssignment", "greeter");
    let first = [
        listener(&listener_name, &routes),
        route_configuration(&routes, &[all_to(&cluster_name)]),
    ];
    let eds = json!({"eds_cluster_config": {
        "eds_config": {"ads": {}, "resource_api_version": "V3"},
        "service_name": assignment,
    }});
    let second = [
        with(cluster(&cluster_name), eds),
        endpoints(&assignment, &[&a.address]),
    ];
    let first = Management::start_at(stage, "management-one", "127.0.0.1:0", &first)?;
    let second = Management::start_at(stage, "management-two", "127.0.0.1:0", &second)?;
    let authority = |address: &str, authority: &str| {
        let template = name(authority, "listener.v3.Listener", "%s");
        json!({
            "xds_servers": [server(address)],
            "client_listener_resource_name_template": template,
        })
    };
    let authorities = json!({
        "one": authority(&first.address, "one"),
        "two": authority(&second.address, "two"),
    });
    // The discard port, on which nobody answers.
    let bootstrap = bootstrap(stage, &["127.0.0.1:9"], authorities)?;
    let flags = ["--target=xds://one/greeter", "--wait-for-ready"];
    let events = stage.client("client", &bootstrap, &flags)?.run_to_end()?;
    let calls: Vec<Value> = events.into_iter().filter(|e| e["event"] == "rpc").collect();
    answered_by(&calls, &["a"])
}

fn fallback(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    // Names of their own: grpc-go, back at the first one, asks it for what is new to it alone.
    let named = |routes: &str, name: &str, backend: &Backend| {
        let service = [
            listener(SERVICE, routes),
            route_configuration(routes, &[all_to(name)]),
        ];
        [service.to_vec(), cluster_at(name, &[&backend.address])].concat()
    };
    let first = named("routes-one", "one", &a);
    let second = named("routes-two", "two", &b);
    // Where the first one will be: the port is free again as soon as it is gone.
    let gone = Management::start_at(stage, "management-once", "127.0.0.1:0", &first)?;
    let address = gone.address.clone();
    drop(gone);
    let spare = Management::start_at(stage, "management-two", "127.0.0.1:0", &second)?;
    let bootstrap = bootstrap(stage, &[&address, &spare.address], json!({}))?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["b"])?;
    let preferred = Management::start_at(stage, "management-one", &address, &first)?;
    traffic.until_answered_by(&["a"])?;
    drop(preferred);
    answered_by(&traffic.next(100)?, &["a"])?;
    traffic.end_without_failure()
}
