//! One test per rule of the transport protocol, the server played by hand.

use std::time::{Duration, Instant};

use super::{
    Authorities, ClientConfig, ClientStream, Event, Output, ResourceError, ServerInfo, Timers,
};
use crate::ads::fake::{self, any};
use crate::ads::{Request, Response, Variant};
use crate::bootstrap::ServerFeatures;
use crate::codec::{Context, InvalidResource};
use crate::resource::ResourceType::{self, Cluster, EndpointAssignment, Listener};
use crate::resource::{Resource, ResourceType as T};
use crate::wire::Any;
use crate::wire::core::Node;
use crate::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as WireResource, ResourceError as WireError, ResourceName,
};
use crate::wire::rpc::Status;

const BOTH: [Variant; 2] = [Variant::StateOfTheWorld, Variant::Delta];

struct Client {
    variant: Variant,
    stream: ClientStream,
    now: Instant,
    requests: Vec<Request>,
    events: Vec<Event>,
    connects: Vec<usize>,
    disconnects: Vec<usize>,
    /// The one that `connected`, `closed` and `answer` are about: the one tried last.
    server: usize,
}

impl Client {
    fn new(variant: Variant) -> Self {
        Self::with_servers(variant, &[ServerFeatures::default()])
    }

    fn with_servers(variant: Variant, features: &[ServerFeatures]) -> Self {
        let authorities = Authorities {
            default: (0..features.len()).collect(),
            ..Authorities::default()
        };
        Self::with_authorities(variant, features, authorities)
    }

    fn with_authorities(
        variant: Variant,
        features: &[ServerFeatures],
        authorities: Authorities,
    ) -> Self {
        let now = Instant::now();
        let servers = features.iter().enumerate();
        let config = ClientConfig {
            variant,
            node: Node {
                id: "me".into(),
                ..Node::default()
            },
            context: Context::default(),
            servers: servers
                .map(|(i, features)| ServerInfo {
                    uri: format!("server-{i}"),
                    features: *features,
                })
                .collect(),
            authorities,
            timers: Timers::default(),
            seed: 1,
        };
        Self {
            variant,
            stream: ClientStream::with_decode(config, now, fake::decode),
            now,
            requests: Vec::new(),
            events: Vec::new(),
            connects: Vec::new(),
            disconnects: Vec::new(),
            server: 0,
        }
    }

    /// Subscribed to these and connected; what that gave is forgotten.
    fn up(variant: Variant, names: &[(ResourceType, &str)]) -> Self {
        let mut client = Self::new(variant);
        client.subscribe_all(names);
        client.connected();
        client.forget();
        client
    }

    fn subscribe_all(&mut self, names: &[(ResourceType, &str)]) {
        for (t, name) in names {
            self.stream.subscribe(self.now, *t, name);
        }
        self.drain();
    }

    fn unsubscribe(&mut self, t: ResourceType, name: &str) {
        self.stream.unsubscribe(self.now, t, name);
        self.drain();
    }

    fn connected(&mut self) {
        self.stream.handle_connected(self.now, self.server);
        self.drain();
    }

    fn closed(&mut self) {
        self.stream.handle_closed(self.now, self.server, "cut");
        self.drain();
    }

    fn answer(&mut self, response: Response) {
        self.stream.handle_response(self.now, self.server, response);
        self.drain();
    }

