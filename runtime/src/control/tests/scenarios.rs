//! What channels see.

use std::sync::Arc;

use sidestep_proto::resource::{Resource, ResourceType};

use super::backend::Backend;
use super::fixtures::*;
use super::in_time;
use super::plane::Plane;
use crate::balancer::Connectivity;
use crate::snapshot::{Cluster, Target, TargetState};

fn current(target: &Target, name: &str) -> Arc<Cluster> {
    match &**target.load() {
        TargetState::Ready(snapshot) => {
            let found = snapshot.clusters.iter().find(|c| &**c.name() == name);
            found.expect("the snapshot names it").clone()
        }
        other => panic!("no snapshot: {other:?}"),
    }
}

/// Waits for a picker with these addresses connected.
async fn until_connected(cluster: &Cluster, addresses: &[std::net::SocketAddr]) {
    let mut wanted: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    wanted.sort();
    in_time("connections", async {
        loop {
            let seen = cluster.version();
            let published = cluster.published();
            let slots = published.slots.iter();
            let connected = slots.filter(|slot| slot.connection.load().is_some());
            let mut connected: Vec<_> = connected.map(|slot| slot.address.to_string()).collect();
            connected.sort();
            if connected == wanted && published.connectivity == Connectivity::Ready {
                return;
            }
            drop(published);
            cluster.changed_since(seen).await;
        }
    })
    .await;
}

#[tokio::test]
async fn configuration_arrives_and_endpoints_are_connected() {
    let (plane, a) = (Plane::start().await, Backend::start().await);
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[a.address]),
    ]);
    let handle = handle(&plane);
    let target = handle.target("greeter", "greeter");
    in_time("ready", target.ready()).await;
    until_connected(&current(&target, "one"), &[a.address]).await;
    assert_eq!(plane.streams_opened(), 1);
}
