//! The admin endpoint of a process: what people, probes and tools see of it.

use std::future::pending;

use serde_json::{Value, json};
use sidestep::inspect::{Connectivity, Status};
use sidestep::{AdminError, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::ads::Variant;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::status::{
    ClientConfig, ClientResourceStatus, ClientStatusRequest, ClientStatusResponse,
    client_config::GenericXdsConfig,
};
use sidestep_proto::wire::{Any, cluster, matcher};
use sidestep_server::RawResources;
use sidestep_tests::admin::{Page, channel, client_status, eventually, get, request};
use sidestep_tests::fixture::{
    Authority, Backend, Fixture, bootstrap, builder, mesh_file, plain_mesh, secured, spiffe,
    unused_address,
};
use sidestep_tests::load::call;
use sidestep_tests::raw;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::client::Grpc;

/// A mesh with one backend, and a client process that has called it, with its admin address.
struct World {
    fixture: Fixture,
    backend: Backend,
    _servers: Mesh,
    web: Mesh,
    client: TestServiceClient<sidestep::Channel>,
    admin: String,
}

impl World {
    async fn start(keys: &str) -> Self {
        let fixture = Fixture::start(&mesh_file(&[], "")).await;
        let servers = fixture.mesh("greeter");
        let backend = Backend::start(&servers, "a", Faults::default());
        fixture.push(&mesh_file(&[(&backend.address, "v1")], keys));
        let web = fixture.mesh("web");
        let admin = open(&web);
        let channel = web.channel("xds:///greeter").unwrap();
        channel.ready().await;
        let mut client = TestServiceClient::new(channel);
        call(&mut client).await.unwrap();
        Self {
            fixture,
            backend,
            _servers: servers,
            web,
            client,
            admin,
        }
    }
}

fn open(mesh: &Mesh) -> String {
    mesh.admin("127.0.0.1:0").unwrap().to_string()
}

async fn until_ready(admin: &str) -> Page {
    eventually(|| get(admin, "/ready"), |page| page.status == 200).await
}

/// A cluster of a kind that gRPC does not have.
fn bad_cluster(name: &str) -> Any {
    Any::pack(&cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::OriginalDst as i32,
        )),
        ..cluster::Cluster::default()
    })
}

#[tokio::test]
async fn a_process_is_ready_once_it_has_its_configuration_and_says_what_is_missing() {
    let mut fixture = Fixture::start(&mesh_file(&[], "")).await;
    let address = fixture.address();
    fixture.kill().await;
    let web = builder(&bootstrap(&address, "web")).build().unwrap();
    let admin = open(&web);
    assert_eq!(
        get(&admin, "/ready").await.body,
        "LIVE\n",
        "nothing asked for"
    );
    let _channel = web.channel("xds:///greeter").unwrap();
    let unready = eventually(
        || get(&admin, "/ready"),
        |page| page.status == 503 && page.body.contains(&address),
    )
    .await;
    assert!(
        unready
            .body
            .starts_with("INITIALIZING\ntarget greeter: no control plane answers"),
        "{}",
        unready.body
    );
    fixture.revive().await;
    assert_eq!(until_ready(&admin).await.body, "LIVE\n");

    let json = get(&admin, "/ready?format=json").await.json();
    assert_eq!(json["state"], "LIVE");
    assert_eq!(json["node"], json!({"id": "web-node", "cluster": "web"}));
    assert_eq!(json["control_plane"]["connected"], true);
    assert_eq!(json["targets"][0]["name"], "greeter");

    // A lost control plane costs nothing that works.
    fixture.kill().await;
    let down = eventually(
        || async { get(&admin, "/ready?format=json").await },
        |page| page.json()["control_plane"]["connected"] == false,
    )
    .await;
    assert_eq!(down.status, 200);
    assert!(down.json()["control_plane"]["problem"].is_string());
}

