//! Endpoints that are left out for what their calls came to, through a live control plane.

use sidestep::telemetry::Reading;
use sidestep::telemetry::instruments::{
    Instrument, OUTLIER_DETECTION_EJECTIONS_ENFORCED, OUTLIER_DETECTION_EJECTIONS_UNENFORCED,
};
use sidestep::{Channel, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::codec;
use sidestep_proto::resource::{
    Cluster, FailurePercentage, FailureRun, OutlierDetection, Resource,
};
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;
use sidestep_tests::events::Events;
use sidestep_tests::fixture::{Backend, Fixture, bootstrap, builder, mesh_file};
use sidestep_tests::load::{Answer, PATIENCE, call};
use sidestep_tests::raw;
use tonic::{Code, Status};

/// Long enough that it never passes in a test.
const LONG: &str = "base_ejection_time: 1h, max_ejection_time: 1h";
/// More than there are endpoints: whoever takes calls has had one.
const MANY: usize = 30;

struct Scene {
    fixture: Fixture,
    backends: Vec<Backend>,
    mesh: Mesh,
    client: TestServiceClient<Channel>,
    keys: String,
}

impl Scene {
    /// Backends with these faults, named by their places; callers detect outliers by `keys`.
    async fn new(keys: &str, faults: Vec<Faults>) -> Self {
        let fixture = Fixture::start(&mesh_file(&[], "")).await;
        let servers = fixture.mesh("greeter");
        let backends = faults.into_iter().enumerate();
        let start = |(at, faults): (usize, _)| Backend::start(&servers, &at.to_string(), faults);
        let backends: Vec<_> = backends.map(start).collect();
        let mesh = fixture.mesh("web");
        let client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
        let scene = Self {
            fixture,
            backends,
            mesh,
            client,
            keys: format!("outlier_detection: {keys}"),
        };
        scene.push(scene.backends.len());
        scene
    }

    /// The first `count` backends are endpoints.
    fn push(&self, count: usize) {
        let addresses = self.backends[..count]
            .iter()
            .map(|b| (b.address.as_str(), "v1"));
        let addresses: Vec<_> = addresses.collect();
        self.fixture.push(&mesh_file(&addresses, &self.keys));
    }

    /// Begun so far, by backend.
    fn counts(&self) -> Vec<u64> {
        self.backends.iter().map(|b| b.testing.calls()).collect()
    }

    async fn calls(&mut self, count: usize) -> Vec<Result<Answer, Status>> {
        let mut outcomes = Vec::new();
        for _ in 0..count {
            outcomes.push(call(&mut self.client).await);
            // A failure is quick: let the others do their work.
            tokio::task::yield_now().await;
        }
        outcomes
    }

    /// Calls until exactly these backends take calls: each of a whole round met one of them.
    async fn used(&mut self, expected: &[usize]) {
        let mut used = Vec::new();
        let reached = tokio::time::timeout(PATIENCE, async {
            while used != expected {
                let before = self.counts();
                self.calls(MANY).await;
                let grown = self.counts().into_iter().zip(before).enumerate();
                let grown = grown.filter(|(_, (after, before))| after > before);
                used = grown.map(|(at, _)| at).collect();
            }
        });
        if reached.await.is_err() {
            panic!("{used:?} are in use, expected were {expected:?}");
        }
    }

    fn ejections(&self) -> Vec<(String, i64)> {
        counted(&self.mesh, &OUTLIER_DETECTION_EJECTIONS_ENFORCED)
    }
}

/// A counter by its labels but the target.
fn counted(mesh: &Mesh, instrument: &'static Instrument) -> Vec<(String, i64)> {
    let mut all = Vec::new();
    mesh.telemetry()
        .read(instrument, |labels, reading| match reading {
            Reading::Number(n) => all.push((labels[1..].join("|"), n)),
            Reading::Histogram(_) => panic!("{} is a number", instrument.name),
        });
    all.sort();
    all
}

fn good() -> Faults {
    Faults::default()
}

fn bad(code: Code) -> Faults {
    Faults {
        fail_percent: 100.0,
        code,
        ..Faults::default()
    }
}

fn bad_at_first(calls: u64) -> Faults {
    Faults {
        fail_first: calls,
        ..Faults::default()
    }
}

#[tokio::test]
async fn failures_in_a_row_eject_an_endpoint_at_once() {
    let keys =
        format!("{{consecutive_failures: 3, max_ejection_percent: 50, interval: 1h, {LONG}}}");
    let mut events = Events::catch();
    let mut scene = Scene::new(&keys, vec![good(), good(), bad(Code::Unavailable)]).await;
    scene.used(&[0, 1]).await;
    let outcomes = scene.calls(MANY).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(
        scene.ejections(),
        [("consecutive_5xx|greeter".to_owned(), 1)]
    );
    let told = events.wait("sidestep::outliers", "ejected", |_| true).await;
    assert_eq!(told.field("endpoint"), scene.backends[2].address);
    assert_eq!(told.field("method"), "consecutive_5xx");
    assert!(told.field("reason").ends_with("calls in a row failed"));
    let clusters = scene.mesh.clusters().await.unwrap();
    let endpoints = &clusters
        .iter()
        .find(|c| c.name == "greeter")
        .unwrap()
        .endpoints;
    let standing: Vec<_> = endpoints.iter().map(|e| e.ejected.as_ref()).collect();
    let [None, None, Some(ejection)] = standing[..] else {
        panic!("{standing:?}");
    };
    assert!(ejection.remaining.as_secs() > 3500, "{ejection}");
    assert!(ejection.reason.ends_with("calls in a row failed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_blame_the_caller_eject_nobody() {
    let keys =
        format!("{{consecutive_failures: 2, max_ejection_percent: 50, interval: 1h, {LONG}}}");
    let mut scene = Scene::new(&keys, vec![good(), bad(Code::NotFound)]).await;
    scene.used(&[0, 1]).await;
    for _ in 0..3 {
        scene.calls(MANY).await;
    }
    scene.used(&[0, 1]).await;
    assert_eq!(scene.ejections(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_failures_ejects_an_endpoint_after_the_interval() {
    let keys = format!(
        "{{interval: 50ms, max_ejection_percent: 50, {LONG}, \
          failure_percentage: {{threshold: 50, minimum_hosts: 2, request_volume: 3}}}}"
    );
    // Whatever the status: gRPC counts every failure.
    let mut scene = Scene::new(&keys, vec![good(), bad(Code::NotFound), good()]).await;
    scene.used(&[0, 2]).await;
    assert_eq!(
        scene.ejections(),
        [("failure_percentage|greeter".to_owned(), 1)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_worse_than_the_others_is_ejected() {
    let keys = format!(
        "{{interval: 50ms, max_ejection_percent: 50, {LONG}, \
          success_rate: {{minimum_hosts: 5, request_volume: 3}}}}"
    );
    let faults = [good(), good(), bad(Code::Internal), good(), good()];
    let mut scene = Scene::new(&keys, faults.into()).await;
    scene.used(&[0, 1, 3, 4]).await;
    assert_eq!(scene.ejections(), [("success_rate|greeter".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_bad_all_are_the_share_bounds_who_is_ejected() {
    let keys =
        format!("{{consecutive_failures: 2, max_ejection_percent: 50, interval: 1h, {LONG}}}");
    let faults = [
        Code::Unavailable,
        Code::Internal,
        Code::DeadlineExceeded,
        Code::Unknown,
    ];
    let mut scene = Scene::new(&keys, faults.map(bad).into()).await;
    let spared = |scene: &Scene| counted(&scene.mesh, &OUTLIER_DETECTION_EJECTIONS_UNENFORCED);
    let overflow = tokio::time::timeout(PATIENCE, async {
        while spared(&scene).is_empty() {
            scene.calls(1).await;
        }
    });
    overflow.await.expect("two of four are as many as may be");
    assert_eq!(
        scene.ejections(),
        [("consecutive_5xx|greeter".to_owned(), 2)]
    );
    let why = "consecutive_5xx|max_ejection_overflow|greeter";
    assert_eq!(spared(&scene)[0].0, why);
    // The picker without the second one may come a moment later.
    let two_are_left = tokio::time::timeout(PATIENCE, async {
        loop {
            let before = scene.counts();
            scene.calls(MANY).await;
            let grown = scene.counts().into_iter().zip(before);
            if grown.filter(|(after, before)| after > before).count() == 2 {
                return;
            }
        }
    });
    two_are_left.await.expect("two are left");
}

#[tokio::test]
async fn one_call_decides_whether_it_comes_back() {
    let keys = "{consecutive_failures: 3, max_ejection_percent: 50, \
                base_ejection_time: 40ms, max_ejection_time: 40ms, interval: 1h}";
    let mut events = Events::catch();
    let failures = 9;
    let mut scene = Scene::new(keys, vec![good(), good(), bad_at_first(failures)]).await;
    let mut failed = 0;
    let back = tokio::time::timeout(PATIENCE, async {
        loop {
            match call(&mut scene.client).await {
                Ok(answer) if answer.server == "2" => break,
                Ok(_) => {}
                Err(_) => failed += 1,
            }
            tokio::task::yield_now().await;
        }
    });
    back.await.expect("it comes back");
    // Until its listener is there a server may fail calls, too.
    assert!(failed >= failures, "{failed}");
    events
        .wait("sidestep::outliers", "no longer ejected", |_| true)
        .await;
    scene.used(&[0, 1, 2]).await;
    // The first ejection takes three failures, each further one a single call.
    let probes = scene.ejections();
    let probes: i64 = probes
        .iter()
        .filter(|(l, _)| l.starts_with("probe"))
        .map(|(_, n)| n)
        .sum();
    assert!(probes >= 3, "{:?}", scene.ejections());
    assert!(probes <= failures as i64 - 3, "{:?}", scene.ejections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_everybody_is_back() {
    let keys =
        format!("{{consecutive_failures: 2, max_ejection_percent: 50, interval: 1h, {LONG}}}");
    let mut scene = Scene::new(&keys, vec![good(), bad(Code::Unavailable)]).await;
    scene.used(&[0]).await;
    scene.keys = "outlier_detection: none".to_owned();
    scene.push(2);
    scene.used(&[0, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ejection_survives_other_endpoints_and_another_policy() {
    let keys =
        format!("{{consecutive_failures: 2, max_ejection_percent: 50, interval: 1h, {LONG}}}");
    let faults = vec![bad(Code::Unavailable), good(), good(), good()];
    let mut scene = Scene::new(&keys, faults).await;
    scene.push(3);
    scene.used(&[1, 2]).await;
    scene.push(4);
    scene.used(&[1, 2, 3]).await;
    scene.keys.push_str("\nbalance: {policy: random}");
    scene.push(4);
    scene.used(&[1, 2, 3]).await;
    scene.push(2);
    scene.used(&[1]).await;
    assert_eq!(
        scene.ejections(),
        [("consecutive_5xx|greeter".to_owned(), 1)]
    );
}

fn cluster(outlier_detection: OutlierDetection) -> Any {
    codec::encode(&Resource::Cluster(std::sync::Arc::new(Cluster {
        outlier_detection: Some(outlier_detection),
        ..Cluster::eds("c")
    })))
}

/// A caller of cluster `c` under a control plane that says `assignment` of it, and backends.
async fn raw_scene(
    detection: OutlierDetection,
    faults: Vec<Faults>,
    assignment: impl Fn(&[&str]) -> Any,
) -> (Fixture, Vec<Backend>, TestServiceClient<Channel>) {
    let resources = RawResources::unchecked([]).unwrap();
    let fixture = Fixture::raw(resources).await;
    let servers = builder(&bootstrap(&fixture.address(), "c"))
        .build()
        .unwrap();
    let backends = faults.into_iter().enumerate();
    let backends = backends.map(|(at, faults)| Backend::start(&servers, &at.to_string(), faults));
    let backends: Vec<_> = backends.collect();
    let addresses: Vec<_> = backends.iter().map(|b| b.address.as_str()).collect();
    let listeners = addresses.iter().map(|a| raw::server_listener(a, None));
    let own = [
        raw::listener("c", "r"),
        raw::routes("r", &["c"]),
        cluster(detection),
        assignment(&addresses),
    ];
    fixture
        .resources()
        .replace(own.into_iter().chain(listeners))
        .unwrap();
    let client = fixture.client("xds:///c");
    (fixture, backends, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priority_whose_endpoints_are_all_ejected_gives_way() {
    let detection = OutlierDetection {
        max_ejection_percent: 100,
        consecutive_failures: Some(FailureRun {
            count: 2,
            enforcing: 100,
        }),
        ..OutlierDetection::default()
    };
    let faults = vec![bad(Code::Unavailable), bad(Code::Unavailable), good()];
    let (_fixture, _backends, mut client) = raw_scene(detection, faults, |addresses| {
        let [a, b, c] = addresses else { panic!() };
        raw::assignment("c", &[(0, 1, a), (0, 1, b), (1, 1, c)], &[])
    })
    .await;
    let mut row = 0;
    let settled = tokio::time::timeout(PATIENCE, async {
        while row < MANY {
            match call(&mut client).await {
                Ok(answer) => {
                    assert_eq!(answer.server, "2");
                    row += 1;
                }
                Err(_) => row = 0,
            }
            tokio::task::yield_now().await;
        }
    });
    settled.await.expect("the second priority takes over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_find_everybody_ejected_are_told_why() {
    let detection = OutlierDetection {
        interval: std::time::Duration::from_millis(50),
        max_ejection_percent: 100,
        failure_percentage: Some(FailurePercentage {
            threshold: 50,
            enforcing: 100,
            minimum_hosts: 1,
            request_volume: 1,
        }),
        ..OutlierDetection::default()
    };
    let faults = vec![bad(Code::NotFound)];
    let (_fixture, _backends, mut client) = raw_scene(detection, faults, |addresses| {
        raw::endpoints("c", addresses)
    })
    .await;
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            let status = call(&mut client).await.unwrap_err();
            if status.message().contains("ejected") {
                return status;
            }
            tokio::task::yield_now().await;
        }
    });
    let told = told.await.expect("nobody is left");
    assert_eq!(told.code(), Code::Unavailable);
    let text = told.message();
    for part in [
        "cluster \"c\"",
        "ejected for 30s, because 100.0% of its calls failed",
    ] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(text.ends_with("[SX0419]"), "{text}");
}
