//! The interop management server, driven as its contract has it: by flags, signals and a folder of
//! resources, with real streams over a socket.

mod client;
mod program;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_proto::wire::core::{Locality, Node};
use sidestep_proto::wire::load_stats::{
    ClusterStats, EndpointLoadMetricStats, LoadStatsRequest, UnnamedEndpointLoadMetricStats,
    UpstreamLocalityStats, cluster_stats::DroppedRequests,
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use client::{Delta, Loads, Whole, node};
use program::{PATIENCE, Program, cluster, routes, service, text, url, write};

const ANY: &str = "127.0.0.1:0";

fn folder(resources: &[Value]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "all.json", resources);
    folder
}

fn secret(name: &str) -> Value {
    json!({"@type": url("Secret"), "name": name, "generic_secret": {"secret": {"inline_string": "s"}}})
}

#[tokio::test]
async fn a_bad_call_is_an_error_event_and_status_2() {
    let taken = std::net::TcpListener::bind(ANY).expect("a free port");
    let taken = taken.local_addr().expect("is bound").to_string();
    let broken = tempfile::tempdir().expect("a folder");
    std::fs::write(broken.path().join("r.yaml"), "resources:\n- name: x\n").expect("writes");
    let twice = folder(&[secret("a"), secret("a")]);
    let path = |folder: &TempDir| folder.path().display().to_string();
    let absent = path(&broken) + "/absent";
    for (flags, expected) in [
        (&["--what"][..], "unknown flag --what"),
        (&["--listen"], "--listen needs a value"),
        (&["--listen", "nowhere"], "--listen: "),
        (&["--listen", &taken], "cannot listen on"),
        (&["--resources", &absent], "absent"),
        (
            &["--resources", &path(&broken)],
            "r.yaml:2:3: resources[0]: the key `@type` is missing",
        ),
        (
            &["--resources", &path(&twice)],
            "Secret \"a\" is defined twice, already at ",
        ),
    ] {
        let mut program = Program::launch(flags);
        let error = program.next("error").await;
        assert!(text(&error, "message").contains(expected), "{error}");
        let status = program.end(PATIENCE).await;
        assert_eq!(status.code(), Some(2), "{flags:?}");
        let refused = program
            .events
            .iter()
            .any(|e| e["event"] == "reload" && e["ok"] == false);
        assert_eq!(refused, flags[0] == "--resources", "{flags:?}");
    }
}

#[tokio::test]
async fn without_resources_there_are_none() {
    let mut program = Program::launch(&[]);
    let ready = program.next("ready").await;
    program.address = text(&ready, "addr").to_owned();
    assert!(program.address.starts_with("127.0.0.1:"), "{ready}");
    let mut stream = Whole::connect(program.channel().await).await;
    stream.subscribe("Cluster", &[]);
    assert!(stream.next().await.resources.is_empty());
    assert_eq!(program.reload().await["ok"], true);
}

/// Every type, by name, from JSON and YAML alike; and all that happens is said.
#[tokio::test]
async fn state_of_the_world_is_served_and_told() {
    let folder = folder(&service("svc", &["127.0.0.1:1", "127.0.0.1:1"]));
    let yaml = format!("resources:\n- {{'@type': {}, name: cert}}\n", url("Secret"));
    std::fs::write(folder.path().join("more.yaml"), yaml).expect("writes");
    let mut program = Program::start(folder.path(), ANY).await;

    let mut stream = Whole::connect(program.channel().await).await;
    let opened = program.next("stream_open").await;
    let id = &opened["stream"];
    assert_eq!(opened["kind"], "sotw");
    for (t, name) in [
        ("Listener", "svc"),
        ("RouteConfiguration", "svc-routes"),
        ("Cluster", "svc"),
        ("ClusterLoadAssignment", "svc"),
        ("Secret", "cert"),
    ] {
        stream.subscribe(t, &[name]);
        let response = stream.next().await;
        assert_eq!(response.type_url, url(t));
        assert_eq!(response.resources.len(), 1, "{t}");
        assert_eq!(response.resources[0].type_url, url(t));
        assert!(response.resource_errors.is_empty());
        stream.answer(&response, &[name], None);

        let request = program.next("request").await;
        let first = json!({
            "event": "request", "t_ms": request["t_ms"], "stream": id, "kind": "sotw",
            "node": "test-1", "type": t, "version": "", "nonce": "", "names": [name],
        });
        assert_eq!(request, first);
        let (version, nonce) = (&response.version_info, &response.nonce);
        let told = program.next("response").await;
        let sent = json!({
            "event": "response", "t_ms": told["t_ms"], "stream": id, "kind": "sotw",
            "type": t, "version": version, "nonce": nonce, "count": 1,
        });
        assert_eq!(told, sent);
        let ack = program.next("ack").await;
        let accepted = json!({
            "event": "ack", "t_ms": ack["t_ms"], "stream": id, "kind": "sotw",
            "node": "test-1", "type": t, "version": version, "nonce": nonce, "names": [name],
        });
        assert_eq!(ack, accepted);
    }
    drop(stream);
    let closed = program.next("stream_close").await;
    assert_eq!((&closed["stream"], &closed["kind"]), (id, &json!("sotw")));
}