#[tokio::test]
async fn a_server_is_ready_once_it_serves() {
    let mut fixture = Fixture::start(&mesh_file(&[], "")).await;
    let mesh = fixture.mesh("greeter");
    fixture.kill().await;
    let admin = open(&mesh);
    let bound = mesh.server("127.0.0.1:0").bind().unwrap();
    let address = bound.address().to_string();
    let server = tokio::spawn(bound.serve_with_shutdown(pending::<()>()));
    let unready = eventually(
        || get(&admin, "/ready"),
        |page| page.status == 503 && page.body.contains("no control plane answers"),
    )
    .await;
    assert!(unready.body.contains(&address), "{}", unready.body);
    let served = || async { tokio::net::TcpStream::connect(&address).await.is_ok() };
    assert!(!served().await);
    fixture.revive().await;
    until_ready(&admin).await;
    assert!(served().await, "ready means that it listens");
    server.abort();
    _ = server.await;
    let servers = || async { mesh.inspect().await.unwrap().servers };
    eventually(servers, Vec::is_empty).await;
}

#[tokio::test]
async fn the_dump_has_every_resource_as_received() {
    let world = World::start("").await;
    let dump = get(&world.admin, "/config_dump").await;
    assert!(
        dump.head.contains("content-type: application/json"),
        "{}",
        dump.head
    );
    let json = dump.json();
    let configs = json["configs"].as_array().unwrap();
    let of_type = |name: &str| {
        let url = format!("type.googleapis.com/envoy.admin.v3.{name}");
        configs.iter().find(|c| c["@type"] == *url).unwrap()
    };
    let bootstrap = of_type("BootstrapConfigDump");
    assert_eq!(bootstrap["bootstrap"]["node"]["id"], "web-node");
    let listener = &of_type("ListenersConfigDump")["dynamic_listeners"][0];
    assert_eq!(listener["name"], "greeter");
    assert_eq!(listener["client_status"], "ACKED");
    assert_eq!(listener["active_state"]["listener"]["name"], "greeter");
    let http = &listener["active_state"]["listener"]["api_listener"]["api_listener"];
    assert!(
        http["@type"]
            .as_str()
            .unwrap()
            .ends_with(".HttpConnectionManager")
    );
    let cluster = &of_type("ClustersConfigDump")["dynamic_active_clusters"][0];
    assert!(!cluster["version_info"].as_str().unwrap().is_empty());
    assert!(cluster["last_updated"].as_str().unwrap().starts_with("20"));
    let name = cluster["name"].as_str().unwrap();
    assert_eq!(cluster["cluster"]["name"], name);
    let endpoints = &of_type("EndpointsConfigDump")["dynamic_endpoint_configs"][0];
    let port = world.backend.address.rsplit(':').next().unwrap();
    assert!(endpoints["endpoint_config"].to_string().contains(port));

    let only = get(&world.admin, "/config_dump?resource=dynamic_listeners")
        .await
        .json();
    assert_eq!(only["configs"][0]["name"], "greeter");
    let none = get(
        &world.admin,
        "/config_dump?resource=dynamic_listeners&name_regex=gree",
    )
    .await;
    assert_eq!(
        none.json()["configs"],
        json!([]),
        "the whole name must match"
    );
    let unknown = get(&world.admin, "/config_dump?resource=secrets").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(
        get(&world.admin, "/config_dump?name_regex=(").await.status,
        400
    );
}

