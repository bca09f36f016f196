//! A management server that does everything wrong, at each step of a stream: what was good stays
//! in use, calls go on, and the truth is taken as soon as it is told.

use std::time::{Duration, Instant};

use sidestep::{Channel, Mesh, MeshBuilder};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::ads::Variant;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::Any;
use sidestep_tests::events::Events;
use sidestep_tests::fixture::{Backend, Fixture, bootstrap, builder, mesh_file, quick};
use sidestep_tests::hostile::{Deed, HostilePlane, Step, TABLE};
use sidestep_tests::load::{Load, call, until};
use sidestep_tests::raw;
use tonic::Code;

type Client = TestServiceClient<Channel>;

async fn backends() -> (Fixture, [Backend; 2]) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backends = ["a", "b"].map(|id| Backend::start(&servers, id, Faults::default()));
    (fixture, backends)
}

fn service_at(backend: &Backend) -> [Any; 4] {
    raw::service("greeter", raw::endpoints("greeter", &[&backend.address]))
}

/// A process whose pauses are as short as can be.
fn hasty(plane: &HostilePlane, variant: Variant) -> MeshBuilder {
    let mut timers = quick();
    timers.ads.backoff_initial = Duration::from_millis(1);
    timers.ads.backoff_max = Duration::from_millis(5);
    let builder = builder(&bootstrap(&plane.address, "web"));
    builder.variant(variant).timers(timers)
}

fn client_of(mesh: &Mesh) -> Client {
    TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
}

async fn until_server(client: &mut Client, id: &str) {
    until(client, |o| o.as_ref().is_ok_and(|a| a.server == id))
        .await
        .unwrap();
}

/// Whether a deed can be done before there is anything to say.
fn fits(step: Step, deed: Deed) -> bool {
    let breaks = matches!(
        deed,
        Deed::Reset(_) | Deed::End(_) | Deed::Goaway | Deed::Abort
    );
    step != Step::Open || breaks
}

/// A process that knows nothing yet.
async fn first_stream(variant: Variant) {
    let (_servers, [a, _b]) = backends().await;
    for step in Step::STREAM {
        for (name, deed) in TABLE.iter().filter(|(_, deed)| fits(step, *deed)) {
            println!("{variant:?}: {name}, at {step:?}");
            let plane = HostilePlane::start(service_at(&a)).await;
            plane.plan(step, *deed, 1);
            let mesh = hasty(&plane, variant).build().unwrap();
            let mut client = client_of(&mesh);
            until_server(&mut client, "a").await;
            plane.until("the deed", |seen| seen.deeds == 1).await;
            until_server(&mut client, "a").await;
        }
    }
}

#[tokio::test]
async fn a_first_stream_survives_every_wrong_at_every_step() {
    first_stream(Variant::StateOfTheWorld).await;
}

#[tokio::test]
async fn a_first_delta_stream_survives_every_wrong_at_every_step() {
    first_stream(Variant::Delta).await;
}

/// A process that has been at work for long.
async fn last_good(variant: Variant) {
    let (_servers, backends) = backends().await;
    let plane = HostilePlane::start(service_at(&backends[0])).await;
    let mesh = hasty(&plane, variant).build().unwrap();
    let mut client = client_of(&mesh);
    let load = Load::start(&client, 2).await;
    let mut turn = 0;
    for step in Step::STREAM {
        for (name, deed) in TABLE.iter().filter(|(_, deed)| fits(step, *deed)) {
            println!("{variant:?}: {name}, at {step:?}");
            let before = plane.seen();
            plane.plan(step, *deed, 1);
            plane.order(Deed::Reset(h2::Reason::CANCEL));
            // The order itself is a deed.
            plane
                .until("the deed", |seen| seen.deeds == before.deeds + 2)
                .await;
            turn += 1;
            let next = &backends[turn % 2];
            plane.replace(service_at(next));
            until_server(&mut client, ["a", "b"][turn % 2]).await;
        }
    }
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.retried, 0);
}

#[tokio::test]
async fn the_last_good_state_survives_every_wrong_at_every_step() {
    last_good(Variant::StateOfTheWorld).await;
}

#[tokio::test]
async fn the_last_good_state_survives_every_wrong_at_every_step_in_delta() {
    last_good(Variant::Delta).await;
}