    /// Texts read `name=content`.
    fn give(&mut self, t: ResourceType, nonce: &str, texts: &[&str]) {
        self.answer(response(self.variant, t, nonce, texts));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.stream.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.stream.poll_output() {
            match output {
                Output::Connect { server, .. } => {
                    self.server = server;
                    self.connects.push(server);
                }
                Output::Disconnect { server } => self.disconnects.push(server),
                Output::Send { request, .. } => self.requests.push(request),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    fn forget(&mut self) {
        self.requests.clear();
        self.events.clear();
        self.connects.clear();
        self.disconnects.clear();
    }

    fn only_request(&mut self) -> Request {
        assert_eq!(self.requests.len(), 1, "{:?}", self.requests);
        self.requests.remove(0)
    }

    fn only_whole(&mut self) -> DiscoveryRequest {
        match self.only_request() {
            Request::StateOfTheWorld(request) => request,
            Request::Delta(_) => panic!("not delta"),
        }
    }

    fn only_delta(&mut self) -> DeltaDiscoveryRequest {
        match self.only_request() {
            Request::Delta(request) => request,
            Request::StateOfTheWorld(_) => panic!("delta"),
        }
    }

    /// What watchers heard, in short: `+name=content`, `!name error`, `~name error` where the
    /// cached one stays, `ok name` where it no longer matters.
    fn heard(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
            .into_iter()
            .filter_map(|event| match event {
                Event::Resource(resource) => Some(format!("+{}", content(&resource))),
                Event::Error {
                    name,
                    error,
                    cached,
                    ..
                } => {
                    let mark = if cached { '~' } else { '!' };
                    Some(format!("{mark}{name} {}", kind(&error)))
                }
                Event::Cleared { name, .. } => Some(format!("ok {name}")),
                _ => None,
            })
            .collect()
    }
}

fn kind(error: &ResourceError) -> String {
    match error {
        ResourceError::Invalid(InvalidResource { reason, .. }) => format!("invalid: {reason}"),
        ResourceError::Deleted => "deleted".into(),
        ResourceError::DoesNotExist => "does not exist".into(),
        ResourceError::Refused { code, message } => format!("{code} {message}"),
        ResourceError::TimedOut => "timed out".into(),
        other => other.to_string(),
    }
}

fn content(resource: &Resource) -> String {
    let found = ["1", "2", "3", "odd"]
        .into_iter()
        .find(|c| fake::resource(resource.resource_type(), resource.name(), c) == *resource);
    format!("{}={}", resource.name(), found.expect("a content we use"))
}

fn response(variant: Variant, t: ResourceType, nonce: &str, texts: &[&str]) -> Response {
    let anys = texts.iter().map(|text| any(t, text));
    match variant {
        Variant::StateOfTheWorld => Response::StateOfTheWorld(DiscoveryResponse {
            version_info: format!("v{nonce}"),
            nonce: nonce.into(),
            type_url: t.type_url().into(),
            resources: anys.collect(),
            ..DiscoveryResponse::default()
        }),
        Variant::Delta => Response::Delta(DeltaDiscoveryResponse {
            system_version_info: format!("v{nonce}"),
            nonce: nonce.into(),
            type_url: t.type_url().into(),
            resources: anys
                .zip(texts)
                .map(|(any, text)| named(text, any))
                .collect(),
            ..DeltaDiscoveryResponse::default()
        }),
    }
}

fn named(text: &str, any: Any) -> WireResource {
    let (name, version) = text.split_once('=').unwrap_or(("", text));
    WireResource {
        name: name.into(),
        version: format!("r{version}"),
        resource: Some(any),
        ..WireResource::default()
    }
}

fn with_error(response: Response, name: &str, code: i32) -> Response {
    let error = WireError {
        resource_name: Some(ResourceName { name: name.into() }),
        error_detail: Some(Status {
            code,
            message: "said so".into(),
            ..Status::default()
        }),
    };
    match response {
        Response::StateOfTheWorld(mut r) => {
            r.resource_errors.push(error);
            Response::StateOfTheWorld(r)
        }
        Response::Delta(mut r) => {
            r.resource_errors.push(error);
            Response::Delta(r)
        }
    }
}

fn removed(t: ResourceType, nonce: &str, names: &[&str]) -> Response {
    let Response::Delta(mut r) = response(Variant::Delta, t, nonce, &[]) else {
        panic!("asked for delta");
    };
    r.removed_resources = names.iter().map(|n| (*n).to_owned()).collect();
    Response::Delta(r)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn connects_once_there_is_something_to_ask_for() {
    let mut client = Client::new(Variant::Delta);
    client.drain();
    assert!(client.connects.is_empty());
    assert_eq!(client.stream.poll_timeout(), None);
    client.subscribe_all(&[(Cluster, "a"), (Listener, "b")]);
    assert_eq!(client.connects, [0]);
    assert!(client.requests.is_empty(), "nothing before it is open");
}

#[test]
fn one_request_per_type_in_order_and_the_node_only_in_the_first() {
    for variant in BOTH {
        let mut client = Client::new(variant);
        for t in [T::RouteConfiguration, Listener, EndpointAssignment, Cluster] {
            client.subscribe_all(&[(t, "a"), (t, "b"), (t, "a")]);
        }
        client.connected();
        let urls: Vec<_> = client.requests.iter().map(Request::type_url).collect();
        assert_eq!(urls, ResourceType::ALL.map(ResourceType::type_url));
        let nodes: Vec<_> = client.requests.iter().map(|r| r.node().is_some()).collect();
        assert_eq!(nodes, [true, false, false, false]);
        for request in client.requests {
            let names = match request {
                Request::StateOfTheWorld(r) => r.resource_names,
                Request::Delta(r) => r.resource_names_subscribe,
            };
            assert_eq!(names, ["a", "b"]);
        }
    }
}

#[test]
fn a_good_response_is_acknowledged_with_its_version_and_nonce() {
    let mut client = Client::up(Variant::StateOfTheWorld, &[(Cluster, "a")]);
    client.give(Cluster, "7", &["a=1"]);
    assert_eq!(client.heard(), ["+a=1"]);
    let ack = client.only_whole();
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("v7", "7"));
    assert_eq!(ack.resource_names, ["a"]);
    assert_eq!(ack.error_detail, None);

    let mut client = Client::up(Variant::Delta, &[(Cluster, "a")]);
    client.give(Cluster, "7", &["a=1"]);
    let ack = client.only_delta();
    assert_eq!(ack.response_nonce, "7");
    assert_eq!(ack.error_detail, None);
    assert!(ack.resource_names_subscribe.is_empty(), "not named again");
    assert!(ack.initial_resource_versions.is_empty());
}

#[test]
fn a_bad_response_is_refused_with_every_problem_and_its_good_part_counts() {
    let names = [(Cluster, "a"), (Cluster, "b"), (Cluster, "c")];
    for variant in BOTH {
        let mut client = Client::up(variant, &names);
        client.give(Cluster, "1", &["a=1", "b=1"]);
        client.forget();
        client.give(Cluster, "2", &["a=2", "b=bad", "c=bad2", "junk"]);
        let heard = client.heard();
        assert_eq!(
            heard,
            ["+a=2", "~b invalid: is bad", "!c invalid: is bad2"],
            "{variant:?}"
        );
        let request = client.only_request();
        let status = request.error_detail().expect("refused");
        assert_eq!(status.code, 3);
        for part in ["Cluster \"b\"", "Cluster \"c\"", "resources[3]", "is bad2"] {
            assert!(status.message.contains(part), "{part}: {}", status.message);
        }
        assert_eq!(request.nonce(), "2");
        if let Request::StateOfTheWorld(request) = request {
            assert_eq!(request.version_info, "v1", "the last good one");
        }
    }
}

#[test]
fn each_response_gets_exactly_one_answer() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a")]);
        for nonce in ["1", "2", "3"] {
            let response = response(variant, Cluster, nonce, &["a=1"]);
            client.stream.handle_response(client.now, 0, response);
        }
        client.drain();
        let nonces: Vec<_> = client.requests.iter().map(Request::nonce).collect();
        assert_eq!(nonces, ["1", "2", "3"]);
    }
}

#[test]
fn a_name_twice_is_refused() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a")]);
        client.give(Cluster, "1", &["a=1", "a=1"]);
        assert_eq!(client.heard(), ["!a invalid: \"a\" appears twice"]);
        assert!(client.only_request().error_detail().is_some());
    }
}