#[tokio::test]
async fn refused_and_missing_resources_say_why() {
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let resources = RawResources::unchecked([
            raw::listener("greeter", "greeter"),
            raw::routes("greeter", &["bad", "missing"]),
            bad_cluster("bad"),
        ]);
        let fixture = Fixture::raw(resources.unwrap()).await;
        let web = fixture.builder("web").variant(variant).build().unwrap();
        let admin = open(&web);
        let _channel = web.channel("xds:///greeter").unwrap();
        let clusters = || get(&admin, "/config_dump?resource=dynamic_active_clusters");
        let page = eventually(clusters, |page| {
            let list = page.json()["configs"].clone();
            list[0]["error_state"].is_object() && list[1]["error_state"].is_object()
        })
        .await;
        let [bad, missing] = [0, 1].map(|at| page.json()["configs"][at].clone());
        assert_eq!(bad["client_status"], "NACKED");
        let error = &bad["error_state"];
        let details = error["details"].as_str().unwrap();
        for part in ["Cluster", "\"bad\"", "type", &fixture.address(), "web-node"] {
            assert!(details.contains(part), "{part} in {details}");
        }
        assert_eq!(error["failed_configuration"]["type"], "ORIGINAL_DST");
        assert!(!error["version_info"].as_str().unwrap().is_empty());
        assert_eq!(missing["client_status"], "RECEIVED_ERROR");
        let details = missing["error_state"]["details"].as_str().unwrap();
        assert!(details.contains("\"missing\""), "{details}");

        // The same for programs.
        let found = client_status(&channel(&admin).await, ClientStatusRequest::default()).await;
        let found = only_client(found.unwrap());
        let bad = resource(&found, ResourceType::Cluster, "bad");
        assert_eq!(bad.client_status(), ClientResourceStatus::Nacked);
        assert_eq!(bad.xds_config, None);
        let error = bad.error_state.as_ref().unwrap();
        assert!(error.details.contains("\"bad\""), "{}", error.details);
        assert_eq!(error.failed_configuration, Some(bad_cluster("bad")));
        let missing = resource(&found, ResourceType::Cluster, "missing");
        assert_eq!(missing.client_status(), ClientResourceStatus::ReceivedError);
    }
}

fn only_client(response: ClientStatusResponse) -> ClientConfig {
    let [config] = response.config.try_into().unwrap();
    config
}

fn resource<'a>(
    config: &'a ClientConfig,
    resource_type: ResourceType,
    name: &str,
) -> &'a GenericXdsConfig {
    let all = &config.generic_xds_configs;
    let mut named = all.iter().filter(|r| r.name == name);
    let found = named.find(|r| r.type_url == resource_type.type_url());
    found.unwrap_or_else(|| panic!("{resource_type} {name} in {all:?}"))
}

