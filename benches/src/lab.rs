//! The other side of a measurement: plain servers, and a control plane that names them.

use std::fmt::Write as _;

use anyhow::Result;
use sidestep_server::{
    Configuration, ManagementServer, RawResources, Running, source::SourceText,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::echo::Message;
use crate::echo::echo_server::{Echo, EchoServer};

struct Echoing;

#[tonic::async_trait]
impl Echo for Echoing {
    async fn unary(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// Servers of tonic's own, without the mesh, and a control plane. They live as long as the
/// runtime that they were started on.
pub struct Lab {
    /// `127.0.0.1:port` of each server.
    pub endpoints: Vec<String>,
    control: Running,
}

impl Lab {
    /// Starts everything on free loopback ports.
    ///
    /// # Errors
    /// A port cannot be bound.
    pub async fn start(endpoints: usize) -> Result<Self> {
        let mut addresses = Vec::new();
        for _ in 0..endpoints {
            addresses.push(serve().await?);
        }
        let resources = RawResources::unchecked([])?;
        resources.replace_configuration(configuration(&mesh(&addresses))?);
        let control = ManagementServer::builder().source(resources).start().await?;
        Ok(Self {
            endpoints: addresses,
            control,
        })
    }

    /// Where the control plane listens.
    #[must_use]
    pub fn control(&self) -> String {
        self.control.address().to_string()
    }
}

/// Starts one plain server and returns its address.
///
/// # Errors
/// No port is free.
pub async fn serve() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = tonic::transport::Server::builder().add_service(EchoServer::new(Echoing));
    tokio::spawn(router.serve_with_incoming(incoming));
    Ok(address)
}

/// Every other endpoint is of version `b`; the one route goes nine to one and has a time-out.
fn mesh(endpoints: &[String]) -> String {
    let mut list = String::new();
    for (i, address) in endpoints.iter().enumerate() {
        let version = if i % 2 == 0 { "a" } else { "b" };
        // Writing to a string cannot fail.
        let _ = writeln!(list, "        - {{address: \"{address}\", version: {version}}}");
    }
    let split = if endpoints.len() > 1 {
        "    versions: {stable: a, canary: b}\n    routes:\n      - {name: main, to: {stable: 90, canary: 10}, timeout: 5s}\n"
    } else {
        "    routes:\n      - {name: main, timeout: 5s}\n"
    };
    format!(
        "mesh: v1\ndefaults: {{mtls: off}}\nservices:\n  web: {{}}\n  echo:\n    endpoints:\n      static:\n{list}{split}"
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

/// The bootstrap of the client process.
#[must_use]
pub fn bootstrap(control: &str) -> String {
    serde_json::json!({
        "xds_servers": [{"server_uri": control, "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "bench", "cluster": "web"},
    })
    .to_string()
}