#[test]
fn responses_nobody_asked_for_are_ignored() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a")]);
        client.give(Listener, "1", &["a=1"]);
        let other = match variant {
            Variant::StateOfTheWorld => Variant::Delta,
            Variant::Delta => Variant::StateOfTheWorld,
        };
        client.answer(response(other, Cluster, "2", &["a=1"]));
        let mut unknown = response(variant, Cluster, "3", &["a=1"]);
        match &mut unknown {
            Response::StateOfTheWorld(r) => r.type_url = "type.googleapis.com/x".into(),
            Response::Delta(r) => r.type_url = String::new(),
        }
        client.answer(unknown);
        assert!(client.requests.is_empty());
        let told = Event::Unasked {
            server: 0,
            type_url: Listener.type_url().into(),
        };
        assert_eq!(client.events, [told], "the first of them is told of");
        client.forget();
        client.give(Cluster, "4", &["a=1", "other=1"]);
        assert_eq!(client.heard(), ["+a=1"], "names nobody asked for, too");
    }
}

#[test]
fn the_last_unsubscription_is_said_and_later_responses_still_acknowledged() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a")]);
        client.give(Cluster, "1", &["a=1"]);
        client.forget();
        client.unsubscribe(Cluster, "a");
        match client.only_request() {
            Request::StateOfTheWorld(r) => {
                assert!(r.resource_names.is_empty());
                assert_eq!(r.response_nonce, "1");
            }
            Request::Delta(r) => {
                assert_eq!(r.resource_names_unsubscribe, ["a"]);
                assert_eq!(r.response_nonce, "");
            }
        }
        client.give(Cluster, "2", &["a=2"]);
        assert_eq!(client.only_request().nonce(), "2");
        assert!(client.heard().is_empty());
    }
}

