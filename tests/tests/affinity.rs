//! Calls with one hash meet one endpoint: ring hash and Maglev through a live control plane.

use std::collections::{BTreeMap, BTreeSet};

use sidestep::Channel;
use sidestep_interop::service::Faults;
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file};
use tonic::{Request, Status};

const USERS: u32 = 40;

struct Scene {
    fixture: Fixture,
    backends: Vec<Backend>,
    client: TestServiceClient<Channel>,
}

impl Scene {
    /// Three backends under a policy.
    async fn new(balance: &str) -> Self {
        let fixture = Fixture::start(&mesh_file(&[], "")).await;
        let servers = fixture.mesh("greeter");
        let backends = ["a", "b", "c"].map(|id| Backend::start(&servers, id, Faults::default()));
        let endpoints: Vec<_> = backends.iter().map(|b| b.address.clone()).collect();
        let endpoints: Vec<_> = endpoints.iter().map(|a| (a.as_str(), "zone")).collect();
        let balance = format!("balance: {balance}");
        fixture.push(&mesh_file(&endpoints, &balance));
        let client = fixture.client("xds:///greeter");
        Self {
            fixture,
            backends: backends.into(),
            client,
        }
    }

    async fn server_of(&mut self, user: u32) -> Result<String, Status> {
        let mut request = Request::new(SimpleRequest {
            fill_server_id: true,
            ..SimpleRequest::default()
        });
        let name = format!("user-{user}").parse().expect("ASCII");
        request.metadata_mut().insert("x-user", name);
        let answer = self.client.unary_call(request).await?;
        Ok(answer.into_inner().server_id)
    }

    async fn homes(&mut self) -> BTreeMap<u32, String> {
        let mut homes = BTreeMap::new();
        for user in 0..USERS {
            homes.insert(user, self.server_of(user).await.unwrap());
        }
        homes
    }
}

async fn each_user_has_a_home(policy: &str) {
    let mut scene = Scene::new(&format!("{{policy: {policy}, hash_header: x-user}}")).await;
    let homes = scene.homes().await;
    let servers: BTreeSet<_> = homes.values().collect();
    // The chance that 40 users leave one of three out is below 3 * (2/3)^40.
    assert_eq!(servers.len(), 3, "{homes:?}");
    for _ in 0..3 {
        assert_eq!(scene.homes().await, homes);
    }
    // One goes: its users find a new home, and no other user moves.
    let gone = scene.backends.remove(1);
    gone.kill().await;
    let after = scene.homes().await;
    for (user, home) in &homes {
        if home == "b" {
            assert_ne!(after[user], "b");
        } else {
            assert_eq!(after[user], *home);
        }
    }
    drop(scene.fixture);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ring_hash_keeps_users_at_their_endpoints() {
    each_user_has_a_home("ring_hash").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maglev_keeps_users_at_their_endpoints() {
    each_user_has_a_home("maglev").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_uses_every_endpoint() {
    let mut scene = Scene::new("{policy: random}").await;
    let mut servers = BTreeSet::new();
    // Connections come up one after the other; each of 3 is missed by 60 calls with (2/3)^60.
    while servers.len() < 3 {
        servers.insert(scene.server_of(0).await.unwrap());
    }
}