#[tokio::test]
async fn delta_is_served_and_told() {
    let folder = folder(&service("svc", &["127.0.0.1:1"]));
    let mut program = Program::start(folder.path(), ANY).await;
    let mut stream = Delta::connect(program.channel().await).await;
    let opened = program.next("stream_open").await;
    assert_eq!(opened["kind"], "delta");

    stream.subscribe("ClusterLoadAssignment", &["svc", "absent"], &[]);
    let response = stream.next().await;
    assert_eq!(response.resources[0].name, "svc");
    assert_eq!(response.removed_resources, ["absent"]);
    assert!(response.resource_errors.is_empty());
    let request = program.next("request").await;
    assert_eq!(request["names"], json!(["svc", "absent"]));
    assert_eq!(
        (&request["kind"], &request["nonce"]),
        (&json!("delta"), &json!(""))
    );
    let told = program.next("response").await;
    assert_eq!(told["count"], 1);
    assert_eq!(told["version"], response.system_version_info);

    stream.answer(&response, None);
    let ack = program.next("ack").await;
    assert_eq!(ack["nonce"], response.nonce);
    assert_eq!(
        ack["version"], response.system_version_info,
        "of what it answers"
    );
    assert_eq!(
        (&ack["node"], &ack["names"]),
        (&json!("test-1"), &json!([]))
    );

    stream.subscribe("ClusterLoadAssignment", &[], &["absent"]);
    let request = program.next("request").await;
    assert_eq!(request["unsubscribed"], json!(["absent"]));

    // What is gone is said to be.
    write(folder.path(), "all.json", &routes("svc", "svc"));
    assert_eq!(program.reload().await["ok"], true);
    assert_eq!(stream.next().await.removed_resources, ["svc"]);
}

/// Listeners and clusters are absent from what is sent; of the rest nothing is said at all.
#[tokio::test]
async fn what_is_missing_is_absent_or_not_answered() {
    let folder = folder(&service("svc", &["127.0.0.1:1"]));
    let mut program = Program::start(folder.path(), ANY).await;
    let mut stream = Whole::connect(program.channel().await).await;
    for t in ["ClusterLoadAssignment", "RouteConfiguration", "Secret"] {
        stream.subscribe(t, &["later"]);
    }
    for t in ["Listener", "Cluster"] {
        stream.subscribe(t, &["later"]);
        let response = stream.next().await;
        assert_eq!(response.type_url, url(t), "the others are not answered");
        assert!(response.resources.is_empty() && response.resource_errors.is_empty());
        stream.answer(&response, &["later"], None);
    }
    // Acknowledged, so that nothing waits for anything.
    program
        .expect(json!({"event": "ack", "type": "Cluster"}))
        .await;
    write(
        folder.path(),
        "later.json",
        &[cluster("later", &[])[1].clone()],
    );
    assert_eq!(program.reload().await["ok"], true);
    let response = stream.next().await;
    assert_eq!(response.type_url, url("ClusterLoadAssignment"));
    assert_eq!(response.resources.len(), 1);
}