#[tokio::test]
async fn client_status_discovery_gives_what_was_received_bit_by_bit() {
    let fixture = Fixture::raw(RawResources::unchecked([]).unwrap()).await;
    // Field 2000, which nobody here knows.
    let mut odd = raw::cluster("c");
    odd.value = [&odd.value[..], &[0x82, 0x7d, 0x01, b'x']].concat().into();
    let address = unused_address();
    let all = [
        raw::listener("greeter", "r"),
        raw::routes("r", &["c"]),
        odd.clone(),
        raw::endpoints("c", &[&address]),
    ];
    fixture.resources().replace(all.clone()).unwrap();
    let web = fixture.mesh("web");
    let admin = open(&web);
    let channel = channel(&admin).await;
    let empty = only_client(
        client_status(&channel, ClientStatusRequest::default())
            .await
            .unwrap(),
    );
    assert_eq!(empty.generic_xds_configs, []);
    assert_eq!(empty.node.unwrap().id, "web-node");

    let _greeter = web.channel("xds:///greeter").unwrap();
    let ask = || async {
        let found = client_status(&channel, ClientStatusRequest::default()).await;
        only_client(found.unwrap())
    };
    let found = eventually(ask, |config| {
        let all = &config.generic_xds_configs;
        all.len() == 4
            && all
                .iter()
                .all(|r| r.client_status() == ClientResourceStatus::Acked)
    })
    .await;
    for any in all {
        let mut known = found.generic_xds_configs.iter();
        let given = known.find(|r| r.type_url == any.type_url).unwrap();
        assert_eq!(given.xds_config.as_ref(), Some(&any));
        assert!(given.last_updated.is_some() && !given.version_info.is_empty());
        assert_eq!(given.error_state, None);
    }

    let brief = ClientStatusRequest {
        exclude_resource_contents: true,
        ..ClientStatusRequest::default()
    };
    let brief = only_client(client_status(&channel, brief).await.unwrap());
    assert!(
        brief
            .generic_xds_configs
            .iter()
            .all(|r| r.xds_config.is_none())
    );

    let matching = ClientStatusRequest {
        node_matchers: vec![matcher::NodeMatcher::default()],
        ..ClientStatusRequest::default()
    };
    let refused = client_status(&channel, matching.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    // The streaming form answers each request once.
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let requests = [
        ClientStatusRequest::default(),
        ClientStatusRequest::default(),
        matching,
    ];
    let answers = grpc.streaming(
        tonic::Request::new(tokio_stream::iter(requests)),
        http::uri::PathAndQuery::from_static(
            "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
        ),
        tonic_prost::ProstCodec::<_, ClientStatusResponse>::default(),
    );
    let mut answers = answers.await.unwrap().into_inner();
    for _ in 0..2 {
        let answer = only_client(answers.next().await.unwrap().unwrap());
        assert_eq!(answer.generic_xds_configs.len(), 4);
    }
    let refused = answers.next().await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_deleted_resource_stays_in_use_and_is_shown_as_gone() {
    let world = World::start("").await;
    world.fixture.push("mesh: v1\nservices:\n  web: {}\n");
    let resources = || async { world.web.resources().await.unwrap() };
    let gone = eventually(resources, |all| {
        let listener = all
            .iter()
            .find(|r| r.resource_type == ResourceType::Listener);
        listener.is_some_and(|listener| listener.failure.is_some())
    })
    .await;
    let listener = gone
        .iter()
        .find(|r| r.resource_type == ResourceType::Listener)
        .unwrap();
    assert!(
        matches!(
            listener.status,
            Status::DoesNotExist | Status::ReceivedError
        ),
        "{listener:?}"
    );
    assert!(listener.content.is_some(), "the last good one is in use");
    let page = get(&world.admin, "/config_dump?resource=dynamic_listeners")
        .await
        .json();
    assert!(page["configs"][0]["active_state"]["listener"].is_object());
    assert!(page["configs"][0]["error_state"]["details"].is_string());
    call(&mut world.client.clone()).await.unwrap();
}

#[tokio::test]
async fn clusters_show_each_endpoint_and_why_one_is_down() {
    let down = unused_address();
    let world = World::start("limits: {max_outstanding_per_client: 7}").await;
    let up = world.backend.address.clone();
    let mesh = mesh_file(
        &[(&up, "v1"), (&down, "v1")],
        "limits: {max_outstanding_per_client: 7}",
    );
    world.fixture.push(&mesh);
    let failed = format!("{down}::connectivity::TRANSIENT_FAILURE");
    let text = eventually(
        || get(&world.admin, "/clusters"),
        |page| page.body.contains(&failed),
    )
    .await
    .body;
    let has = |line: &str| assert!(text.contains(line), "{line} in\n{text}");
    has("::lb_policy::round robin\n");
    has("::default_priority::max_requests::7\n");
    has(&format!("::{up}::connectivity::READY\n"));
    has(&format!("::{up}::health_flags::healthy\n"));
    has(&format!("::{down}::health_flags::/failed_active_hc\n"));
    has(&format!("::{down}::last_error::endpoint {down}: "));

    let json = get(&world.admin, "/clusters?format=json").await.json();
    let hosts = json["cluster_statuses"][0]["host_statuses"]
        .as_array()
        .unwrap();
    let host = |address: &str| {
        let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
        let is_it = |h: &&Value| h["address"]["socket_address"]["port_value"] == port;
        hosts.iter().find(is_it).unwrap()
    };
    assert_eq!(host(&up)["connectivity"], "READY");
    assert_eq!(host(&up)["last_error"], Value::Null);
    assert!(
        host(&down)["last_error"]["reason"]
            .as_str()
            .unwrap()
            .contains(&down)
    );
    assert_eq!(
        json["cluster_statuses"][0]["circuit_breakers"]["thresholds"][0]["max_requests"],
        7
    );

    // The same from code.
    let clusters = world.web.clusters().await.unwrap();
    let endpoints = &clusters[0].endpoints;
    let down = endpoints.iter().find(|e| e.address() == down).unwrap();
    assert!(matches!(
        down.connectivity,
        Some(Connectivity::TransientFailure(_))
    ));
    assert!(down.last_error.is_some());
}

#[tokio::test]
async fn calls_in_flight_are_counted_by_cluster_and_endpoint() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let silent = sidestep_tests::fixture::silent_backend().await;
    fixture.push(&plain_mesh(&[&silent]));
    let web = fixture.mesh("web");
    let channel = web.channel("xds:///greeter").unwrap();
    channel.ready().await;
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let mut client = TestServiceClient::new(channel.clone());
            tokio::spawn(async move { call(&mut client).await })
        })
        .collect();
    let clusters = || async { web.clusters().await.unwrap() };
    let busy = eventually(clusters, |all| all[0].in_flight == 3).await;
    assert_eq!(busy[0].endpoints[0].in_flight, 3);
    for call in calls {
        call.abort();
    }
    eventually(clusters, |all| {
        all[0].in_flight == 0 && all[0].endpoints[0].in_flight == 0
    })
    .await;
}

