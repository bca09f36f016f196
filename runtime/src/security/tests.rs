//! Handshakes with certificates made on the spot.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType, date_time_ymd,
};
use sidestep_proto::resource::{
    Address, CertificateInstance, DownstreamTls, StringMatcher, Text, UpstreamTls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::provider::file_watcher::{FileWatcher, Files};
use super::provider::static_::StaticProvider;
use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Authorities of one name would be told apart by a bad signature only.
    let name = format!("root {:x}", fastrand::u64(..));
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Chain and key, PEM.
struct Leaf {
    chain: String,
    key: String,
}

fn leaf(issuer: &Authority, sans: Vec<SanType>, last_year: i32) -> Leaf {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = sans;
    params.not_after = date_time_ymd(last_year, 1, 1);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().unwrap();
    Leaf {
        chain: params.signed_by(&key, issuer).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn spiffe(issuer: &Authority, name: &str) -> Leaf {
    leaf(issuer, vec![uri(name)], 4000)
}

fn material(identity: Option<&Leaf>, roots: Option<&Authority>) -> Material {
    let roots = roots.map(|roots| roots.pem());
    let identity = identity.map(|leaf| (leaf.chain.as_bytes(), leaf.key.as_bytes()));
    Material::from_pem(identity, roots.as_deref().map(str::as_bytes)).unwrap()
}

fn instance(name: &str) -> CertificateInstance {
    CertificateInstance {
        instance: name.to_owned(),
        certificate_name: String::new(),
    }
}

fn exact(name: &str) -> StringMatcher {
    StringMatcher::Exact(Text {
        value: name.to_owned(),
        ignore_case: false,
    })
}

fn providers(provider: impl CertificateProvider + 'static) -> CertificateProviders {
    CertificateProviders::default().with("it", Arc::new(provider))
}

fn client(provider: Material, shows_identity: bool, sans: &[&str]) -> ClientTls {
    client_of(
        &providers(StaticProvider::new(provider)),
        shows_identity,
        sans,
    )
}

fn client_of(providers: &CertificateProviders, shows_identity: bool, sans: &[&str]) -> ClientTls {
    let tls = UpstreamTls {
        roots: instance("it"),
        identity: shows_identity.then(|| instance("it")),
        sans: sans.iter().map(|name| exact(name)).collect(),
    };
    ClientTls::new(&tls, providers).unwrap()
}

#[derive(Clone, Copy)]
enum Clients {
    Ignored,
    Optional,
    Required,
}

fn server(provider: Material, clients: Clients) -> ServerTls {
    server_of(&providers(StaticProvider::new(provider)), clients)
}

fn server_of(providers: &CertificateProviders, clients: Clients) -> ServerTls {
    let tls = DownstreamTls {
        identity: instance("it"),
        roots: (!matches!(clients, Clients::Ignored)).then(|| instance("it")),
        require_client_certificate: matches!(clients, Clients::Required),
    };
    ServerTls::new(&tls, providers).unwrap()
}

/// Both ends over a pipe, until a byte has passed each way (TLS 1.3 refuses clients only after
/// their handshake). Yields whom each end saw.
async fn shake(
    client: &ClientTls,
    server: &ServerTls,
) -> Result<(PeerIdentity, PeerIdentity), String> {
    shake_as(client, server, "10.0.0.1").await
}

async fn shake_as(
    client: &ClientTls,
    server: &ServerTls,
    host: &'static str,
) -> Result<(PeerIdentity, PeerIdentity), String> {
    let connector = TlsConnector::from(client.config().map_err(|e| e.to_string())?);
    let acceptor = TlsAcceptor::from(server.config().map_err(|e| e.to_string())?);
    let (near, far) = tokio::io::duplex(1 << 16);
    let client = async {
        let mut stream = connector.connect(host.try_into().unwrap(), near).await?;
        stream.write_all(b"?").await?;
        stream.read_exact(&mut [0]).await?;
        let peer = peer_identity(stream.get_ref().1.peer_certificates().unwrap_or_default());
        std::io::Result::Ok(peer)
    };
    let server = async {
        let mut stream = acceptor.accept(far).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"!").await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let peer = peer_identity(stream.get_ref().1.peer_certificates().unwrap_or_default());
        std::io::Result::Ok(peer)
    };
    match tokio::join!(client, server) {
        (Ok(server), Ok(client)) => Ok((server, client)),
        (client, server) => Err(format!(
            "client: {:?}; server: {:?}",
            client.err().map(|error| handshake_error(&error).1),
            server.err()
        )),
    }
}

#[tokio::test]
async fn both_ends_see_each_others_names() {
    let ca = authority();
    let (a, b) = (
        spiffe(&ca, "spiffe://mesh/a"),
        spiffe(&ca, "spiffe://mesh/b"),
    );
    let client = client(material(Some(&a), Some(&ca)), true, &["spiffe://mesh/b"]);
    let server = server(material(Some(&b), Some(&ca)), Clients::Required);
    let (seen_server, seen_client) = shake(&client, &server).await.unwrap();
    assert_eq!(*seen_server.uri_sans, ["spiffe://mesh/b".to_owned()]);
    assert_eq!(*seen_client.uri_sans, ["spiffe://mesh/a".to_owned()]);
    assert_eq!(seen_client.certificates.len(), 1);
}

#[tokio::test]
async fn what_is_not_vouched_for_is_refused() {
    let (ca, other) = (authority(), authority());
    let good = spiffe(&ca, "spiffe://mesh/b");
    let expired = leaf(&ca, vec![uri("spiffe://mesh/b")], 2001);
    let foreign = spiffe(&other, "spiffe://mesh/b");
    let nameless = leaf(&ca, vec![], 4000);
    let b = &["spiffe://mesh/b"][..];
    for (case, server_leaf, sans, error) in [
        (
            "wrong name",
            &good,
            &["spiffe://mesh/c"][..],
            "the server's certificate is for spiffe://mesh/b, not spiffe://mesh/c",
        ),
        (
            "no name",
            &nameless,
            b,
            "the server's certificate has no name, not even spiffe://mesh/b",
        ),
        ("expired", &expired, b, "Expired"),
        ("expired, any name", &expired, &[], "Expired"),
        ("unknown root", &foreign, b, "UnknownIssuer"),
        ("unknown root, any name", &foreign, &[], "UnknownIssuer"),
    ] {
        let client = client(material(None, Some(&ca)), false, sans);
        let server = server(material(Some(server_leaf), None), Clients::Ignored);
        let text = shake(&client, &server).await.expect_err(case);
        assert!(text.contains(error), "{case}: {text}");
    }
    let client = client(material(None, Some(&ca)), false, &[]);
    let server = server(material(Some(&nameless), None), Clients::Ignored);
    shake(&client, &server).await.expect("any name will do");
}

#[tokio::test]
async fn client_certificates_are_optional_or_required_and_always_checked() {
    let (ca, other) = (authority(), authority());
    let (good, foreign) = (
        spiffe(&ca, "spiffe://mesh/a"),
        spiffe(&other, "spiffe://mesh/a"),
    );
    let expired = leaf(&ca, vec![uri("spiffe://mesh/a")], 2001);
    let own = spiffe(&ca, "spiffe://mesh/b");
    for (case, shown, clients, accepted) in [
        ("none, required", None, Clients::Required, false),
        ("none, optional", None, Clients::Optional, true),
        ("none, ignored", None, Clients::Ignored, true),
        ("good, required", Some(&good), Clients::Required, true),
        ("good, optional", Some(&good), Clients::Optional, true),
        (
            "foreign, required",
            Some(&foreign),
            Clients::Required,
            false,
        ),
        (
            "foreign, optional",
            Some(&foreign),
            Clients::Optional,
            false,
        ),
        (
            "expired, optional",
            Some(&expired),
            Clients::Optional,
            false,
        ),
    ] {
        let client = client(material(shown, Some(&ca)), shown.is_some(), &[]);
        let server = server(material(Some(&own), Some(&ca)), clients);
        let result = shake(&client, &server).await;
        assert_eq!(result.is_ok(), accepted, "{case}: {result:?}");
    }
}

#[test]
fn missing_material_is_an_error_and_never_a_plain_connection() {
    let ca = authority();
    let own = spiffe(&ca, "spiffe://mesh/a");
    let no_roots = client(material(Some(&own), None), true, &[]);
    assert!(
        no_roots
            .config()
            .unwrap_err()
            .to_string()
            .contains("trusted roots")
    );
    let no_identity = client(material(None, Some(&ca)), true, &[]);
    assert!(
        no_identity
            .config()
            .unwrap_err()
            .to_string()
            .contains("identity")
    );
    let no_identity = server(material(None, Some(&ca)), Clients::Ignored);
    assert!(
        no_identity
            .config()
            .unwrap_err()
            .to_string()
            .contains("identity")
    );
    let no_roots = server(material(Some(&own), None), Clients::Optional);
    assert!(
        no_roots
            .config()
            .unwrap_err()
            .to_string()
            .contains("trusted roots")
    );
    let required_without_roots = DownstreamTls {
        identity: instance("it"),
        roots: None,
        require_client_certificate: true,
    };
    let all = providers(StaticProvider::new(material(Some(&own), Some(&ca))));
    assert!(ServerTls::new(&required_without_roots, &all).is_err());
    let unknown = CertificateProviders::default();
    assert!(ServerTls::new(&required_without_roots, &unknown).is_err());
}

#[tokio::test]
async fn a_rotation_reaches_the_next_handshake() {
    let (old, new) = (authority(), authority());
    let provider = Arc::new(StaticProvider::new(material(
        Some(&spiffe(&old, "spiffe://mesh/old")),
        None,
    )));
    let all = CertificateProviders::default().with("it", Arc::clone(&provider) as _);
    let server = server_of(&all, Clients::Ignored);
    let trusting_new = client(material(None, Some(&new)), false, &["spiffe://mesh/new"]);
    shake(&trusting_new, &server)
        .await
        .expect_err("not rotated yet");
    let before = server.config().unwrap();
    assert!(Arc::ptr_eq(&before, &server.config().unwrap()), "cached");
    provider.rotate(material(Some(&spiffe(&new, "spiffe://mesh/new")), None));
    assert!(!Arc::ptr_eq(&before, &server.config().unwrap()));
    shake(&trusting_new, &server).await.unwrap();
}

fn write(directory: &Path, leaf: &Leaf) {
    std::fs::write(directory.join("cert.pem"), &leaf.chain).unwrap();
    std::fs::write(directory.join("key.pem"), &leaf.key).unwrap();
}

fn watcher(directory: &Path) -> Arc<FileWatcher> {
    Arc::new(FileWatcher::new(Files {
        identity: Some((directory.join("cert.pem"), directory.join("key.pem"))),
        roots: Some(directory.join("ca.pem")),
        refresh_interval: Duration::from_secs(600),
    }))
}

#[test]
fn files_that_come_late_serve_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let ca = authority();
    let watcher = watcher(directory.path());
    let error = watcher.current().unwrap_err();
    assert!(error.to_string().contains("cert.pem"), "{error}");
    std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
    assert!(watcher.current().is_err(), "half of it is not enough");
    write(directory.path(), &spiffe(&ca, "spiffe://mesh/a"));
    watcher.current().unwrap();
}

#[test]
fn a_half_written_or_broken_rotation_keeps_the_last_good_files() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let ca = authority();
    let (old, new) = (
        spiffe(&ca, "spiffe://mesh/old"),
        spiffe(&ca, "spiffe://mesh/new"),
    );
    std::fs::write(at("ca.pem"), ca.pem()).unwrap();
    write(directory.path(), &old);
    let watcher = watcher(directory.path());
    let first = watcher.current().unwrap();
    let unchanged = |what: &str| {
        watcher.reload_now();
        assert!(Arc::ptr_eq(&first, &watcher.current().unwrap()), "{what}");
    };
    unchanged("nothing was written");
    std::fs::write(at("cert.pem"), &new.chain).unwrap();
    unchanged("the certificate is new, the key old");
    std::fs::write(at("key.pem"), &new.key[..new.key.len() / 2]).unwrap();
    unchanged("the key is torn");
    std::fs::remove_file(at("key.pem")).unwrap();
    unchanged("the key is gone");
    std::fs::write(at("ca.pem"), "").unwrap();
    unchanged("the roots are empty");
    std::fs::write(at("key.pem"), &new.key).unwrap();
    watcher.reload_now();
    let second = watcher.current().unwrap();
    let names =
        |material: &Material| peer_identity(&material.identity.as_ref().unwrap().cert).uri_sans;
    assert_eq!(*names(&second), ["spiffe://mesh/new".to_owned()]);
    assert!(
        Arc::ptr_eq(
            first.roots.as_ref().unwrap(),
            second.roots.as_ref().unwrap()
        ),
        "the last good roots stay beside the new certificate"
    );
}

