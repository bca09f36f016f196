//! What channels see.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use sidestep_proto::ads::ServerEvent;
use sidestep_proto::resource::{
    self, CertificateInstance, Resource, ResourceType, StringMatcher, Text, UpstreamTls,
};

use super::super::{Config, Handle, Variant};
use super::backend::Backend;
use super::fixtures::*;
use super::in_time;
use super::plane::Plane;
use crate::balancer::Connectivity;
use crate::resolver::DirectTarget;
use crate::security::{CertificateProvider, CertificateProviders, Material, SecurityError};
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
            let connected = slots.filter(|slot| slot.connections.is_connected());
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

#[tokio::test]
async fn endpoints_change_and_those_that_stay_keep_their_connection() {
    let plane = Plane::start().await;
    let (a, b, c) = (
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
    );
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[a.address, b.address]),
    ]);
    let handle = handle(&plane);
    let target = handle.target("greeter", "greeter");
    in_time("ready", target.ready()).await;
    let one = current(&target, "one");
    until_connected(&one, &[a.address, b.address]).await;
    plane.put([endpoints("one", &[b.address, c.address])]);
    until_connected(&one, &[b.address, c.address]).await;
    // The endpoint that left is let go, the one that stayed was connected once.
    let mut gone = a.connections.clone();
    in_time("close", gone.wait_for(|c| c.open == 0))
        .await
        .expect("the backend runs");
    assert_eq!(b.connections.borrow().ever, 1);
}

#[tokio::test]
async fn a_switch_over_never_names_a_cluster_that_is_not_there() {
    let plane = Plane::start().await;
    let (a, b) = (Backend::start().await, Backend::start().await);
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[a.address]),
    ]);
    let handle = handle(&plane);
    let target = handle.target("greeter", "greeter");
    in_time("ready", target.ready()).await;
    plane.put([
        routes("routes", &["two"]),
        cluster("two"),
        endpoints("two", &[b.address]),
    ]);
    // Of all states on the way, none names a cluster that a call could not use at once.
    until("switch", &target, |state| match state {
        TargetState::Ready(snapshot) if cluster_names(snapshot) == ["one"] => None,
        TargetState::Ready(snapshot) => {
            assert_eq!(cluster_names(snapshot), ["two"]);
            let state = &snapshot.clusters[0].published().connectivity;
            assert_eq!(*state, Connectivity::Ready);
            Some(())
        }
        other => panic!("{other:?}"),
    })
    .await;
    plane.subscribed(ResourceType::Cluster, &["two"]).await;
    let mut gone = a.connections.clone();
    in_time("close", gone.wait_for(|c| c.open == 0))
        .await
        .expect("the backend runs");
    // And back: a cluster that left is started afresh.
    plane.put([routes("routes", &["one"])]);
    until_names(&target, &["one"]).await;
    until_connected(&current(&target, "one"), &[a.address]).await;
}

#[tokio::test]
async fn a_control_plane_may_die_and_return() {
    let mut plane = Plane::start().await;
    let (a, b) = (Backend::start().await, Backend::start().await);
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[a.address]),
    ]);
    let handle = handle(&plane);
    let target = handle.target("greeter", "greeter");
    in_time("ready", target.ready()).await;
    plane.stop().await;
    let late = handle.target("late", "late");
    let text = until_failed(&late).await;
    assert!(text.contains("Listener \"late\""), "{text}");
    assert!(text.contains(&plane.address.to_string()), "{text}");
    assert!(text.contains("tester"), "{text}");
    let one = current(&target, "one");
    assert_eq!(one.published().connectivity, Connectivity::Ready);
    plane.put([endpoints("one", &[b.address]), listener("late", "routes")]);
    plane.restart().await;
    until_names(&late, &["one"]).await;
    until_connected(&one, &[b.address]).await;
    assert!(
        Arc::ptr_eq(&one, &current(&late, "one")),
        "clusters are shared"
    );
}