#[tokio::test]
async fn wildcards_are_for_listeners_and_clusters() {
    let mut resources = service("a", &[]);
    resources.extend(service("b", &[]));
    let folder = folder(&resources);
    let program = Program::start(folder.path(), ANY).await;
    let mut whole = Whole::connect(program.channel().await).await;
    for names in [&[][..], &["*"]] {
        for t in ["Listener", "Cluster"] {
            let mut whole = Whole::connect(program.channel().await).await;
            whole.subscribe(t, names);
            assert_eq!(whole.next().await.resources.len(), 2, "{t} {names:?}");
            let mut delta = Delta::connect(program.channel().await).await;
            delta.subscribe(t, names, &[]);
            assert_eq!(delta.next().await.resources.len(), 2, "{t} {names:?}");
        }
    }
    whole.subscribe("ClusterLoadAssignment", &[]);
    whole.subscribe("Cluster", &[]);
    assert_eq!(
        whole.next().await.type_url,
        url("Cluster"),
        "no wildcard of endpoints"
    );
}

/// A proxy asks with its name, and is treated like anybody.
#[tokio::test]
async fn every_node_is_given_the_same() {
    let folder = folder(&service("svc", &[]));
    let program = Program::start(folder.path(), ANY).await;
    let mut answers = Vec::new();
    for agent in ["envoy", "gRPC Go"] {
        let mut stream = Whole::connect(program.channel().await).await;
        stream.send(sidestep_proto::wire::discovery::DiscoveryRequest {
            node: Some(Node {
                user_agent_name: agent.to_owned(),
                ..node()
            }),
            type_url: url("Listener"),
            ..Default::default()
        });
        answers.push(stream.next().await);
    }
    assert_eq!(answers[0].resources.len(), 1);
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn a_nack_is_told_with_its_words_and_the_resource_is_not_sent_again() {
    let folder = folder(&service("svc", &[]));
    let mut program = Program::start(folder.path(), ANY).await;
    let mut whole = Whole::connect(program.channel().await).await;
    whole.subscribe("Cluster", &["svc"]);
    let response = whole.next().await;
    whole.answer(&response, &["svc"], Some("svc: not like that"));
    let nack = program.next("nack").await;
    assert_eq!(text(&nack, "error"), "svc: not like that");
    assert_eq!(text(&nack, "version"), "older", "what it has");
    assert_eq!(text(&nack, "nonce"), response.nonce);
    assert_eq!(nack["names"], json!(["svc"]));

    let mut delta = Delta::connect(program.channel().await).await;
    delta.subscribe("Cluster", &["svc"], &[]);
    let response = delta.next().await;
    delta.answer(&response, Some("nor like this"));
    let nack = program.next("nack").await;
    assert_eq!(text(&nack, "error"), "nor like this");
    assert_eq!(
        (&nack["kind"], &nack["node"]),
        (&json!("delta"), &json!("test-1"))
    );

    // The next thing that either of them gets is something else.
    write(folder.path(), "more.json", &cluster("other", &[]));
    assert_eq!(program.reload().await["ok"], true);
    whole.subscribe("ClusterLoadAssignment", &["other"]);
    assert_eq!(whole.next().await.type_url, url("ClusterLoadAssignment"));
}

#[tokio::test]
async fn a_broken_reload_changes_nothing_and_says_where() {
    let folder = folder(&cluster("a", &[]));
    let mut program = Program::start(folder.path(), ANY).await;
    let mut stream = Whole::connect(program.channel().await).await;
    stream.subscribe("Cluster", &["*"]);
    let before = stream.next().await;
    stream.answer(&before, &["*"], None);

    // One file is good and new, the other is broken: neither counts.
    write(folder.path(), "b.json", &cluster("b", &[]));
    std::fs::write(folder.path().join("c.json"), "{\n\"resources\": [{]\n").expect("writes");
    let refused = program.reload().await;
    assert_eq!(refused["ok"], false);
    assert!(text(&refused, "error").contains("c.json:2:"), "{refused}");
    let mut other = Whole::connect(program.channel().await).await;
    other.subscribe("Cluster", &["*"]);
    let now = other.next().await;
    assert_eq!(now.resources, before.resources);

    std::fs::remove_file(folder.path().join("c.json")).expect("is there");
    assert_eq!(program.reload().await["ok"], true);
    assert_eq!(stream.next().await.resources.len(), 2);
}

#[tokio::test]
async fn after_a_kill_the_port_is_free_at_once_and_everything_is_sent_again() {
    let folder = folder(&service("svc", &[]));
    let mut program = Program::start(folder.path(), ANY).await;
    let mut stream = Whole::connect(program.channel().await).await;
    stream.subscribe("Cluster", &["svc"]);
    let before = stream.next().await;
    program.kill().await;
    assert!(stream.ended().await.is_err(), "it broke");

    let address = program.address.clone();
    let program = Program::start(folder.path(), &address).await;
    assert_eq!(program.address, address);
    let mut stream = Whole::connect(program.channel().await).await;
    // A client that comes back shows what it has.
    stream.send(sidestep_proto::wire::discovery::DiscoveryRequest {
        version_info: before.version_info.clone(),
        type_url: url("Cluster"),
        resource_names: vec!["svc".to_owned()],
        ..Default::default()
    });
    let after = stream.next().await;
    assert_eq!(after.version_info, before.version_info);
    assert_eq!(after.resources, before.resources);
}

#[tokio::test]
async fn sigterm_ends_it_in_good_order_with_streams_open() {
    let folder = folder(&service("svc", &[]));
    let mut program = Program::start(folder.path(), ANY).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = Whole::connect(program.channel().await).await;
        stream.subscribe("Cluster", &["svc"]);
        stream.next().await;
        streams.push(stream);
    }
    program.signal("-TERM").await;
    let status = program.end(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0));
    for mut stream in streams {
        let end = stream.ended().await.expect_err("it is over");
        assert_eq!(end.code(), tonic::Code::Unavailable);
    }
    let closed = program
        .events
        .iter()
        .filter(|e| e["event"] == "stream_close");
    assert_eq!(closed.count(), 3);
}

