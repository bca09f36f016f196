//! What a change of endpoints costs the process that follows it, without a network: resources are
//! in the process, and connections are made of memory or are never made.
//!
//! `updates` counts the connections that a change opens and closes, and takes the time for each
//! endpoint; `up` brings endpoints up and is meant to be counted from outside; `pause` looks at
//! calls while endpoints change.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use sidestep::subchannel::{Connector, default_connector};
use sidestep::{Mesh, StaticResources};
use sidestep_benches::echo::Message;
use sidestep_benches::echo::echo_client::EchoClient;
use sidestep_benches::lab;
use sidestep_proto::codec;
use sidestep_proto::resource::{
    Address, Cluster, Endpoint, EndpointAssignment, FilterConfig, Forward, Health,
    HttpConnectionManager, HttpFilter, Labels, Listener, ListenerKind, Locality, LocalityEndpoints,
    PathMatcher, Resource, Route, RouteAction, RouteConfiguration, RouteMatch, RouteSource, Text,
    VirtualHost, WeightedCluster,
};
use sidestep_proto::wire::Any;
use tokio::sync::watch;

/// What is not there by then never comes.
const LIMIT: Duration = Duration::from_secs(120);

/// Longer than the longest pause between two pickers.
const BETWEEN: Duration = Duration::from_millis(60);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// 1, 10 and 100 of 1,000, 10,000 and 100,000 endpoints change.
    Updates {
        /// Updates of each kind; the median counts.
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
    /// So many endpoints come up, and the program ends.
    Up {
        #[arg(long)]
        endpoints: u32,
    },
    /// One of so many endpoints changes, again and again, and the program ends.
    Change {
        #[arg(long)]
        endpoints: u32,
        #[arg(long, default_value_t = 1)]
        times: u32,
    },
    /// Calls while ten updates a second change 10 of 10,000 endpoints, and calls while none does.
    Pause {
        #[arg(long, default_value_t = 50_000)]
        calls: usize,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Updates { rounds } => one_thread()?.block_on(updates(rounds)),
        Command::Up { endpoints } => one_thread()?.block_on(up(endpoints)),
        Command::Change { endpoints, times } => one_thread()?.block_on(change(endpoints, times)),
        Command::Pause { calls } => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?
            .block_on(pause(calls)),
    }
}

fn one_thread() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

async fn updates(rounds: usize) -> Result<()> {
    println!("endpoints  changed  opened  closed  ns for each endpoint (median of {rounds})");
    let mut each = Vec::new();
    for endpoints in [1_000, 10_000, 100_000] {
        for changed in [1, 10, 100] {
            let median = update(endpoints, changed, rounds).await?;
            let nanos = median.as_secs_f64() * 1e9 / f64::from(endpoints);
            println!("{endpoints:>9}{changed:>9}{changed:>8}{changed:>8}{nanos:>10.0}");
            each.push(nanos);
        }
    }
    let ratio = each[6..].iter().sum::<f64>() / each[3..6].iter().sum::<f64>();
    println!("an endpoint of 100,000 costs {ratio:.2} times one of 10,000");
    Ok(())
}

/// Changes so many endpoints again and again, and checks that no other connection is touched.
async fn update(endpoints: u32, changed: u32, rounds: usize) -> Result<Duration> {
    let dials = Dials::default();
    let addresses = |round: u32| {
        let kept = changed..endpoints;
        let fresh = (0..changed).map(move |i| endpoints + round * changed + i);
        fresh.chain(kept).map(numbered).collect::<Vec<_>>()
    };
    let mesh = Mesh::builder()
        .static_resources(resources(&addresses(0))?)
        .connector(dials.connector())
        .plaintext_where_unsecured()
        .build()?;
    let _channel = mesh.channel("xds:///echo")?;
    dials.until(endpoints as usize, 0).await?;
    mesh.settled().await;
    let mut times = Vec::new();
    for round in 1..=rounds {
        tokio::time::sleep(BETWEEN).await;
        let next = resources(&addresses(u32::try_from(round)?))?;
        let start = Instant::now();
        mesh.replace(next)?;
        mesh.settled().await;
        times.push(start.elapsed());
        let replaced = changed as usize * round;
        dials.until(endpoints as usize + replaced, replaced).await?;
    }
    // Nothing comes after it.
    tokio::time::sleep(BETWEEN).await;
    let replaced = changed as usize * rounds;
    ensure!(
        dials.now() == (endpoints as usize + replaced, replaced),
        "connections opened and closed: {:?}",
        dials.now()
    );
    times.sort_unstable();
    Ok(times[rounds / 2])
}