#[test]
fn equal_content_is_not_announced_again() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a"), (Cluster, "b")]);
        client.give(Cluster, "1", &["a=1", "b=1"]);
        client.forget();
        client.give(Cluster, "2", &["a=1", "b=2"]);
        assert_eq!(client.heard(), ["+b=2"]);
    }
}

#[test]
fn fields_not_honoured_are_reported_once_per_content() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a")]);
        let mut reports = Vec::new();
        for (nonce, text) in [("1", "a=odd"), ("2", "a=odd"), ("3", "a=1"), ("4", "a=odd")] {
            client.give(Cluster, nonce, &[text]);
            let is_report = |e: &&Event| matches!(e, Event::Ignored { .. });
            reports.push(client.events.iter().filter(is_report).count());
            client.forget();
        }
        assert_eq!(reports, [1, 0, 0, 1]);
    }
}

#[test]
fn a_good_version_after_a_refused_one_clears_the_error() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a")]);
        client.give(Cluster, "1", &["a=1"]);
        client.give(Cluster, "2", &["a=bad"]);
        client.give(Cluster, "3", &["a=bad"]);
        client.give(Cluster, "4", &["a=1"]);
        client.give(Cluster, "5", &["a=bad"]);
        client.give(Cluster, "6", &["a=2"]);
        let heard = client.heard();
        let bad = "~a invalid: is bad";
        assert_eq!(heard, ["+a=1", bad, "ok a", bad, "ok a", "+a=2"]);
    }
}

#[test]
fn what_a_whole_state_leaves_out_is_deleted_for_two_types_only() {
    for t in ResourceType::ALL {
        let names = [(t, "a"), (t, "b"), (t, "never")];
        let mut client = Client::up(Variant::StateOfTheWorld, &names);
        client.give(t, "1", &["a=1", "b=1"]);
        client.forget();
        client.give(t, "2", &["b=1"]);
        let expected: &[&str] = if t.is_full_state() {
            &["~a deleted"]
        } else {
            &[]
        };
        assert_eq!(client.heard(), expected, "{t}");
        client.give(t, "3", &["a=1", "b=1"]);
        let expected: &[&str] = if t.is_full_state() { &["ok a"] } else { &[] };
        assert_eq!(client.heard(), expected, "{t}");
    }
}

#[test]
fn what_has_no_name_may_be_what_seems_to_be_missing() {
    let mut client = Client::up(Variant::StateOfTheWorld, &[(Cluster, "a")]);
    client.give(Cluster, "1", &["a=1"]);
    client.forget();
    client.give(Cluster, "2", &["junk"]);
    assert!(client.heard().is_empty());
}

#[test]
fn removal_in_delta_is_final_at_once() {
    for t in ResourceType::ALL {
        let mut client = Client::up(Variant::Delta, &[(t, "a"), (t, "b")]);
        client.give(t, "1", &["a=1"]);
        client.forget();
        client.answer(removed(t, "2", &["a", "b", "other"]));
        assert_eq!(client.heard(), ["~a deleted", "!b does not exist"], "{t}");
        assert_eq!(client.stream.poll_timeout(), None, "no timer is left");
        client.answer(removed(t, "3", &["a", "b"]));
        assert!(client.heard().is_empty(), "said before");
    }
}

#[test]
fn data_errors_drop_the_resource_where_the_server_is_configured_so() {
    let features = ServerFeatures {
        fail_on_data_errors: true,
        ..ServerFeatures::default()
    };
    for variant in BOTH {
        let mut client = Client::with_servers(variant, &[features]);
        client.subscribe_all(&[(Cluster, "a"), (Cluster, "b"), (Cluster, "c")]);
        client.connected();
        client.give(Cluster, "1", &["a=1", "b=1", "c=1"]);
        client.forget();
        let mut second = response(variant, Cluster, "2", &["a=bad"]);
        second = with_error(with_error(second, "b", 5), "c", 14);
        client.answer(second);
        let heard = client.heard();
        assert_eq!(
            heard,
            ["!a invalid: is bad", "!b 5 said so", "~c 14 said so"],
            "{variant:?}"
        );
        client.give(Cluster, "3", &["a=1", "b=1", "c=1"]);
        assert_eq!(client.heard(), ["+a=1", "+b=1", "ok c"]);
    }
}

#[test]
fn resource_errors_speak_for_one_resource_and_end_the_wait() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(EndpointAssignment, "a")]);
        let empty = response(variant, EndpointAssignment, "1", &[]);
        client.answer(with_error(empty, "a", 7));
        assert_eq!(client.heard(), ["!a 7 said so"]);
        assert!(client.only_request().error_detail().is_none(), "no NACK");
        assert_eq!(client.stream.poll_timeout(), None);
    }
}