/// Random rows of deeds, on the open stream and at the steps of later ones, and then the truth.
#[tokio::test]
async fn whatever_goes_wrong_the_truth_wins() {
    let (_servers, backends) = backends().await;
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let seed = fastrand::u64(..);
        println!("{variant:?} seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let plane = HostilePlane::start(service_at(&backends[0])).await;
        let mesh = hasty(&plane, variant).build().unwrap();
        let mut client = client_of(&mesh);
        let load = Load::start(&client, 2).await;
        for turn in 1..=30 {
            for _ in 0..rng.usize(1..6) {
                let (name, deed) = TABLE[rng.usize(0..TABLE.len())];
                let (_, later) = TABLE[rng.usize(0..TABLE.len())];
                let step = Step::STREAM[rng.usize(0..Step::STREAM.len())];
                println!("{name} now; {later:?} at {step:?}");
                plane.plan(step, later, rng.u32(1..4));
                plane.order(deed);
                load.further(rng.u64(1..10)).await;
            }
            plane.behave();
            plane.replace(service_at(&backends[turn % 2]));
            until_server(&mut client, ["a", "b"][turn % 2]).await;
        }
        load.stop().await.assert_none_failed();
    }
}

/// What stands before HTTP/2, or in its place.
#[tokio::test]
async fn a_connection_that_is_none_is_given_up_and_tried_again() {
    let (_servers, [a, b]) = backends().await;
    for deed in [
        Deed::Abort,
        Deed::Silence,
        Deed::Bytes(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n"[..].into()),
        // A TLS alert.
        Deed::Bytes(|_| [21, 3, 3, 0, 2, 2, 40][..].into()),
        // SETTINGS with a length that is no multiple of six.
        Deed::Bytes(|_| [0, 0, 5, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0][..].into()),
    ] {
        println!("{deed:?}");
        let plane = HostilePlane::start(service_at(&a)).await;
        plane.plan(Step::Connect, deed, 3);
        let mut timers = quick();
        timers.connect_timeout = Duration::from_millis(100);
        let process = builder(&bootstrap(&plane.address, "web")).timers(timers);
        let mut client = client_of(&process.build().unwrap());
        let status = call(&mut client).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(&plane.address), "{status}");
        until_server(&mut client, "a").await;
        plane.until("three tries", |seen| seen.deeds == 3).await;

        plane.plan(Step::Connect, deed, 2);
        plane.order(Deed::Abort);
        plane.until("two more", |seen| seen.deeds == 6).await;
        plane.replace(service_at(&b));
        let load = Load::start(&client, 1).await;
        until_server(&mut client, "b").await;
        load.stop().await.assert_none_failed();
    }
}

/// Slow instead of dead: who knows nothing hears so, who knows something goes on.
#[tokio::test]
async fn a_silent_server_costs_nothing_known_and_is_named_otherwise() {
    let (_servers, [a, b]) = backends().await;
    for step in Step::STREAM {
        println!("silent at {step:?}");
        let plane = HostilePlane::start(service_at(&a)).await;
        let mut timers = quick();
        timers.ads.does_not_exist = Duration::from_millis(100);
        let process = builder(&bootstrap(&plane.address, "web")).timers(timers);
        let mesh = process.build().unwrap();
        plane.plan(step, Deed::Silence, 1);
        let mut client = client_of(&mesh);
        if step == Step::Told {
            until_server(&mut client, "a").await;
        } else {
            let status = call(&mut client).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
            for part in ["does not exist", &plane.address, "web-node"] {
                assert!(status.message().contains(part), "{status}");
            }
        }
        plane.until("silence", |seen| seen.deeds == 1).await;
        plane.behave();
        until_server(&mut client, "a").await;

        let load = Load::start(&client, 1).await;
        plane.plan(step, Deed::Silence, 1);
        plane.order(Deed::Abort);
        plane.until("silence again", |seen| seen.deeds == 3).await;
        load.further(200).await;
        plane.replace(service_at(&b));
        plane.behave();
        until_server(&mut client, "b").await;
        load.stop().await.assert_none_failed();
    }
}

#[tokio::test]
async fn a_server_that_answers_and_hangs_up_is_asked_less_and_less_often() {
    let (_servers, [a, b]) = backends().await;
    for step in [Step::Told, Step::Ask(ResourceType::EndpointAssignment)] {
        let plane = HostilePlane::start(service_at(&a)).await;
        let mut timers = quick();
        timers.ads.backoff_initial = Duration::from_millis(100);
        timers.ads.backoff_max = Duration::from_millis(160);
        let process = builder(&bootstrap(&plane.address, "web")).timers(timers);
        let mesh = process.build().unwrap();
        plane.plan(step, Deed::Reset(h2::Reason::INTERNAL_ERROR), 6);
        let mut client = client_of(&mesh);
        let began = Instant::now();
        let mut fails = tokio::spawn({
            let mut client = client.clone();
            async move { call(&mut client).await }
        });
        plane.until("six resets", |seen| seen.deeds == 6).await;
        // One of them is forgiven. Jitter takes a fifth at most; the last pause has only begun.
        let least = Duration::from_millis(100 + 160 * 3) * 4 / 5;
        assert!(began.elapsed() >= least, "{:?}", began.elapsed());
        if step != Step::Told {
            let status = (&mut fails).await.unwrap().unwrap_err();
            assert!(status.message().contains(&plane.address), "{status}");
        }
        until_server(&mut client, "a").await;
        plane.replace(service_at(&b));
        until_server(&mut client, "b").await;
    }
}