/// Connections that never come about, counted.
#[derive(Clone, Default)]
struct Dials {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct Dial(Arc<AtomicUsize>);

impl Drop for Dial {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Dials {
    fn connector(&self) -> Connector {
        let this = self.clone();
        Arc::new(move |_| {
            this.begun.fetch_add(1, Ordering::Relaxed);
            let dial = Dial(this.dropped.clone());
            Box::pin(async move {
                let _dial = dial;
                std::future::pending().await
            })
        })
    }

    fn now(&self) -> (usize, usize) {
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (load(&self.begun), load(&self.dropped))
    }

    async fn until(&self, begun: usize, dropped: usize) -> Result<()> {
        let there = async {
            while self.now() != (begun, dropped) {
                tokio::task::yield_now().await;
            }
        };
        let there = tokio::time::timeout(LIMIT, there).await;
        there.with_context(|| format!("{:?} instead of {begun}, {dropped}", self.now()))
    }
}

/// Servers made of memory: each speaks HTTP/2 and is never called.
async fn up(endpoints: u32) -> Result<()> {
    let ready = watch::Sender::new(0_u32);
    let connector: Connector = {
        let ready = ready.clone();
        Arc::new(move |_| {
            let ready = ready.clone();
            Box::pin(async move {
                let (near, far) = tokio::io::duplex(4096);
                tokio::spawn(async move {
                    let mut server = h2::server::handshake(far).await?;
                    ready.send_modify(|ready| *ready += 1);
                    while server.accept().await.is_some() {}
                    Ok::<(), h2::Error>(())
                });
                Ok(Box::new(near) as Box<dyn sidestep::subchannel::Io>)
            })
        })
    };
    let addresses: Vec<_> = (0..endpoints).map(numbered).collect();
    let mesh = Mesh::builder()
        .static_resources(resources(&addresses)?)
        .connector(connector)
        .plaintext_where_unsecured()
        .build()?;
    let channel = mesh.channel("xds:///echo")?;
    channel.ready().await;
    let mut seen = ready.subscribe();
    let all = seen.wait_for(|ready| *ready == endpoints);
    tokio::time::timeout(LIMIT, all).await??;
    mesh.settled().await;
    println!("{endpoints} endpoints are up");
    Ok(())
}

/// As many updates as asked for, of which each is decoded, compared and carried out.
async fn change(endpoints: u32, times: u32) -> Result<()> {
    let dials = Dials::default();
    let addresses = |first: u32| {
        let rest = 1..endpoints;
        let all = std::iter::once(endpoints + first).chain(rest);
        resources(&all.map(numbered).collect::<Vec<_>>())
    };
    // Two in turn, whatever the number of updates is, so that making them is not counted.
    let turns = [addresses(0)?, addresses(1)?];
    let mesh = Mesh::builder()
        .static_resources(turns[0].clone())
        .connector(dials.connector())
        .plaintext_where_unsecured()
        .build()?;
    let _channel = mesh.channel("xds:///echo")?;
    dials.until(endpoints as usize, 0).await?;
    mesh.settled().await;
    for round in 1..=times {
        mesh.replace(turns[round as usize % 2].clone())?;
        mesh.settled().await;
        let replaced = round as usize;
        dials.until(endpoints as usize + replaced, replaced).await?;
    }
    println!("{times} updates of {endpoints} endpoints");
    Ok(())
}

async fn pause(calls: usize) -> Result<()> {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(lab::serve().await?.parse::<SocketAddr>()?);
    }
    let silent = 10_000 - servers.len();
    let real = default_connector();
    let connector: Connector = Arc::new(move |address| match &address {
        Address::Tcp(tcp) if tcp.ip().is_loopback() => real(address),
        _ => Box::pin(std::future::pending()),
    });
    let addresses = |round: u32| {
        let silent = u32::try_from(silent).unwrap_or(u32::MAX);
        let kept = 10..silent;
        let fresh = (0..10).map(move |i| silent + round * 10 + i);
        let silent = fresh.chain(kept).map(numbered);
        servers.iter().copied().chain(silent).collect::<Vec<_>>()
    };
    let mesh = Mesh::builder()
        .static_resources(resources(&addresses(0))?)
        .connector(connector)
        .plaintext_where_unsecured()
        .build()?;
    let channel = mesh.channel("xds:///echo")?;
    channel.ready().await;
    let client = EchoClient::new(channel);
    call_times(&client, calls / 10).await?;
    let quiet = call_times(&client, calls).await?;
    let changing = tokio::spawn({
        let mesh = mesh.clone();
        let sets: Vec<_> = (1..=10).map(|round| resources(&addresses(round))).collect();
        let sets = sets.into_iter().collect::<Result<Vec<_>>>()?;
        async move {
            for set in sets.into_iter().cycle() {
                if mesh.replace(set).is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let changing_times = call_times(&client, calls).await?;
    changing.abort();
    for (name, quantile) in [
        ("median", 0.5),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("most", 1.0),
    ] {
        let (a, b) = (at(&quiet, quantile), at(&changing_times, quantile));
        let ratio = b.as_secs_f64() / a.as_secs_f64();
        println!("{name:<8}{a:>10.1?} without updates{b:>10.1?} with ten a second{ratio:>8.2}");
    }
    Ok(())
}

/// How long each of so many calls took, sorted; eight are made at a time.
async fn call_times(client: &EchoClient<sidestep::Channel>, calls: usize) -> Result<Vec<Duration>> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut client = client.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..calls / 8 {
                let start = Instant::now();
                client.unary(Message::default()).await?;
                times.push(start.elapsed());
            }
            Ok::<_, tonic::Status>(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    all.sort_unstable();
    Ok(all)
}

fn at(sorted: &[Duration], quantile: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = ((sorted.len() - 1) as f64 * quantile) as usize;
    sorted[index]
}

/// Not a loopback address, and another one for each number.
fn numbered(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 443))
}

/// The service `echo`: one round-robin cluster with these endpoints in four zones.
fn resources(addresses: &[SocketAddr]) -> Result<StaticResources> {
    let zone = addresses.len().div_ceil(4).max(1);
    let zones = addresses.chunks(zone).enumerate();
    let localities = zones.map(|(zone, addresses)| LocalityEndpoints {
        locality: Locality {
            zone: format!("zone-{zone}"),
            ..Locality::default()
        },
        priority: 0,
        weight: 1,
        endpoints: addresses.iter().map(endpoint).collect(),
    });
    let assignment = EndpointAssignment {
        cluster: "echo".to_owned(),
        localities: localities.collect(),
        drops: Vec::new(),
    };
    let all = [
        listener(),
        routes(),
        cluster(),
        Resource::EndpointAssignment(Arc::new(assignment)),
    ];
    let all: [Any; 4] = all.map(|resource| codec::encode(&resource));
    Ok(StaticResources::new(all)?)
}

fn endpoint(address: &SocketAddr) -> Endpoint {
    Endpoint {
        addresses: vec![Address::Tcp(*address)],
        hostname: String::new(),
        weight: 1,
        health: Health::Healthy,
        hash_key: None,
        labels: Labels::default(),
    }
}

fn listener() -> Resource {
    Resource::Listener(Arc::new(Listener {
        name: "echo".to_owned(),
        kind: ListenerKind::Api(HttpConnectionManager {
            routes: RouteSource::Named("echo".to_owned()),
            max_stream_duration: None,
            filters: vec![HttpFilter {
                name: "router".to_owned(),
                config: FilterConfig::Router,
            }],
        }),
    }))
}

fn routes() -> Resource {
    let action = RouteAction::Forward(Forward {
        clusters: vec![WeightedCluster::new("echo", 1)],
        max_stream_duration: None,
        grpc_timeout_header_max: None,
        retry: None,
        hash_policies: Vec::new(),
    });
    Resource::RouteConfiguration(Arc::new(RouteConfiguration {
        name: "echo".to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                name: String::new(),
                matches: RouteMatch {
                    path: PathMatcher::Prefix(Text::exact("")),
                    headers: Vec::new(),
                    fraction: None,
                },
                action,
            }],
        }],
    }))
}

fn cluster() -> Resource {
    Resource::Cluster(Arc::new(Cluster::eds("echo")))
}
