//! Why calls go where they go: route, cluster, policy, and each endpoint with what keeps it out.

use http::Request;
use sidestep::explain::{Answer, Candidate, Outcome, Share};
use sidestep_proto::resource::Health::{Draining, Unhealthy, Unknown};
use sidestep_tests::admin::get;
use sidestep_tests::fixture::unused_address;
use sidestep_tests::load::PATIENCE;
use sidestep_tests::places::{self, Places};
use sidestep_tests::raw;

fn share(answer: &Answer) -> &Share {
    match &answer.outcome {
        Outcome::Sent { clusters, .. } => &clusters[0],
        fails => panic!("{fails:?}"),
    }
}

fn candidate<'a>(answer: &'a Answer, address: &str) -> &'a Candidate {
    let mut endpoints = share(answer).endpoints.iter();
    let found = endpoints.find(|candidate| candidate.address == address);
    found.unwrap_or_else(|| panic!("{address} in {answer:#?}"))
}

fn call() -> Request<()> {
    let call = Request::post("http://greeter/grpc.testing.TestService/UnaryCall");
    call.body(()).expect("a good request")
}

async fn eventually(channel: &sidestep::Channel, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let found = async {
        loop {
            let answer = channel.explain(&call()).await.expect("the mesh is there");
            if wanted(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.expect("it is as wanted in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_endpoint_says_whether_calls_go_there_and_why_not() {
    let places = Places::start(&["a", "b", "c", "d", "e"]).await;
    let nobody = unused_address();
    let mut east = places.zone("east", 0, 3, &[(0, Unknown), (1, Draining)]);
    places::add(&mut east, &nobody);
    let west = places.zone("west", 0, 1, &[(2, Unknown), (3, Unhealthy)]);
    let spare = places.zone("far", 1, 1, &[(4, Unknown)]);
    places.say(raw::cluster("greeter"), vec![east, west, spare]);
    let web = places.process("east");
    let channel = web.channel("xds:///greeter").unwrap();
    channel.ready().await;

    let failed = |answer: &Answer| {
        let reason = &candidate(answer, &nobody).reason;
        let ready = |at| candidate(answer, places.address(at)).takes_calls == Some(true);
        reason.starts_with("TRANSIENT_FAILURE: ") && ready(0) && ready(2)
    };
    let answer = eventually(&channel, failed).await;
    assert!(answer.rules[0].takes_the_call);
    let share = share(&answer);
    assert_eq!(share.name, "greeter");
    assert_eq!(share.policy, "round robin in localities by weight");
    assert!(!share.failing);
    let expected = [
        (
            0,
            "zone east, its locality gets 75 % of calls",
            "READY, 0 in flight",
        ),
        (
            2,
            "zone west, its locality gets 25 % of calls",
            "READY, 0 in flight",
        ),
    ];
    for (at, place, reason) in expected {
        let candidate = candidate(&answer, places.address(at));
        assert_eq!(candidate.place, place);
        assert_eq!(candidate.reason, reason);
    }
    for (at, reason) in [
        (1, "its health is DRAINING"),
        (3, "its health is UNHEALTHY"),
        (4, "priority 0 is in use"),
    ] {
        let candidate = candidate(&answer, places.address(at));
        assert_eq!(candidate.takes_calls, Some(false), "{candidate:?}");
        assert_eq!(candidate.reason, reason);
    }

    // The same as text, from the admin endpoint, and by code.
    let text = answer.to_text(|_, text| text.to_owned());
    let line = format!(
        "{}, zone far, priority 1: not a candidate: ",
        places.address(4)
    );
    assert!(text.contains(&line), "{text}");
    let admin = web.admin("127.0.0.1:0").unwrap().to_string();
    let page = get(
        &admin,
        "/explain?format=json&target=greeter&path=grpc.testing.TestService/UnaryCall",
    );
    let page = serde_json::from_value::<Answer>(page.await.json()).unwrap();
    assert_eq!(page.outcome, answer.outcome);
    let clusters = get(&admin, "/clusters?format=json").await.json();
    let hosts = clusters["cluster_statuses"][0]["host_statuses"]
        .as_array()
        .unwrap();
    let spare = hosts.iter().find(|host| host["priority"] == 1).unwrap();
    assert_eq!(spare["takes_calls"], false);
    assert_eq!(spare["takes_no_calls_because"], "priority 0 is in use");
    let clusters = web.clusters().await.unwrap();
    let spare = clusters[0]
        .endpoints
        .iter()
        .find(|e| e.priority == 1)
        .unwrap();
    assert_eq!(spare.passed_over.as_deref(), Some("priority 0 is in use"));
    assert!((spare.current_weight - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_a_way_says_so() {
    let places = Places::start(&[]).await;
    let web = places.process("east");
    let nowhere = web.channel("xds:///nowhere").unwrap();
    nowhere.loaded().await.unwrap_err();
    let answer = nowhere.explain(&call()).await.unwrap();
    assert_eq!(answer.path, "/grpc.testing.TestService/UnaryCall");
    match &answer.outcome {
        Outcome::Fails(reason) => assert!(reason.contains("nowhere"), "{reason}"),
        sent => panic!("{sent:?}"),
    }
    let nobody = unused_address();
    let direct = web.channel(&nobody).unwrap();
    let answer = eventually(&direct, |answer| answer.outcome.fails()).await;
    assert_eq!(candidate(&answer, &nobody).takes_calls, Some(false));
}