#[tokio::test(start_paused = true)]
async fn the_refresh_task_reads_at_the_interval() {
    let directory = tempfile::tempdir().unwrap();
    let ca = authority();
    std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
    write(directory.path(), &spiffe(&ca, "spiffe://mesh/old"));
    let watcher = watcher(directory.path());
    let all = CertificateProviders::default().with_file_watcher("it", Arc::clone(&watcher));
    all.spawn_refresh();
    let first = watcher.current().unwrap();
    write(directory.path(), &spiffe(&ca, "spiffe://mesh/new"));
    // The task has to set its timer before time passes.
    tokio::task::yield_now().await;
    tokio::time::advance(Duration::from_secs(599)).await;
    assert!(
        Arc::ptr_eq(&first, &watcher.current().unwrap()),
        "too early"
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    // Files are read on a thread of their own, in real time.
    let begun = std::time::Instant::now();
    while Arc::ptr_eq(&first, &watcher.current().unwrap()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "never read");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_control_plane_is_verified_by_host_name() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, other) = (authority(), authority());
    let roots = directory.path().join("ca.pem");
    let own = leaf(&ca, vec![dns("control.test")], 4000);
    let server = server(material(Some(&own), None), Clients::Ignored);
    let client = ClientTls::for_control_plane(Some(roots.clone()), None);
    assert!(client.config().is_err(), "no file yet");
    std::fs::write(&roots, other.pem()).unwrap();
    let text = shake_as(&client, &server, "control.test")
        .await
        .unwrap_err();
    assert!(text.contains("UnknownIssuer"), "{text}");
    std::fs::write(&roots, ca.pem()).unwrap();
    shake_as(&client, &server, "control.test").await.unwrap();
    let text = shake_as(&client, &server, "elsewhere.test")
        .await
        .unwrap_err();
    assert!(text.contains("not valid for name"), "{text}");
    assert!(text.contains("elsewhere.test"), "{text}");
}

#[tokio::test]
async fn connect_speaks_tls_and_names_its_failure() {
    use crate::subchannel::{ConnectTarget, Connector, Io, connect};
    let ca = authority();
    let tls = server(
        material(Some(&spiffe(&ca, "spiffe://mesh/b")), None),
        Clients::Ignored,
    );
    let acceptor = TlsAcceptor::from(tls.config().unwrap());
    let connector: Connector = Arc::new(move |_| {
        let (near, far) = tokio::io::duplex(1 << 16);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(far).await {
                let mut server = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok(_)) = server.accept().await {}
            }
        });
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Io>) })
    });
    let target = |sans: &[&str]| ConnectTarget {
        addresses: vec![Address::Unix("pipe".to_owned())],
        tls: Some(Arc::new(client(material(None, Some(&ca)), false, sans))),
        server_name: String::new(),
        options: Arc::default(),
    };
    let (connection, _driver) = connect(&connector, &target(&["spiffe://mesh/b"]))
        .await
        .unwrap();
    assert!(!connection.draining());
    let error = connect(&connector, &target(&["spiffe://mesh/c"]))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("TLS handshake"), "{error}");
}
