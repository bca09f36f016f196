//! One test per rule of the transport protocol, the peer played by hand.

use std::time::{Duration, Instant};

use prost::Message;

use super::{ServerEvent, ServerOutput, ServerResponse, ServerStream};
use crate::ads::fake::World;
use crate::ads::{Request, Variant};
use crate::resource::ResourceType::{
    self, Cluster, EndpointAssignment, Listener, RouteConfiguration,
};
use crate::wire::core::Node;
use crate::wire::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::wire::rpc::Status;
use crate::wire::{Any, cluster};

const BOTH: [Variant; 2] = [Variant::StateOfTheWorld, Variant::Delta];
const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

struct Peer {
    variant: Variant,
    stream: ServerStream,
    world: World,
    now: Instant,
    sent: Vec<ServerResponse>,
    events: Vec<ServerEvent>,
}

impl Peer {
    fn new(variant: Variant) -> Self {
        Self {
            variant,
            stream: ServerStream::new(variant),
            world: World::default(),
            now: Instant::now(),
            sent: Vec::new(),
            events: Vec::new(),
        }
    }

    fn with(variant: Variant, contents: &[(ResourceType, &str)]) -> Self {
        let mut peer = Self::new(variant);
        for (t, text) in contents {
            let (name, content) = text.split_once('=').expect("name=content");
            peer.world.put(*t, name, content);
        }
        peer
    }

    fn request(&mut self, request: Request) {
        self.stream.handle_request(self.now, request, &self.world);
        self.drain();
    }

    fn whole(&mut self, t: ResourceType, nonce: &str, names: &[&str]) {
        self.request(whole(t, nonce, names));
    }

    fn delta(&mut self, t: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) {
        self.request(Request::Delta(delta(t, subscribe, unsubscribe)));
    }

    /// Asks for these and acknowledges what comes.
    fn subscribe(&mut self, t: ResourceType, names: &[&str]) {
        match self.variant {
            Variant::StateOfTheWorld => self.whole(t, "", names),
            Variant::Delta => self.delta(t, names, &[]),
        }
        let sent = self.take();
        assert_eq!(sent.len(), 1, "answered at once");
        self.ack(&sent[0], names);
    }

    fn ack(&mut self, response: &ServerResponse, names: &[&str]) {
        let t = ResourceType::from_type_url(&response.type_url).expect("ours");
        let request = match self.variant {
            Variant::StateOfTheWorld => {
                let mut request = whole(t, &response.nonce, names);
                if let Request::StateOfTheWorld(r) = &mut request {
                    r.version_info.clone_from(&response.version);
                }
                request
            }
            Variant::Delta => Request::Delta(DeltaDiscoveryRequest {
                response_nonce: response.nonce.clone(),
                ..delta(t, &[], &[])
            }),
        };
        self.request(request);
    }

    fn nack(&mut self, response: &ServerResponse, names: &[&str]) {
        let t = ResourceType::from_type_url(&response.type_url).expect("ours");
        let error = Some(Status {
            code: 3,
            message: "no good".into(),
            ..Status::default()
        });
        let mut request = match self.variant {
            Variant::StateOfTheWorld => whole(t, &response.nonce, names),
            Variant::Delta => Request::Delta(delta(t, &[], &[])),
        };
        match &mut request {
            Request::StateOfTheWorld(r) => r.error_detail = error,
            Request::Delta(r) => {
                r.error_detail = error;
                r.response_nonce.clone_from(&response.nonce);
            }
        }
        self.request(request);
    }

    fn change(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        self.stream.handle_view(self.now, &self.world);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.stream.handle_timeout(self.now, &self.world);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.stream.poll_output() {
            match output {
                ServerOutput::Send(response) => self.sent.push(response),
                ServerOutput::Event(event) => self.events.push(event),
            }
        }
    }

    fn take(&mut self) -> Vec<ServerResponse> {
        std::mem::take(&mut self.sent)
    }

    fn only(&mut self) -> ServerResponse {
        assert_eq!(self.sent.len(), 1, "{:?}", self.sent);
        self.sent.remove(0)
    }

