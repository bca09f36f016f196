//! Mutual TLS between a channel and a server, and what happens where it cannot be had: never
//! plaintext, always words.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use sidestep::security::provider::static_::StaticProvider;
use sidestep::{CallError, Channel, Mesh, PeerIdentity, Server};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_tests::fixture::{
    Authority, Backend, Fixture, builder, mesh_file, plain_mesh, secured, spiffe,
};
use sidestep_tests::load::{Load, PATIENCE, call, until};
use tonic::{Code, Request};

type Client = TestServiceClient<Channel>;

fn client_of(mesh: &Mesh) -> Client {
    TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
}

fn process(fixture: &Fixture, authority: &Authority, service: &str, uri: &str) -> Mesh {
    let builder = fixture.builder(service);
    let builder = builder.certificate_provider("default", authority.provider(uri));
    builder.build().unwrap()
}

/// The certificates of callers, as the handler saw them, newest last.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<PeerIdentity>>>);

impl Seen {
    fn server(&self, server: Server, testing: &Testing) -> Server {
        let seen = self.clone();
        let note = move |request: Request<()>| {
            let identity = request.extensions().get::<PeerIdentity>();
            seen.0.lock().unwrap().extend(identity.cloned());
            Ok(request)
        };
        server.add_service(TestServiceServer::with_interceptor(testing.clone(), note))
    }

    fn last(&self) -> PeerIdentity {
        self.0.lock().unwrap().last().unwrap().clone()
    }
}

/// A strict mesh with one backend `a`; the backend shows `backend_uri`.
async fn strict(authority: &Authority, backend_uri: &str) -> (Fixture, Backend) {
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let servers = process(&fixture, authority, "greeter", backend_uri);
    let backend = Backend::start(&servers, "a", Faults::default());
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "strict"));
    (fixture, backend)
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let servers = process(&fixture, &authority, "greeter", &spiffe("greeter"));
    let seen = Seen::default();
    let testing = Testing::new("a", Faults::default());
    let server = seen.server(servers.server("127.0.0.1:0"), &testing);
    let stats = server.stats();
    let backend = Backend::serve(server, testing);
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "strict"));
    let web = process(&fixture, &authority, "web", &spiffe("web"));
    call(&mut client_of(&web)).await.unwrap();
    assert_eq!(*seen.last().uri_sans, [spiffe("web")]);
    assert_eq!((stats.tls(), stats.plaintext()), (1, 0));
}

#[tokio::test]
async fn a_server_with_another_name_is_not_called() {
    let authority = Authority::default();
    let (fixture, backend) = strict(&authority, &spiffe("impostor")).await;
    let web = process(&fixture, &authority, "web", &spiffe("web"));
    let status = call(&mut client_of(&web)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(CallError::from_status(&status), Some("no-endpoint"));
    let text = format!(
        "the server's certificate is for {}, not {}",
        spiffe("impostor"),
        spiffe("greeter")
    );
    assert!(status.message().contains(&text), "{status}");
    assert_eq!(backend.testing.calls(), 0);
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_called() {
    let (fixture, backend) = strict(&Authority::default(), &spiffe("greeter")).await;
    let web = process(&fixture, &Authority::default(), "web", &spiffe("web"));
    let status = call(&mut client_of(&web)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("certificate"), "{status}");
    assert_eq!(backend.testing.calls(), 0);
}

#[tokio::test]
async fn a_client_without_a_certificate_does_not_even_connect() {
    let authority = Authority::default();
    let (fixture, backend) = strict(&authority, &spiffe("greeter")).await;
    let roots_only = fixture.builder("web");
    let roots_only = roots_only.certificate_provider("default", authority.roots_only());
    let mut client = client_of(&roots_only.build().unwrap());
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("has no identity certificate"),
        "{status}"
    );
    assert_eq!(backend.testing.calls(), 0);
}

#[tokio::test]
async fn plaintext_callers_are_refused_by_a_strict_port() {
    let authority = Authority::default();
    let (_fixture, backend) = strict(&authority, &spiffe("greeter")).await;
    let dialled = Mesh::builder().build().unwrap();
    let channel = dialled.channel(&backend.address).unwrap();
    let status = call(&mut TestServiceClient::new(channel)).await;
    assert_eq!(status.unwrap_err().code(), Code::Unavailable);
    assert_eq!(backend.testing.calls(), 0);
}

#[tokio::test]
async fn a_process_without_the_provider_fails_and_says_so() {
    let authority = Authority::default();
    let (fixture, backend) = strict(&authority, &spiffe("greeter")).await;
    let status = call(&mut client_of(&fixture.mesh("web")))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    for part in ["\"default\"", "greeter", "web-node"] {
        assert!(status.message().contains(part), "{status}");
    }
    assert_eq!(backend.testing.calls(), 0);
}

#[tokio::test]
async fn a_permissive_port_takes_both_ways_in() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "permissive")).await;
    let servers = process(&fixture, &authority, "greeter", &spiffe("greeter"));
    let testing = Testing::new("a", Faults::default());
    let server = servers
        .server("127.0.0.1:0")
        .add_service(TestServiceServer::new(testing.clone()));
    let stats = server.stats();
    let backend = Backend::serve(server, testing);
    let mesh = secured(&plain_mesh(&[&backend.address]), "permissive");
    fixture.push(&mesh);

    let web = process(&fixture, &authority, "web", &spiffe("web"));
    call(&mut client_of(&web)).await.unwrap();
    let plain = tonic::transport::Channel::from_shared(format!("http://{}", backend.address));
    let plain = plain.unwrap().connect().await.unwrap();
    let mut plain = TestServiceClient::new(plain);
    plain.unary_call(SimpleRequest::default()).await.unwrap();
    assert_eq!((stats.tls(), stats.plaintext()), (1, 1));
}