#[tokio::test]
async fn what_does_not_exist_fails_with_a_text_that_says_so() {
    let plane = Plane::start().await;
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one", "two"]),
        cluster("two"),
    ]);
    let handle = handle(&plane);
    let text = until_failed(&handle.target("nobody", "nobody")).await;
    for part in [
        "Listener \"nobody\"",
        &plane.address.to_string(),
        "\"tester\"",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let target = handle.target("greeter", "greeter");
    until_names(&target, &["one", "two"]).await;
    for (name, resource) in [("one", "Cluster"), ("two", "ClusterLoadAssignment")] {
        let cluster = current(&target, name);
        let published = cluster.published();
        let Connectivity::TransientFailure(failure) = &published.connectivity else {
            panic!("{published:?}");
        };
        let part = format!("{resource} {name:?}");
        assert!(failure.0.contains(&part), "{}", failure.0);
    }
}

#[tokio::test]
async fn a_silent_control_plane_fails_calls_after_the_timer() {
    let plane = Plane::mute().await;
    let handle = handle(&plane);
    let text = until_failed(&handle.target("greeter", "greeter")).await;
    assert!(
        text.contains("Listener \"greeter\" does not exist"),
        "{text}"
    );
}

#[tokio::test]
async fn a_thousand_clusters_start_without_a_hang() {
    let plane = Plane::start().await;
    let a = Backend::start().await;
    let names: Vec<_> = (0..1000).map(|n| format!("cluster-{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut all: Vec<Resource> = vec![listener("greeter", "routes"), routes("routes", &names)];
    all.extend(names.iter().map(|name| cluster(name)));
    all.extend(names.iter().map(|name| endpoints(name, &[a.address])));
    plane.put(all);
    let handle = handle(&plane);
    let target = handle.target("greeter", "greeter");
    until_names(&target, &names).await;
    until_connected(&current(&target, "cluster-0999"), &[a.address]).await;
}

#[tokio::test]
async fn delta_carries_the_same() {
    let mut plane = Plane::start().await;
    let (a, b) = (Backend::start().await, Backend::start().await);
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[a.address]),
    ]);
    let mut config = config(&plane);
    config.variant = Variant::Delta;
    let handle = Handle::new(config);
    let target = handle.target("greeter", "greeter");
    in_time("ready", target.ready()).await;
    let one = current(&target, "one");
    until_connected(&one, &[a.address]).await;
    plane.stop().await;
    plane.put([endpoints("one", &[b.address])]);
    plane.restart().await;
    until_connected(&one, &[b.address]).await;
}

#[tokio::test]
async fn what_nobody_uses_any_more_is_unsubscribed() {
    let plane = Plane::start().await;
    let a = Backend::start().await;
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[a.address]),
    ]);
    let handle = handle(&plane);
    let (first, second) = (
        handle.target("greeter", "greeter"),
        handle.target("greeter", "greeter"),
    );
    in_time("ready", first.ready()).await;
    in_time("ready", second.ready()).await;
    assert_eq!(a.connections.borrow().ever, 1, "channels share connections");
    drop(first);
    drop(second);
    for resource_type in ResourceType::ALL {
        in_time("unsubscribe", plane.subscribed(resource_type, &[])).await;
    }
    let mut gone = a.connections.clone();
    in_time("close", gone.wait_for(|c| c.open == 0))
        .await
        .expect("the backend runs");
}

#[tokio::test]
async fn without_security_only_local_peers_are_dialled() {
    let plane = Plane::start().await;
    // TEST-NET-1: never dialled, so never waited for.
    let far = "192.0.2.1:1".parse().expect("an address");
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[far]),
    ]);
    let handle = handle(&plane);
    let target = handle.target("greeter", "greeter");
    until_names(&target, &["one"]).await;
    let text = until_failing(&current(&target, "one")).await;
    assert!(text.contains("plaintext_where_unsecured()"), "{text}");
}

/// A provider whose files cannot be read.
#[derive(Debug)]
struct Broken;

impl CertificateProvider for Broken {
    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        Err(SecurityError::File {
            path: "roots.pem".into(),
            reason: "is not there".into(),
        })
    }
}