#[tokio::test]
async fn load_reports_are_asked_for_and_told() {
    let folder = folder(&service("svc", &[]));
    let mut program = Program::start(folder.path(), ANY).await;
    let mut loads = Loads::connect(program.channel().await).await;
    let features = ["envoy.lrs.supports_send_all_clusters", "more"];
    loads.send(LoadStatsRequest {
        node: Some(Node {
            client_features: client::owned(&features),
            ..node()
        }),
        ..LoadStatsRequest::default()
    });
    let asked = loads.next().await;
    assert!(asked.send_all_clusters);
    let interval = asked.load_reporting_interval.expect("an interval");
    assert_eq!((interval.seconds, interval.nanos), (0, 500_000_000));
    let opened = program.next("lrs_open").await;
    assert_eq!(opened["node"], "test-1");
    assert_eq!(opened["features"], json!(features));

    loads.send(report());
    let told = program.next("lrs").await;
    let expected = json!({
        "event": "lrs", "t_ms": told["t_ms"], "node": "test-1", "cluster": "c", "eds": "e",
        "localities": [{
            "region": "r", "zone": "z", "sub_zone": "s",
            "success": 9, "error": 1, "issued": 11, "in_progress": 1,
            "metrics": {
                "cpu_utilization": {"n": 2, "total": 0.5},
                "named_metrics.q": {"n": 9, "total": 67.5},
            },
        }],
        "drops": {"throttle": 2}, "total_drops": 3, "interval_ms": 512,
    });
    assert_eq!(told, expected);
    assert_eq!(
        program.next("lrs").await["cluster"],
        "d",
        "one event for each cluster"
    );
}

fn report() -> LoadStatsRequest {
    let locality = UpstreamLocalityStats {
        locality: Some(Locality {
            region: "r".to_owned(),
            zone: "z".to_owned(),
            sub_zone: "s".to_owned(),
        }),
        total_successful_requests: 9,
        total_error_requests: 1,
        total_issued_requests: 11,
        total_requests_in_progress: 1,
        cpu_utilization: Some(UnnamedEndpointLoadMetricStats {
            num_requests_finished_with_metric: 2,
            total_metric_value: 0.5,
        }),
        load_metric_stats: vec![EndpointLoadMetricStats {
            metric_name: "named_metrics.q".to_owned(),
            num_requests_finished_with_metric: 9,
            total_metric_value: 67.5,
        }],
        ..UpstreamLocalityStats::default()
    };
    let interval = Duration::from_millis(512).try_into().expect("fits");
    let stats = ClusterStats {
        cluster_name: "c".to_owned(),
        cluster_service_name: "e".to_owned(),
        upstream_locality_stats: vec![locality],
        total_dropped_requests: 3,
        dropped_requests: vec![DroppedRequests {
            category: "throttle".to_owned(),
            dropped_count: 2,
        }],
        load_report_interval: Some(interval),
    };
    let other = ClusterStats {
        cluster_name: "d".to_owned(),
        ..ClusterStats::default()
    };
    LoadStatsRequest {
        node: None,
        cluster_stats: vec![stats, other],
    }
}

