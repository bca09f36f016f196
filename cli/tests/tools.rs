//! `cert dev`, `bootstrap`, `completions` and `man`, as people and scripts use them.

mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use program::{json, path, run_to};
use sidestep_cli::x509::Certificate;
use sidestep_proto::bootstrap::{Bootstrap, Credentials};

const MESH: &str = "mesh: v1
trust_domain: prod.example
defaults: {mtls: strict}
services:
  web: {identity: ns/prod/sa/web}
  greeter: {}
";

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn mesh(&self) -> PathBuf {
        let file = self.join("mesh.yaml");
        fs::write(&file, MESH).expect("writes");
        file
    }

    fn certs(&self) -> PathBuf {
        self.join("certs")
    }

    /// `cert dev --out certs` with more arguments.
    fn cert_dev(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let certs = self.certs();
        run_to(
            code,
            &[&["cert", "dev", "--out", path(&certs)], arguments].concat(),
        )
    }

    fn certificate(&self, name: &str) -> Certificate {
        let pem = fs::read(self.certs().join(name)).expect("is there");
        Certificate::from_pem(&pem)
            .expect("a certificate")
            .remove(0)
    }
}

#[test]
fn cert_dev_writes_what_the_mesh_file_says() {
    let directory = Directory::new();
    let mesh = directory.mesh();
    let (said, _) = directory.cert_dev(0, &["--mesh", path(&mesh)]);
    assert!(
        said.contains("spiffe://prod.example/ns/prod/sa/web"),
        "{said}"
    );
    let ca = directory.certificate("ca.pem");
    assert!(ca.is_ca && ca.subject.contains("development"), "{ca:?}");
    for (file, id) in [
        ("web.pem", "spiffe://prod.example/ns/prod/sa/web"),
        ("greeter.pem", "spiffe://prod.example/sa/greeter"),
        (
            "control-plane.pem",
            "spiffe://prod.example/sa/control-plane",
        ),
    ] {
        let leaf = directory.certificate(file);
        assert_eq!(leaf.uris, [id]);
        assert!(!leaf.is_ca);
        assert_ne!(
            leaf.subject, ca.subject,
            "C-core would take it for self-signed"
        );
        let names: Vec<String> = leaf.dialled_names().collect();
        let own = file.strip_suffix(".pem").expect("PEM");
        for name in [own, "localhost", "127.0.0.1", "::1"] {
            assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
        }
    }
    for key in ["ca.key", "web.key", "greeter.key", "control-plane.key"] {
        let mode = fs::metadata(directory.certs().join(key)).expect("is there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{key}");
    }
    let ignored = fs::read_to_string(directory.certs().join(".gitignore"));
    assert_eq!(
        ignored.expect("is there"),
        "*\n",
        "keys stay out of repositories"
    );
}

#[test]
fn cert_dev_keeps_the_authority_until_it_is_told_to_begin_anew() {
    let directory = Directory::new();
    directory.cert_dev(0, &["web", "--server-host", "mesh.internal"]);
    let ca = directory.certificate("ca.pem");
    let web = directory.certificate("web.pem");

    let (said, _) = directory.cert_dev(0, &["greeter", "--json"]);
    let said = json(&said);
    assert_eq!(said["new_authority"], false);
    assert_eq!(said["files"].as_array().expect("a list").len(), 3);
    assert_eq!(directory.certificate("ca.pem"), ca);
    assert_eq!(directory.certificate("web.pem"), web, "nobody asked for it");
    let hosts = directory.certificate("control-plane.pem").hosts;
    assert!(hosts.contains(&"mesh.internal".to_owned()), "{hosts:?}");

    let (said, _) = directory.cert_dev(0, &["greeter", "--renew", "--days", "1", "--json"]);
    let said = json(&said);
    assert_eq!(said["new_authority"], true);
    let stale = said["stale"][0].as_str().expect("one");
    assert!(stale.ends_with("web.pem"), "{said}");
    assert_ne!(directory.certificate("ca.pem"), ca);
    let greeter = directory.certificate("greeter.pem");
    let lifetime = greeter.not_after.duration_since(greeter.not_before);
    assert!(lifetime.expect("forwards").as_secs() < 2 * 86_400);
}