    /// Responses in short: `Cluster a=1 b=2 -gone !missing`.
    fn said(&mut self) -> Vec<String> {
        self.take().iter().map(short).collect()
    }
}

fn short(response: &ServerResponse) -> String {
    let t = response.type_url.rsplit('.').next().unwrap_or_default();
    let mut text = t.to_owned();
    for entry in &response.entries {
        text += &format!(" {}={}", entry.name, entry.version);
    }
    for name in &response.removed {
        text += &format!(" -{name}");
    }
    for (name, missing) in &response.errors {
        assert!(missing.message.contains(name.as_str()));
        text += &format!(" !{name}");
    }
    text
}

fn whole(t: ResourceType, nonce: &str, names: &[&str]) -> Request {
    Request::StateOfTheWorld(DiscoveryRequest {
        type_url: t.type_url().into(),
        response_nonce: nonce.into(),
        resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
        ..DiscoveryRequest::default()
    })
}

fn delta(t: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: t.type_url().into(),
        resource_names_subscribe: subscribe.iter().map(|n| (*n).to_owned()).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(|n| (*n).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

const TWO: Duration = Duration::from_secs(2);

#[test]
fn a_first_request_is_answered_at_once_unknown_names_with_reasons() {
    for t in ResourceType::ALL {
        let contents = [(t, "a=1"), (t, "b=1"), (t, "other=1")];
        let mut peer = Peer::with(Variant::StateOfTheWorld, &contents);
        peer.whole(t, "", &["a", "b", "c"]);
        assert_eq!(peer.said(), [format!("{t} a=1 b=1 !c")]);
        let mut peer = Peer::with(Variant::Delta, &contents);
        peer.delta(t, &["a", "b", "c"], &[]);
        assert_eq!(peer.said(), [format!("{t} a=1 b=1 -c !c")]);
    }
}

#[test]
fn a_first_request_waits_for_no_other_type() {
    for variant in BOTH {
        let mut peer = Peer::with(variant, &[(Cluster, "a=1"), (Listener, "a=1")]);
        for t in [Cluster, Listener] {
            match variant {
                Variant::StateOfTheWorld => peer.whole(t, "", &["a"]),
                Variant::Delta => peer.delta(t, &["a"], &[]),
            }
        }
        assert_eq!(peer.said(), ["Cluster a=1", "Listener a=1"]);
    }
}

#[test]
fn unknown_names_are_remembered() {
    for variant in BOTH {
        let mut peer = Peer::new(variant);
        peer.subscribe(EndpointAssignment, &["a"]);
        peer.change(|w| w.put(EndpointAssignment, "b", "1"));
        assert!(peer.said().is_empty(), "nobody asked for it");
        peer.change(|w| w.put(EndpointAssignment, "a", "1"));
        assert_eq!(peer.said(), ["ClusterLoadAssignment a=1"]);
    }
}

/// Like a server that knows nothing of per-resource errors.
#[test]
fn a_bare_view_says_of_what_is_missing_only_what_the_protocol_has() {
    for t in ResourceType::ALL {
        let bare = |variant| {
            let mut peer = Peer::with(variant, &[(t, "a=1")]);
            peer.world.is_bare = true;
            peer
        };
        let mut peer = bare(Variant::StateOfTheWorld);
        peer.whole(t, "", &["b"]);
        let absent: &[String] = match t.is_full_state() {
            true => &[format!("{t}")],
            false => &[],
        };
        assert_eq!(peer.said(), absent, "never there");
        let mut peer = bare(Variant::StateOfTheWorld);
        peer.subscribe(t, &["a", "b"]);
        peer.change(|w| w.remove(t, "a"));
        assert_eq!(peer.said(), absent, "gone");
        peer.change(|w| w.put(t, "b", "1"));
        if !t.is_full_state() {
            assert_eq!(peer.said(), [format!("{t} b=1")], "is there at last");
        }

        let mut peer = bare(Variant::Delta);
        peer.delta(t, &["a", "b"], &[]);
        let first = peer.only();
        assert_eq!(short(&first), format!("{t} a=1 -b"));
        peer.ack(&first, &[]);
        peer.change(|w| w.remove(t, "a"));
        assert_eq!(peer.said(), [format!("{t} -a")]);
    }
}

#[test]
fn a_bare_view_sends_to_who_comes_back_whatever_version_it_shows() {
    for t in ResourceType::ALL {
        let mut before = Peer::with(Variant::StateOfTheWorld, &[(t, "a=1")]);
        before.whole(t, "", &["a"]);
        let version = before.only().version;
        let mut peer = Peer::with(Variant::StateOfTheWorld, &[(t, "a=1")]);
        peer.world.is_bare = true;
        let mut request = whole(t, "", &["a"]);
        if let Request::StateOfTheWorld(r) = &mut request {
            r.version_info = version;
        }
        peer.request(request);
        assert_eq!(peer.said(), [format!("{t} a=1")]);
    }
}

#[test]
fn wildcards_in_state_of_the_world() {
    let contents = [(Cluster, "a=1"), (Cluster, "b=1")];
    for names in [&[][..], &["*"], &["*", "a"]] {
        let mut peer = Peer::with(Variant::StateOfTheWorld, &contents);
        peer.subscribe(Cluster, names);
        peer.change(|w| w.put(Cluster, "c", "1"));
        assert_eq!(peer.said(), ["Cluster a=1 b=1 c=1"], "{names:?}");
    }
    let mut peer = Peer::with(Variant::StateOfTheWorld, &contents);
    peer.whole(Cluster, "", &["*", "z"]);
    assert_eq!(peer.said(), ["Cluster a=1 b=1 !z"]);
    // Over nothing it is answered, too: a peer waits for that at its start.
    let mut peer = Peer::new(Variant::StateOfTheWorld);
    peer.whole(Listener, "", &[]);
    assert_eq!(peer.said(), ["Listener"]);
}

#[test]
fn an_empty_list_after_a_name_means_none() {
    let mut peer = Peer::with(Variant::StateOfTheWorld, &[(Cluster, "a=1")]);
    peer.whole(Cluster, "", &["a"]);
    let nonce = peer.only().nonce;
    peer.whole(Cluster, &nonce, &[]);
    peer.change(|w| w.put(Cluster, "b", "1"));
    assert!(peer.said().is_empty());
}

#[test]
fn wildcards_are_for_clusters_and_listeners_only() {
    for t in [EndpointAssignment, RouteConfiguration] {
        let mut peer = Peer::with(Variant::StateOfTheWorld, &[(t, "a=1")]);
        peer.whole(t, "", &[]);
        assert!(peer.said().is_empty());
        let mut peer = Peer::with(Variant::Delta, &[(t, "a=1")]);
        peer.delta(t, &["*"], &[]);
        assert_eq!(peer.said(), [format!("{t} -* !*")], "an ordinary name");
    }
}

#[test]
fn wildcards_in_delta() {
    let contents = [(Cluster, "a=1"), (Cluster, "b=1")];
    for names in [&[][..], &["*"], &["*", "a"]] {
        let mut peer = Peer::with(Variant::Delta, &contents);
        peer.subscribe(Cluster, names);
        peer.change(|w| w.put(Cluster, "c", "1"));
        assert_eq!(peer.said(), ["Cluster c=1"], "{names:?}");
    }
    let mut peer = Peer::with(Variant::Delta, &contents);
    peer.subscribe(Cluster, &["*", "a"]);
    peer.delta(Cluster, &[], &["*"]);
    peer.change(|w| {
        w.put(Cluster, "a", "2");
        w.put(Cluster, "b", "2");
    });
    assert_eq!(peer.said(), ["Cluster a=2"], "the name stays");
}

#[test]
fn a_name_that_the_wildcard_still_covers_is_answered_for() {
    let mut peer = Peer::with(Variant::Delta, &[(Cluster, "a=1"), (Cluster, "b=1")]);
    peer.subscribe(Cluster, &["*", "a", "z"]);
    peer.delta(Cluster, &[], &["a", "never-named"]);
    assert_eq!(peer.only().entries.len(), 1);
    let mut peer = Peer::with(Variant::Delta, &[(Cluster, "b=1")]);
    peer.subscribe(Cluster, &["*", "z"]);
    peer.delta(Cluster, &[], &["z"]);
    let said = peer.said().join(", ");
    assert!(said.contains("-z"), "{said}");
}

#[test]
fn asking_again_in_delta_means_sending_again() {
    let mut peer = Peer::with(Variant::Delta, &[(Cluster, "a=1"), (Cluster, "b=1")]);
    peer.subscribe(Cluster, &["a", "b"]);
    peer.delta(Cluster, &["a"], &[]);
    assert_eq!(peer.said(), ["Cluster a=1"]);
}

#[test]
fn a_newly_named_resource_is_sent_and_only_where_possible_it_alone() {
    for t in ResourceType::ALL {
        let mut peer = Peer::with(Variant::StateOfTheWorld, &[(t, "a=1"), (t, "b=1")]);
        peer.whole(t, "", &["a"]);
        let first = peer.only();
        peer.ack(&first, &["a", "b"]);
        let expected = if t.is_full_state() { "a=1 b=1" } else { "b=1" };
        let second = peer.only();
        assert_eq!(short(&second), format!("{t} {expected}"));
        peer.ack(&second, &["a"]);
        assert!(peer.said().is_empty(), "fewer names need no answer");
    }
}

#[test]
fn one_unanswered_response_per_type_and_later_changes_merge() {
    for variant in BOTH {
        let mut peer = Peer::with(variant, &[(EndpointAssignment, "a=1")]);
        let t = EndpointAssignment;
        peer.subscribe(t, &["a", "b"]);
        peer.change(|w| w.put(t, "a", "2"));
        let first = peer.only();
        for content in ["3", "4", "5"] {
            peer.change(|w| w.put(t, "a", content));
            peer.change(|w| w.put(t, "b", content));
        }
        peer.pass(TWO * 100);
        assert!(peer.said().is_empty(), "not before the answer");
        peer.ack(&first, &["a", "b"]);
        assert_eq!(peer.said(), ["ClusterLoadAssignment a=5 b=5"]);
    }
}

#[test]
fn stale_requests_are_not_answered_but_crossed_names_count() {
    let t = EndpointAssignment;
    let mut peer = Peer::with(Variant::StateOfTheWorld, &[(t, "a=1"), (t, "b=1")]);
    peer.subscribe(t, &["a", "b"]);
    let old = "1";
    peer.change(|w| w.put(t, "a", "2"));
    let second = peer.only();
    // The peer drops b and has not seen the second response; then it wants b again.
    peer.whole(t, old, &["a"]);
    assert!(peer.said().is_empty());
    peer.ack(&second, &["a", "b"]);
    let third = peer.only();
    assert_eq!(short(&third), "ClusterLoadAssignment b=1");
    peer.ack(&third, &["a", "b"]);
    peer.whole(t, old, &["a", "c"]);
    peer.whole(t, "never-sent", &["a", "c"]);
    peer.change(|w| w.put(t, "c", "1"));
    assert!(peer.said().is_empty());
}

#[test]
fn delta_subscriptions_count_whatever_the_nonce() {
    let t = EndpointAssignment;
    let mut peer = Peer::with(Variant::Delta, &[(t, "a=1"), (t, "b=1")]);
    peer.subscribe(t, &["a"]);
    let mut request = delta(t, &["b"], &[]);
    request.response_nonce = "stale".into();
    peer.request(Request::Delta(request));
    assert_eq!(peer.said(), ["ClusterLoadAssignment b=1"]);
}

#[test]
fn what_was_refused_is_not_sent_again_until_it_changes() {
    for variant in BOTH {
        for t in ResourceType::ALL {
            let mut peer = Peer::with(variant, &[(t, "a=1")]);
            peer.subscribe(t, &["a"]);
            peer.events.clear();
            peer.change(|w| w.put(t, "a", "2"));
            let refused = peer.only();
            peer.nack(&refused, &["a"]);
            let expected = ServerEvent::Nack {
                type_url: t.type_url().into(),
                version: refused.version.clone(),
                nonce: refused.nonce.clone(),
                message: "no good".into(),
            };
            assert_eq!(peer.events.last(), Some(&expected));
            peer.change(|_| {});
            peer.pass(TWO);
            assert!(peer.said().is_empty(), "no loop");
            peer.change(|w| w.put(t, "a", "3"));
            assert_eq!(peer.said(), [format!("{t} a=3")]);
        }
    }
}

#[test]
fn a_version_held_over_from_an_earlier_stream_saves_the_answer() {
    for t in ResourceType::ALL {
        let contents = [(t, "a=1"), (t, "b=1")];
        let mut before = Peer::with(Variant::StateOfTheWorld, &contents);
        before.whole(t, "", &["a", "b"]);
        let version = before.only().version;
        let again = |peer: &mut Peer, names: &[&str]| {
            let mut request = whole(t, "", names);
            if let Request::StateOfTheWorld(r) = &mut request {
                r.version_info.clone_from(&version);
            }
            peer.request(request);
        };
        let mut peer = Peer::with(Variant::StateOfTheWorld, &contents);
        again(&mut peer, &["a", "b"]);
        assert!(peer.said().is_empty());
        assert!(
            matches!(peer.events.last(), Some(ServerEvent::Ack { nonce, .. }) if nonce.is_empty())
        );
        peer.change(|w| w.put(t, "b", "2"));
        let expected = if t.is_full_state() { "a=1 b=2" } else { "b=2" };
        assert_eq!(peer.said(), [format!("{t} {expected}")]);
        let mut grown = Peer::with(Variant::StateOfTheWorld, &contents);
        again(&mut grown, &["a", "b", "c"]);
        assert_eq!(grown.said(), [format!("{t} a=1 b=1 !c")]);
        let mut changed = Peer::with(Variant::StateOfTheWorld, &[(t, "a=1"), (t, "b=2")]);
        again(&mut changed, &["a", "b"]);
        assert_eq!(changed.said(), [format!("{t} a=1 b=2")]);
    }
}

#[test]
fn versions_brought_along_in_delta_are_not_resent_and_losses_reported() {
    let t = Cluster;
    for names in [&["a", "b", "gone"][..], &["*"]] {
        let mut peer = Peer::with(Variant::Delta, &[(t, "a=1"), (t, "b=2")]);
        let mut request = delta(t, names, &[]);
        for name in ["a", "b", "gone"] {
            request
                .initial_resource_versions
                .insert(name.into(), "1".into());
        }
        peer.request(Request::Delta(request));
        let first = peer.only();
        assert_eq!(short(&first), "Cluster b=2");
        peer.ack(&first, &[]);
        let second = peer.only();
        assert_eq!(second.removed, ["gone"]);
        assert!(second.entries.is_empty());
    }
}

/// A peer that holds `x=1` of every type.
fn settled(variant: Variant) -> Peer {
    let all = ResourceType::ALL.map(|t| (t, "x=1"));
    let mut peer = Peer::with(variant, &all);
    for t in ResourceType::ALL {
        peer.subscribe(t, &["x", "y"]);
    }
    assert!(peer.said().is_empty());
    assert_eq!(peer.stream.poll_timeout(), None);
    peer
}

#[test]
fn additions_go_out_step_by_step_on_acknowledgement() {
    for variant in BOTH {
        let mut peer = settled(variant);
        peer.change(|w| ResourceType::ALL.iter().for_each(|t| w.put(*t, "y", "1")));
        for t in ResourceType::ALL {
            let response = peer.only();
            assert_eq!(response.type_url, t.type_url());
            peer.ack(&response, &["x", "y"]);
        }
        assert!(peer.said().is_empty());
    }
}

#[test]
fn a_step_waits_two_seconds_at_most() {
    for variant in BOTH {
        let mut peer = settled(variant);
        peer.change(|w| {
            w.put(Cluster, "x", "2");
            w.put(RouteConfiguration, "x", "2");
        });
        assert_eq!(peer.only().type_url, CDS);
        assert_eq!(peer.stream.poll_timeout(), Some(peer.now + TWO));
        peer.pass(TWO - Duration::from_millis(1));
        assert!(peer.said().is_empty());
        peer.pass(Duration::from_millis(1));
        assert_eq!(peer.said(), ["RouteConfiguration x=2"]);
    }
}

#[test]
fn removals_come_last_and_in_reverse() {
    for variant in BOTH {
        let mut peer = settled(variant);
        peer.change(|w| {
            for t in ResourceType::ALL {
                w.remove(t, "x");
            }
            w.put(Cluster, "y", "1");
            w.put(RouteConfiguration, "y", "1");
        });
        let mut steps = Vec::new();
        while let Some(response) = peer.take().pop() {
            steps.push(short(&response));
            peer.ack(&response, &["x", "y"]);
        }
        let expected: [&str; 6] = match variant {
            Variant::StateOfTheWorld => [
                "Cluster x=1 y=1",
                "RouteConfiguration y=1",
                "RouteConfiguration !x",
                "Listener !x",
                "ClusterLoadAssignment !x",
                "Cluster y=1 !x",
            ],
            Variant::Delta => [
                "Cluster y=1",
                "RouteConfiguration y=1",
                "RouteConfiguration -x !x",
                "Listener -x !x",
                "ClusterLoadAssignment -x !x",
                "Cluster -x !x",
            ],
        };
        assert_eq!(steps, expected);
    }
}

#[test]
fn nothing_is_removed_while_an_addition_is_not_yet_sent() {
    for variant in BOTH {
        let mut peer = settled(variant);
        peer.change(|w| w.put(RouteConfiguration, "x", "2"));
        let slow = peer.only();
        peer.pass(TWO * 2);
        peer.change(|w| {
            w.put(RouteConfiguration, "x", "3");
            w.remove(Cluster, "x");
        });
        peer.pass(TWO * 2);
        assert!(peer.said().is_empty(), "the routes may still use it");
        peer.ack(&slow, &["x", "y"]);
        let routes = peer.only();
        assert_eq!(short(&routes), "RouteConfiguration x=3");
        peer.ack(&routes, &["x", "y"]);
        assert_eq!(peer.only().type_url, CDS);
    }
}

#[test]
fn what_comes_back_before_its_removal_was_sent_is_not_news() {
    for variant in BOTH {
        let mut peer = settled(variant);
        peer.change(|w| w.put(Listener, "x", "2"));
        let response = peer.only();
        peer.change(|w| w.remove(Cluster, "x"));
        peer.change(|w| w.put(Cluster, "x", "1"));
        peer.ack(&response, &["x", "y"]);
        assert!(peer.said().is_empty());
    }
}

#[test]
fn envoy_gets_endpoints_again_after_their_cluster_changed() {
    for (agent, expected) in [("envoy", 1), ("gRPC Go", 0)] {
        let cluster = |name: &str, lb: i32| cluster::Cluster {
            name: name.into(),
            lb_policy: lb,
            eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
                service_name: format!("{name}-endpoints"),
                ..cluster::cluster::EdsClusterConfig::default()
            }),
            ..cluster::Cluster::default()
        };
        let mut peer = Peer::new(Variant::Delta);
        peer.world.put_any("c", "1", &Any::pack(&cluster("c", 0)));
        peer.world.put(EndpointAssignment, "c-endpoints", "1");
        peer.world.put(EndpointAssignment, "other", "1");
        let mut first = delta(Cluster, &["*"], &[]);
        first.node = Some(Node {
            user_agent_name: agent.into(),
            ..Node::default()
        });
        peer.request(Request::Delta(first));
        let response = peer.only();
        peer.ack(&response, &[]);
        peer.subscribe(EndpointAssignment, &["c-endpoints", "other"]);
        peer.change(|w| w.put_any("c", "2", &Any::pack(&cluster("c", 1))));
        let response = peer.only();
        peer.ack(&response, &[]);
        let repeated = peer.said();
        assert_eq!(repeated.len(), expected, "{agent}: {repeated:?}");
        for text in repeated {
            assert_eq!(text, "ClusterLoadAssignment c-endpoints=1");
        }
    }
}