#[tokio::test]
async fn twenty_mebibytes_of_clusters_and_a_security_error_that_never_falls_back() {
    let plane = Plane::start().await;
    let a = Backend::start().await;
    let names: Vec<_> = (0..20).map(|n| format!("cluster-{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let large = |name: &str| {
        let mut cluster = plain_cluster(name);
        let long = Text::exact("x".repeat(1 << 20));
        cluster.tls = Some(tls(vec![StringMatcher::Exact(long)]));
        Resource::Cluster(Arc::new(cluster))
    };
    let mut all = vec![listener("greeter", "routes"), routes("routes", &names)];
    all.extend(names.iter().map(|name| large(name)));
    all.extend(names.iter().map(|name| endpoints(name, &[a.address])));
    plane.put(all);
    let mut config = config(&plane);
    config.providers = CertificateProviders::default().with("certs", Arc::new(Broken));
    // So much takes a busy machine longer than the tests' short one; nothing is missing here.
    config.timers.ads.does_not_exist = Duration::from_secs(15);
    let handle = Handle::new(config);
    let target = handle.target("greeter", "greeter");
    until_names(&target, &names).await;
    let text = until_failing(&current(&target, "cluster-19")).await;
    assert!(text.contains("roots.pem"), "{text}");
    assert_eq!(a.connections.borrow().ever, 0, "no plaintext instead");
}

#[tokio::test]
async fn a_direct_target_needs_no_control_plane() {
    let a = Backend::start().await;
    let handle = Handle::new(Config::new(None, CertificateProviders::default()));
    for text in [
        a.address.to_string(),
        format!("localhost:{}", a.address.port()),
    ] {
        let direct = DirectTarget::parse(&text).expect("a target");
        let target = handle.direct(direct);
        in_time("ready", target.ready()).await;
    }
    let text = until_failed(&handle.target("greeter", "greeter")).await;
    assert!(text.contains("bootstrap"), "{text}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_fails_and_says_so() {
    let handle = Handle::new(Config::new(None, CertificateProviders::default()));
    let direct = DirectTarget::parse("no-such-host.invalid:80").expect("a target");
    let target = handle.direct(direct);
    let cluster = until("snapshot", &target, |state| match state {
        TargetState::Ready(snapshot) => Some(snapshot.clusters[0].clone()),
        _ => None,
    });
    let cluster = cluster.await;
    let text = until_failing(&cluster).await;
    assert!(
        text.contains("no-such-host.invalid:80 cannot be resolved"),
        "{text}"
    );
}

#[tokio::test]
async fn changed_security_reaches_connections_that_are_there() {
    let plane = Plane::start().await;
    let a = Backend::start().await;
    let secured = Resource::Cluster(Arc::new(resource::Cluster {
        tls: Some(tls(Vec::new())),
        ..plain_cluster("one")
    }));
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[a.address]),
    ]);
    let mut config = config(&plane);
    config.providers = CertificateProviders::default().with("certs", Arc::new(Broken));
    let handle = Handle::new(config);
    let target = handle.target("greeter", "greeter");
    in_time("ready", target.ready()).await;
    let one = current(&target, "one");
    plane.put([secured]);
    let text = until_failing(&one).await;
    assert!(text.contains("roots.pem"), "{text}");
    let mut gone = a.connections.clone();
    in_time("close", gone.wait_for(|c| c.open == 0))
        .await
        .expect("the backend runs");
    plane.put([cluster("one")]);
    until_connected(&one, &[a.address]).await;
    assert!(Arc::ptr_eq(&one, &current(&target, "one")));
}

#[tokio::test]
async fn what_is_deleted_stays_in_use() {
    let plane = Plane::start().await;
    let (a, b) = (Backend::start().await, Backend::start().await);
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[a.address]),
    ]);
    let handle = handle(&plane);
    let target = handle.target("greeter", "greeter");
    in_time("ready", target.ready()).await;
    let one = current(&target, "one");
    plane.remove(ResourceType::Cluster, "one");
    let deleted = plane.heard(|events| {
        let acks = events.iter().filter(|event| {
            matches!(event, ServerEvent::Ack { type_url, .. }
                if type_url == ResourceType::Cluster.type_url())
        });
        acks.count() == 2
    });
    in_time("deletion", deleted).await;
    // gRFC A88: an error about data that is there is only reported.
    plane.put([endpoints("one", &[b.address])]);
    until_connected(&one, &[b.address]).await;
    assert!(Arc::ptr_eq(&one, &current(&target, "one")));
}

fn tls(sans: Vec<StringMatcher>) -> UpstreamTls {
    UpstreamTls {
        roots: CertificateInstance {
            instance: "certs".into(),
            certificate_name: String::new(),
        },
        identity: None,
        sans,
    }
}

