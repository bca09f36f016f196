//! What a step of the two ADS machines costs, without a network.
//!
//! Each run does the same step a given number of times, so that the difference of two runs under
//! valgrind is the steps alone. Messages are made before they are needed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::{Parser, Subcommand, ValueEnum};
use prost::Message as _;
use serde_json::json;
use sidestep_proto::ads::{
    self, Authorities, ClientConfig, ClientStream, Entry, Event, Missing, Output, Request,
    Response, ServerFeatures, ServerInfo, ServerOutput, ServerStream, Timers, View,
};
use sidestep_proto::codec::{self, Context};
use sidestep_proto::resource::{Cluster, Discovery, Resource, ResourceType};
use sidestep_proto::wire::Any;
use sidestep_proto::wire::core::Node;
use sidestep_proto::wire::discovery::{
    self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

const TYPE: ResourceType = ResourceType::Cluster;

#[derive(Parser)]
#[command(about = "What a step of the ADS machines costs")]
struct Flags {
    #[command(subcommand)]
    step: Step,
    #[arg(long, default_value = "delta", global = true)]
    variant: Variant,
    /// How many clusters there are, all of them subscribed.
    #[arg(long, default_value_t = 100, global = true)]
    resources: u32,
    /// How many steps.
    #[arg(long, default_value_t = 1, global = true)]
    times: u32,
}

#[derive(Clone, Copy, Subcommand)]
enum Step {
    /// A client takes in a response in which one resource has changed, and acknowledges it.
    Client,
    /// A client takes in a response in which all have changed, and acknowledges it.
    ClientAll,
    /// A server tells a stream of one resource that has changed, and takes the acknowledgement.
    Server,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Variant {
    Sotw,
    Delta,
}

impl Variant {
    fn of_the_protocol(self) -> ads::Variant {
        match self {
            Self::Sotw => ads::Variant::StateOfTheWorld,
            Self::Delta => ads::Variant::Delta,
        }
    }
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let start = Instant::now();
    match flags.step {
        Step::Client => client(&flags, 1)?,
        Step::ClientAll => client(&flags, flags.resources)?,
        Step::Server => server(&flags)?,
    }
    let nanoseconds = u64::try_from(start.elapsed().as_nanos())?;
    println!("{}", json!({ "nanoseconds": nanoseconds }));
    Ok(())
}

fn name(number: u32) -> String {
    format!("cluster-{number:06}")
}

/// A cluster; every round has another one.
fn cluster(number: u32, round: u32) -> Any {
    let eds = Discovery::Eds {
        service_name: format!("service-{number:06}-{}", round % 2),
    };
    codec::encode(&Resource::Cluster(Arc::new(Cluster::new(
        name(number),
        eds,
    ))))
}

/// As many steps as asked for, of a client that has everything; each brings it so many changes.
fn client(flags: &Flags, changes: u32) -> Result<()> {
    let now = Instant::now();
    let mut client = ClientStream::new(config(flags.variant), now);
    for number in 0..flags.resources {
        client.subscribe(now, TYPE, &name(number));
    }
    // It asks for the connection first.
    drain(&mut client);
    client.handle_connected(now, 0);
    let all = |round, changed| responses(flags, round, changed);
    let mut first = all(0, flags.resources);
    set_nonce(&mut first, 0);
    client.handle_response(now, 0, first);
    ensure!(
        drain(&mut client) == (flags.resources, true),
        "the first state"
    );
    // Two in turn, whatever the number of steps is, so that making them is not counted.
    let turns = [all(1, changes), all(2, changes)];
    for round in 0..flags.times {
        let mut response = turns[round as usize % 2].clone();
        set_nonce(&mut response, round + 1);
        client.handle_response(now, 0, response);
        let seen = drain(&mut client);
        ensure!(seen == (changes, true), "{seen:?} after step {round}");
    }
    Ok(())
}

/// Resources that came and whether something was sent, which is the acknowledgement.
fn drain(client: &mut ClientStream) -> (u32, bool) {
    let (mut resources, mut sent) = (0, false);
    while let Some(output) = client.poll_output() {
        match output {
            Output::Event(Event::Resource(_)) => resources += 1,
            Output::Send { .. } => sent = true,
            _ => {}
        }
    }
    (resources, sent)
}

fn config(variant: Variant) -> ClientConfig {
    ClientConfig {
        variant: variant.of_the_protocol(),
        node: Node::default(),
        context: Context::default(),
        servers: vec![ServerInfo {
            uri: "xds:1".to_owned(),
            features: ServerFeatures::default(),
        }],
        authorities: Authorities {
            default: vec![0],
            ..Authorities::default()
        },
        timers: Timers::default(),
        seed: 1,
    }
}

/// What a server says when the first so many have changed: in delta only those, in state of the
/// world all there are.
fn responses(flags: &Flags, round: u32, changed: u32) -> Response {
    let version = round.to_string();
    let resource = |number| cluster(number, if number < changed { round } else { 0 });
    match flags.variant {
        Variant::Sotw => Response::StateOfTheWorld(DiscoveryResponse {
            version_info: version,
            resources: (0..flags.resources).map(resource).collect(),
            type_url: TYPE.type_url().to_owned(),
            ..DiscoveryResponse::default()
        }),
        Variant::Delta => Response::Delta(DeltaDiscoveryResponse {
            system_version_info: version.clone(),
            resources: (0..changed)
                .map(|number| discovery::Resource {
                    name: name(number),
                    version: version.clone(),
                    resource: Some(resource(number)),
                    ..discovery::Resource::default()
                })
                .collect(),
            type_url: TYPE.type_url().to_owned(),
            ..DeltaDiscoveryResponse::default()
        }),
    }
}

fn set_nonce(response: &mut Response, round: u32) {
    let nonce = format!("n{round}");
    match response {
        Response::StateOfTheWorld(message) => message.nonce = nonce,
        Response::Delta(message) => message.nonce = nonce,
    }
}

/// Resources of one type.
struct World {
    revision: u64,
    entries: HashMap<String, Arc<Entry>>,
}

impl View for World {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn entry(&self, t: &str, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name).filter(|_| t == TYPE.type_url())
    }

    fn entries(&self, _: &str) -> Box<dyn Iterator<Item = &Arc<Entry>> + '_> {
        Box::new(self.entries.values())
    }

    fn missing(&self, _: &str, _: &str, _: bool) -> Option<Missing> {
        None
    }
}