/// PEM files of one process, and the bootstrap that watches them.
struct Files {
    directory: tempfile::TempDir,
    bootstrap: serde_json::Value,
}

impl Files {
    fn of(fixture: &Fixture, service: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut bootstrap = fixture.bootstrap(service);
        let path = |name: &str| directory.path().join(name);
        bootstrap["certificate_providers"] = json!({"default": {
            "plugin_name": "file_watcher",
            "config": {
                "certificate_file": path("tls.crt"),
                "private_key_file": path("tls.key"),
                "ca_certificate_file": path("ca.crt"),
                "refresh_interval": "0.020s",
            },
        }});
        Self {
            directory,
            bootstrap,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces the files one after the other, as rotating agents do.
    fn write(&self, authority: &Authority, leaf: &(String, String)) {
        let (chain, key) = leaf;
        for (name, text) in [
            ("ca.crt", &authority.root()),
            ("tls.crt", chain),
            ("tls.key", key),
        ] {
            let fresh = self.path("fresh");
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(fresh, self.path(name)).unwrap();
        }
    }

    fn mesh(&self) -> Mesh {
        builder(&self.bootstrap).build().unwrap()
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_either_end() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let files = Files::of(&fixture, "greeter");
    files.write(&authority, &authority.leaf_until(&spiffe("greeter"), 2020));
    let backend = Backend::start(&files.mesh(), "a", Faults::default());
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "strict"));
    let web = process(&fixture, &authority, "web", &spiffe("web"));
    let status = call(&mut client_of(&web)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("expired"), "{status}");

    let (fixture, backend) = strict(&authority, &spiffe("greeter")).await;
    let files = Files::of(&fixture, "web");
    files.write(&authority, &authority.leaf_until(&spiffe("web"), 2020));
    let status = call(&mut client_of(&files.mesh())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(backend.testing.calls(), 0);
}

#[tokio::test]
async fn missing_files_fail_with_their_path_until_they_appear() {
    let authority = Authority::default();
    let (fixture, _backend) = strict(&authority, &spiffe("greeter")).await;
    let files = Files::of(&fixture, "web");
    let mut client = client_of(&files.mesh());
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let path = files.directory.path().display().to_string();
    assert!(status.message().contains(&path), "{status}");
    files.write(&authority, &authority.leaf(&spiffe("web")));
    until(&mut client, Result::is_ok).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_rotate_under_load() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let server_files = Files::of(&fixture, "greeter");
    server_files.write(&authority, &authority.leaf(&spiffe("greeter")));
    let servers = server_files.mesh();
    let seen = Seen::default();
    let start = |id: &str| {
        let testing = Testing::new(id, Faults::default());
        let server = seen.server(servers.server("127.0.0.1:0"), &testing);
        Backend::serve(server, testing)
    };
    let first = start("first");
    fixture.push(&secured(&plain_mesh(&[&first.address]), "strict"));

    let files = Files::of(&fixture, "web");
    let old = authority.leaf(&spiffe("web"));
    files.write(&authority, &old);
    let web = files.mesh();
    let mut client = client_of(&web);
    let load = Load::start(&client, 4).await;
    load.further(50).await;
    let certificate = seen.last().certificates[0].clone();

    // A rotation stopped half-way: a new chain whose key is not there yet, then half a file.
    let new = authority.leaf(&spiffe("web"));
    std::fs::write(files.path("tls.crt"), &new.0).unwrap();
    load.further(50).await;
    std::fs::write(files.path("tls.crt"), &new.0[..100]).unwrap();
    load.further(50).await;
    let second = start("second");
    let both = secured(&plain_mesh(&[&first.address, &second.address]), "strict");
    fixture.push(&both);
    until(&mut client, |o| {
        o.as_ref().is_ok_and(|a| a.server == "second")
    })
    .await
    .unwrap();
    assert!(
        seen.0
            .lock()
            .unwrap()
            .iter()
            .all(|peer| peer.certificates[0] == certificate)
    );

    // Complete now, on both sides: connections made from here on show the new certificate.
    files.write(&authority, &new);
    server_files.write(&authority, &authority.leaf(&spiffe("greeter")));
    let rotated = async {
        let mut started = Vec::new();
        while seen.last().certificates[0] == certificate {
            // Each round makes a new connection, to a new backend.
            let id = format!("after-{}", started.len());
            let backend = start(&id);
            let both = plain_mesh(&[&first.address, &backend.address]);
            fixture.push(&secured(&both, "strict"));
            started.push(backend);
            until(&mut client, |o| o.as_ref().is_ok_and(|a| a.server == id))
                .await
                .unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, rotated).await.unwrap();
    load.further(50).await;
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn plaintext_to_another_host_needs_a_word() {
    // From the block reserved for documentation: nobody is there, and nobody must be asked.
    let fixture = Fixture::start(&plain_mesh(&["192.0.2.1:50051"])).await;
    let dialled = Arc::new(AtomicU32::new(0));
    let counting = |count: Arc<AtomicU32>| -> sidestep::subchannel::Connector {
        let real = sidestep::subchannel::default_connector();
        Arc::new(move |address| {
            if address.to_string().starts_with("192.0.2.1") {
                count.fetch_add(1, Ordering::SeqCst);
                return Box::pin(async { Err(std::io::Error::other("nobody is there")) });
            }
            real(address)
        })
    };
    let careful = fixture.builder("web").connector(counting(dialled.clone()));
    let status = call(&mut client_of(&careful.build().unwrap()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("plaintext_where_unsecured"),
        "{status}"
    );
    assert_eq!(dialled.load(Ordering::SeqCst), 0);

    let bold = fixture.builder("web").connector(counting(dialled.clone()));
    let bold = bold.plaintext_where_unsecured().build().unwrap();
    let status = call(&mut client_of(&bold)).await.unwrap_err();
    assert!(status.message().contains("nobody is there"), "{status}");
    assert!(dialled.load(Ordering::SeqCst) > 0);
}

/// A self-signed certificate of an authority is a common stop-gap; nobody takes it for a server's.
#[tokio::test]
async fn a_server_that_shows_an_authoritys_certificate_is_not_called() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let (chain, key) = authority.itself();
    let provider = StaticProvider::from_pem(
        Some((chain.as_bytes(), key.as_bytes())),
        Some(authority.root().as_bytes()),
    );
    let servers = fixture.builder("greeter");
    let servers = servers.certificate_provider("default", Arc::new(provider.unwrap()));
    let backend = Backend::start(&servers.build().unwrap(), "a", Faults::default());
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "strict"));
    let web = process(&fixture, &authority, "web", &spiffe("web"));
    let status = call(&mut client_of(&web)).await.unwrap_err();
    assert!(status.message().contains(&backend.address), "{status}");
    assert!(status.message().contains("CaUsedAsEndEntity"), "{status}");
    assert!(status.message().ends_with("[SX0811]"), "{status}");
}

#[tokio::test]
async fn a_client_that_the_server_does_not_trust_is_told_so() {
    let (authority, other) = (Authority::default(), Authority::default());
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    // The callers trust the server, and it does not trust them.
    let (chain, key) = authority.leaf(&spiffe("greeter"));
    let provider = StaticProvider::from_pem(
        Some((chain.as_bytes(), key.as_bytes())),
        Some(other.root().as_bytes()),
    );
    let servers = fixture.builder("greeter");
    let servers = servers.certificate_provider("default", Arc::new(provider.unwrap()));
    let backend = Backend::start(&servers.build().unwrap(), "a", Faults::default());
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "strict"));
    let web = process(&fixture, &authority, "web", &spiffe("web"));
    let status = call(&mut client_of(&web)).await.unwrap_err();
    assert!(status.message().contains(&backend.address), "{status}");
    assert!(status.message().ends_with("[SX0812]"), "{status}");
    assert_eq!(backend.testing.calls(), 0);
}