/// A server that sends and sends, and never reads what it is answered.
#[tokio::test]
async fn a_flood_of_a_server_that_does_not_listen_is_held_back() {
    let (_servers, [a, b]) = backends().await;
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let plane = HostilePlane::start(service_at(&a)).await;
        let mut client = plane.client(variant);
        let load = Load::start(&client, 1).await;
        plane.until("it is told", |seen| seen.answers >= 4).await;
        plane.order(Deed::Flood(u32::MAX));
        let mut last = plane
            .until("a flood", |seen| seen.flooded > 0)
            .await
            .flooded;
        loop {
            load.further(300).await;
            let now = plane.seen().flooded;
            if now == last {
                break;
            }
            last = now;
            assert!(last < 64 << 20, "{last} bytes, and no end");
        }
        plane.behave();
        plane.replace(service_at(&b));
        until_server(&mut client, "b").await;
        load.stop().await.assert_none_failed();
    }
}

/// Each NACK is answered with the same again.
#[tokio::test]
async fn a_storm_of_refusals_is_told_once_and_leaves_with_the_server() {
    let (_servers, [a, b]) = backends().await;
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let events = Events::catch();
        let plane = HostilePlane::start(service_at(&a)).await;
        let mut client = plane.client(variant);
        let load = Load::start(&client, 1).await;
        let (_, bad) = TABLE
            .iter()
            .find(|(name, _)| *name == "another type inside")
            .unwrap();
        plane.plan(Step::Told, *bad, 500);
        plane.order(*bad);
        let seen = plane.until("a storm", |seen| seen.deeds == 501).await;
        assert!(seen.nacks.len() >= 99, "{seen:?}");
        assert_eq!(seen.streams, 1, "no reason to leave");
        let told = events
            .all()
            .into_iter()
            .filter(|told| told.message == "NACK" && told.level == tracing::Level::WARN);
        assert_eq!(told.count(), 1);
        plane.replace(service_at(&b));
        until_server(&mut client, "b").await;
        load.stop().await.assert_none_failed();
    }
}

/// The server's side: its Listener stays, whatever it is told.
async fn last_listener(variant: Variant) {
    let plane = HostilePlane::start([]).await;
    let mesh = builder(&bootstrap(&plane.address, "greeter")).variant(variant);
    let mut timers = quick();
    timers.ads.backoff_initial = Duration::from_millis(1);
    timers.ads.backoff_max = Duration::from_millis(5);
    let mesh = mesh.timers(timers).build().unwrap();
    let backend = Backend::start(&mesh, "a", Faults::default());
    let listener = || [raw::server_listener(&backend.address, None)];
    plane.replace(listener());
    let direct = Mesh::builder().build().unwrap();
    let mut client = TestServiceClient::new(direct.channel(&backend.address).unwrap());
    let load = Load::start(&client, 2).await;
    for step in [Step::Open, Step::Ask(ResourceType::Listener)] {
        for (name, deed) in TABLE.iter().filter(|(_, deed)| fits(step, *deed)) {
            println!("{variant:?}: {name}, at {step:?}");
            let before = plane.seen();
            plane.plan(step, *deed, 1);
            plane.order(Deed::Reset(h2::Reason::CANCEL));
            let done = |seen: &sidestep_tests::hostile::Seen| seen.deeds == before.deeds + 2;
            plane.until("the deed", done).await;
            load.further(5).await;
            let answered = plane.seen().answers;
            plane.replace(listener());
            plane
                .until("an answer", |seen| seen.answers > answered)
                .await;
            // New connections are let in as well.
            let anew = Mesh::builder().build().unwrap();
            let anew = anew.channel(&backend.address).unwrap();
            call(&mut TestServiceClient::new(anew)).await.unwrap();
        }
    }
    load.stop().await.assert_none_failed();
    // It still does as it is told.
    plane.replace([raw::server_listener_with(
        &backend.address,
        raw::route_configuration("inbound", &["elsewhere"]),
    )]);
    until(&mut client, Result::is_err).await.unwrap_err();
    plane.replace(listener());
    until(&mut client, Result::is_ok).await.unwrap();
}

#[tokio::test]
async fn a_server_keeps_its_last_listener_through_every_wrong() {
    last_listener(Variant::StateOfTheWorld).await;
}

#[tokio::test]
async fn a_server_keeps_its_last_listener_through_every_wrong_in_delta() {
    last_listener(Variant::Delta).await;
}