fn entry(number: u32, round: u32) -> Arc<Entry> {
    Arc::new(Entry {
        name: name(number),
        version: round.to_string(),
        resource: Bytes::from(cluster(number, round).encode_to_vec()),
    })
}

/// As many steps as asked for, of a stream that has everything.
fn server(flags: &Flags) -> Result<()> {
    let now = Instant::now();
    let names: Vec<String> = (0..flags.resources).map(name).collect();
    let all = (0..flags.resources).map(|number| (name(number), entry(number, 0)));
    let mut world = World {
        revision: 1,
        entries: all.collect(),
    };
    let mut stream = ServerStream::new(flags.variant.of_the_protocol());
    stream.handle_request(now, subscription(flags.variant, &names), &world);
    let (version, nonce) = sent(&mut stream).context("the first state")?;
    stream.handle_request(
        now,
        acknowledgement(flags.variant, &names, version, nonce),
        &world,
    );
    ensure!(sent(&mut stream).is_none(), "said twice");
    let turns = [entry(0, 1), entry(0, 2)];
    for round in 0..flags.times {
        world.revision += 1;
        world
            .entries
            .insert(name(0), turns[round as usize % 2].clone());
        stream.handle_view(now, &world);
        let (version, nonce) = sent(&mut stream).with_context(|| format!("step {round}"))?;
        stream.handle_request(
            now,
            acknowledgement(flags.variant, &names, version, nonce),
            &world,
        );
        ensure!(sent(&mut stream).is_none(), "said twice");
    }
    Ok(())
}

/// Version and nonce of the response that the stream has, once it is encoded.
fn sent(stream: &mut ServerStream) -> Option<(String, String)> {
    let mut said = None;
    while let Some(output) = stream.poll_output() {
        if let ServerOutput::Send(response) = output {
            std::hint::black_box(response.encode());
            said = Some((response.version, response.nonce));
        }
    }
    said
}

fn subscription(variant: Variant, names: &[String]) -> Request {
    acknowledgement(variant, names, String::new(), String::new())
}

/// In state of the world a request names everything each time; in delta only what is new.
fn acknowledgement(variant: Variant, names: &[String], version: String, nonce: String) -> Request {
    let type_url = TYPE.type_url().to_owned();
    match variant {
        Variant::Sotw => Request::StateOfTheWorld(DiscoveryRequest {
            version_info: version,
            resource_names: names.to_vec(),
            type_url,
            response_nonce: nonce,
            ..DiscoveryRequest::default()
        }),
        Variant::Delta => Request::Delta(DeltaDiscoveryRequest {
            resource_names_subscribe: if nonce.is_empty() {
                names.to_vec()
            } else {
                Vec::new()
            },
            type_url,
            response_nonce: nonce,
            ..DeltaDiscoveryRequest::default()
        }),
    }
}
