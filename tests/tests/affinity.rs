//! Calls with one hash meet one endpoint: ring hash and Maglev through a live control plane.

use std::collections::{BTreeMap, BTreeSet};

use sidestep::Channel;
use sidestep_interop::service::Faults;
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file};
use sidestep_tests::load::PATIENCE;
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

    async fn homes(&mut self) -> Result<BTreeMap<u32, String>, Status> {
        let mut homes = BTreeMap::new();
        for user in 0..USERS {
            homes.insert(user, self.server_of(user).await?);
        }
        Ok(homes)
    }

    /// Where users are at home once exactly these servers answer. Until then servers may still wait
    /// for their listeners, and calls that meet one go on to the next.
    async fn settled(&mut self, servers: &[&str]) -> BTreeMap<u32, String> {
        let settled = async {
            loop {
                if let Ok(homes) = self.homes().await
                    && used(&homes).into_iter().eq(servers.iter().copied())
                {
                    return homes;
                }
            }
        };
        // The round in which the last server was met may have begun before it was there.
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        settled.expect("all servers answer");
        self.homes().await.expect("all of them are connected")
    }
}

fn used(homes: &BTreeMap<u32, String>) -> BTreeSet<&str> {
    homes.values().map(String::as_str).collect()
}

async fn each_user_has_a_home(policy: &str) {
    let mut scene = Scene::new(&format!("{{policy: {policy}, hash_header: x-user}}")).await;
    // The chance that 40 users leave one of three out is below 3 * (2/3)^40.
    let homes = scene.settled(&["a", "b", "c"]).await;
    for _ in 0..3 {
        assert_eq!(scene.homes().await.unwrap(), homes);
    }
    // One goes: its users find a new home, and no other user moves.
    let gone = scene.backends.remove(1);
    gone.kill().await;
    let after = scene.settled(&["a", "c"]).await;
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
    scene.settled(&["a", "b", "c"]).await;
}
