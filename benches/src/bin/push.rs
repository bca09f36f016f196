//! What a change costs a control plane that many clients follow.
//!
//! `swarm` starts a control plane as a process of its own, opens streams to it, changes one
//! endpoint again and again, and prints what that took as a line of JSON. `serve` is such a control
//! plane: ours. Others lie in `benches/push`. The contract between the two: the control plane prints
//! `{"address": ..}`, changes one endpoint for each line that it reads, and ends with its input.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use prost::Message as _;
use serde_json::{Value, json};
use sidestep_proto::codec;
use sidestep_proto::resource::{
    Address, Cluster, Discovery, Endpoint, EndpointAssignment, Health, Labels, Locality,
    LocalityEndpoints, Resource, ResourceType,
};
use sidestep_proto::wire::Any;
use sidestep_proto::wire::core::Node;
use sidestep_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use sidestep_server::{ManagementServer, RawResources};
use tokio::io::AsyncBufReadExt as _;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

const CLUSTER: ResourceType = ResourceType::Cluster;
const ENDPOINTS: ResourceType = ResourceType::EndpointAssignment;

/// What has not arrived by then never does.
const LIMIT: Duration = Duration::from_secs(180);
/// A server that used so little in [`LOOK`] has done its work.
const QUIET: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Parser)]
#[command(about = "What a change costs a control plane that many clients follow")]
struct Flags {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Our control plane.
    Serve(Shape),
    /// Its clients, who measure it.
    Swarm(Swarm),
}

#[derive(Clone, Copy, Args)]
struct Shape {
    #[arg(long, default_value_t = 100)]
    clusters: u32,
    /// Of each cluster.
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
}

#[derive(Clone, Args)]
struct Swarm {
    #[command(flatten)]
    shape: Shape,
    #[arg(long, default_value = "delta")]
    protocol: Protocol,
    #[arg(long, default_value_t = 200)]
    streams: usize,
    #[arg(long, default_value_t = 100)]
    streams_per_connection: usize,
    #[arg(long, default_value_t = 3)]
    changes: usize,
    /// The control plane, program and arguments.
    #[arg(last = true, required = true)]
    server: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Protocol {
    Sotw,
    Delta,
}

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    match Flags::parse().role {
        Role::Serve(shape) => runtime.block_on(serve(shape)),
        Role::Swarm(swarm) => {
            println!("{}", runtime.block_on(measure(&swarm))?);
            Ok(())
        }
    }
}

async fn serve(shape: Shape) -> Result<()> {
    let held = RawResources::new(resources(shape, 0))?;
    let server = ManagementServer::builder().source(held.clone());
    let running = server.start().await?;
    println!("{}", json!({ "address": running.address().to_string() }));
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let mut all = resources(shape, 0);
    let mut change = 0;
    while lines.next_line().await?.is_some() {
        change += 1;
        let first = all
            .iter_mut()
            .find(|any| any.type_url == ENDPOINTS.type_url());
        *first.context("there are endpoints")? = assignment(shape, 0, change);
        held.replace(all.iter().cloned())?;
    }
    running.shutdown().await;
    Ok(())
}

fn name(number: u32) -> String {
    format!("cluster-{number:05}")
}

/// The clusters, and then their endpoints.
fn resources(shape: Shape, change: u32) -> Vec<Any> {
    let clusters = (0..shape.clusters).map(|number| {
        let eds = Discovery::Eds {
            service_name: name(number),
        };
        codec::encode(&Resource::Cluster(Arc::new(Cluster::new(
            name(number),
            eds,
        ))))
    });
    let endpoints = (0..shape.clusters).map(|number| assignment(shape, number, change));
    clusters.chain(endpoints).collect()
}

