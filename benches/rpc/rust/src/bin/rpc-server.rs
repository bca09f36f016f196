//! The echo service on loopback ports: plain tonic, with mutual TLS or without, or in the mesh.
//! Prints the event `ready` with its addresses and serves until standard input ends.

use std::path::PathBuf;
use std::pin::Pin;

use anyhow::{Context as _, Result};
use clap::Parser;
use rpc::echo::Message;
use rpc::echo::echo_server::{Echo, EchoServer};
use rpc::lab::{Certificates, Lab};
use serde_json::json;
use sidestep::Mesh;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio_stream::Stream;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

#[derive(Parser)]
#[command(about = "The echo service")]
struct Flags {
    /// How many ports to serve on.
    #[arg(long, default_value_t = 3)]
    listeners: usize,
    /// Threads of the runtime; 1 is a runtime without threads of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Mutual TLS, with certificate.pem, key.pem and roots.pem of this folder.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Join the mesh: {"control": "...", "node": "...", "servers": []}.
    #[arg(long)]
    meshed: Option<String>,
}

struct Echoing;

#[tonic::async_trait]
impl Echo for Echoing {
    async fn unary(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<Message>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let mut builder = match flags.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if flags.threads > 1 {
        builder.worker_threads(flags.threads);
    }
    builder.enable_all().build()?.block_on(async {
        let addresses = match &flags.meshed {
            Some(lab) => meshed(&flags, &Lab::parse(lab)?)?,
            None => plain(&flags).await?,
        };
        println!("{}", json!({"event": "ready", "addresses": addresses}));
        tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
        Ok(())
    })
}

async fn plain(flags: &Flags) -> Result<Vec<String>> {
    let mut addresses = Vec::new();
    for _ in 0..flags.listeners {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?.to_string());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(router(flags)?.serve_with_incoming(incoming));
    }
    Ok(addresses)
}

fn router(flags: &Flags) -> Result<Router> {
    let mut server = tonic::transport::Server::builder();
    if let Some(folder) = &flags.tls {
        server = server.tls_config(Certificates::new(folder).of_server()?)?;
    }
    Ok(server.add_service(EchoServer::new(Echoing)))
}

/// What the control plane says of the ports decides about TLS.
fn meshed(flags: &Flags, lab: &Lab) -> Result<Vec<String>> {
    let certificates = flags.tls.as_deref().map(Certificates::new);
    let bootstrap = lab.bootstrap("", certificates.as_ref());
    let mesh = Mesh::builder().bootstrap_json(&bootstrap)?.build()?;
    let mut addresses = Vec::new();
    for _ in 0..flags.listeners {
        let server = mesh.server("127.0.0.1:0");
        let server = server.add_service(EchoServer::new(Echoing)).bind()?;
        let address = server.address().to_string();
        addresses.push(address);
        let mesh = mesh.clone();
        tokio::spawn(async move {
            // The control plane is listened to for as long as it serves.
            let _mesh = mesh;
            if let Err(fault) = server.serve().await.context("serving") {
                eprintln!("error: {fault:#}");
            }
        });
    }
    Ok(addresses)
}