#[test]
fn silence_becomes_an_answer_after_15_seconds_or_30() {
    let patient = ServerFeatures {
        resource_timer_is_transient_error: true,
        ..ServerFeatures::default()
    };
    for variant in BOTH {
        for (features, limit, expected) in [
            (ServerFeatures::default(), 15, "!a does not exist"),
            (patient, 30, "!a timed out"),
        ] {
            let mut client = Client::with_servers(variant, &[features]);
            client.subscribe_all(&[(Cluster, "a")]);
            client.pass(seconds(100));
            assert!(client.heard().is_empty(), "not sent yet");
            client.connected();
            client.pass(seconds(limit) - Duration::from_millis(1));
            assert!(client.heard().is_empty());
            let due = client.now + Duration::from_millis(1);
            assert_eq!(client.stream.poll_timeout(), Some(due));
            client.pass(Duration::from_millis(1));
            assert_eq!(client.heard(), [expected]);
            client.give(Cluster, "1", &["a=1"]);
            assert_eq!(client.heard(), ["+a=1"], "late is not never");
        }
    }
}

#[test]
fn the_timer_stops_with_the_stream_and_spares_what_is_cached() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a"), (Cluster, "b")]);
        client.give(Cluster, "1", &["a=1"]);
        client.pass(seconds(14));
        client.closed();
        client.pass(seconds(100));
        client.connected();
        client.forget();
        client.pass(seconds(14));
        assert!(client.heard().is_empty());
        client.pass(seconds(1));
        assert_eq!(client.heard(), ["!b does not exist"]);
    }
}

#[test]
fn a_new_subscription_after_the_last_ended_starts_fresh() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a")]);
        client.give(Cluster, "1", &["a=1"]);
        client.unsubscribe(Cluster, "a");
        client.forget();
        client.subscribe_all(&[(Cluster, "a")]);
        assert!(client.heard().is_empty(), "nothing stale");
        assert_eq!(client.requests.len(), 1);
        assert_eq!(client.stream.poll_timeout(), Some(client.now + seconds(15)));
        client.give(Cluster, "2", &["a=1"]);
        assert_eq!(client.heard(), ["+a=1"]);
    }
}

#[test]
fn leaving_and_coming_back_in_one_turn_costs_no_request() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a")]);
        client.give(Cluster, "1", &["a=1"]);
        client.forget();
        client.stream.unsubscribe(client.now, Cluster, "a");
        client.subscribe_all(&[(Cluster, "a")]);
        assert_eq!(client.heard(), ["+a=1"]);
        for request in &client.requests {
            if let Request::Delta(r) = request {
                assert!(r.resource_names_unsubscribe.is_empty());
            }
        }
    }
}

#[test]
fn a_stream_that_answered_is_replaced_at_once_others_after_a_pause() {
    let mut client = Client::up(Variant::Delta, &[(Cluster, "a")]);
    client.closed();
    assert!(client.connects.is_empty());
    let until = client.stream.poll_timeout().expect("a pause");
    let pause = until - client.now;
    assert!(pause >= Duration::from_millis(800) && pause <= Duration::from_millis(1200));
    client.pass(pause);
    assert_eq!(client.connects, [0]);
    client.closed();
    let longer = client.stream.poll_timeout().expect("a pause") - client.now;
    assert!(longer >= Duration::from_millis(1280) && longer <= Duration::from_millis(1920));
    client.pass(longer);
    client.connected();
    client.give(Cluster, "1", &["a=1"]);
    client.forget();
    client.closed();
    assert_eq!(client.connects, [0], "at once");
    client.closed();
    let reset = client.stream.poll_timeout().expect("a pause") - client.now;
    assert!(reset <= Duration::from_millis(1200));
}

#[test]
fn streams_that_answer_and_end_are_replaced_more_and_more_slowly() {
    for variant in BOTH {
        let mut client = Client::up(variant, &[(Cluster, "a"), (Cluster, "b")]);
        let mut pauses = Vec::new();
        for n in 0..6 {
            client.give(Cluster, &n.to_string(), &["a=1"]);
            client.forget();
            client.closed();
            if client.connects.is_empty() {
                let told = client.events.iter().any(
                    |e| matches!(e, Event::Unreachable { reason, .. } if reason == "server-0: cut"),
                );
                assert!(told, "b is missing: {:?}", client.events);
                let pause = client.stream.poll_timeout().expect("a pause") - client.now;
                pauses.push(pause.as_secs_f64());
                client.pass(pause);
            }
            assert_eq!(client.connects, [0]);
            client.connected();
        }
        assert_eq!(pauses.len(), 5, "only the first is replaced at once");
        assert!(pauses[0] >= 0.8 && pauses[0] <= 1.2, "{pauses:?}");
        assert!(pauses[4] >= 0.8 * 1.6_f64.powi(4), "{pauses:?}");
        // Steady again, it is replaced at once again.
        client.give(Cluster, "7", &["a=1"]);
        client.pass(seconds(1));
        client.forget();
        client.closed();
        assert_eq!(client.connects, [0]);
    }
}

