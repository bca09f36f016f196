//! Many clusters, or many connections, for what they hold in memory. `cargo xtask bench-report --only memory`
//! reads the resident memory of the clients; nothing is measured in here.
//!
//! - `memory serve` is a control plane with so many clusters, one route to each by the header
//!   `x-cluster`, and the server behind every endpoint.
//! - `memory client` calls the first so many of them, once each, by the bootstrap of the
//!   environment, and stays. grpc-go's client of the interop suite does the same by its flags.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use sidestep::Mesh;
use sidestep_benches::lab;
use sidestep_server::{ManagementServer, RawResources};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The method that grpc-go's client calls, too: nothing there, nothing back.
const METHOD: &str = "/grpc.testing.TestService/EmptyCall";

#[derive(Parser)]
#[command(about = "Many clusters, or many connections, for what they hold in memory")]
struct Flags {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Start the control plane and the server, print where the former is, serve until ended.
    Serve(Size),
    /// Call clusters 0, 1, … once each, print how many calls were answered, stay until ended.
    Client {
        /// How many calls.
        #[arg(long)]
        calls: u32,
    },
}

#[derive(Args)]
struct Size {
    #[arg(long)]
    clusters: u32,
    /// Of each cluster.
    #[arg(long)]
    endpoints: u32,
    /// Connect to an endpoint when a call is to go there (a small ring of hashes), instead of to
    /// all of them at once (round robin).
    #[arg(long)]
    on_demand: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Flags::parse().role {
        Role::Serve(size) => serve(&size).await,
        Role::Client { calls } => client(calls).await,
    }
}

async fn serve(size: &Size) -> Result<()> {
    // Behind all loopback addresses at once: each endpoint has one of its own.
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let resources = RawResources::with(lab::configuration(&mesh(size, port))?);
    let control = ManagementServer::builder()
        .source(resources)
        .start()
        .await?;
    println!(
        "{}",
        json!({"event": "serving", "address": control.address().to_string()})
    );
    let server = Server::builder().add_service(Nothing);
    server.serve_with_incoming(incoming).await?;
    Ok(())
}

async fn client(calls: u32) -> Result<()> {
    let mesh = Mesh::from_env()?;
    let channel = mesh.channel("xds:///all")?.wait_for_ready(true);
    let mut answered = 0;
    for cluster in 0..calls {
        let mut request = Request::new(());
        let metadata = request.metadata_mut();
        metadata.insert("x-cluster", cluster.to_string().parse()?);
        let codec = ProstCodec::<(), ()>::default();
        let path = METHOD.parse().context("a path")?;
        let mut grpc = Grpc::new(channel.clone());
        match grpc.unary(request, path, codec).await {
            Ok(_) => answered += 1,
            Err(status) => eprintln!("{status}"),
        }
    }
    println!("{}", json!({"event": "summary", "ok": answered}));
    std::future::pending().await
}

/// Every resource by hand: a mesh file has neither rings of such a size nor routes to so many.
fn mesh(size: &Size, port: u16) -> String {
    let mut text = "mesh: v1\nresources:\n".to_owned();
    let mut next = Ipv4Addr::new(127, 1, 0, 1).to_bits();
    let mut routes = Vec::new();
    for cluster in 0..size.clusters {
        let name = format!("c{cluster}");
        routes.push(json!({
            "match": {
                "prefix": "/",
                "headers": [{"name": "x-cluster", "string_match": {"exact": cluster.to_string()}}],
            },
            "route": {
                "cluster": name,
                "hash_policy": [{"header": {"header_name": "x-cluster"}}],
            },
        }));
        let addresses = next..next + size.endpoints;
        next = addresses.end;
        // Writing to a String cannot fail.
        _ = writeln!(text, "  - {}", cluster_of(&name, size.on_demand));
        _ = writeln!(text, "  - {}", endpoints_of(&name, addresses, port));
    }
    _ = writeln!(text, "  - {}", listener(&Value::from(routes)));
    text
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.{name}")
}

fn cluster_of(name: &str, on_demand: bool) -> Value {
    let mut cluster = json!({
        "@type": kind("config.cluster.v3.Cluster"),
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
    });
    if on_demand {
        cluster["lb_policy"] = "RING_HASH".into();
        cluster["ring_hash_lb_config"] = json!({"minimum_ring_size": 16});
    }
    cluster
}

fn endpoints_of(name: &str, addresses: std::ops::Range<u32>, port: u16) -> Value {
    let endpoints = addresses.map(|bits| {
        let address = Ipv4Addr::from_bits(bits).to_string();
        let socket = json!({"address": address, "port_value": port});
        json!({"endpoint": {"address": {"socket_address": socket}}})
    });
    json!({
        "@type": kind("config.endpoint.v3.ClusterLoadAssignment"),
        "cluster_name": name,
        "endpoints": [{
            "locality": {"zone": "a"},
            "load_balancing_weight": 1,
            "lb_endpoints": endpoints.collect::<Vec<_>>(),
        }],
    })
}

fn listener(routes: &Value) -> Value {
    let router = kind("extensions.filters.http.router.v3.Router");
    json!({
        "@type": kind("config.listener.v3.Listener"),
        "name": "all",
        "api_listener": {"api_listener": {
            "@type": kind(
                "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
            ),
            "route_config": {
                "name": "all",
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
            },
            "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
        }},
    })
}

/// Answers every call with an empty message.
#[derive(Clone)]
struct Nothing;

impl NamedService for Nothing {
    const NAME: &'static str = "grpc.testing.TestService";
}

impl Service<http::Request<Body>> for Nothing {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<(), ()>::default();
            Ok(tonic::server::Grpc::new(codec).unary(Empty, request).await)
        })
    }
}

struct Empty;

impl Service<Request<()>> for Empty {
    type Response = Response<()>;
    type Error = Status;
    type Future = std::future::Ready<Result<Response<()>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::new(())))
    }
}