/// A backend; it serves until the test ends.
async fn backend(id: &str) -> String {
    let socket = tokio::net::TcpListener::bind(ANY).await.expect("a port");
    let address = socket.local_addr().expect("is bound").to_string();
    let incoming = tonic::transport::server::TcpIncoming::from(socket);
    let service = TestServiceServer::new(Testing::new(id, Faults::default()));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

type Caller = TestServiceClient<sidestep::Channel>;

/// A client of `svc` by our own runtime.
fn caller(program: &Program) -> Caller {
    let bootstrap = sidestep_test::bootstrap(&program.address, "web", "web-node");
    let builder = sidestep::Mesh::builder()
        .timers(sidestep_test::quick())
        .bootstrap_json(&bootstrap.to_string());
    let mesh = builder
        .and_then(|builder| builder.build())
        .expect("a good bootstrap");
    let channel = mesh.channel("xds:///svc").expect("a good target");
    TestServiceClient::new(channel.wait_for_ready(true))
}

async fn call(caller: &mut Caller) -> Result<String, tonic::Status> {
    let mut request = tonic::Request::new(SimpleRequest {
        fill_server_id: true,
        ..SimpleRequest::default()
    });
    request.set_timeout(PATIENCE);
    let response = caller.unary_call(request).await?;
    Ok(response.into_inner().server_id)
}

/// `svc` on cluster `name`: the other cluster is not there at all.
fn variant(folder: &Path, name: &str, address: &str) {
    let mut resources = routes("svc", name).to_vec();
    resources.extend(cluster(name, &[address]));
    write(folder, "all.json", &resources);
}

/// Each reload takes away the cluster that all calls go to, and gives another. A client that saw
/// half of one would fail calls.
#[tokio::test(flavor = "multi_thread")]
async fn reloads_tear_nothing_under_load() {
    let addresses = [backend("one").await, backend("two").await];
    let folder = tempfile::tempdir().expect("a folder");
    variant(folder.path(), "one", &addresses[0]);
    let mut program = Program::start(folder.path(), ANY).await;
    let mut caller = caller(&program);
    assert_eq!(call(&mut caller).await.expect("answered"), "one");

    let (stop, stopped) = watch::channel(false);
    let mut busy = caller.clone();
    let load = tokio::spawn(async move {
        let mut calls = 0;
        while !*stopped.borrow() {
            call(&mut busy).await.expect("no call fails");
            calls += 1;
        }
        calls
    });
    for round in 1..=10 {
        let (name, address) = [("one", &addresses[0]), ("two", &addresses[1])][round % 2];
        variant(folder.path(), name, address);
        assert_eq!(program.reload().await["ok"], true);
        until_answered_by(&mut caller, name).await;
    }
    stop.send_replace(true);
    let calls: u64 = load.await.expect("no call failed");
    assert!(calls > 10, "{calls} calls");
    program.rewind();
    let nacks = program.events.iter().filter(|e| e["event"] == "nack");
    assert_eq!(nacks.count(), 0);
}

async fn until_answered_by(caller: &mut Caller, name: &str) {
    let answered = async { while call(caller).await.expect("no call fails") != name {} };
    let within = tokio::time::timeout(PATIENCE, answered).await;
    within.unwrap_or_else(|_| panic!("never answered by {name}"));
}

/// Our own client refuses the cluster, and says so in words that name it.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_client_is_heard_to_refuse() {
    let address = backend("one").await;
    let folder = folder(&service("svc", &[&address]));
    let mut program = Program::start(folder.path(), ANY).await;
    let mut caller = caller(&program);
    assert_eq!(call(&mut caller).await.expect("answered"), "one");
    program
        .expect(json!({"event": "ack", "type": "Cluster", "node": "web-node"}))
        .await;

    let mut resources = service("svc", &[&address]);
    resources[2]["lb_policy"] = json!("CLUSTER_PROVIDED");
    write(folder.path(), "all.json", &resources);
    // The verdict on the files may be said after the client's.
    program.signal("-HUP").await;
    let nack = program.next("nack").await;
    program.rewind();
    assert_eq!(program.next("reload").await["ok"], true);
    assert_eq!(
        (&nack["type"], &nack["node"]),
        (&json!("Cluster"), &json!("web-node"))
    );
    assert!(text(&nack, "error").contains("svc"), "{nack}");
    assert_eq!(
        call(&mut caller).await.expect("the last good one stays"),
        "one"
    );
}