#[test]
fn a_refusal_that_repeats_the_last_one_says_so() {
    let mut client = Client::up(Variant::StateOfTheWorld, &[(Cluster, "a")]);
    let mut heard = Vec::new();
    for texts in [&["a=bad"], &["a=bad"], &["a=bad2"], &["a=1"], &["a=bad2"]] {
        client.give(Cluster, "n", texts);
        heard.extend(client.events.drain(..).filter_map(|event| match event {
            Event::Rejected { repeated, .. } => Some(repeated),
            _ => None,
        }));
    }
    assert_eq!(heard, [false, true, false, false]);
}

#[test]
fn without_subscriptions_no_stream_is_reopened() {
    let mut client = Client::up(Variant::Delta, &[(Cluster, "a")]);
    client.unsubscribe(Cluster, "a");
    client.closed();
    client.pass(seconds(2));
    assert!(client.connects.is_empty());
    assert_eq!(client.stream.poll_timeout(), None);
    client.subscribe_all(&[(Cluster, "a")]);
    assert_eq!(client.connects, [0]);
}

#[test]
fn a_reconnect_shows_versions_but_no_nonce() {
    let mut client = Client::up(Variant::StateOfTheWorld, &[(Cluster, "a")]);
    client.give(Cluster, "1", &["a=1"]);
    client.closed();
    client.requests.clear();
    client.connected();
    let request = client.only_whole();
    assert_eq!(request.version_info, "v1");
    assert_eq!(request.response_nonce, "");
    assert_eq!(request.resource_names, ["a"]);
    assert!(request.node.is_some());

    let mut client = Client::up(Variant::Delta, &[(Cluster, "a"), (Cluster, "b")]);
    client.give(Cluster, "1", &["a=1"]);
    client.closed();
    client.requests.clear();
    client.connected();
    let request = client.only_delta();
    assert_eq!(request.resource_names_subscribe, ["a", "b"]);
    let versions: Vec<_> = request.initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("a".to_owned(), "r1".to_owned())]);
}

#[test]
fn a_version_is_shown_only_if_all_of_it_is_held() {
    type Spoil = fn(&mut Client);
    let spoilers: [(&str, Spoil); 3] = [
        ("grown", |c| c.subscribe_all(&[(Cluster, "new")])),
        ("half of a refused one used", |c| {
            c.give(Cluster, "2", &["a=2", "other=bad"]);
        }),
        ("a deleted one kept", |c| c.give(Cluster, "2", &[])),
    ];
    for (what, spoil) in spoilers {
        let mut client = Client::up(Variant::StateOfTheWorld, &[(Cluster, "a")]);
        client.give(Cluster, "1", &["a=1"]);
        spoil(&mut client);
        client.closed();
        client.requests.clear();
        client.connected();
        assert_eq!(client.only_whole().version_info, "", "{what}");
    }
}

#[test]
fn the_next_server_is_tried_while_something_is_missing() {
    for variant in BOTH {
        let mut client = Client::with_servers(variant, &[ServerFeatures::default(); 3]);
        client.subscribe_all(&[(Cluster, "a")]);
        client.closed();
        client.connected();
        client.closed();
        assert_eq!(client.connects, [0, 1, 2]);
        assert!(
            !client
                .events
                .iter()
                .any(|e| matches!(e, Event::Unreachable { .. }))
        );
        client.closed();
        let expected = Event::Unreachable {
            authority: 0,
            reason: "server-0: cut; server-1: cut; server-2: cut".into(),
        };
        assert_eq!(client.events.last(), Some(&expected));
        client.forget();
        client.subscribe_all(&[(Cluster, "b")]);
        assert_eq!(client.events, [expected], "who comes later hears it, too");
        client.pass(seconds(2));
        client.connects.sort_unstable();
        assert_eq!(client.connects, [0, 1, 2], "each is tried again");
    }
}

