//! The kit itself: each fault does what it says, over sockets and in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use sidestep::CallInfo;
use sidestep_examples::Greeting;
use sidestep_examples::hello::HelloRequest;
use sidestep_examples::hello::greeter_client::GreeterClient;
use sidestep_examples::hello::greeter_server::GreeterServer;
use sidestep_test::{Backend, Error, TestMesh, eventually};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request, Status};

type Client = GreeterClient<sidestep::Channel>;

const PLAIN: &str = "mesh: v1\nservices:\n  web: {}\n  greeter: {}\n";
const RETRYING: &str = "mesh: v1\nservices:\n  web: {}\n  greeter:\n    routes:\n      - retry: {max_attempts: 4, on: [unavailable]}\n";
const STRICT: &str = "mesh: v1\ntrust_domain: test.example\ndefaults: {mtls: strict}\nservices:\n  web: {}\n  greeter: {}\n";

async fn backend(mesh: &TestMesh, name: &str) -> Backend {
    let greeting = Greeting {
        server: name.to_owned(),
    };
    let served = mesh.serve("greeter", GreeterServer::new(greeting));
    served.await.unwrap()
}

fn client(mesh: &TestMesh) -> Client {
    GreeterClient::new(mesh.channel_as("web", "xds:///greeter").unwrap())
}

/// The address of whoever answered.
async fn call(client: &mut Client) -> Result<String, Status> {
    let request = Request::new(HelloRequest {
        name: "test".to_owned(),
    });
    let answer = client.say_hello(request).await?;
    let info = answer.extensions().get::<CallInfo>();
    Ok(info.expect("every answer has it").endpoint.to_string())
}

async fn codes(client: &mut Client, calls: usize) -> Vec<Code> {
    let mut codes = Vec::new();
    for _ in 0..calls {
        codes.push(match call(client).await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        });
    }
    codes
}

/// Calls until each of them has answered, and nobody else.
async fn all_answer(client: &Client, wanted: &[&Backend]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|backend| backend.address()).collect();
    let seen = std::cell::RefCell::new(BTreeSet::new());
    eventually(|| async {
        let answer = call(&mut client.clone()).await?;
        seen.borrow_mut().insert(answer);
        match *seen.borrow() == wanted {
            true => Ok(()),
            false => Err(Status::unknown("not all have answered")),
        }
    })
    .await
    .unwrap();
}

/// What must hold of every mesh, whatever carries it.
async fn suite(mesh: TestMesh) {
    let one = backend(&mesh, "one").await;
    let mut client = client(&mesh);
    assert_eq!(call(&mut client).await.unwrap(), one.address());

    one.fail(0.2);
    let failed = codes(&mut client, 10).await;
    assert_eq!(
        failed
            .iter()
            .filter(|code| **code == Code::Unavailable)
            .count(),
        2
    );
    one.fail_with(1.0, Code::Internal);
    assert_eq!(codes(&mut client, 2).await, [Code::Internal; 2]);
    one.heal();
    assert_eq!(codes(&mut client, 2).await, [Code::Ok; 2]);

    one.slow(Duration::from_millis(50));
    let start = Instant::now();
    call(&mut client).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));
    one.heal();

    one.hang();
    let before = one.calls();
    let hung = timeout(Duration::from_millis(100), call(&mut client)).await;
    assert!(hung.is_err(), "nobody answers");
    assert_eq!(one.calls(), before + 1);
    one.heal();

    let two = backend(&mesh, "two").await;
    all_answer(&client, &[&one, &two]).await;
    one.kill().await;
    // Without a retry, what was under way may be lost; what comes later is not.
    eventually(|| {
        let mut client = client.clone();
        async move { call(&mut client).await }
    })
    .await
    .unwrap();
    for _ in 0..10 {
        assert_eq!(call(&mut client).await.unwrap(), two.address());
    }
    one.revive().await.unwrap();
    all_answer(&client, &[&one, &two]).await;

    two.remove().await.unwrap();
    for _ in 0..10 {
        assert_eq!(call(&mut client).await.unwrap(), one.address());
    }
}