/// The endpoints of a cluster; each change gives the first one another address.
fn assignment(shape: Shape, cluster: u32, change: u32) -> Any {
    let first = cluster * shape.endpoints;
    let numbers = (0..shape.endpoints).map(|endpoint| match endpoint {
        0 => 0x00F0_0000 + change,
        other => first + other,
    });
    let endpoints = numbers.map(|number| Endpoint {
        addresses: vec![Address::Tcp(SocketAddr::from((
            Ipv4Addr::from(0x0a00_0000 + number),
            443,
        )))],
        hostname: String::new(),
        weight: 1,
        health: Health::Healthy,
        hash_key: None,
        labels: Labels::default(),
    });
    codec::encode(&Resource::EndpointAssignment(Arc::new(
        EndpointAssignment {
            cluster: name(cluster),
            localities: vec![LocalityEndpoints {
                locality: Locality {
                    zone: "a".to_owned(),
                    ..Locality::default()
                },
                priority: 0,
                weight: 1,
                endpoints: endpoints.collect(),
            }],
            drops: Vec::new(),
        },
    )))
}

/// The control plane that is measured.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(command: &[String], shape: Shape) -> Result<Self> {
        let (program, arguments) = command.split_first().context("a program")?;
        let mut process = Command::new(program)
            .args(arguments)
            .args(["--clusters", &shape.clusters.to_string()])
            .args(["--endpoints", &shape.endpoints.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| program.clone())?;
        let output = process.stdout.take().context("its output is piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| format!("{line:?}"))?;
        let address = ready["address"].as_str().context("an address")?.to_owned();
        Ok(Self { process, address })
    }

    fn change(&self) -> Result<()> {
        let mut input = self.process.stdin.as_ref().context("its input is piped")?;
        Ok(input.write_all(b"change\n")?)
    }

    /// CPU time of all its threads, as the scheduler counts it.
    fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            // One that has just ended is no more there.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            let on_cpu = text.split_whitespace().next().unwrap_or("0");
            nanoseconds += on_cpu.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// The same, once it has stopped growing: acknowledgements are part of the work.
    async fn cpu_at_rest(&self) -> Result<Duration> {
        let mut before = self.cpu()?;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.cpu()?;
            if now.saturating_sub(before) < QUIET {
                return Ok(now);
            }
            before = now;
        }
    }

    fn resident_kib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("VmRSS")?.parse()?)
    }
}

impl Drop for Server {
    /// It ends with its input.
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // If it is gone already there is nothing to do.
        let _ = self.process.wait();
    }
}

/// What one stream has seen.
#[derive(Clone, Copy)]
struct Seen {
    /// Changes after the first state.
    changes: usize,
    at: Instant,
    bytes: usize,
}