#[test]
fn a_server_lost_with_everything_cached_is_no_news() {
    let mut client = Client::with_servers(Variant::Delta, &[ServerFeatures::default(); 2]);
    client.subscribe_all(&[(Cluster, "a")]);
    client.connected();
    client.give(Cluster, "1", &["a=1"]);
    client.forget();
    client.closed();
    client.closed();
    assert_eq!(client.connects, [0], "no fallback");
    assert!(client.heard().is_empty());
    assert!(
        !client
            .events
            .iter()
            .any(|e| matches!(e, Event::Unreachable { .. }))
    );
}

#[test]
fn versions_mean_nothing_to_another_server() {
    for variant in BOTH {
        let mut client = Client::with_servers(variant, &[ServerFeatures::default(); 2]);
        client.subscribe_all(&[(Cluster, "a")]);
        client.connected();
        client.give(Cluster, "1", &["a=1"]);
        client.subscribe_all(&[(Cluster, "b")]);
        client.closed();
        client.closed();
        assert_eq!(client.connects, [0, 0, 1]);
        client.requests.clear();
        client.connected();
        match client.only_request() {
            Request::StateOfTheWorld(r) => assert_eq!(r.version_info, ""),
            Request::Delta(r) => assert!(r.initial_resource_versions.is_empty()),
        }
        client.events.clear();
        client.give(Cluster, "1", &["a=1", "b=1"]);
        assert_eq!(client.heard(), ["+b=1"]);
    }
}

#[test]
fn a_heartbeat_has_no_body_and_changes_nothing() {
    let mut client = Client::up(Variant::Delta, &[(Cluster, "a"), (Cluster, "b")]);
    client.give(Cluster, "1", &["a=1"]);
    client.forget();
    let beat = |name: &str| WireResource {
        name: name.into(),
        version: "r1".into(),
        ..WireResource::default()
    };
    client.answer(Response::Delta(DeltaDiscoveryResponse {
        type_url: Cluster.type_url().into(),
        nonce: "2".into(),
        resources: vec![beat("a")],
        ..DeltaDiscoveryResponse::default()
    }));
    assert!(client.heard().is_empty());
    assert!(client.only_request().error_detail().is_none());
    client.answer(Response::Delta(DeltaDiscoveryResponse {
        type_url: Cluster.type_url().into(),
        nonce: "3".into(),
        resources: vec![beat("b"), beat("")],
        ..DeltaDiscoveryResponse::default()
    }));
    assert_eq!(client.heard(), ["!b invalid: is required"]);
    assert!(client.only_request().error_detail().is_some());
}

#[test]
fn delta_names_must_agree_inside_and_outside() {
    let mut client = Client::up(Variant::Delta, &[(Cluster, "a")]);
    client.answer(Response::Delta(DeltaDiscoveryResponse {
        type_url: Cluster.type_url().into(),
        nonce: "1".into(),
        resources: vec![named("a=1", any(Cluster, "b=1"))],
        ..DeltaDiscoveryResponse::default()
    }));
    assert_eq!(client.heard(), ["!a invalid: is named \"b\" inside"]);
    assert!(client.only_request().error_detail().is_some());
}

#[test]
fn garbage_is_refused_and_the_stream_goes_on() {
    let garbage: [&[Any]; 5] = [
        &[Any::default()],
        &[any(Listener, "a=1")],
        &[any(Cluster, "")],
        &[Any {
            type_url: Cluster.type_url().into(),
            value: vec![0xff, 0xfe, 0x00].into(),
        }],
        &[any(Cluster, "junk"), any(Cluster, "a=bad"), Any::default()],
    ];
    for variant in BOTH {
        for anys in garbage {
            let mut client = Client::up(variant, &[(Cluster, "a")]);
            let mut bad = response(variant, Cluster, "1", &[]);
            match &mut bad {
                Response::StateOfTheWorld(r) => r.resources = anys.to_vec(),
                Response::Delta(r) => {
                    r.resources = anys.iter().map(|any| named("", any.clone())).collect();
                }
            }
            client.answer(bad);
            assert!(client.only_request().error_detail().is_some(), "{anys:?}");
            client.forget();
            client.give(Cluster, "2", &["a=1"]);
            assert_eq!(client.heard(), ["+a=1"]);
            assert!(client.only_request().error_detail().is_none());
        }
    }
}

#[test]
fn calls_out_of_turn_are_harmless() {
    for variant in BOTH {
        let mut client = Client::new(variant);
        client.connected();
        client.closed();
        client.give(Cluster, "1", &["a=1"]);
        client.unsubscribe(Cluster, "a");
        client.pass(seconds(1000));
        assert!(client.connects.is_empty() && client.requests.is_empty());
        assert!(client.events.is_empty());
        client.subscribe_all(&[(Cluster, "a")]);
        client.give(Cluster, "1", &["a=1"]);
        client.connected();
        client.connected();
        assert_eq!(client.requests.len(), 1);
    }
}