#[test]
fn cert_dev_says_what_is_wrong() {
    let directory = Directory::new();
    let mesh = directory.mesh();
    let mesh = ["--mesh", path(&mesh)];
    for (arguments, expected) in [
        (vec![], "no service is named"),
        (vec!["../web"], "cannot be the name of a service"),
        (vec!["ca"], "files of the authority"),
        (vec!["control-plane"], "files of the authority"),
        (
            vec!["gretter", mesh[0], mesh[1]],
            "did you mean \"greeter\"?",
        ),
        (
            vec!["web", "--trust-domain", "x.example", mesh[0], mesh[1]],
            "the mesh file \"prod.example\"",
        ),
        (
            vec!["web", "--trust-domain", "A b"],
            "cannot be a trust domain",
        ),
        (
            vec!["web", "--server-host", "a b"],
            "neither a host name nor an IP",
        ),
    ] {
        let (_, said) = directory.cert_dev(1, &arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert!(!directory.certs().exists(), "nothing was written");
    directory.cert_dev(2, &["web", "--days", "0"]);
}

#[test]
fn cert_dev_overwrites_no_authority_that_it_cannot_use() {
    let directory = Directory::new();
    directory.cert_dev(0, &["web"]);
    let certs = directory.certs();
    let other = Directory::new();
    other.cert_dev(0, &["web"]);
    let ca = fs::read(certs.join("ca.pem")).expect("is there");

    fs::copy(other.certs().join("ca.key"), certs.join("ca.key")).expect("copies");
    let (_, said) = directory.cert_dev(1, &["web"]);
    assert!(said.contains("ca.key is not the key of"), "{said}");
    assert!(said.starts_with("error[SX0707]: "), "{said}");

    fs::remove_file(certs.join("ca.key")).expect("is there");
    let (_, said) = directory.cert_dev(1, &["web"]);
    assert!(said.contains("--renew"), "{said}");

    fs::copy(certs.join("web.pem"), certs.join("ca.pem")).expect("copies");
    fs::copy(certs.join("web.key"), certs.join("ca.key")).expect("copies");
    let (_, said) = directory.cert_dev(1, &["web"]);
    assert!(said.contains("no development authority"), "{said}");

    fs::write(certs.join("ca.pem"), "garbage").expect("writes");
    let (_, said) = directory.cert_dev(1, &["web"]);
    assert!(said.contains("ca.pem: no certificate in it"), "{said}");
    fs::write(certs.join("ca.pem"), ca).expect("writes");
}

/// `bootstrap KIND --service web --server ADDR` with more arguments.
fn bootstrap(code: i32, kind: &str, server: &str, more: &[&str]) -> (String, String) {
    let first = ["bootstrap", kind, "--service", "web", "--server", server];
    run_to(code, &[&first, more].concat())
}

#[test]
fn bootstrap_prints_or_writes_what_the_runtime_reads() {
    let directory = Directory::new();
    directory.cert_dev(0, &["web"]);
    let certs = directory.certs();
    for kind in ["runtime", "grpc"] {
        let (printed, said) = bootstrap(0, kind, "mesh.internal:18000", &["--certs", path(&certs)]);
        assert_eq!(said, "");
        let read = Bootstrap::parse(&printed).expect("a bootstrap");
        assert_eq!(read.node.cluster, "web");
        // grpc-node takes no node without one.
        assert!(printed.contains(r#""locality": {}"#), "{printed}");
        let Credentials::Tls {
            certificate_file: Some(certificate),
            ..
        } = &read.servers[0].credentials
        else {
            panic!("{printed}");
        };
        assert!(certificate.is_absolute() && certificate.exists());
    }

    let out = directory.join("deep/web.json");
    let more = ["--node-id", "web-7", "--zone", "a", "--out", path(&out)];
    let (printed, said) = bootstrap(0, "runtime", "127.0.0.1:18000", &more);
    assert_eq!(printed, "");
    assert!(
        said.contains("deep/web.json") && said.contains("plaintext"),
        "{said}"
    );
    let read = fs::read_to_string(&out).expect("is there");
    let read = Bootstrap::parse(&read).expect("a bootstrap");
    assert_eq!(read.node.id, "web-7");
    assert_eq!(read.node.locality.zone, "a");
    assert_eq!(read.servers[0].credentials, Credentials::Insecure);
}

#[test]
fn bootstrap_sends_nothing_in_the_open_without_a_word() {
    let directory = Directory::new();
    for kind in ["runtime", "grpc"] {
        let (_, said) = bootstrap(2, kind, "10.0.0.1:18000", &[]);
        assert!(said.starts_with("error[SX0706]: "), "{said}");
        assert!(
            said.contains("--certs") && said.contains("--insecure"),
            "{said}"
        );
        bootstrap(0, kind, "10.0.0.1:18000", &["--insecure"]);
    }
    let (_, said) = bootstrap(2, "envoy", "127.0.0.1:1", &["--ingress", "50051=8080"]);
    assert!(said.contains("--ingress 0.0.0.0:50051"), "{said}");
    let certs = directory.certs();
    let (_, said) = bootstrap(1, "grpc", "10.0.0.1:1", &["--certs", path(&certs)]);
    assert!(said.contains("sidestep cert dev --out"), "{said}");
    assert!(!Path::new(&certs).exists());
}

#[test]
fn bootstrap_knows_wrong_usage_and_the_mesh_files_services() {
    let directory = Directory::new();
    let mesh = directory.mesh();
    for (kind, server, more, code, expected) in [
        ("grpc", "nowhere", &[][..], 2, "HOST:PORT"),
        ("envoy", "127.0.0.1:1", &[], 2, "--egress"),
        (
            "envoy",
            "127.0.0.1:1",
            &["--egress", "1"],
            2,
            "PORT=SERVICE",
        ),
        ("envoy", "127.0.0.1:1", &["--egress", "9901=web"], 2, "9901"),
        (
            "envoy",
            "127.0.0.1:1",
            &["--lds", "--admin", "0.0.0.0:1"],
            2,
            "127.0.0.1",
        ),
        (
            "envoy",
            "127.0.0.1:1",
            &["--egress", "1=gretter", "--mesh", path(&mesh)],
            1,
            "did you mean \"greeter\"?",
        ),
    ] {
        let (_, said) = bootstrap(code, kind, server, more);
        assert!(said.contains(expected), "{more:?}: {said}");
    }
    let more = ["--egress", "15001=greeter", "--mesh", path(&mesh)];
    let (printed, _) = bootstrap(0, "envoy", "127.0.0.1:18000", &more);
    let listener = &json(&printed)["static_resources"]["listeners"][0];
    let socket = &listener["address"]["socket_address"];
    assert_eq!(socket["address"], "127.0.0.1");
    assert_eq!(socket["port_value"], 15001);
}

#[test]
fn shells_complete_the_verbs_and_man_has_a_page_for_each() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (script, _) = run_to(0, &["completions", shell]);
        assert!(
            script.contains("explain") && script.contains("bootstrap"),
            "{shell}"
        );
    }
    run_to(2, &["completions", "dos"]);
    let (page, _) = run_to(0, &["man"]);
    assert!(page.contains(".TH sidestep 1"), "{page}");
    let directory = Directory::new();
    let man = directory.join("man1");
    run_to(0, &["man", "--out", path(&man)]);
    for name in ["sidestep", "sidestep-serve", "sidestep-cert-dev"] {
        assert!(man.join(format!("{name}.1")).exists(), "{name}");
    }
}

#[test]
fn what_cannot_be_written_is_told_with_the_systems_words() {
    let directory = Directory::new();
    let file = directory.join("file");
    fs::write(&file, "").expect("writes");
    let below = file.join("below");
    for arguments in [
        &["man", "--out", path(&below)][..],
        &[
            "bootstrap",
            "grpc",
            "--service",
            "web",
            "--server",
            "127.0.0.1:1",
            "--out",
            path(&below),
        ],
    ] {
        let (_, said) = run_to(1, arguments);
        assert!(said.starts_with("error[SX0705]: cannot write "), "{said}");
        assert!(said.contains(path(&below)), "{said}");
        assert!(said.contains("os error"), "{said}");
    }
}

#[test]
fn the_new_verbs_teach() {
    let (help, _) = run_to(0, &["--help"]);
    let order = [
        "sidestep demo",
        "sidestep check",
        "sidestep cert",
        "sidestep serve",
        "sidestep bootstrap",
    ];
    let begin = help.find("Begin here").expect("a beginning");
    let places = order.map(|verb| help[begin..].find(verb).unwrap_or_else(|| panic!("{verb}")));
    assert!(
        places.is_sorted(),
        "in the order in which one needs them: {places:?}"
    );
    for verb in [
        &["cert", "dev"][..],
        &["bootstrap"],
        &["bootstrap", "envoy"],
        &["completions"],
        &["man"],
    ] {
        let (help, _) = run_to(0, &[verb, &["--help"]].concat());
        assert!(help.contains("Examples:"), "{verb:?}: {help}");
    }
    let (help, _) = run_to(0, &["bootstrap", "envoy", "--help"]);
    assert!(help.contains("iptables is not offered"), "{help}");
}
