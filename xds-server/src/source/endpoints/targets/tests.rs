use std::fs;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::fake_dns::{Data, FakeDns};
use super::*;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn endpoint(address: &str) -> ResolvedEndpoint {
    ResolvedEndpoint {
        priority: 0,
        zone: None,
        address: Address::Tcp(address.parse().expect("an address")),
        version: None,
        labels: Labels::default(),
        weight: 1,
    }
}

fn list(addresses: &[&str]) -> Vec<ResolvedEndpoint> {
    addresses.iter().map(|address| endpoint(address)).collect()
}

fn json(addresses: &[&str]) -> String {
    serde_json::json!([{ "targets": addresses }]).to_string()
}

fn error(text: &str) -> String {
    let found = parse(text.as_bytes(), "t.json").expect_err(text);
    found.to_string()
}

#[test]
fn labels_set_endpoints_apart() {
    let text = r#"[
        {"targets": ["10.0.0.1:80", "[fd00::1]:80"],
         "labels": {"zone": "a", "version": "v1", "weight": "2", "job": "greeter"}},
        {"targets": ["unix:/run/a.sock"], "labels": {"zone": "", "weight": 3}},
        {"targets": ["greeter.prod:80"]},
        {"targets": []}
    ]"#;
    let parsed = parse(text.as_bytes(), "t.json").expect("valid");
    let first = ResolvedEndpoint {
        zone: Some("a".to_owned()),
        version: Some("v1".to_owned()),
        weight: 2,
        ..endpoint("10.0.0.1:80")
    };
    assert_eq!(parsed.resolved[0], first);
    assert_eq!(parsed.resolved[1].weight, 2);
    let socket = &parsed.resolved[2];
    assert_eq!(socket.address, Address::Unix("/run/a.sock".to_owned()));
    assert_eq!((&socket.zone, socket.weight), (&None, 3));
    let (name, port, _) = &parsed.named[0];
    assert_eq!((name.as_str(), *port), ("greeter.prod", 80));
}

#[test]
fn what_is_wrong_is_located() {
    for (text, expected) in [
        (
            "",
            "t.json: not a list of targets: EOF while parsing a value at line 1 column 0",
        ),
        (
            "{}",
            "t.json: not a list of targets: invalid type: map, expected a sequence at line 1 column 0",
        ),
        (
            r#"[{"targts": []}]"#,
            "t.json: not a list of targets: unknown field `targts`, expected `targets` or `labels` at line 1 column 10",
        ),
        (
            r#"[{"targets": ["10.0.0.1"]}]"#,
            "t.json: [0].targets[0]: \"10.0.0.1\" is neither IP:PORT nor NAME:PORT nor unix:/path",
        ),
        (
            r#"[{"targets": []}, {"targets": ["a:1", "10.0.0.1:0"]}]"#,
            "t.json: [1].targets[1]: port 0 is not a port to connect to",
        ),
        (
            r#"[{"targets": ["unix:a"]}]"#,
            "t.json: [0].targets[0]: the path of a Unix socket must be absolute",
        ),
        (
            r#"[{"targets": ["a:1"], "labels": {"weight": "0"}}]"#,
            "t.json: [0].labels.weight: expected a whole number from 1 to 4294967295",
        ),
        (
            r#"[{"targets": ["a:1"], "labels": {"zone": 7}}]"#,
            "t.json: [0].labels.zone: expected a text, found 7",
        ),
        (
            r#"[{"targets": ["a:1"]}, {"targets": ["a:1"], "labels": {"zone": "b"}}]"#,
            "t.json: [1].targets[0]: \"a:1\" is there twice, with other labels",
        ),
    ] {
        assert_eq!(error(text), expected);
    }
}

#[test]
fn lists_have_limits() {
    let heavy = ResolvedEndpoint {
        weight: u32::MAX,
        ..endpoint("10.0.0.1:1")
    };
    let error = normal(vec![heavy, endpoint("10.0.0.1:2")]).expect_err("too heavy");
    assert_eq!(error, LookError::TooHeavy { sum: 1 << 32 });
    let addresses = (0..=100_000_u32).map(|n| (std::net::Ipv4Addr::from(n), 1).into());
    let many = addresses.map(|address| ResolvedEndpoint {
        address: Address::Tcp(address),
        ..endpoint("10.0.0.1:1")
    });
    let error = normal(many.collect()).expect_err("too many");
    assert!(matches!(error, LookError::TooMany { found: 100_001, .. }));
}

#[test]
fn places_are_read_strictly() {
    let read = |written| read(written, Path::new("etc/mesh.yaml"));
    assert_eq!(read("targets.json"), Ok("etc/targets.json".to_owned()));
    assert_eq!(read("/a/t.json"), Ok("/a/t.json".to_owned()));
    let url = "http://registry:8080/targets?a=b";
    assert_eq!(read(url), Ok(url.to_owned()));
    assert!(read("http://[::1]/targets").is_ok());
    for (written, message) in [
        ("https://a/", "targets over https are not supported yet"),
        (
            "ftp://a/",
            "\"ftp://a/\" is neither a file nor an http:// URL",
        ),
        ("http:///t", "\"http:///t\" is not a URL: invalid format"),
        ("http://a:0/", "\"http://a:0/\" has no valid port"),
        ("http://a:x/", "\"http://a:x/\" has no valid port"),
        ("http://u@a/", "\"http://u@a/\" is not a URL of a host"),
    ] {
        assert_eq!(read(written).expect_err(written).message, message);
    }
}