#[test]
fn texts_of_refusals_stay_sendable() {
    let mut client = Client::up(Variant::StateOfTheWorld, &[(Cluster, "a")]);
    let texts: Vec<String> = (0..20_000).map(|i| format!("name-{i}=bad")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    client.give(Cluster, "1", &texts);
    let message = client.only_whole().error_detail.expect("refused").message;
    assert!(message.len() < 300 * 1024);
    assert!(
        message.ends_with("more"),
        "{}",
        &message[message.len() - 40..]
    );
}

#[test]
fn resources_are_read_with_the_codec_wrapped_or_not() {
    for variant in BOTH {
        let mut client = Client::new(variant);
        client.stream = ClientStream::new(client.stream.config.clone(), client.now);
        client.subscribe_all(&[(EndpointAssignment, "a"), (EndpointAssignment, "b")]);
        client.connected();
        client.forget();
        let mut first = response(variant, EndpointAssignment, "1", &[]);
        let bodies = ["a", "b"].map(|name| {
            let body = crate::resource::EndpointAssignment {
                cluster: name.into(),
                localities: Vec::new(),
                drops: Vec::new(),
            };
            let any = crate::codec::encode(&Resource::EndpointAssignment(body.into()));
            WireResource {
                name: name.into(),
                version: "1".into(),
                resource: Some(any),
                ..WireResource::default()
            }
        });
        match &mut first {
            Response::StateOfTheWorld(r) => {
                r.resources
                    .push(bodies[0].resource.clone().expect("set above"));
                r.resources.push(Any::pack(&bodies[1]));
            }
            Response::Delta(r) => r.resources = bodies.to_vec(),
        }
        client.answer(first);
        let names: Vec<_> = client
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Resource(resource) => Some(resource.name()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["a", "b"], "{variant:?}");
        assert_eq!(client.only_request().error_detail(), None);
    }
}

/// Each subscribed name: its status, the version in use, and the one that failed.
fn known(client: &Client) -> Vec<String> {
    let known = client.stream.resources();
    known
        .map(|k| {
            let age = k.updated.map(|at| (client.now - at).as_secs());
            let failed = k.failed.map(|f| {
                let raw = if f.raw.is_some() { " with bytes" } else { "" };
                format!(", failed {}{raw}", f.version)
            });
            format!(
                "{} {} {:?} {age:?}{}",
                k.name,
                k.status(),
                k.version,
                failed.unwrap_or_default()
            )
        })
        .collect()
}

#[test]
fn what_is_known_of_each_name_can_be_asked() {
    let mut client = Client::up(
        Variant::StateOfTheWorld,
        &[(Cluster, "a"), (Cluster, "b"), (Listener, "l")],
    );
    client.give(Cluster, "1", &["a=1", "b=bad"]);
    assert_eq!(
        known(&client),
        [
            "a ACKED \"v1\" Some(0)",
            "b NACKED \"\" None, failed v1 with bytes",
            "l REQUESTED \"\" None",
        ]
    );
    client.pass(seconds(20));
    client.give(Cluster, "2", &["a=1", "b=2"]);
    assert_eq!(
        known(&client),
        [
            "a ACKED \"v2\" Some(20)",
            "b ACKED \"v2\" Some(0)",
            "l DOES_NOT_EXIST \"\" None, failed ",
        ],
        "a newer version of the same content, its age kept"
    );
    client.give(Cluster, "3", &["a=bad"]);
    let held = client.stream.resources().next().unwrap().content.cloned();
    assert_eq!(held, Some(any(Cluster, "a=1")), "the one that is in use");
    assert_eq!(
        known(&client)[..2],
        [
            "a NACKED \"v2\" Some(20), failed v3 with bytes",
            "b DOES_NOT_EXIST \"v2\" Some(0), failed v3",
        ]
    );
    let updates = client.stream.updates(0, Cluster);
    assert_eq!((updates.valid, updates.invalid), (3, 2));
}

#[test]
fn delta_knows_the_version_of_each_resource() {
    let mut client = Client::up(Variant::Delta, &[(Cluster, "a"), (Cluster, "b")]);
    client.give(Cluster, "1", &["a=1"]);
    let refused = with_error(response(Variant::Delta, Cluster, "2", &[]), "b", 7);
    client.answer(refused);
    assert_eq!(
        known(&client),
        [
            "a ACKED \"r1\" Some(0)",
            "b RECEIVED_ERROR \"\" None, failed v2",
        ]
    );
}