/// Calls go on while it is gone; when it is back, what it has by then is taken.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_client_outlives_a_kill() {
    let addresses = [backend("one").await, backend("two").await];
    let folder = tempfile::tempdir().expect("a folder");
    variant(folder.path(), "one", &addresses[0]);
    let mut program = Program::start(folder.path(), ANY).await;
    let mut caller = caller(&program);
    assert_eq!(call(&mut caller).await.expect("answered"), "one");
    program.kill().await;
    assert_eq!(call(&mut caller).await.expect("still answered"), "one");

    variant(folder.path(), "two", &addresses[1]);
    let mut program = Program::start(folder.path(), &program.address).await;
    program
        .expect(json!({"event": "request", "node": "web-node"}))
        .await;
    until_answered_by(&mut caller, "two").await;
}

/// 200 clients, 50 reloads: each of them gets each state, none is missed and none comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_misses_no_reload() {
    const CLIENTS: usize = 200;
    const RELOADS: usize = 50;
    let folder = tempfile::tempdir().expect("a folder");
    let state = |round: usize| {
        let name = format!("round-{round}");
        write(folder.path(), "all.json", &cluster(&name, &[]));
        name
    };
    state(0);
    let mut program = Program::start(folder.path(), ANY).await;
    let (told, mut heard) = mpsc::unbounded_channel();
    for i in 0..CLIENTS {
        let channel = program.channel().await;
        tokio::spawn(swarm(i, channel, told.clone()));
    }
    let drain = async |heard: &mut mpsc::UnboundedReceiver<(usize, String)>, name: &str| {
        let mut missing: Vec<bool> = vec![true; CLIENTS];
        while missing.iter().any(|m| *m) {
            let next = tokio::time::timeout(PATIENCE, heard.recv()).await;
            let (i, got) = next.expect("an update is missed").expect("clients live");
            assert_eq!(got, name, "client {i}");
            assert!(
                std::mem::take(&mut missing[i]),
                "client {i} got {name} twice"
            );
        }
    };
    drain(&mut heard, "round-0").await;
    for round in 1..=RELOADS {
        let name = state(round);
        assert_eq!(program.reload().await["ok"], true);
        drain(&mut heard, &name).await;
    }
}

/// Subscribes to all clusters by delta or by state of the world, and tells each new name.
async fn swarm(
    i: usize,
    channel: tonic::transport::Channel,
    told: mpsc::UnboundedSender<(usize, String)>,
) {
    let tell = |name: &str| told.send((i, name.to_owned())).is_ok();
    if i.is_multiple_of(2) {
        let mut stream = Delta::connect(channel).await;
        stream.subscribe("Cluster", &["*"], &[]);
        loop {
            let response = stream.next().await;
            stream.answer(&response, None);
            let mut names = response.resources.iter();
            if !names.all(|resource| tell(&resource.name)) {
                return;
            }
        }
    }
    let mut stream = Whole::connect(channel).await;
    stream.subscribe("Cluster", &["*"]);
    let mut last = String::new();
    loop {
        let response = stream.next().await;
        stream.answer(&response, &["*"], None);
        // Between two states both names are there; what is new comes first.
        let names = response.resources.iter().filter_map(|any| {
            let cluster: sidestep_proto::wire::cluster::Cluster = any.unpack().ok()?;
            Some(cluster.name)
        });
        let newest =
            names.max_by_key(|name| name.rsplit('-').next().and_then(|n| n.parse::<u32>().ok()));
        let newest = newest.expect("there is one");
        if newest != last && !tell(&newest) {
            return;
        }
        last = newest;
    }
}
