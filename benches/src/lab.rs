//! The other side of a measurement: plain servers, and a control plane that names them.

use std::fmt::Write as _;
use std::pin::Pin;

use anyhow::Result;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use sidestep_server::{Configuration, ManagementServer, RawResources, Running, source::SourceText};
use tokio::net::TcpListener;
use tonic::transport::{Certificate, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::certificates::{Credentials, Issuer};
use crate::echo::Message;
use crate::echo::echo_server::{Echo, EchoServer};

/// Answers with what it was given.
#[derive(Debug, Clone, Copy)]
pub struct Echoing;

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

/// What a client has to know of a [`Lab`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Place {
    /// `127.0.0.1:port` of each server.
    pub endpoints: Vec<String>,
    /// The same of servers that demand mutual TLS.
    pub secure: Vec<String>,
    /// Where the control plane listens.
    pub control: String,
    /// What a client shows to the latter servers, and trusts.
    pub credentials: Credentials,
}

/// Servers of tonic's own, without the mesh, and a control plane. They live as long as the
/// runtime that they were started on.
pub struct Lab {
    /// Where everything is.
    pub place: Place,
    _control: Running,
}

impl Lab {
    /// Starts everything on free loopback ports.
    ///
    /// # Errors
    /// A port cannot be bound.
    pub async fn start(endpoints: usize) -> Result<Self> {
        let issuer = Issuer::new()?;
        let (mut plain, mut secure) = (Vec::new(), Vec::new());
        for _ in 0..endpoints {
            plain.push(serve().await?);
            secure.push(serve_securely(&issuer.issue("secure")?).await?);
        }
        let resources = RawResources::unchecked([])?;
        resources.replace_configuration(configuration(&mesh(&plain, &secure))?);
        let control = ManagementServer::builder()
            .source(resources)
            .start()
            .await?;
        Ok(Self {
            place: Place {
                endpoints: plain,
                secure,
                control: control.address().to_string(),
                credentials: issuer.issue("web")?,
            },
            _control: control,
        })
    }
}

/// Starts one plain server and returns its address.
///
/// # Errors
/// No port is free.
pub async fn serve() -> Result<String> {
    listen(tonic::transport::Server::builder()).await
}

async fn serve_securely(credentials: &Credentials) -> Result<String> {
    let tls = ServerTlsConfig::new()
        .identity(credentials.identity())
        .client_ca_root(Certificate::from_pem(&credentials.root));
    listen(tonic::transport::Server::builder().tls_config(tls)?).await
}

async fn listen(mut server: tonic::transport::Server) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = server.add_service(EchoServer::new(Echoing));
    tokio::spawn(router.serve_with_incoming(incoming));
    Ok(address)
}

/// Everything that a route and a cluster of this version can have.
const FULL: &str = "    limits: {max_outstanding_per_client: 1000}
    outlier_detection: {consecutive_failures: 5, success_rate: {}, failure_percentage: {}}
";
const RETRY: &str = ", retry: {max_attempts: 3, on: [unavailable]}";

/// Four services: `echo` as it comes, `retry` with retries armed, `full` with everything that a
/// call may meet, `secure` with mutual TLS.
fn mesh(plain: &[String], secure: &[String]) -> String {
    let mut text =
        "mesh: v1\ntrust_domain: bench.example\ndefaults: {mtls: off}\nservices:\n  web: {}\n"
            .to_owned();
    text += &service("echo", plain, "", "");
    text += &service("retry", plain, RETRY, "");
    text += &service("full", plain, RETRY, FULL);
    text += &service("secure", secure, "", "    mtls: strict\n");
    text
}

/// Every other endpoint is of version `b`; the one route goes nine to one and has a time-out.
fn service(name: &str, endpoints: &[String], of_route: &str, keys: &str) -> String {
    let mut list = String::new();
    for (i, address) in endpoints.iter().enumerate() {
        let version = if i % 2 == 0 { "a" } else { "b" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            list,
            "        - {{address: \"{address}\", version: {version}}}"
        );
    }
    let (versions, to) = if endpoints.len() > 1 {
        (
            "    versions: {stable: a, canary: b}\n",
            "to: {stable: 90, canary: 10}, ",
        )
    } else {
        ("", "")
    };
    format!(
        "  {name}:\n    endpoints:\n      static:\n{list}{versions}{keys}    routes:\n      - {{name: main, {to}timeout: 5s{of_route}}}\n"
    )
}

/// A mesh file's text as the control plane takes it.
///
/// # Errors
/// The text has faults.
pub fn configuration(mesh: &str) -> Result<Configuration> {
    let text = SourceText {
        path: "mesh.yaml".to_owned(),
        text: mesh.to_owned(),
    };
    Ok(Configuration::from_mesh(&[text])?)
}

/// The bootstrap of a process that is `service`.
#[must_use]
pub fn bootstrap(control: &str, service: &str) -> String {
    serde_json::json!({
        "xds_servers": [{"server_uri": control, "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "bench", "cluster": service},
        "server_listener_resource_name_template":
            "grpc/server?xds.resource.listening_address=%s",
    })
    .to_string()
}
