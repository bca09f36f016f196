//! What these tests put together of the test kit's parts: meshes that may be wrong on purpose, and
//! servers of the interop service.

use serde_json::Value;
use sidestep::{Channel, Mesh, MeshBuilder, Server};
use sidestep_server::source::SourceText;
use sidestep_server::{Configuration, RawResources, Running};
use sidestep_test::{ControlPlane, Served};
use tokio::net::{TcpListener, TcpStream};

pub use sidestep_test::{Authority, LISTENER_TEMPLATE, quick};

use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;

/// The control plane of a test.
pub struct Fixture {
    resources: RawResources,
    plane: ControlPlane,
}

impl Fixture {
    /// Starts a control plane that serves a mesh file's text.
    pub async fn start(mesh: &str) -> Self {
        let resources = RawResources::unchecked([]).expect("nothing has no name to lack");
        resources.replace_configuration(configuration(mesh));
        Self::raw(resources).await
    }

    /// Starts a control plane that serves these resources, whatever they are.
    pub async fn raw(resources: RawResources) -> Self {
        let plane = ControlPlane::raw(resources.clone()).await;
        Self {
            plane: plane.expect("a free loopback port"),
            resources,
        }
    }

    /// Replaces the mesh file.
    pub fn push(&self, mesh: &str) {
        self.resources.replace_configuration(configuration(mesh));
    }

    /// The source of a raw control plane.
    #[must_use]
    pub fn resources(&self) -> &RawResources {
        &self.resources
    }

    /// The running control plane.
    #[must_use]
    pub fn running(&self) -> &Running {
        self.plane.running().expect("it was not killed")
    }

    /// Where the control plane listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.plane.address().to_string()
    }

    /// Cuts the control plane off, as a crash would.
    pub async fn kill(&mut self) {
        self.plane.cut().await;
    }

    /// Starts the control plane again on the same port.
    pub async fn revive(&mut self) {
        let revision = self.plane.restore().await;
        revision.expect("the port is still ours");
    }

    /// The bootstrap of a process that is `service`.
    #[must_use]
    pub fn bootstrap(&self, service: &str) -> Value {
        bootstrap(&self.address(), service)
    }

    /// A process that is `service`, before it is made: with timers that suit a test.
    #[must_use]
    pub fn builder(&self, service: &str) -> MeshBuilder {
        builder(&self.bootstrap(service))
    }

    /// A process that is `service`.
    #[must_use]
    pub fn mesh(&self, service: &str) -> Mesh {
        self.builder(service)
            .build()
            .expect("nothing in it can fail")
    }

    /// A client of `target` in a process of its own.
    #[must_use]
    pub fn client(&self, target: &str) -> TestServiceClient<Channel> {
        TestServiceClient::new(self.mesh("web").channel(target).expect("a good target"))
    }
}

/// A process with this bootstrap, before it is made: with timers that suit a test.
///
/// # Panics
/// If the bootstrap is not valid.
#[must_use]
pub fn builder(bootstrap: &Value) -> MeshBuilder {
    let builder = Mesh::builder()
        .timers(quick())
        .bootstrap_json(&bootstrap.to_string());
    builder.expect("the test's bootstrap is valid")
}

/// The bootstrap of a process that is `service` under the control plane at `address`.
#[must_use]
pub fn bootstrap(address: &str, service: &str) -> Value {
    sidestep_test::bootstrap(address, service, &format!("{service}-node"))
}

/// An address that nobody listens on; it may be bound soon after.
///
/// # Panics
/// If there is no free port.
#[must_use]
pub fn unused_address() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("it is bound").to_string()
}

/// A mesh file's text as the control plane takes it.
///
/// # Panics
/// If the file has faults: the test is wrong then.
#[must_use]
pub fn configuration(mesh: &str) -> Configuration {
    let text = SourceText {
        path: "mesh.yaml".to_owned(),
        text: mesh.to_owned(),
    };
    Configuration::from_mesh(&[text]).unwrap_or_else(|error| panic!("{error}\n{mesh}"))
}

/// A mesh file with the services `web`, which only calls, and `greeter`: its endpoints as
/// `(address, version)`, and further keys of it as YAML.
#[must_use]
pub fn mesh_file(endpoints: &[(&str, &str)], keys: &str) -> String {
    let mut text = "mesh: v1\nservices:\n  web: {}\n  greeter:\n    endpoints:\n".to_owned();
    if endpoints.is_empty() {
        text.push_str("      static: []\n");
    } else {
        text.push_str("      static:\n");
    }
    for (address, version) in endpoints {
        text.push_str(&format!(
            "        - {{address: \"{address}\", version: {version}}}\n"
        ));
    }
    for line in keys.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

/// A mesh file with mutual TLS (`strict` or `permissive`) in the trust domain `prod.example`.
#[must_use]
pub fn secured(mesh: &str, mtls: &str) -> String {
    let head = format!("mesh: v1\ntrust_domain: prod.example\ndefaults: {{mtls: {mtls}}}\n");
    mesh.replacen("mesh: v1\n", &head, 1)
}

/// The SPIFFE id of a service of a [`secured`] mesh.
#[must_use]
pub fn spiffe(service: &str) -> String {
    format!("spiffe://prod.example/sa/{service}")
}

/// [`mesh_file`] with one version and nothing further.
#[must_use]
pub fn plain_mesh(addresses: &[&str]) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|address| (*address, "v1")).collect();
    mesh_file(&endpoints, "")
}

/// A meshed server of the interop service.
pub struct Backend {
    /// `127.0.0.1:port`.
    pub address: String,
    /// Its service, for its counters.
    pub testing: Testing,
    served: Served,
}

impl Backend {
    /// Binds a free port and serves there as part of `mesh`; its id is `id`.
    #[must_use]
    pub fn start(mesh: &Mesh, id: &str, faults: Faults) -> Self {
        Self::start_at(mesh, "127.0.0.1:0", id, faults)
    }

    /// Binds `address` and serves there as part of `mesh`; its id is `id`.
    ///
    /// # Panics
    /// If the address is taken.
    #[must_use]
    pub fn start_at(mesh: &Mesh, address: &str, id: &str, faults: Faults) -> Self {
        let testing = Testing::new(id, faults);
        let service = TestServiceServer::new(testing.clone());
        Self::serve(mesh.server(address).add_service(service), testing)
    }

    /// Serves by a server whose service is `testing`, whatever else was said about it.
    ///
    /// # Panics
    /// If its address is taken.
    #[must_use]
    pub fn serve(server: Server, testing: Testing) -> Self {
        let bound = server.bind().expect("a free port");
        let address = bound.address().to_string();
        let served = Served::spawn(|stop| bound.serve_with_shutdown(stop));
        Self {
            address,
            testing,
            served,
        }
    }

    /// Drains, and waits until the server has ended.
    pub async fn shutdown(self) {
        let ended = self.served.shutdown().await;
        ended.expect("the server ends well");
    }

    /// Cuts every connection and closes the port, as a crash would.
    pub async fn kill(self) {
        self.served.kill().await;
    }
}

/// A server that takes calls and never answers one, not even when their deadline has passed.
/// Returns its address; it runs as long as the test's runtime.
///
/// # Panics
/// If there is no free port.
pub async fn silent_backend() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(take_and_keep(socket));
        }
    });
    address
}

async fn take_and_keep(socket: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(socket).await?;
    // Dropping a call would reset it.
    let mut kept = Vec::new();
    while let Some(call) = connection.accept().await {
        kept.push(call?);
    }
    Ok(())
}
