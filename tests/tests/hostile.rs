//! A control plane that misbehaves: the last good configuration stays, and calls go on.

use std::collections::HashMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use sidestep::Channel;
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::codec;
use sidestep_proto::resource::{
    HeaderCondition, HeaderMatcher, Resource, ResourceType, StringMatcher, Text,
};
use sidestep_proto::wire::{Any, cluster, discovery};
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Backend, Fixture, bootstrap, builder, mesh_file};
use sidestep_tests::load::{PATIENCE, call, until};
use sidestep_tests::raw;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use discovery::{DiscoveryRequest, DiscoveryResponse};

/// What the test has the control plane do on its open stream.
enum Order {
    Send(DiscoveryResponse),
    Raw(Bytes),
    Reset(h2::Reason),
}

/// What the control plane tells the test.
enum Event {
    Opened,
    Request(Box<DiscoveryRequest>),
}

/// A control plane by hand: answers each new subscription with what it has, and does as ordered.
struct Plane {
    address: String,
    resources: watch::Sender<Vec<Any>>,
    orders: mpsc::UnboundedSender<Order>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Plane {
    async fn start(resources: impl IntoIterator<Item = Any>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let resources = watch::Sender::new(resources.into_iter().collect());
        let (streams, opened) = mpsc::unbounded_channel();
        let (orders, ordered) = mpsc::unbounded_channel();
        let (tell, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(accept(socket, streams.clone()));
            }
        });
        tokio::spawn(serve_all(opened, ordered, resources.subscribe(), tell));
        Self {
            address,
            resources,
            orders,
            events,
        }
    }

    fn client(&self) -> TestServiceClient<Channel> {
        let mesh = builder(&bootstrap(&self.address, "web")).build().unwrap();
        TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
    }

    fn order(&self, order: Order) {
        assert!(self.orders.send(order).is_ok(), "it runs");
    }

    async fn until<T>(&mut self, wanted: impl Fn(Event) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("it runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.expect("the client does what is waited for")
    }

    async fn opened(&mut self) {
        self.until(|event| matches!(event, Event::Opened).then_some(()))
            .await;
    }

    /// The words of the next NACK.
    async fn nack(&mut self) -> String {
        let detail = |event| match event {
            Event::Request(request) => request.error_detail.map(|status| status.message),
            Event::Opened => None,
        };
        self.until(detail).await
    }
}

struct AdsStream {
    requests: h2::RecvStream,
    read: BytesMut,
    responses: h2::SendStream<Bytes>,
}

async fn accept(
    socket: TcpStream,
    streams: mpsc::UnboundedSender<AdsStream>,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(stream) = connection.accept().await {
        let (request, mut respond) = stream?;
        let head = http::Response::builder().header("content-type", "application/grpc");
        let responses = respond.send_response(head.body(()).unwrap(), false)?;
        _ = streams.send(AdsStream {
            requests: request.into_body(),
            read: BytesMut::new(),
            responses,
        });
    }
    Ok(())
}

/// One stream after the other: a client has one at a time.
async fn serve_all(
    mut opened: mpsc::UnboundedReceiver<AdsStream>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    resources: watch::Receiver<Vec<Any>>,
    tell: mpsc::UnboundedSender<Event>,
) {
    while let Some(stream) = opened.recv().await {
        _ = tell.send(Event::Opened);
        serve(stream, &mut orders, &resources, &tell).await;
    }
}

async fn serve(
    mut stream: AdsStream,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    resources: &watch::Receiver<Vec<Any>>,
    tell: &mpsc::UnboundedSender<Event>,
) {
    let mut asked = HashMap::new();
    loop {
        tokio::select! {
            request = stream.request() => {
                let Some(request) = request else { return };
                let names = request.resource_names.clone();
                if asked.insert(request.type_url.clone(), names) != Some(request.resource_names.clone()) {
                    stream.send(&answer(&request, &resources.borrow()));
                }
                _ = tell.send(Event::Request(request.into()));
            }
            Some(order) = orders.recv() => match order {
                Order::Send(response) => stream.send(&response),
                Order::Raw(bytes) => stream.raw(bytes),
                Order::Reset(reason) => return stream.responses.send_reset(reason),
            },
        }
    }
}

