//! Changes that come in pieces and in the wrong order, and control planes that come and go, under
//! load: no call fails.

use std::collections::BTreeMap;

use sidestep::Channel;
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::ads::Variant;
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, plain_mesh};
use sidestep_tests::hostile::HostilePlane;
use sidestep_tests::load::{Load, call, until};
use sidestep_tests::raw;

type Client = TestServiceClient<Channel>;

async fn backends() -> (Fixture, [Backend; 2]) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backends = ["a", "b"].map(|id| Backend::start(&servers, id, Faults::default()));
    (fixture, backends)
}

async fn until_server(client: &mut Client, id: &str) {
    until(client, |o| o.as_ref().is_ok_and(|a| a.server == id))
        .await
        .unwrap();
}

/// Whoever serves pieces.
enum Plane {
    /// Says at once what is not there.
    Ours(Box<Fixture>),
    /// Says nothing of it in state of the world, as go-control-plane, and in delta that it is gone.
    ByHand(HostilePlane),
}

impl Plane {
    fn replace(&self, pieces: &BTreeMap<String, Any>) {
        let pieces = pieces.values().cloned();
        match self {
            Self::Ours(fixture) => fixture.resources().replace(pieces).unwrap(),
            Self::ByHand(plane) => plane.replace(pieces),
        }
    }

    fn client(&self, variant: Variant) -> Client {
        let fixture = match self {
            Self::ByHand(plane) => return plane.client(variant),
            Self::Ours(fixture) => fixture,
        };
        let mesh = fixture.builder("web").variant(variant).build().unwrap();
        TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
    }
}

/// One piece of the switch from one cluster to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Route,
    NewCluster,
    NewEndpoints,
    NoOldCluster,
    NoOldEndpoints,
}

const PIECES: [Piece; 5] = [
    Piece::Route,
    Piece::NewCluster,
    Piece::NewEndpoints,
    Piece::NoOldCluster,
    Piece::NoOldEndpoints,
];

/// Every order of the pieces.
fn orders(left: &[Piece]) -> Vec<Vec<Piece>> {
    if left.is_empty() {
        return vec![Vec::new()];
    }
    let first = |piece: &Piece| {
        let rest: Vec<Piece> = left.iter().copied().filter(|p| p != piece).collect();
        let longer = |mut order: Vec<Piece>| {
            order.insert(0, *piece);
            order
        };
        orders(&rest).into_iter().map(longer).collect::<Vec<_>>()
    };
    left.iter().flat_map(first).collect()
}

async fn torn(plane: Plane, variant: Variant, offset: usize) {
    let (_servers, backends) = backends().await;
    let mut pieces: BTreeMap<String, Any> = BTreeMap::new();
    let add = |pieces: &mut BTreeMap<String, Any>, key: &str, any: Any| {
        pieces.insert(key.to_owned(), any);
    };
    add(&mut pieces, "lds", raw::listener("greeter", "greeter"));
    add(&mut pieces, "rds", raw::routes("greeter", &["c0"]));
    add(&mut pieces, "cds c0", raw::cluster("c0"));
    let first = raw::endpoints("c0", &[&backends[0].address]);
    add(&mut pieces, "eds c0", first);
    plane.replace(&pieces);
    let mut client = plane.client(variant);
    let load = Load::start(&client, 2).await;
    let orders = orders(&PIECES);
    assert_eq!(orders.len(), 120);
    for (turn, order) in orders.iter().skip(offset).step_by(4).enumerate() {
        println!("{variant:?} {order:?}");
        let (old, new) = (format!("c{turn}"), format!("c{}", turn + 1));
        let (at, id) = (&backends[(turn + 1) % 2].address, ["b", "a"][turn % 2]);
        for piece in order {
            match piece {
                Piece::Route => add(&mut pieces, "rds", raw::routes("greeter", &[&new])),
                Piece::NewCluster => add(&mut pieces, &format!("cds {new}"), raw::cluster(&new)),
                Piece::NewEndpoints => {
                    let endpoints = raw::endpoints(&new, &[at]);
                    add(&mut pieces, &format!("eds {new}"), endpoints);
                }
                Piece::NoOldCluster => _ = pieces.remove(&format!("cds {old}")),
                Piece::NoOldEndpoints => _ = pieces.remove(&format!("eds {old}")),
            }
            plane.replace(&pieces);
            load.further(4).await;
        }
        until_server(&mut client, id).await;
    }
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.retried, 0);
}

async fn ours() -> Plane {
    Plane::Ours(Box::new(
        Fixture::raw(RawResources::unchecked([]).unwrap()).await,
    ))
}

async fn by_hand() -> Plane {
    Plane::ByHand(HostilePlane::start([]).await)
}

#[tokio::test]
async fn pieces_in_any_order_fail_no_call() {
    torn(ours().await, Variant::StateOfTheWorld, 0).await;
}

#[tokio::test]
async fn pieces_in_any_order_fail_no_call_in_delta() {
    torn(ours().await, Variant::Delta, 1).await;
}

#[tokio::test]
async fn pieces_in_any_order_from_a_plain_control_plane_fail_no_call() {
    torn(by_hand().await, Variant::StateOfTheWorld, 2).await;
}

#[tokio::test]
async fn pieces_in_any_order_from_a_plain_control_plane_fail_no_call_in_delta() {
    torn(by_hand().await, Variant::Delta, 3).await;
}

/// What never comes is an error in the end: the route is followed after a second.
#[tokio::test]
async fn a_route_to_a_cluster_that_never_comes_is_followed_in_the_end() {
    let (_servers, [a, _b]) = backends().await;
    let plane = ours().await;
    let service = raw::service("greeter", raw::endpoints("greeter", &[&a.address]));
    let pieces = service.into_iter().enumerate();
    let mut pieces: BTreeMap<String, Any> = pieces.map(|(n, any)| (n.to_string(), any)).collect();
    plane.replace(&pieces);
    let mut client = plane.client(Variant::StateOfTheWorld);
    until_server(&mut client, "a").await;
    pieces.insert("1".to_owned(), raw::routes("greeter", &["nowhere"]));
    plane.replace(&pieces);
    let status = until(&mut client, Result::is_err).await.unwrap_err();
    assert!(status.message().contains("nowhere"), "{status}");
}

#[tokio::test]
async fn a_rolling_restart_of_the_control_plane_fails_no_call() {
    let (mut fixture, [a, b]) = backends().await;
    fixture.push(&plain_mesh(&[&a.address]));
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let mesh = fixture.builder("web").variant(variant).build().unwrap();
        let mut client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
        call(&mut client).await.unwrap();
        let load = Load::start(&client, 4).await;
        for round in 0..6 {
            fixture.kill().await;
            load.further(20).await;
            fixture.revive().await;
            let (backend, id) = [(&b, "b"), (&a, "a")][round % 2];
            fixture.push(&plain_mesh(&[&backend.address]));
            until_server(&mut client, id).await;
        }
        let tally = load.stop().await;
        tally.assert_none_failed();
        assert_eq!(tally.retried, 0);
    }
}
