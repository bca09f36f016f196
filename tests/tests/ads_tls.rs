//! TLS between a process and its control plane (gRFC A65): who gets in, who does not, and what the
//! calls of those who do not say.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use sidestep::{Channel, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_server::source::SourceText;
use sidestep_server::{Configuration, ManagementServer, RawResources, Running, ServerTls};
use sidestep_tests::fixture::{Backend, bootstrap, builder, plain_mesh};
use sidestep_tests::load::{PATIENCE, call};
use tonic::{Code, Status};

type Client = TestServiceClient<Channel>;

/// An authority and a folder for what it issues.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = DnType::CommonName;
        params.distinguished_name.push(name, "control plane roots");
        let key = KeyPair::generate().unwrap();
        let authority = Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(authority.path("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues `NAME.pem` and `NAME.key` for a host, in the place of what was there.
    fn issue(&self, name: &str, host: &str) {
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        fs::write(self.path(&format!("{name}.pem")), leaf.pem()).unwrap();
    }

    /// TLS for a control plane that is `host`.
    fn server(&self, host: &str) -> ServerTls {
        self.issue("server", host);
        ServerTls::from_files(self.path("server.pem"), self.path("server.key"))
    }

    /// `channel_creds` of a client that trusts this authority.
    fn credentials(&self) -> Value {
        json!({"type": "tls", "config": {"ca_certificate_file": self.path("ca.pem")}})
    }

    /// [`Self::credentials`] of a client that has a certificate from this authority.
    fn mutual(&self) -> Value {
        self.issue("web", "web.example");
        let mut credentials = self.credentials();
        credentials["config"]["certificate_file"] = json!(self.path("web.pem"));
        credentials["config"]["private_key_file"] = json!(self.path("web.key"));
        credentials["config"]["refresh_interval"] = json!("1s");
        credentials
    }
}

/// A control plane with TLS, and one server in its mesh, which has `credentials`.
struct World {
    running: Running,
    resources: RawResources,
    backend: Backend,
}

impl World {
    async fn start(tls: ServerTls, credentials: &Value) -> Self {
        let resources = RawResources::new([]).unwrap();
        resources.replace_configuration(configuration(&plain_mesh(&[])));
        let server = ManagementServer::builder().source(resources.clone());
        let running = server.tls(tls).start().await.unwrap();
        let greeter = process(&running.address().to_string(), "greeter", credentials);
        let backend = Backend::start(&greeter, "a", Faults::default());
        let mesh = plain_mesh(&[&backend.address]);
        resources.replace_configuration(configuration(&mesh));
        Self {
            running,
            resources,
            backend,
        }
    }

    fn address(&self) -> String {
        self.running.address().to_string()
    }

    fn client(&self, credentials: &Value) -> Client {
        client(&self.address(), credentials)
    }

    /// Ends the control plane and starts one with other TLS at the same port.
    async fn replace(&mut self, tls: ServerTls) {
        let address = self.running.address().clone();
        let server = ManagementServer::builder().source(self.resources.clone());
        let fresh = server.listen(address).tls(tls);
        let placeholder = ManagementServer::builder().start().await.unwrap();
        std::mem::replace(&mut self.running, placeholder)
            .kill()
            .await;
        self.running = fresh.start().await.unwrap();
    }
}

fn configuration(mesh: &str) -> Configuration {
    let text = SourceText {
        path: "mesh.yaml".to_owned(),
        text: mesh.to_owned(),
    };
    Configuration::from_mesh(&[text]).unwrap()
}

fn process(address: &str, service: &str, credentials: &Value) -> Mesh {
    let mut bootstrap = bootstrap(address, service);
    bootstrap["xds_servers"][0]["channel_creds"] = json!([credentials]);
    builder(&bootstrap).build().unwrap()
}

fn client(address: &str, credentials: &Value) -> Client {
    let mesh = process(address, "web", credentials);
    TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
}

/// The status of a call that cannot be configured: it names the server and the reason.
async fn refused(client: &mut Client, address: &str, reason: &str) -> Status {
    let status = tokio::time::timeout(PATIENCE, call(client)).await;
    let status = status.expect("in time").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    for part in [address, reason] {
        assert!(status.message().contains(part), "{part:?}: {status}");
    }
    status
}

#[tokio::test]
async fn a_process_without_a_certificate_is_served_where_none_is_demanded() {
    let authority = Authority::new();
    let world = World::start(authority.server("127.0.0.1"), &authority.credentials()).await;
    call(&mut world.client(&authority.credentials()))
        .await
        .unwrap();
    // A certificate that nobody asked for does no harm.
    call(&mut world.client(&authority.mutual())).await.unwrap();
    assert_eq!(world.backend.testing.calls(), 2);
}

#[tokio::test]
async fn where_a_certificate_is_demanded_only_its_owner_is_served() {
    let authority = Authority::new();
    let tls = authority.server("127.0.0.1");
    let tls = tls.client_ca(authority.path("ca.pem"));
    let world = World::start(tls, &authority.mutual()).await;
    call(&mut world.client(&authority.mutual())).await.unwrap();

    let mut without = world.client(&authority.credentials());
    refused(&mut without, &world.address(), "CertificateRequired").await;

    let stranger = Authority::new();
    let mut credentials = stranger.mutual();
    credentials["config"]["ca_certificate_file"] = json!(authority.path("ca.pem"));
    let mut stranger = world.client(&credentials);
    refused(&mut stranger, &world.address(), "received fatal alert").await;
    assert_eq!(world.backend.testing.calls(), 1);
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_believed() {
    let authority = Authority::new();
    let world = World::start(authority.server("127.0.0.1"), &authority.credentials()).await;
    let other = Authority::new();
    let mut client = world.client(&other.credentials());
    refused(&mut client, &world.address(), "invalid peer certificate").await;
}

#[tokio::test]
async fn a_server_that_is_another_host_is_not_believed() {
    let authority = Authority::new();
    let tls = authority.server("elsewhere.example");
    let world = World::start(tls, &authority.credentials()).await;
    let mut client = world.client(&authority.credentials());
    let status = refused(&mut client, &world.address(), "127.0.0.1").await;
    assert!(status.message().contains("elsewhere.example"), "{status}");
}

#[tokio::test]
async fn plaintext_finds_no_one_at_a_server_with_tls() {
    let authority = Authority::new();
    let world = World::start(authority.server("127.0.0.1"), &authority.credentials()).await;
    let insecure = json!({"type": "insecure"});
    refused(&mut world.client(&insecure), &world.address(), "").await;
}

/// The server's certificate, its authority and all clients' certificates change while everything
/// runs: connections stay, and whoever connects after it meets the new ones.
#[tokio::test]
async fn certificates_are_replaced_while_everything_runs() {
    let old = Authority::new();
    let new = Authority::new();
    let tls = old.server("127.0.0.1").client_ca(old.path("ca.pem"));
    let world = World::start(tls, &old.mutual()).await;
    let mut early = world.client(&old.mutual());
    call(&mut early).await.unwrap();

    new.server("127.0.0.1");
    for name in ["server.key", "server.pem", "ca.pem"] {
        fs::copy(new.path(name), old.path(name)).unwrap();
    }
    let credentials = new.mutual();
    let late = async {
        loop {
            // A new process each time: one that was refused waits before it tries again.
            if call(&mut world.client(&credentials)).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, late).await.expect("in time");
    call(&mut early).await.expect("its stream goes on");
}

/// gRFC A65: what the client shows is read again, too.
#[tokio::test]
async fn a_client_shows_its_newest_certificate_when_it_connects_again() {
    let old = Authority::new();
    let new = Authority::new();
    let tls = old.server("127.0.0.1").client_ca(old.path("ca.pem"));
    let mut world = World::start(tls, &old.mutual()).await;
    let mut client = world.client(&old.mutual());
    call(&mut client).await.unwrap();

    new.mutual();
    let tls = new.server("127.0.0.1").client_ca(new.path("ca.pem"));
    for name in ["web.key", "web.pem", "ca.pem"] {
        fs::copy(new.path(name), old.path(name)).unwrap();
    }
    world.replace(tls).await;
    let clients = || world.running.tracker().clients();
    let back = async {
        while !clients().iter().any(|c| c.node_cluster == "web") {
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, back).await.expect("in time");
}