fn answer(request: &DiscoveryRequest, resources: &[Any]) -> DiscoveryResponse {
    let wanted = |any: &&Any| {
        any.type_url == request.type_url && request.resource_names.contains(&name_of(any))
    };
    response(
        &request.type_url,
        resources.iter().filter(wanted).cloned().collect(),
    )
}

fn name_of(any: &Any) -> String {
    let expected = ResourceType::from_type_url(&any.type_url).unwrap();
    codec::decode(expected, any, &codec::Context::default())
        .unwrap()
        .name
}

fn response(type_url: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: fastrand::u64(..).to_string(),
        nonce: fastrand::u64(..).to_string(),
        type_url: type_url.to_owned(),
        resources,
        ..DiscoveryResponse::default()
    }
}

impl AdsStream {
    /// The next request; `None` once the client is gone. Loses nothing when dropped half-way.
    async fn request(&mut self) -> Option<DiscoveryRequest> {
        loop {
            if let Some(length) = self.read.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.read.len() >= 5 + length {
                    self.read.advance(5);
                    let message = self.read.split_to(length);
                    return Some(DiscoveryRequest::decode(message).unwrap());
                }
            }
            let data = self.requests.data().await?.ok()?;
            let freed = self.requests.flow_control().release_capacity(data.len());
            freed.ok()?;
            self.read.extend_from_slice(&data);
        }
    }

    fn send(&mut self, response: &DiscoveryResponse) {
        self.raw(frame(&response.encode_to_vec()));
    }

    fn raw(&mut self, bytes: Bytes) {
        // A client that hung up hears nothing any more.
        _ = self.responses.send_data(bytes, false);
    }
}

/// A gRPC message.
fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

async fn backends() -> (Fixture, [Backend; 2]) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backends = ["a", "b"].map(|id| Backend::start(&servers, id, Faults::default()));
    (fixture, backends)
}

fn service_at(backend: &Backend) -> [Any; 4] {
    let endpoints = raw::endpoints("greeter", &[&backend.address]);
    raw::service("greeter", endpoints)
}

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

