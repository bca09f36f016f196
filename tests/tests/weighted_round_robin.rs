//! Weighted round robin by what servers report of their load (ORCA): at the end of each call, and
//! beside calls.

use std::time::Duration;

use sidestep::orca::{CallReports, LoadRecorder, ServerReports};
use sidestep::{Channel, Mesh};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_proto::codec;
use sidestep_proto::resource::{Cluster, LbPolicy, Resource, WeightedRoundRobin};
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;
use sidestep_tests::events::Events;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, plain_mesh};
use sidestep_tests::load::{PATIENCE, Tally, call};
use sidestep_tests::raw;
use tower::Layer as _;

type Client = TestServiceClient<Channel>;

/// How a server tells of its load.
#[derive(Clone, Copy, PartialEq)]
enum Tells {
    WithCalls,
    BesideCalls,
    Nothing,
}

/// A server that answers 100 calls a second at this utilization, or says so.
fn backend(servers: &Mesh, id: &str, utilization: f64, tells: Tells) -> Backend {
    let load = LoadRecorder::new();
    load.queries_per_second(100.0);
    load.cpu_utilization(utilization);
    let testing = Testing::new(id, Faults::default());
    let service = TestServiceServer::new(testing.clone());
    let server = servers.server("127.0.0.1:0");
    let server = match tells {
        Tells::WithCalls => {
            let reports = CallReports::new().with_server(load);
            server.add_service(reports.layer(service))
        }
        Tells::BesideCalls => {
            let reports = ServerReports::new(load).min_interval(Duration::from_millis(10));
            server.add_service(service).add_service(reports)
        }
        Tells::Nothing => server.add_service(service),
    };
    Backend::serve(server, testing)
}

/// Without a blackout, so that the test need not wait for its end.
fn config(out_of_band: Option<Duration>) -> WeightedRoundRobin {
    WeightedRoundRobin {
        out_of_band,
        blackout: Duration::ZERO,
        update_period: Duration::from_millis(100),
        ..WeightedRoundRobin::default()
    }
}

fn resources(config: WeightedRoundRobin, backends: &[Backend]) -> [Any; 4] {
    let cluster = Cluster {
        lb_policy: LbPolicy::WeightedRoundRobin(config).by_locality(),
        ..Cluster::eds("greeter")
    };
    let cluster: Any = codec::encode(&Resource::Cluster(cluster.into()));
    let addresses: Vec<_> = backends.iter().map(|b| b.address.as_str()).collect();
    let [listener, routes, _, endpoints] =
        raw::service("greeter", raw::endpoints("greeter", &addresses));
    [listener, routes, cluster, endpoints]
}

/// Servers of three utilizations under a mesh of their own, and a client that weighs them.
struct Three {
    _servers: Fixture,
    fixture: Fixture,
    backends: Vec<Backend>,
    client: Client,
}

async fn three(tells: Tells, out_of_band: Option<Duration>) -> Three {
    let plane = Fixture::start(&mesh_file(&[], "")).await;
    let servers = plane.mesh("greeter");
    let loads = [("a", 0.8), ("b", 0.4), ("c", 0.2)];
    let backends = loads.map(|(id, used)| backend(&servers, id, used, tells));
    let backends = Vec::from(backends);
    let addresses: Vec<_> = backends.iter().map(|b| b.address.as_str()).collect();
    plane.push(&plain_mesh(&addresses));
    let resources = resources(config(out_of_band), &backends);
    let resources = RawResources::unchecked(resources).expect("all have names");
    let fixture = Fixture::raw(resources).await;
    let channel = fixture.mesh("web").channel("xds:///greeter").unwrap();
    channel.ready().await;
    Three {
        _servers: plane,
        fixture,
        backends,
        client: TestServiceClient::new(channel),
    }
}

async fn calls(client: &mut Client, n: u32) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..n {
        tally.count(call(client).await);
    }
    tally.assert_none_failed();
    tally
}

/// Pearson's χ² against these shares.
fn chi2(tally: &Tally, shares: [f64; 3]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let of = |(id, share): (&str, f64)| {
        let expected = tally.answered as f64 * share / sum;
        let found = tally.by_server.get(id).copied().unwrap_or_default();
        (found as f64 - expected).powi(2) / expected
    };
    ["a", "b", "c"].into_iter().zip(shares).map(of).sum()
}

/// With two degrees of freedom, one in a million samples of a fair die is above this. Turns are
/// more even than dice.
const ONE_IN_A_MILLION: f64 = 27.6;

/// Calls until the shares are those, and then looks closely.
async fn comes_to(client: &mut Client, shares: [f64; 3]) {
    let reached = async { while chi2(&calls(client, 70).await, shares) > 2.0 {} };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    let tally = calls(client, 1400).await;
    reached.unwrap_or_else(|_| panic!("never {shares:?}: {tally:?}"));
    let chi2 = chi2(&tally, shares);
    assert!(chi2 < ONE_IN_A_MILLION, "{chi2}: {tally:?}");
}

#[tokio::test]
async fn reports_at_the_end_of_calls_weigh_endpoints() {
    let mut three = three(Tells::WithCalls, None).await;
    comes_to(&mut three.client, [1.0, 2.0, 4.0]).await;
}

#[tokio::test]
async fn reports_beside_calls_weigh_endpoints() {
    let period = Some(Duration::from_millis(50));
    let mut three = three(Tells::BesideCalls, period).await;
    comes_to(&mut three.client, [1.0, 2.0, 4.0]).await;
    // Another policy asks for nothing: the streams end, or the servers would not.
    let addresses: Vec<_> = three.backends.iter().map(|b| b.address.as_str()).collect();
    let plain = raw::service("greeter", raw::endpoints("greeter", &addresses));
    let replaced = three.fixture.resources().replace(plain);
    replaced.expect("all have names");
    comes_to(&mut three.client, [1.0, 1.0, 1.0]).await;
}

#[tokio::test]
async fn an_endpoint_without_the_service_is_asked_once_and_used_all_the_same() {
    let mut events = Events::catch();
    let period = Some(Duration::from_millis(50));
    let mut three = three(Tells::Nothing, period).await;
    comes_to(&mut three.client, [1.0, 1.0, 1.0]).await;
    for backend in &three.backends {
        let told = events
            .wait(
                "sidestep::connection",
                "no load reports: the endpoint does not have the service",
                |told| told.field("endpoint") == backend.address,
            )
            .await;
        assert_eq!(told.level, tracing::Level::WARN);
    }
    let about = |text: &str| {
        let all = events.all();
        let found = all.iter().filter(|told| told.message.contains(text));
        found.count()
    };
    assert_eq!(about("no load reports"), 3, "once for each connection");
}
