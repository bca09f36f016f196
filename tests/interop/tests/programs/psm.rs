//! The two programs that the public suite for proxyless meshes drives, driven as it does.

use std::collections::BTreeSet;

use sidestep_interop::testing::client_configure_request::{Metadata, RpcType};
use sidestep_interop::testing::load_balancer_stats_service_client::LoadBalancerStatsServiceClient;
use sidestep_interop::testing::xds_update_client_configure_service_client::XdsUpdateClientConfigureServiceClient;
use sidestep_interop::testing::xds_update_health_service_client::XdsUpdateHealthServiceClient;
use sidestep_interop::testing::{
    ClientConfigureRequest, Empty, LoadBalancerAccumulatedStatsRequest, LoadBalancerStatsRequest,
    LoadBalancerStatsResponse,
};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::program::{Mesh, Program, refused};

const CLIENT: &str = env!("CARGO_BIN_EXE_sidestep-psm-client");
const SERVER: &str = env!("CARGO_BIN_EXE_sidestep-psm-server");

async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

async fn server(arguments: &[&str], mesh: Option<&Mesh>) -> (Program, String, String) {
    let arguments = [&["--host=127.0.0.1", "--port=0"], arguments].concat();
    let mut program = match mesh {
        None => Program::start(SERVER, &arguments),
        Some(mesh) => Program::meshed(SERVER, &arguments, &mesh.bootstrap("greeter")),
    };
    let ready = program.event("ready").await;
    let text = |key: &str| ready[key].as_str().unwrap().to_owned();
    let (address, maintenance) = (text("addr"), text("maintenance"));
    (program, address, maintenance)
}

async fn stats(
    client: &mut LoadBalancerStatsServiceClient<Channel>,
    keys: &[&str],
) -> LoadBalancerStatsResponse {
    let request = LoadBalancerStatsRequest {
        num_rpcs: 40,
        timeout_sec: 30,
        metadata_keys: keys.iter().map(ToString::to_string).collect(),
    };
    client.get_client_stats(request).await.unwrap().into_inner()
}

/// Asks until the calls that begin now are as wanted.
async fn until(
    client: &mut LoadBalancerStatsServiceClient<Channel>,
    keys: &[&str],
    wanted: impl Fn(&LoadBalancerStatsResponse) -> bool,
) -> LoadBalancerStatsResponse {
    for _ in 0..20 {
        let found = stats(client, keys).await;
        if wanted(&found) {
            return found;
        }
    }
    panic!("{:?}", stats(client, keys).await)
}