async fn until_failing(cluster: &Cluster) -> String {
    in_time("failure", async {
        loop {
            let seen = cluster.version();
            if let Connectivity::TransientFailure(failure) = &cluster.published().connectivity {
                return failure.0.to_string();
            }
            cluster.changed_since(seen).await;
        }
    })
    .await
}

fn channel(target: &Arc<Target>) -> crate::Channel {
    let authority = http::uri::Authority::from_static("greeter");
    let telemetry = crate::Telemetry::new(None).client("xds:///greeter");
    crate::Channel::new(target.clone(), authority, telemetry)
}

fn call(
    channel: &mut crate::Channel,
    wait_for_ready: bool,
) -> crate::channel::CallFuture<http_body_util::Empty<bytes::Bytes>> {
    let mut request = http::Request::new(http_body_util::Empty::new());
    *request.uri_mut() = "/one-b/Hello".parse().expect("a path");
    let extension = crate::WaitForReady(wait_for_ready);
    request.extensions_mut().insert(extension);
    tower_service::Service::call(channel, request)
}

#[tokio::test]
async fn a_call_that_waits_in_a_cluster_that_goes_is_routed_again() {
    let (plane, b) = (Plane::start().await, Backend::start().await);
    // Connects, and never says a word: calls wait.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a free port");
    let address = silent.local_addr().expect("it is bound");
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[address]),
    ]);
    let handle = handle(&plane);
    let target = handle.target("greeter", "greeter");
    until_names(&target, &["one"]).await;
    let mut channel = channel(&target);
    let (mut hasty, mut patient) = (
        Box::pin(call(&mut channel, false)),
        Box::pin(call(&mut channel, true)),
    );
    assert!(hasty.as_mut().now_or_never().is_none());
    assert!(patient.as_mut().now_or_never().is_none());
    plane.put([
        routes("routes", &["one-b"]),
        cluster("one-b"),
        endpoints("one-b", &[b.address]),
    ]);
    for call in [hasty, patient] {
        let answer = in_time("an answer", call).await.expect("two answers");
        let info = answer.extensions().get::<crate::CallInfo>();
        assert_eq!(
            &*info.expect("always there").endpoint,
            b.address.to_string()
        );
    }
}

#[tokio::test]
async fn a_call_that_waits_while_its_listener_goes_fails_and_says_so() {
    let plane = Plane::start().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a free port");
    let address = silent.local_addr().expect("it is bound");
    plane.put([
        listener("greeter", "routes"),
        routes("routes", &["one"]),
        cluster("one"),
        endpoints("one", &[address]),
    ]);
    let mut config = config(&plane);
    let servers = &mut config.bootstrap.as_mut().expect("there is one").servers;
    servers[0].features.fail_on_data_errors = true;
    let handle = Handle::new(config);
    let target = handle.target("greeter", "greeter");
    until_names(&target, &["one"]).await;
    let mut channel = channel(&target);
    let mut waiting = Box::pin(call(&mut channel, false));
    assert!(waiting.as_mut().now_or_never().is_none());
    plane.remove(ResourceType::Listener, "greeter");
    let error = in_time("an end", waiting).await.expect_err("no listener");
    let text = error.to_string();
    assert!(text.contains("Listener \"greeter\""), "{text}");
}

/// A mesh may outlive the runtime that it was first used on.
#[test]
fn calls_fail_at_once_where_the_control_task_has_ended() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let direct = || DirectTarget::parse("127.0.0.1:1").expect("an address");
    let first = runtime();
    let handle = Handle::new(Config::new(None, CertificateProviders::default()));
    let (before, mut server) = {
        let _in_it = first.enter();
        (handle.direct(direct()), handle.server("l"))
    };
    drop(first);
    runtime().block_on(async {
        for target in [before, handle.direct(direct())] {
            for wait_for_ready in [false, true] {
                let call = call(&mut channel(&target), wait_for_ready);
                let error = in_time("an end", call).await.expect_err("nobody connects");
                assert!(error.to_string().contains("has ended"), "{error}");
            }
        }
        let told = |state: &super::super::ServerState| {
            matches!(state, super::super::ServerState::Failed(_))
        };
        let failed = in_time("a failure", server.wait_for(told)).await;
        failed.expect("the last word stays");
    });
}
