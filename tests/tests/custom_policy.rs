//! Load balancing by a policy of the program's own, chosen by the control plane.

use std::sync::Arc;

use serde_json::json;
use sidestep::Mesh;
use sidestep::balancer::{
    Call, CustomPolicy, Endpoint, LoadBalancer, Pick, Picker, SubchannelId, over_ready,
};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::resource::Health::Unknown;
use sidestep_proto::resource::{self, LbPolicy};
use sidestep_proto::wire::Any;
use sidestep_tests::load::{PATIENCE, until};
use sidestep_tests::places::{Places, tally};
use sidestep_tests::raw;

/// Calls go to one zone as long as it has a ready endpoint.
#[derive(Debug)]
struct Zone;

impl CustomPolicy for Zone {
    fn name(&self) -> &str {
        "org.example.Zone"
    }

    fn build(&self, config: &str, _: u64) -> Result<Box<dyn LoadBalancer>, String> {
        let config: serde_json::Value = serde_json::from_str(config).map_err(|e| e.to_string())?;
        let zone = config["zone"].as_str().ok_or("`zone` must be a name")?;
        let zone = zone.to_owned();
        Ok(over_ready(move |ready: &[Endpoint]| {
            let mut endpoints = ready.iter();
            let inside = endpoints.find(|endpoint| endpoint.locality.zone == zone);
            Arc::new(Only(inside.unwrap_or(&ready[0]).id))
        }))
    }
}

#[derive(Debug)]
struct Only(SubchannelId);

impl Picker for Only {
    fn pick<'a>(&'a self, _: &Call<'_>) -> Pick<'a> {
        Pick::Ready(self.0)
    }
}

fn cluster(config: &serde_json::Value) -> Any {
    raw::cluster_by(
        "greeter",
        LbPolicy::Custom(resource::CustomPolicy {
            name: "org.example.Zone".to_owned(),
            config: config.to_string(),
            registered: None,
        }),
    )
}

fn process(places: &Places, knows: bool) -> Mesh {
    let builder = places.plane.builder("web");
    let builder = match knows {
        true => builder.load_balancer(Zone),
        false => builder,
    };
    builder.build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_chooses_a_policy_of_the_program() {
    let places = Places::start(&["a", "b"]).await;
    let zones = || {
        vec![
            places.zone("east", 0, 1, &[(0, Unknown)]),
            places.zone("west", 0, 1, &[(1, Unknown)]),
        ]
    };
    places.say(cluster(&json!({"zone": "west"})), zones());
    let web = process(&places, true);
    let channel = web.channel("xds:///greeter").unwrap();
    channel.ready().await;
    let mut client = TestServiceClient::new(channel.clone());
    let by = |id: &'static str| {
        move |answer: &Result<sidestep_tests::load::Answer, _>| {
            answer.as_ref().is_ok_and(|answer| answer.server == id)
        }
    };
    until(&mut client, by("b")).await.unwrap();
    let west = tally(&channel, 20).await;
    west.assert_none_failed();
    assert_eq!(west.by_server.len(), 1, "{west:?}");
    let clusters = web.clusters().await.unwrap();
    let policy = clusters[0].policy.as_ref().unwrap();
    assert!(matches!(policy, LbPolicy::Custom(custom) if custom.config == r#"{"zone":"west"}"#));

    // Another configuration is another policy.
    places.say(cluster(&json!({"zone": "east"})), zones());
    until(&mut client, by("a")).await.unwrap();

    // One that the policy refuses is refused whole, and the last good one stays.
    places.say(cluster(&json!({"zone": 7})), zones());
    let refused = async {
        loop {
            let resources = web.resources().await.unwrap();
            let mut failures = resources
                .into_iter()
                .filter_map(|resource| resource.failure);
            if let Some(failure) = failures.next() {
                return failure.details;
            }
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let reason = "the policy \"org.example.Zone\" refuses it: `zone` must be a name";
    assert!(refused.contains(reason), "{refused}");
    assert!(
        refused.contains("load_balancing_policy.policies[0]"),
        "{refused}"
    );
    assert_eq!(tally(&channel, 10).await.by_server["a"], 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_registered_it_takes_the_next_one_or_refuses_the_cluster() {
    let places = Places::start(&["a", "b"]).await;
    let zones = || {
        vec![
            places.zone("east", 0, 1, &[(0, Unknown)]),
            places.zone("west", 0, 1, &[(1, Unknown)]),
        ]
    };
    places.say(cluster(&json!({"zone": "west"})), zones());
    let stranger = process(&places, false);
    let channel = stranger.channel("xds:///greeter").unwrap();
    let failed = tally(&channel, 1).await.failed;
    let text = "none of the policies is supported: org.example.Zone";
    assert!(failed[0].message().contains(text), "{failed:?}");

    let next = raw::with_next_policy(&cluster(&json!({"zone": "west"})), &LbPolicy::RoundRobin);
    places.say(next, zones());
    let mut client = TestServiceClient::new(channel.clone());
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        seen.insert(until(&mut client, Result::is_ok).await.unwrap().server);
    }
    // A program that has it goes on taking it.
    let web = process(&places, true);
    let channel = web.channel("xds:///greeter").unwrap();
    channel.ready().await;
    let mut client = TestServiceClient::new(channel.clone());
    let west = |answer: &Result<sidestep_tests::load::Answer, _>| {
        answer.as_ref().is_ok_and(|answer| answer.server == "b")
    };
    until(&mut client, west).await.unwrap();
    assert_eq!(tally(&channel, 20).await.by_server.len(), 1);
}