#[tokio::test]
async fn the_suites_services_drive_client_and_servers_in_a_mesh() {
    let mesh = Mesh::start(&[]).await;
    let secure = |name| ["--secure_mode=true", "--maintenance_port=0", name];
    let (one, at_one, upkeep) = server(&secure("--host_name=one"), Some(&mesh)).await;
    let (_two, at_two, _) = server(&secure("--host_name=two"), Some(&mesh)).await;
    mesh.push(&[&at_one, &at_two]);

    let arguments = [
        "--server=xds:///greeter",
        "--secure_mode=true",
        "--num_channels=2",
        "--qps=100",
        "--rpc=UnaryCall",
        "--metadata=UnaryCall:x-echo:who,UnaryCall:who:a:b",
        "--stats_host=127.0.0.1",
        "--stats_port=0",
    ];
    let mut program = Program::meshed(CLIENT, &arguments, &mesh.bootstrap("web"));
    let ready = program.event("ready").await;
    let address = ready["stats"].as_str().unwrap();
    let mut driver = LoadBalancerStatsServiceClient::new(channel(address).await);

    let both = |found: &LoadBalancerStatsResponse| {
        found.num_failures == 0 && found.rpcs_by_peer.len() == 2
    };
    let found = until(&mut driver, &["ECHO-who"], both).await;
    assert_eq!(found.rpcs_by_peer.values().sum::<i32>(), 40);
    let methods: BTreeSet<_> = found.rpcs_by_method.keys().map(String::as_str).collect();
    assert_eq!(methods, ["UnaryCall"].into());
    let kept: Vec<_> = found
        .metadatas_by_peer
        .values()
        .flat_map(|m| &m.rpc_metadata)
        .collect();
    assert_eq!(kept.len(), 40);
    let entry = &kept[0].metadata[0];
    assert_eq!((&*entry.key, &*entry.value), ("echo-who", "a:b"));

    // Told to call something else, and one server to refuse.
    let mut configure = XdsUpdateClientConfigureServiceClient::new(channel(address).await);
    let metadata = Metadata {
        r#type: RpcType::EmptyCall.into(),
        key: "rpc-behavior".to_owned(),
        value: "hostname=two error-code-15".to_owned(),
    };
    let orders = ClientConfigureRequest {
        types: vec![RpcType::EmptyCall.into()],
        metadata: vec![metadata],
        timeout_sec: 5,
    };
    configure.configure(orders).await.unwrap();
    let found = until(&mut driver, &[], |found| {
        found.num_failures > 0
            && found
                .rpcs_by_method
                .keys()
                .all(|method| method == "EmptyCall")
    })
    .await;
    assert!(!found.rpcs_by_peer.contains_key("two"), "{found:?}");
    let request = LoadBalancerAccumulatedStatsRequest {};
    let all = driver
        .get_client_accumulated_stats(request)
        .await
        .unwrap()
        .into_inner();
    assert!(all.stats_per_method["UNARY_CALL"].result[&0] >= 40);
    assert!(all.stats_per_method["EMPTY_CALL"].result[&15] > 0);
    assert!(all.stats_per_method["EMPTY_CALL"].rpcs_started > 0);

    let names = crate::status::acked(address).await;
    assert!(names.contains(&"greeter".to_owned()), "{names:?}");

    let mut health = HealthClient::new(channel(&upkeep).await);
    let mut set = XdsUpdateHealthServiceClient::new(channel(&upkeep).await);
    set.set_not_serving(Empty {}).await.unwrap();
    let check = HealthCheckRequest::default();
    let told = health
        .check(check.clone())
        .await
        .unwrap()
        .into_inner()
        .status();
    assert_eq!(told, ServingStatus::NotServing);
    set.set_serving(Empty {}).await.unwrap();
    let told = health.check(check).await.unwrap().into_inner().status();
    assert_eq!(told, ServingStatus::Serving);

    program.terminate().await;
    assert_eq!(program.end().await.1, 0);
    one.terminate().await;
    assert_eq!(one.end().await.1, 0);
}

#[tokio::test]
async fn without_security_one_port_has_it_all() {
    let (_server, address, maintenance) = server(&["--server_id=id", "--host_name=h"], None).await;
    assert_eq!(address, maintenance);
    let mut health = HealthClient::new(channel(&address).await);
    let check = HealthCheckRequest::default();
    assert!(health.check(check).await.is_ok());
    let arguments = [
        &*format!("--server={address}"),
        "--qps=50",
        "--stats_host=127.0.0.1",
        "--stats_port=0",
        "--print_response",
        "--fail_on_failed_rpc=true",
    ];
    let mut program = Program::start(CLIENT, &arguments);
    let rpc = program.event("rpc").await;
    assert_eq!((&rpc["code"], &rpc["server"]), (&"OK".into(), &"id".into()));
    program.terminate().await;
    assert_eq!(program.end().await.1, 0);
}

#[tokio::test]
async fn a_client_may_end_with_the_first_failure() {
    let address = format!("--server={}", crate::program::unused_address());
    let arguments = [
        &*address,
        "--qps=50",
        "--stats_host=127.0.0.1",
        "--stats_port=0",
    ];
    let failing = [&arguments[..], &["--fail_on_failed_rpc"]].concat();
    let (events, status) = Program::start(CLIENT, &failing).end().await;
    assert_eq!(status, 1);
    assert_eq!(events.last().unwrap()["code"], "UNAVAILABLE");
}

#[tokio::test]
async fn a_bad_call_ends_with_an_error_event_and_2() {
    for (path, argument, expected) in [
        (
            CLIENT,
            "--rpc=Sing",
            "--rpc: \"Sing\" is neither EmptyCall nor UnaryCall",
        ),
        (CLIENT, "--qps=0", "--qps: give a rate above 0"),
        (
            CLIENT,
            "--expect_status=x",
            "--expect_status: no status \"x\"",
        ),
        (
            CLIENT,
            "--request_payload_size=1",
            "not supported yet: --request_payload_size",
        ),
        (
            SERVER,
            "--enable_csm_observability",
            "not supported yet: --enable_csm_observability",
        ),
        (SERVER, "--port=x", "--port: \"x\" is not a number in range"),
    ] {
        assert_eq!(refused(path, &[argument]).await, expected);
    }
}
