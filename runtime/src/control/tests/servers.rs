//! What servers see.

use std::sync::Arc;

use sidestep_proto::resource::{
    FilterChain, FilterChainMatch, Listener, ListenerKind, Resource, ResourceType, RouteSource,
    ServerListener,
};
use tokio::sync::watch;

use super::super::{RoutesState, ServerConfig, ServerState};
use super::fixtures::{handle, http, routes};
use super::in_time;
use super::plane::Plane;

fn server(port: u16) -> Resource {
    let chain = |name: &str| FilterChain {
        name: name.into(),
        matches: FilterChainMatch::default(),
        tls: None,
        http: http(RouteSource::Named(name.into())),
    };
    Resource::Listener(Arc::new(Listener {
        name: "server".into(),
        kind: ListenerKind::Server(ServerListener {
            address: ([127, 0, 0, 1], port).into(),
            filter_chains: vec![chain("routes")],
            default_filter_chain: Some(chain("others")),
        }),
    }))
}

async fn until_serving(state: &mut watch::Receiver<ServerState>, port: u16) -> Arc<ServerConfig> {
    let serving = state.wait_for(
        |state| matches!(state, ServerState::Serving(c) if c.listener.address.port() == port),
    );
    let state = in_time("serving", serving)
        .await
        .expect("the task runs")
        .clone();
    match state {
        ServerState::Serving(config) => config,
        other => panic!("{other:?}"),
    }
}

fn has_host(config: &ServerConfig, chain: usize) -> bool {
    match &**config.chains[chain].routes.load() {
        RoutesState::Ready(table) => table.virtual_host("any").is_some(),
        RoutesState::Failed(_) => false,
    }
}

#[tokio::test]
async fn routes_are_swapped_in_place_and_a_listener_is_replaced() {
    let plane = Plane::start().await;
    plane.put([server(1), routes("routes", &[])]);
    let handle = handle(&plane);
    let mut state = handle.server("server");
    let config = until_serving(&mut state, 1).await;
    assert_eq!(config.chains.len(), 2, "the default chain comes last");
    assert!(has_host(&config, 0));
    // Its RouteConfiguration does not exist: its own requests fail, the other chain's do not.
    assert!(!has_host(&config, 1));
    state.mark_unchanged();
    plane.put([routes("others", &[])]);
    // Seen in the very value that connections hold; the server hears of no change.
    in_time("swap", async {
        while !has_host(&config, 1) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!state.has_changed().expect("the task runs"));
    plane.put([server(2)]);
    let next = until_serving(&mut state, 2).await;
    assert!(has_host(&next, 0) && has_host(&next, 1));
}

#[tokio::test]
async fn a_listener_that_does_not_exist_is_a_failure_until_it_does() {
    let plane = Plane::start().await;
    let handle = handle(&plane);
    let mut state = handle.server("server");
    let failed = state.wait_for(|state| matches!(state, ServerState::Failed(_)));
    let failed = in_time("failure", failed)
        .await
        .expect("the task runs")
        .clone();
    let ServerState::Failed(failure) = failed else {
        panic!("{failed:?}");
    };
    assert!(failure.0.contains("Listener \"server\""), "{}", failure.0);
    plane.put([server(1), routes("routes", &[]), routes("others", &[])]);
    until_serving(&mut state, 1).await;
    drop(state);
    drop(handle.target("other", "other"));
    in_time(
        "unsubscribe",
        plane.subscribed(ResourceType::RouteConfiguration, &[]),
    )
    .await;
}