#[tokio::test]
async fn a_process_explains_where_a_call_would_go() {
    let rules = "routes:\n  - name: beta\n    match: {headers: {x-beta: \"1\"}}\n  - name: rest\n";
    let world = World::start(rules).await;
    let text = get(&world.admin, "/explain?target=xds:///greeter&path=/a.B/C").await;
    assert_eq!(text.status, 200, "{text:?}");
    let has = |line: &str| assert!(text.body.contains(line), "{line} in\n{}", text.body);
    has("greeter: /a.B/C\n");
    has(&format!("greeter from {}", world.fixture.address()));
    has("beta: no, header \"x-beta\" is not");
    has("takes the call");
    has(&format!("{}: READY, 0 in flight", world.backend.address));

    let path = "/explain?format=json&target=greeter&path=a.B/C&header=x-beta:%201";
    let json = get(&world.admin, path).await.json();
    assert_eq!(json["rules"][0]["name"], "beta");
    assert_eq!(json["rules"][0]["takes_the_call"], true);
    assert_eq!(json["outcome"]["sent"], true);

    let which = get(&world.admin, "/explain").await;
    assert_eq!(which.status, 400);
    assert!(which.body.contains("greeter"), "{}", which.body);
    let unknown = get(&world.admin, "/explain?target=nobody").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(
        get(&world.admin, "/explain?target=greeter&header=x")
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn direct_targets_are_shown_and_explained_too() {
    let mesh = Mesh::builder().build().unwrap();
    let admin = open(&mesh);
    let address = unused_address();
    let _channel = mesh.channel(&address).unwrap();
    assert_eq!(get(&admin, "/ready").await.status, 200);
    let clusters = get(&admin, "/clusters").await.body;
    assert!(clusters.contains("::added_via_api::false\n"), "{clusters}");
    let explained = get(&admin, &format!("/explain?target={address}")).await;
    assert!(
        explained.body.contains("without a control plane"),
        "{}",
        explained.body
    );
    let dump = get(&admin, "/config_dump").await.json();
    assert_eq!(dump["configs"][0]["dynamic_active_clusters"], json!([]));
    let found = client_status(&channel(&admin).await, ClientStatusRequest::default()).await;
    assert_eq!(found.unwrap().config, []);
}

#[tokio::test]
async fn the_endpoint_is_for_this_machine_unless_asked_otherwise() {
    let mesh = Mesh::builder().build().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:1"] {
        let refused = mesh.admin(address).unwrap_err();
        assert!(matches!(refused, AdminError::NotLoopback(_)), "{refused}");
        assert!(
            refused.to_string().contains("admin_beyond_loopback"),
            "{refused}"
        );
    }
    assert!(matches!(
        mesh.admin("somewhere"),
        Err(AdminError::Address(_))
    ));
    let admin = open(&mesh);
    let taken = mesh.admin(&admin).unwrap_err();
    assert!(matches!(&taken, AdminError::Bind { .. }) && taken.to_string().contains(&admin));
    let open = mesh.admin_beyond_loopback("0.0.0.0:0").unwrap().to_string();
    let port = open.rsplit(':').next().unwrap();
    let address = format!("127.0.0.1:{port}");
    assert_eq!(
        request(&address, "GET", "/ready", "pod.example")
            .await
            .status,
        200
    );

    // A name that a web page was given to get at this machine.
    let foreign = request(&admin, "GET", "/ready", "evil.example").await;
    assert_eq!(foreign.status, 403);
    assert_eq!(request(&admin, "GET", "/ready", &admin).await.status, 200);

    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("admin").display());
    mesh.admin(&socket).unwrap();
    assert_eq!(get(&socket, "/ready").await.status, 200);
}