#[tokio::test]
async fn garbage_from_the_control_plane_changes_nothing() {
    let (_servers, [a, b]) = backends().await;
    let mut plane = Plane::start(service_at(&a)).await;
    let mut client = plane.client();
    until(&mut client, Result::is_ok).await.unwrap();
    plane.opened().await;
    for garbage in [
        // No protobuf.
        frame(&[0xff; 40]),
        // Compressed, though nothing was agreed.
        Bytes::from_static(&[1, 0, 0, 0, 1, 0]),
        // A message of 4 GiB.
        Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        // No gRPC at all.
        Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ] {
        plane.order(Order::Raw(garbage));
        plane.opened().await;
        for _ in 0..10 {
            assert_eq!(call(&mut client).await.unwrap().server, "a");
        }
    }
    // The client listens still.
    plane.resources.send_replace(service_at(&b).into());
    plane.order(Order::Reset(h2::Reason::INTERNAL_ERROR));
    until(&mut client, |o| o.as_ref().is_ok_and(|x| x.server == "b"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_control_plane_that_breaks_off_in_the_middle_changes_nothing() {
    let (_servers, [a, b]) = backends().await;
    let mut plane = Plane::start(service_at(&a)).await;
    let mut client = plane.client();
    until(&mut client, Result::is_ok).await.unwrap();
    plane.opened().await;
    let news = response(CLUSTER, vec![]).encode_to_vec();
    for reason in [h2::Reason::NO_ERROR, h2::Reason::CANCEL] {
        let whole = frame(&news);
        plane.order(Order::Raw(whole.slice(..whole.len() / 2)));
        plane.order(Order::Reset(reason));
        plane.opened().await;
        for _ in 0..10 {
            assert_eq!(call(&mut client).await.unwrap().server, "a");
        }
    }
    plane.resources.send_replace(service_at(&b).into());
    plane.order(Order::Reset(h2::Reason::CANCEL));
    until(&mut client, |o| o.as_ref().is_ok_and(|x| x.server == "b"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_bad_resource_is_refused_with_its_reason_and_the_last_good_one_stays() {
    let (_servers, [a, b]) = backends().await;
    let mut plane = Plane::start(service_at(&a)).await;
    let mut client = plane.client();
    until(&mut client, Result::is_ok).await.unwrap();

    // A type of cluster that gRPC does not have.
    let original_destination = cluster::Cluster {
        name: "greeter".to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::OriginalDst as i32,
        )),
        ..cluster::Cluster::default()
    };
    let bad = Any::pack(&original_destination);
    plane.order(Order::Send(response(CLUSTER, vec![bad])));
    let text = plane.nack().await;
    assert!(text.contains("greeter"), "{text}");
    call(&mut client).await.unwrap();

    // A listener where clusters belong.
    let listener = raw::listener("greeter", "greeter");
    plane.order(Order::Send(response(CLUSTER, vec![listener])));
    let text = plane.nack().await;
    assert!(text.contains("Listener"), "{text}");
    call(&mut client).await.unwrap();

    // A type that nobody asked for is passed over; what comes after it counts.
    plane.order(Order::Send(response(
        "type.googleapis.com/unheard.Of",
        vec![],
    )));
    let moved = raw::endpoints("greeter", &[&b.address]);
    let type_url = moved.type_url.clone();
    plane.order(Order::Send(response(&type_url, vec![moved])));
    until(&mut client, |o| o.as_ref().is_ok_and(|x| x.server == "b"))
        .await
        .unwrap();
}

#[tokio::test]
async fn twenty_mebibytes_of_clusters_in_one_response() {
    let (_servers, [a, b]) = backends().await;
    let mut plane = Plane::start(service_at(&a)).await;
    let mut client = plane.client();
    until(&mut client, Result::is_ok).await.unwrap();
    // Most of them were not asked for, which a control plane may do.
    let padded = |n: usize| {
        Any::pack(&cluster::Cluster {
            name: format!("{n}-{}", "x".repeat(20 << 10)),
            ..cluster::Cluster::default()
        })
    };
    let mut clusters: Vec<_> = (0..1024).map(padded).collect();
    clusters.push(raw::cluster("greeter"));
    let huge = response(CLUSTER, clusters);
    assert!(huge.encoded_len() > 20 << 20);
    let nonce = huge.nonce.clone();
    plane.order(Order::Send(huge));
    plane
        .until(|event| match event {
            Event::Request(request) if request.response_nonce == nonce => Some(()),
            _ => None,
        })
        .await;
    let moved = raw::endpoints("greeter", &[&b.address]);
    let type_url = moved.type_url.clone();
    plane.order(Order::Send(response(&type_url, vec![moved])));
    until(&mut client, |o| o.as_ref().is_ok_and(|x| x.server == "b"))
        .await
        .unwrap();
}

/// All of them in use, under our own control plane.
#[tokio::test]
async fn ten_thousand_clusters_in_one_response() {
    let (_servers, [a, _b]) = backends().await;
    let names: Vec<String> = (0..10_000).map(|n| format!("cluster-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut routes = raw::route_configuration("greeter", &names);
    let last = raw::route_configuration("greeter", &["greeter"]);
    let [host] = &mut routes.virtual_hosts[..] else {
        panic!("one virtual host");
    };
    host.routes[0].matches.headers.push(HeaderMatcher {
        name: "x-many".to_owned(),
        condition: HeaderCondition::Value(StringMatcher::Exact(Text::exact("1"))),
        invert: false,
    });
    host.routes.extend(last.virtual_hosts[0].routes.clone());
    let mut resources: Vec<Any> = names
        .iter()
        .flat_map(|name| [raw::cluster(name), raw::endpoints(name, &[])])
        .collect();
    let [listener, _, cluster, endpoints] = service_at(&a);
    resources.extend([listener, cluster, endpoints]);
    resources.push(codec::encode(&Resource::RouteConfiguration(routes.into())));
    let plane = Fixture::raw(RawResources::new(resources).unwrap()).await;
    let mut client = plane.client("xds:///greeter");
    let answer = tokio::time::timeout(2 * PATIENCE, call(&mut client)).await;
    assert_eq!(answer.expect("it loads").unwrap().server, "a");
    let clients = plane.running().tracker().clients();
    assert_eq!(clients[0].types[CLUSTER].names.len(), 10_001);
}
