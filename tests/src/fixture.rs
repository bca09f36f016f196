//! A whole mesh inside a test: a control plane on a loopback port, meshed servers and clients.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::{Value, json};
use sidestep::control::Timers;
use sidestep::security::CertificateProvider;
use sidestep::security::provider::static_::StaticProvider;
use sidestep::subchannel::state::Backoff;
use sidestep::{Channel, Mesh, MeshBuilder, Server};
use sidestep_server::source::SourceText;
use sidestep_server::{Configuration, ListenAddress, ManagementServer, RawResources, Running};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::service::{Faults, Testing};
use crate::testing::test_service_client::TestServiceClient;
use crate::testing::test_service_server::TestServiceServer;

/// The control plane of a test.
pub struct Fixture {
    resources: RawResources,
    address: ListenAddress,
    running: Option<Running>,
}

impl Fixture {
    /// Starts a control plane that serves a mesh file's text.
    pub async fn start(mesh: &str) -> Self {
        let resources = RawResources::unchecked([]).expect("nothing has no name to lack");
        resources.replace_configuration(configuration(mesh));
        Self::serve(resources).await
    }

    /// Starts a control plane that serves these resources, whatever they are.
    pub async fn raw(resources: RawResources) -> Self {
        Self::serve(resources).await
    }

    async fn serve(resources: RawResources) -> Self {
        let running = ManagementServer::builder()
            .source(resources.clone())
            .start()
            .await;
        let running = running.expect("a free loopback port");
        Self {
            resources,
            address: running.address().clone(),
            running: Some(running),
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
        self.running.as_ref().expect("it was not killed")
    }

    /// Where the control plane listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts the control plane off, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill().await;
        }
    }

    /// Starts the control plane again on the same port.
    pub async fn revive(&mut self) {
        let server = ManagementServer::builder().source(self.resources.clone());
        let running = server.listen(self.address.clone()).start().await;
        self.running = Some(running.expect("the port is still ours"));
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
    json!({
        "xds_servers": [{
            "server_uri": address,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": format!("{service}-node"), "cluster": service},
        "server_listener_resource_name_template": LISTENER_TEMPLATE,
    })
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

/// Timers whose periods a test can wait for.
#[must_use]
pub fn quick() -> Timers {
    let mut timers = Timers::default();
    timers.ads.backoff_initial = Duration::from_millis(20);
    timers.ads.backoff_max = Duration::from_millis(100);
    timers.connect_backoff = Backoff {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(100),
    };
    timers
}

/// The usual listener template of gRPC servers.
pub const LISTENER_TEMPLATE: &str = "grpc/server?xds.resource.listening_address=%s";

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
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
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
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let signal = async { _ = stopped.await };
            bound
                .serve_with_shutdown(signal)
                .await
                .expect("the server ends well");
        });
        Self {
            address,
            testing,
            stop: Some(stop),
            task,
        }
    }

    /// Drains, and waits until the server has ended.
    pub async fn shutdown(mut self) {
        self.stop.take();
        self.task.await.expect("the server did not panic");
    }

    /// Cuts every connection and closes the port, as a crash would.
    pub async fn kill(self) {
        self.task.abort();
        _ = self.task.await;
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

/// A certificate authority of a test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate"),
        }
    }
}

impl Authority {
    /// A provider with a leaf certificate that carries `uri`, and this authority as its root.
    #[must_use]
    pub fn provider(&self, uri: &str) -> Arc<dyn CertificateProvider> {
        let (chain, key) = self.leaf(uri);
        let provider = StaticProvider::from_pem(
            Some((chain.as_bytes(), key.as_bytes())),
            Some(self.root().as_bytes()),
        );
        Arc::new(provider.expect("what was just made is valid"))
    }

    /// A provider that has this authority as its root and no certificate of its own.
    #[must_use]
    pub fn roots_only(&self) -> Arc<dyn CertificateProvider> {
        let provider = StaticProvider::from_pem(None, Some(self.root().as_bytes()));
        Arc::new(provider.expect("what was just made is valid"))
    }

    /// A leaf certificate that carries `uri`, and its key, both PEM.
    #[must_use]
    pub fn leaf(&self, uri: &str) -> (String, String) {
        self.leaf_until(uri, 2100)
    }

    /// [`Self::leaf`], valid until the beginning of a year.
    #[must_use]
    pub fn leaf_until(&self, uri: &str, year: i32) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI is ASCII"))];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        (leaf.pem(), key.serialize_pem())
    }

    /// A leaf certificate for a host, and its key, both PEM.
    #[must_use]
    pub fn host_leaf(&self, host: &str) -> (String, String) {
        let params = CertificateParams::new([host.to_owned()]).expect("a host name is ASCII");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        (leaf.pem(), key.serialize_pem())
    }

    /// The authority's own certificate, PEM.
    #[must_use]
    pub fn root(&self) -> String {
        self.issuer.pem()
    }
}