#[tokio::test]
async fn the_endpoint_changes_nothing_and_lists_what_it_has() {
    let mesh = Mesh::builder().build().unwrap();
    let admin = open(&mesh);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let refused = request(&admin, method, "/ready", "localhost").await;
        assert_eq!(refused.status, 405, "{method}");
        assert!(
            refused.head.contains("allow: GET, HEAD"),
            "{}",
            refused.head
        );
    }
    let head = request(&admin, "HEAD", "/ready", "localhost").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let unknown = get(&admin, "/quitquitquit").await;
    assert_eq!(unknown.status, 404);
    let index = get(&admin, "/").await;
    for path in [
        "/ready",
        "/config_dump",
        "/clusters",
        "/explain",
        "/server_info",
    ] {
        assert!(index.body.contains(path), "{path} in {}", index.body);
        // Each of them answers.
        assert!(get(&admin, path).await.status < 500, "{path}");
    }
    assert_eq!(get(&admin, "/help").await.body, index.body);
    let info = get(&admin, "/server_info").await.json();
    assert_eq!(info["state"], "LIVE");

    // HTTP/2 on the same port.
    let mut channel = channel(&admin).await;
    let request = http::Request::get(format!("http://{admin}/ready"));
    let request = request.body(tonic::body::Body::empty()).unwrap();
    let answer = tower::ServiceExt::ready(&mut channel).await.unwrap();
    let answer = tower::Service::call(answer, request).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn the_endpoint_closes_with_its_mesh_and_keeps_nothing_alive() {
    let mesh = Mesh::builder().build().unwrap();
    let admin = open(&mesh);
    assert_eq!(get(&admin, "/ready").await.status, 200);
    // An open connection must not keep it either.
    let _open = channel(&admin).await;
    drop(mesh);
    let listening = || async { tokio::net::TcpStream::connect(&admin).await.is_ok() };
    eventually(listening, |listening| !listening).await;
}

#[tokio::test]
async fn no_key_is_ever_shown() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let provider = authority.provider(&spiffe("web"));
    let web = fixture
        .builder("web")
        .certificate_provider("default", provider);
    let web = web.build().unwrap();
    let admin = open(&web);
    let address = unused_address();
    fixture.push(&secured(&plain_mesh(&[&address]), "strict"));
    let _channel = web.channel("xds:///greeter").unwrap();
    until_ready(&admin).await;
    let ask = || get(&admin, "/clusters");
    eventually(ask, |page| {
        page.body
            .contains("::security::mutual TLS, the server must be")
    })
    .await;
    for path in [
        "/config_dump",
        "/clusters",
        "/server_info",
        "/explain?target=greeter",
    ] {
        let page = get(&admin, path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(!page.body.contains("PRIVATE KEY"), "{path}");
    }
}