async fn measure(swarm: &Swarm) -> Result<Value> {
    let server = Server::start(&swarm.server, swarm.shape)?;
    let (cpu, rss) = (server.cpu_at_rest().await?, server.resident_kib()?);
    let start = Instant::now();
    let mut streams = open(swarm, &server.address).await?;
    until(&mut streams, |seen| seen.is_some()).await?;
    let sync = start.elapsed();
    let synced = server.cpu_at_rest().await?;
    let resident = server.resident_kib()? - rss;
    let mut pushes = Vec::new();
    let mut before = synced;
    for change in 1..=swarm.changes {
        let start = Instant::now();
        server.change()?;
        until(&mut streams, |seen| {
            seen.is_some_and(|seen| seen.changes >= change)
        })
        .await?;
        let after = server.cpu_at_rest().await?;
        pushes.push(Push::of(&streams, start, after - before));
        before = after;
    }
    let each = |value: f64| value / number(streams.len());
    let middle = |of: fn(&Push) -> f64| {
        let mut values: Vec<f64> = pushes.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(json!({
        "sync_ms": sync.as_secs_f64() * 1e3,
        "sync_cpu_us": each((synced - cpu).as_secs_f64() * 1e6),
        "push_cpu_us": each(middle(|push| push.cpu_us)),
        "p50_ms": middle(|push| push.p50_ms),
        "p99_ms": middle(|push| push.p99_ms),
        "bytes": middle(|push| push.bytes),
        "rss_kib": each(resident),
    }))
}

/// One change.
struct Push {
    /// Of the server, for all clients.
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// For each client.
    bytes: f64,
}

impl Push {
    fn of(streams: &[watch::Receiver<Option<Seen>>], start: Instant, cpu: Duration) -> Self {
        let seen: Vec<Seen> = streams
            .iter()
            .filter_map(|stream| *stream.borrow())
            .collect();
        let times = seen
            .iter()
            .map(|seen| seen.at.saturating_duration_since(start));
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let bytes: usize = seen.iter().map(|seen| seen.bytes).sum();
        Self {
            cpu_us: cpu.as_secs_f64() * 1e6,
            p50_ms: times[(times.len() - 1) / 2],
            p99_ms: times[(times.len() - 1) * 99 / 100],
            bytes: number(bytes) / number(seen.len()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn number(count: usize) -> f64 {
    count as f64
}

/// Waits for every stream to have seen so much.
async fn until(
    streams: &mut [watch::Receiver<Option<Seen>>],
    is_enough: impl Fn(&Option<Seen>) -> bool,
) -> Result<()> {
    let all = async {
        for stream in streams {
            stream
                .wait_for(&is_enough)
                .await
                .context("a stream ended")?;
        }
        Ok(())
    };
    let all = tokio::time::timeout(LIMIT, all).await;
    all.context("not all clients have it")?
}

/// Opens the streams and has each subscribe to everything.
async fn open(swarm: &Swarm, address: &str) -> Result<Vec<watch::Receiver<Option<Seen>>>> {
    let endpoint = Channel::from_shared(format!("http://{address}"))?;
    let mut streams = Vec::new();
    while streams.len() < swarm.streams {
        let channel = endpoint.connect().await?;
        let room = (swarm.streams - streams.len()).min(swarm.streams_per_connection);
        for _ in 0..room {
            let (tell, told) = watch::channel(None);
            let (grpc, shape) = (Grpc::new(channel.clone()), swarm.shape);
            match swarm.protocol {
                Protocol::Sotw => tokio::spawn(follow::<Sotw>(grpc, shape, tell)),
                Protocol::Delta => tokio::spawn(follow::<Delta>(grpc, shape, tell)),
            };
            streams.push(told);
        }
    }
    Ok(streams)
}

/// One of the two forms of the protocol, as far as a client needs it that keeps nothing.
trait Form: 'static {
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + 'static;
    const PATH: &'static str;
    /// What asks for everything of a type.
    fn subscribe(t: ResourceType, names: Vec<String>) -> Self::Request;
    /// What acknowledges a response.
    fn acknowledge(response: &Self::Response, names: Vec<String>) -> Self::Request;
    /// The type of a response, and how many resources are in it.
    fn describe(response: &Self::Response) -> (&str, usize);
}

struct Sotw;

impl Form for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PATH: &'static str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

    fn subscribe(t: ResourceType, names: Vec<String>) -> DiscoveryRequest {
        DiscoveryRequest {
            node: Some(node()),
            type_url: t.type_url().to_owned(),
            resource_names: names,
            ..DiscoveryRequest::default()
        }
    }

    fn acknowledge(response: &DiscoveryResponse, names: Vec<String>) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            type_url: response.type_url.clone(),
            resource_names: names,
            ..DiscoveryRequest::default()
        }
    }

    fn describe(response: &DiscoveryResponse) -> (&str, usize) {
        (&response.type_url, response.resources.len())
    }
}

struct Delta;

impl Form for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PATH: &'static str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

    fn subscribe(t: ResourceType, names: Vec<String>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(node()),
            type_url: t.type_url().to_owned(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn acknowledge(response: &DeltaDiscoveryResponse, _: Vec<String>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            response_nonce: response.nonce.clone(),
            type_url: response.type_url.clone(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn describe(response: &DeltaDiscoveryResponse) -> (&str, usize) {
        (&response.type_url, response.resources.len())
    }
}

fn node() -> Node {
    Node {
        id: "swarm".to_owned(),
        cluster: "web".to_owned(),
        ..Node::default()
    }
}

/// A client that acknowledges everything and keeps nothing. It ends with the stream, which whoever
/// waits for it then hears.
async fn follow<F: Form>(grpc: Grpc<Channel>, shape: Shape, tell: watch::Sender<Option<Seen>>) {
    if let Err(error) = following::<F>(grpc, shape, &tell).await {
        eprintln!("a stream ended: {error:#}");
    }
}

async fn following<F: Form>(
    mut grpc: Grpc<Channel>,
    shape: Shape,
    tell: &watch::Sender<Option<Seen>>,
) -> Result<()> {
    let names: Vec<String> = (0..shape.clusters).map(name).collect();
    let (sender, requests) = mpsc::channel(8);
    sender.try_send(F::subscribe(CLUSTER, Vec::new()))?;
    sender.try_send(F::subscribe(ENDPOINTS, names.clone()))?;
    grpc.ready().await?;
    let requests = futures_util::stream::unfold(requests, |mut requests| async {
        let request = requests.recv().await?;
        Some((request, requests))
    });
    let request = tonic::Request::new(requests);
    let codec = ProstCodec::<F::Request, F::Response>::default();
    let answer = grpc.streaming(request, PathAndQuery::from_static(F::PATH), codec);
    let mut responses = answer.await?.into_inner();
    let mut first = First::of(shape);
    while let Some(response) = responses.message().await? {
        let (type_url, resources) = F::describe(&response);
        let is_of_endpoints = type_url == ENDPOINTS.type_url();
        let subscribed = if is_of_endpoints {
            names.clone()
        } else {
            Vec::new()
        };
        if first.is_over() && is_of_endpoints {
            let bytes = response.encoded_len();
            tell.send_modify(|seen| {
                *seen = Some(Seen {
                    changes: seen.map_or(0, |seen| seen.changes) + 1,
                    at: Instant::now(),
                    bytes,
                });
            });
        } else if first.takes(is_of_endpoints, resources) {
            tell.send_replace(Some(Seen {
                changes: 0,
                at: Instant::now(),
                bytes: 0,
            }));
        }
        if sender
            .send(F::acknowledge(&response, subscribed))
            .await
            .is_err()
        {
            bail!("nothing can be sent any more");
        }
    }
    Ok(())
}

/// Resources that are missing of the first state: clusters, and endpoints.
struct First([usize; 2]);

impl First {
    fn of(shape: Shape) -> Self {
        Self([shape.clusters as usize; 2])
    }

    fn is_over(&self) -> bool {
        self.0 == [0, 0]
    }

    /// Whether it is complete by these.
    fn takes(&mut self, is_of_endpoints: bool, resources: usize) -> bool {
        let was_over = self.is_over();
        let left = &mut self.0[usize::from(is_of_endpoints)];
        *left = left.saturating_sub(resources);
        !was_over && self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_state_is_complete_when_both_types_are() {
        let mut first = First::of(Shape {
            clusters: 3,
            endpoints: 1,
        });
        assert!(!first.takes(false, 3));
        assert!(!first.takes(true, 2));
        assert!(first.takes(true, 1));
        assert!(first.is_over() && !first.takes(false, 3));
    }

    #[test]
    fn a_change_touches_one_resource() {
        let shape = Shape {
            clusters: 2,
            endpoints: 3,
        };
        let (before, after) = (resources(shape, 0), assignment(shape, 0, 1));
        assert_eq!(before.len(), 4);
        assert_ne!(before[2], after);
        assert_eq!(before[2].value.len(), after.value.len());
    }
}