#[test]
fn other_types_are_served_by_name_and_wait_for_nobody() {
    let url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let mut peer = settled(Variant::StateOfTheWorld);
    peer.world.put_url(url, "cert", "1");
    let ask = |nonce: &str| {
        Request::StateOfTheWorld(DiscoveryRequest {
            type_url: url.into(),
            resource_names: vec!["cert".into()],
            response_nonce: nonce.into(),
            ..DiscoveryRequest::default()
        })
    };
    peer.request(ask(""));
    let response = peer.only();
    assert_eq!(short(&response), "Secret cert=1");
    peer.request(ask(&response.nonce));
    peer.change(|w| {
        w.put(Cluster, "x", "2");
        w.put_url(url, "cert", "2");
    });
    assert_eq!(peer.said(), ["Cluster x=2", "Secret cert=2"]);
}

#[test]
fn events_tell_who_asks_for_what_and_holds_what() {
    for variant in BOTH {
        let mut peer = Peer::with(variant, &[(Cluster, "a=1")]);
        let node = Node {
            id: "me".into(),
            ..Node::default()
        };
        let mut first = match variant {
            Variant::StateOfTheWorld => whole(Cluster, "", &["*", "a"]),
            Variant::Delta => Request::Delta(delta(Cluster, &["*", "a"], &[])),
        };
        match &mut first {
            Request::StateOfTheWorld(r) => r.node = Some(node.clone()),
            Request::Delta(r) => r.node = Some(node.clone()),
        }
        peer.request(first);
        let response = peer.only();
        peer.ack(&response, &["*", "a"]);
        let type_url = CDS.to_owned();
        let (version, nonce) = (response.version, response.nonce);
        let expected = [
            ServerEvent::Node(Box::new(node)),
            ServerEvent::Request {
                type_url: type_url.clone(),
                names: vec!["*".into(), "a".into()],
            },
            ServerEvent::Sent {
                type_url: type_url.clone(),
                version: version.clone(),
                nonce: nonce.clone(),
                count: 1,
                revision: 1,
            },
            ServerEvent::Ack {
                type_url,
                version,
                nonce,
            },
        ];
        assert_eq!(peer.events, expected);
    }
}