/// The value of the series whose labels have all these texts in them.
fn metric(page: &Page, name: &str, labels: &[&str]) -> Option<f64> {
    let mut lines = page.body.lines().filter(|line| {
        let labelled = line.strip_prefix(name).is_some_and(|l| l.starts_with('{'));
        labelled && labels.iter().all(|label| line.contains(label))
    });
    lines.next()?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn the_client_of_the_control_plane_is_counted_and_scraped() {
    let resources = RawResources::unchecked([
        raw::listener("greeter", "greeter"),
        raw::routes("greeter", &["bad", "greeter"]),
        raw::cluster("greeter"),
        raw::endpoints("greeter", &[&unused_address()]),
        bad_cluster("bad"),
    ]);
    let mut fixture = Fixture::raw(resources.unwrap()).await;
    let server = fixture.address();
    fixture.kill().await;
    let web = builder(&bootstrap(&server, "web")).build().unwrap();
    assert!(!web.telemetry().on());
    let admin = open(&web);
    assert!(web.telemetry().on());
    let _channel = web.channel("xds:///greeter").unwrap();
    let page = eventually(
        || get(&admin, "/metrics"),
        |page| metric(page, "grpc_xds_client_server_failure_total", &[&server]) == Some(1.0),
    )
    .await;
    assert!(page.body.ends_with("# EOF\n"), "{}", page.body);
    assert_eq!(
        metric(&page, "grpc_xds_client_connected", &[&server]),
        Some(0.0)
    );
    let state = |page: &Page, state: &str, of: &str| {
        let labels = [&*format!("grpc_xds_cache_state=\"{state}\""), of];
        metric(page, "grpc_xds_client_resources", &labels)
    };
    assert_eq!(state(&page, "requested", "Listener\""), Some(1.0));

    fixture.revive().await;
    let page = eventually(
        || get(&admin, "/metrics"),
        |page| {
            state(page, "nacked", "Cluster\"") == Some(1.0)
                && state(page, "acked", "ClusterLoadAssignment\"") == Some(1.0)
        },
    )
    .await;
    assert_eq!(
        metric(&page, "grpc_xds_client_connected", &[&server]),
        Some(1.0)
    );
    assert_eq!(state(&page, "acked", "Cluster\""), Some(1.0));
    assert_eq!(
        state(&page, "requested", "Listener\""),
        None,
        "no longer true"
    );
    let updates = |what: &str| {
        let name = format!("grpc_xds_client_resource_updates_{what}_total");
        metric(
            &page,
            &name,
            &[&server, "cluster.v3.Cluster\"", "\"#process\""],
        )
    };
    assert!(updates("invalid") >= Some(1.0), "{}", page.body);
    assert!(updates("valid") >= Some(1.0), "{}", page.body);
    let failures = metric(&page, "grpc_xds_client_server_failure_total", &[&server]);
    assert_eq!(failures, Some(1.0), "one outage, however many tries");
    assert_eq!(get(&admin, "/stats/prometheus").await.status, 200);
}

/// A process whose program does not think of the admin endpoint has one all the same, if its
/// operator says so.
#[tokio::test]
async fn the_environment_opens_the_endpoint_on_loopback_alone() {
    let with = |address: &'static str| {
        let lookup = move |name: &str| match name {
            "GRPC_XDS_BOOTSTRAP_CONFIG" => Some(bootstrap("127.0.0.1:9", "web").to_string().into()),
            "SIDESTEP_ADMIN" => Some(address.into()),
            _ => None,
        };
        Mesh::builder().from_lookup(lookup).unwrap().build()
    };
    let address = unused_address();
    let address: &'static str = address.leak();
    let _mesh = with(address).unwrap();
    assert_eq!(get(address, "/").await.status, 200);
    for (address, said) in [("0.0.0.0:0", "other machines"), ("here", "no address")] {
        let error = with(address).unwrap_err().to_string();
        assert!(
            error.contains("SIDESTEP_ADMIN") && error.contains(said),
            "{error}"
        );
    }
    with("").unwrap();
}
