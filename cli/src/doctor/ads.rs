//! One real subscription, by the machine that the runtime uses.

use std::collections::BTreeMap;
use std::time::Instant;

use http::uri::PathAndQuery;
use sidestep_proto::ads::{
    Authorities, ClientConfig, ClientStream, Event, Output, Request, Response, ServerInfo, Timers,
    Variant,
};
use sidestep_proto::bootstrap::Bootstrap;
use sidestep_proto::codec;
use sidestep_proto::resource::{Resource, ResourceType};
use sidestep_proto::wire::discovery::{DiscoveryRequest, DiscoveryResponse};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use super::dial::{Link, broken_off_hint};
use super::{Group, PATIENCE, Report, Subject, chain, control_plane};

const GROUP: Group = Group::Subscription;

const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// Stands in for the address of this process's server: any will do.
const SOME_ADDRESS: &str = "127.0.0.1:1";

/// What is subscribed to: the listener's name, and what it is for.
type Wanted = BTreeMap<String, String>;

pub(super) async fn check(
    bootstrap: &Bootstrap,
    subject: &Subject,
    link: &Link,
    report: &mut Report,
) {
    let wanted = wanted(bootstrap, subject);
    if wanted.is_empty() {
        report.skip(GROUP, "nothing to ask for; --call TARGET names a listener");
    }
    let mut conversation = Conversation::new(bootstrap, &wanted);
    let talk = conversation.run(link, subject, report);
    let ended = match timeout(PATIENCE, talk).await {
        Ok(ended) => ended,
        Err(_) => Err("no answer within 5 s".to_owned()),
    };
    if let Err(reason) = ended {
        report.fail(GROUP, reason, broken_off_hint(link.encrypted));
    }
    for name in conversation.unanswered() {
        let what = &wanted[name];
        report.fail(
            GROUP,
            format!("{what}: no answer about listener {name:?}"),
            "the control plane says neither yes nor no: it may not know the name",
        );
    }
}

/// The server side of the process, where it has one, and the target of the call.
fn wanted(bootstrap: &Bootstrap, subject: &Subject) -> Wanted {
    let mut wanted = Wanted::new();
    if !bootstrap.node.cluster.is_empty()
        && let Ok(name) = bootstrap.server_listener_name(SOME_ADDRESS)
    {
        let what = format!("a server of {:?}", bootstrap.node.cluster);
        wanted.insert(name, what);
    }
    let target = subject.call.as_ref().and_then(|target| target.xds_name());
    let named = target.map(|name| (name, bootstrap.client_listener_name(None, name)));
    if let Some((target, Ok(name))) = named {
        wanted.insert(name, format!("calls to {target}"));
    }
    wanted
}

/// One stream from its opening to the last answer that is waited for.
struct Conversation<'a> {
    machine: ClientStream,
    wanted: &'a Wanted,
    answered: Vec<String>,
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    queue: Option<mpsc::UnboundedReceiver<DiscoveryRequest>>,
}

impl<'a> Conversation<'a> {
    fn new(bootstrap: &Bootstrap, wanted: &'a Wanted) -> Self {
        let mut node = bootstrap.wire_node(env!("CARGO_PKG_VERSION"));
        // `sidestep status` shows who asked.
        node.id.push_str("-doctor");
        let server = &bootstrap.servers[0];
        let providers = bootstrap.certificate_providers.keys().cloned().collect();
        let config = ClientConfig {
            variant: Variant::StateOfTheWorld,
            node,
            context: codec::Context {
                certificate_providers: Some(providers),
                // Which ones the service has registered is not known here.
                custom_policies: None,
            },
            servers: vec![ServerInfo {
                uri: server.uri.clone(),
                features: server.features,
            }],
            authorities: Authorities {
                default: vec![0],
                ..Authorities::default()
            },
            timers: Timers::default(),
            seed: 0,
        };
        let now = Instant::now();
        let mut machine = ClientStream::new(config, now);
        for name in wanted.keys() {
            machine.subscribe(now, ResourceType::Listener, name);
        }
        let (requests, queue) = mpsc::unbounded_channel();
        Self {
            machine,
            wanted,
            answered: Vec::new(),
            requests,
            queue: Some(queue),
        }
    }

    fn unanswered(&self) -> Vec<&'a String> {
        let names = self.wanted.keys();
        names.filter(|name| !self.answered.contains(name)).collect()
    }

    /// Talks until everything is answered.
    async fn run(
        &mut self,
        link: &Link,
        subject: &Subject,
        report: &mut Report,
    ) -> Result<(), String> {
        let Some(queue) = self.queue.take() else {
            return Ok(());
        };
        self.machine.handle_connected(Instant::now(), 0);
        self.turn(report);
        let requests = futures_util::stream::unfold(queue, |mut queue| async move {
            let request = queue.recv().await?;
            Some((request, queue))
        });
        let mut grpc = Grpc::new(link.single.clone());
        let codec = ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
        let path = PathAndQuery::from_static(PATH);
        let opened = grpc.streaming(tonic::Request::new(Box::pin(requests)), path, codec);
        let response = opened.await.map_err(|status| chain(&status))?;
        clock(response.metadata(), subject, report);
        let mut responses = response.into_inner();
        while !self.unanswered().is_empty() {
            let next = responses.message().await.map_err(|status| chain(&status))?;
            let next = next.ok_or("the server ended the stream")?;
            self.machine
                .handle_response(Instant::now(), 0, Response::StateOfTheWorld(next));
            self.turn(report);
        }
        Ok(())
    }

    /// Does everything that the machine asks for.
    fn turn(&mut self, report: &mut Report) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send {
                    request: Request::StateOfTheWorld(request),
                    ..
                } => {
                    // Fails only when the stream has ended, which is seen where it is read.
                    let _ = self.requests.send(request);
                }
                Output::Event(Event::Resource(Resource::Listener(listener))) => {
                    self.arrived(&listener.name, report);
                }
                Output::Event(Event::Error { name, error, .. }) => {
                    let what = self.wanted.get(&name).map_or("", String::as_str);
                    let says = format!("{what}: listener {name:?} {error}");
                    report.fail(
                        GROUP,
                        says,
                        "the text is the control plane's, or says what this process cannot take",
                    );
                    self.answered.push(name);
                }
                Output::Connect { .. }
                | Output::Disconnect { .. }
                | Output::Send { .. }
                | Output::Event(_) => {}
            }
        }
    }

    fn arrived(&mut self, name: &str, report: &mut Report) {
        if let Some(what) = self.wanted.get(name) {
            report.good(GROUP, format!("{what}: listener {name:?} arrived"));
            self.answered.push(name.to_owned());
        }
    }
}

fn clock(metadata: &tonic::metadata::MetadataMap, subject: &Subject, report: &mut Report) {
    let date = metadata.get("date").and_then(|date| date.to_str().ok());
    match date.and_then(|date| httpdate::parse_http_date(date).ok()) {
        Some(there) => control_plane::clock(subject.now, there, report),
        None => report.skip(Group::Clock, "the control plane does not say its time"),
    }
}