/// A change is in use when `applied` says so, and what is known outlives its control plane.
async fn changes(mesh: TestMesh) {
    let one = backend(&mesh, "one").await;
    let mut client = client(&mesh);
    call(&mut client).await.unwrap();
    let only = |method: &str| {
        format!(
            "mesh: v1\nservices:\n  web: {{}}\n  greeter:\n    routes:\n      - {{match: {{method: \"hello.Greeter/{method}\"}}}}\n"
        )
    };
    for _ in 0..5 {
        mesh.push(&only("Other")).unwrap().applied().await.unwrap();
        let status = call(&mut client).await.unwrap_err();
        assert_eq!(sidestep::CallError::from_status(&status), Some("no-route"));
        mesh.push(PLAIN).unwrap().applied().await.unwrap();
        call(&mut client).await.unwrap();
    }

    mesh.cut_control_plane().await;
    let cut = mesh.push(&only("Other")).unwrap().applied().await;
    assert!(matches!(cut, Err(Error::Cut)));
    assert_eq!(call(&mut client).await.unwrap(), one.address());
    let restored = mesh.restore_control_plane().await.unwrap();
    restored.applied().await.unwrap();
    eventually(|| {
        let mut client = client.clone();
        async move {
            match call(&mut client).await {
                Ok(_) => Err("still by the old routes"),
                Err(_) => Ok(()),
            }
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn faults_over_sockets() {
    suite(TestMesh::start(PLAIN).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn faults_in_memory() {
    suite(TestMesh::in_memory(PLAIN).unwrap()).await;
}

#[tokio::test]
async fn changes_over_sockets() {
    changes(TestMesh::start(PLAIN).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn changes_in_memory() {
    changes(TestMesh::in_memory(PLAIN).unwrap()).await;
}

#[tokio::test]
async fn mutual_tls_needs_no_word_of_the_test() {
    suite(TestMesh::start(STRICT).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn mutual_tls_in_memory() {
    let mesh = TestMesh::in_memory(STRICT).unwrap();
    let one = backend(&mesh, "one").await;
    assert_eq!(call(&mut client(&mesh)).await.unwrap(), one.address());
}

#[tokio::test(start_paused = true)]
async fn virtual_time_makes_long_waits_free() {
    let really = std::time::Instant::now();
    let mesh = TestMesh::in_memory(PLAIN).unwrap();
    let one = backend(&mesh, "one").await;
    let mut client = client(&mesh);
    call(&mut client).await.unwrap();
    one.slow(Duration::from_secs(3600));
    let start = Instant::now();
    call(&mut client).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 3600);
    let mut request = Request::new(HelloRequest::default());
    request.set_timeout(Duration::from_secs(60));
    let start = Instant::now();
    let status = client.say_hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(start.elapsed().as_secs(), 60);
    assert!(really.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn retries_of_the_mesh_file_hide_a_bad_backend() {
    let mesh = TestMesh::start(RETRYING).await.unwrap();
    let bad = backend(&mesh, "bad").await;
    let _good = backend(&mesh, "good").await;
    bad.fail(1.0);
    let mut client = client(&mesh);
    assert_eq!(codes(&mut client, 20).await, [Code::Ok; 20]);
    assert!(bad.calls() > 0);
}

#[tokio::test]
async fn versions_are_said_when_the_backend_starts() {
    let mesh = "mesh: v1\nservices:\n  web: {}\n  greeter:\n    versions: {stable: v1, canary: v2}\n    routes:\n      - match: {headers: {x-canary: \"1\"}}\n        to: canary\n      - to: stable\n";
    let mesh = TestMesh::start(mesh).await.unwrap();
    let greeting = || {
        GreeterServer::new(Greeting {
            server: String::new(),
        })
    };
    let stable = mesh
        .backend("greeter")
        .version("v1")
        .add_service(greeting());
    let stable = stable.start().await.unwrap();
    let mut client = client(&mesh);
    assert_eq!(call(&mut client).await.unwrap(), stable.address());
    let canary_call = || {
        let mut request = Request::new(HelloRequest::default());
        request
            .metadata_mut()
            .insert("x-canary", "1".parse().unwrap());
        request
    };
    let status = client.say_hello(canary_call()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "nobody runs it yet");
    let canary = mesh
        .backend("greeter")
        .version("v2")
        .add_service(greeting());
    let canary = canary.start().await.unwrap();
    eventually(|| {
        let mut client = client.clone();
        async move { client.say_hello(canary_call()).await }
    })
    .await
    .unwrap();
    assert_eq!(canary.calls(), 1);
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let error = TestMesh::start("mesh: v1\nservices: {a: {timout: 1s}}\n").await;
    let text = error.map(drop).unwrap_err().to_string();
    assert!(
        text.contains("mesh.yaml:2:") && text.contains("timout"),
        "{text}"
    );

    let mesh = TestMesh::start(PLAIN).await.unwrap();
    let error = mesh
        .channel_as("wbe", "xds:///greeter")
        .map(drop)
        .unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        "the mesh file has no service \"wbe\"; it has \"greeter\", \"web\""
    );
    let greeting = GreeterServer::new(Greeting {
        server: String::new(),
    });
    let error = mesh.serve("nobody", greeting.clone()).await.map(drop);
    assert!(matches!(error, Err(Error::NoService { .. })));
    // A change that is refused changes nothing.
    assert!(mesh.push("mesh: v2\n").map(drop).is_err());
    mesh.channel_as("web", "xds:///greeter").unwrap();

    let own = "mesh: v1\nservices:\n  greeter: {endpoints: {static: []}}\n";
    let mesh = TestMesh::start(own).await.unwrap();
    let error = mesh.serve("greeter", greeting).await.map(drop);
    assert!(matches!(error, Err(Error::OwnEndpoints { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_never_comes_is_an_error_with_the_last_word() {
    let never = eventually(|| async { Err::<(), _>("not this time") }).await;
    let text = never.unwrap_err().to_string();
    assert!(
        text.contains("20s") && text.contains("not this time"),
        "{text}"
    );
}