/// A file that is followed.
struct Followed {
    directory: tempfile::TempDir,
    targets: Targets,
}

impl Followed {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("t.json");
        fs::write(&file, text).expect("writes");
        let locator = file.display().to_string();
        Self {
            targets: Targets::new(&locator, &LookOptions::default()),
            directory,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("t.json")
    }

    /// Looks until `wanted` is there.
    async fn until(&mut self, wanted: impl Fn(&Result<Vec<ResolvedEndpoint>, LookError>) -> bool) {
        let looking = async {
            loop {
                let look = self.targets.next().await;
                if wanted(&look) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, looking)
            .await
            .expect("in time");
    }

    async fn expect(&mut self, addresses: &[&str]) {
        let expected = Ok(list(addresses));
        self.until(|look| *look == expected).await;
    }
}

#[tokio::test]
async fn every_kind_of_edit_is_seen() {
    let mut file = Followed::new(&json(&["10.0.0.1:1"]));
    file.expect(&["10.0.0.1:1"]).await;

    let new = file.directory.path().join("new");
    fs::write(&new, json(&["10.0.0.2:1"])).expect("writes");
    fs::rename(&new, file.file()).expect("renames");
    file.expect(&["10.0.0.2:1"]).await;

    fs::write(file.file(), json(&["10.0.0.3:1"])).expect("writes in place");
    file.expect(&["10.0.0.3:1"]).await;

    fs::write(file.file(), "[{").expect("writes");
    file.until(|look| matches!(look, Err(LookError::NotTargets { .. })))
        .await;

    fs::write(file.file(), "[]").expect("writes");
    file.expect(&[]).await;

    fs::remove_file(file.file()).expect("removes");
    file.until(|look| matches!(look, Err(LookError::Unreadable { .. })))
        .await;

    fs::write(file.file(), json(&["10.0.0.4:1"])).expect("writes");
    file.expect(&["10.0.0.4:1"]).await;
}

#[tokio::test]
async fn names_in_a_list_stand_for_all_their_addresses() {
    let server = FakeDns::start().await;
    server.set(
        "a.test",
        60,
        &[Data::address("10.0.0.1"), Data::address("10.0.0.2")],
    );
    let mut file = Followed::new(&json(&["a.test.:80", "10.0.0.9:80"]));
    file.targets = Targets::new(
        &file.file().display().to_string(),
        &LookOptions {
            name_server: Some(server.address),
            ..LookOptions::default()
        },
    );
    file.expect(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"])
        .await;

    fs::write(file.file(), json(&["b.test.:80", "10.0.0.9:80"])).expect("writes");
    file.until(|look| matches!(look, Err(LookError::NoSuchName { .. })))
        .await;
}

#[test]
fn a_file_can_be_looked_at_without_the_network() {
    let file = Followed::new(&json(&["10.0.0.1:1", "name:1"]));
    let locator = file.file().display().to_string();
    assert_eq!(peek(&locator), Some(Ok(list(&["10.0.0.1:1"]))));
    assert!(matches!(
        peek("/nowhere"),
        Some(Err(LookError::Unreadable { .. }))
    ));
    assert_eq!(peek("http://a/"), None);
}

/// A server that answers every request with this text, or not at all.
async fn http_server(answer: Option<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.expect("a whole request"));
            }
            let request = String::from_utf8(request).expect("text");
            assert!(request.starts_with("GET /sd?x=1 HTTP/1.1\r\n"), "{request}");
            if let Some(answer) = &answer {
                socket
                    .write_all(answer.as_bytes())
                    .await
                    .expect("it listens");
            }
            kept.push(socket);
        }
    });
    address
}

fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn ask(address: SocketAddr, patience: Duration) -> Result<Vec<ResolvedEndpoint>, LookError> {
    let options = LookOptions {
        patience,
        ..LookOptions::default()
    };
    let url = format!("http://{address}/sd?x=1");
    Targets::new(&url, &options).next().await
}

#[tokio::test]
async fn a_list_comes_over_http() {
    let answer = response("200 OK", &json(&["10.0.0.1:1"]));
    let server = http_server(Some(answer)).await;
    assert_eq!(ask(server, PATIENCE).await, Ok(list(&["10.0.0.1:1"])));
}

#[tokio::test]
async fn faults_of_an_http_server_are_told_apart() {
    let broken = http_server(Some(response("500 Internal Server Error", "[]"))).await;
    let error = ask(broken, PATIENCE).await.expect_err("no list");
    assert!(
        matches!(error, LookError::BadStatus { status: 500, .. }),
        "{error}"
    );

    let nonsense = http_server(Some(response("200 OK", "<html>"))).await;
    let error = ask(nonsense, PATIENCE).await.expect_err("no list");
    assert!(matches!(error, LookError::NotTargets { .. }), "{error}");

    let cut = http_server(Some("HTTP/1.1 200 OK\r\ncontent-le".to_owned())).await;
    let after = Duration::from_millis(50);
    assert_eq!(ask(cut, after).await, Err(LookError::TooSlow { after }));

    let mute = http_server(None).await;
    assert_eq!(ask(mute, after).await, Err(LookError::TooSlow { after }));

    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = closed.local_addr().expect("it is bound");
    drop(closed);
    let error = ask(address, PATIENCE).await.expect_err("nobody there");
    assert!(error.to_string().contains("refused"), "{error}");
}