#[test]
fn nonces_differ_on_a_stream() {
    let mut peer = settled(Variant::Delta);
    let mut nonces = std::collections::BTreeSet::new();
    for i in 0..10 {
        peer.change(|w| w.put(Cluster, "x", &i.to_string()));
        let response = peer.take().pop();
        if let Some(response) = response {
            peer.ack(&response, &[]);
            assert!(nonces.insert(response.nonce));
        }
    }
    assert!(nonces.len() >= 9);
}

#[test]
fn garbage_neither_panics_nor_wedges() {
    for variant in BOTH {
        let mut peer = settled(variant);
        peer.request(whole(Cluster, "junk", &["a"]));
        peer.request(Request::StateOfTheWorld(DiscoveryRequest::default()));
        peer.request(Request::Delta(DeltaDiscoveryRequest::default()));
        let mut nack = delta(Cluster, &[], &["unknown", "*", ""]);
        nack.response_nonce = "junk".into();
        nack.error_detail = Some(Status::default());
        peer.request(Request::Delta(nack));
        peer.take();
        peer.pass(TWO * 10);
        peer.change(|w| w.put(Cluster, "x", "2"));
        assert_eq!(peer.said(), ["Cluster x=2"], "{variant:?}");
    }
}

#[test]
fn the_bytes_are_those_of_the_message() {
    for variant in BOTH {
        let mut peer = Peer::with(variant, &[(Cluster, "a=1"), (Cluster, "b=2")]);
        match variant {
            Variant::StateOfTheWorld => peer.whole(Cluster, "", &["a", "b", "z"]),
            Variant::Delta => peer.delta(Cluster, &["a", "b", "z"], &[]),
        }
        let response = peer.only();
        let bytes = response.encode();
        let official = match response.into_wire() {
            crate::ads::Response::StateOfTheWorld(m) => m.encode_to_vec(),
            crate::ads::Response::Delta(m) => m.encode_to_vec(),
        };
        assert_eq!(bytes, official);
    }
}
