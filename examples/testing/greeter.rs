//! A service's own test of what its users notice when its backends misbehave.
//!
//! ```text
//! cargo test -p sidestep-examples --test testing
//! ```

use std::time::Duration;

use sidestep_examples::Greeting;
use sidestep_examples::hello::HelloRequest;
use sidestep_examples::hello::greeter_client::GreeterClient;
use sidestep_examples::hello::greeter_server::GreeterServer;
use sidestep_test::{Error, TestMesh, eventually};
use tokio::time::Instant;
use tonic::{Code, Request};

/// What the team runs in production, without the addresses.
const MESH: &str = "
mesh: v1
trust_domain: shop.example
defaults: {mtls: strict}
services:
  web: {}
  greeter:
    timeout: 2s
    routes:
      - retry: {max_attempts: 3, on: [unavailable]}
";

fn greeting(server: &str) -> GreeterServer<Greeting> {
    GreeterServer::new(Greeting {
        server: server.to_owned(),
    })
}

fn request() -> Request<HelloRequest> {
    Request::new(HelloRequest {
        name: "you".to_owned(),
    })
}

#[tokio::test]
async fn nobody_notices_a_backend_that_dies() -> Result<(), Box<dyn std::error::Error>> {
    let mesh = TestMesh::start(MESH).await?;
    let one = mesh.serve("greeter", greeting("one")).await?;
    let two = mesh.serve("greeter", greeting("two")).await?;
    let mut greeter = GreeterClient::new(mesh.channel_as("web", "xds:///greeter")?);

    for call in 0..40 {
        if call == 10 {
            one.kill().await;
        }
        if call == 30 {
            one.revive().await?;
        }
        greeter.say_hello(request()).await?;
    }
    assert!(two.calls() >= 20);

    // Back among the others.
    let before = one.calls();
    eventually(|| {
        let mut greeter = greeter.clone();
        let one = one.clone();
        async move {
            let answer = greeter.say_hello(request()).await;
            answer.map_err(|status| status.to_string())?;
            match one.calls() > before {
                true => Ok(()),
                false => Err("it gets no calls".to_owned()),
            }
        }
    })
    .await?;
    Ok(())
}

/// In memory and with virtual time: the two seconds cost nothing.
#[tokio::test(start_paused = true)]
async fn a_slow_backend_costs_the_time_limit_and_no_more() -> Result<(), Error> {
    let mesh = TestMesh::in_memory(MESH)?;
    let backend = mesh.serve("greeter", greeting("one")).await?;
    let mut greeter = GreeterClient::new(mesh.channel_as("web", "xds:///greeter")?);
    greeter.say_hello(request()).await.expect("all is well");

    backend.slow(Duration::from_secs(60));
    let start = Instant::now();
    let status = greeter.say_hello(request()).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(start.elapsed().as_secs(), 2);

    // A longer limit of the mesh reaches calls at once.
    let patient = MESH.replace("timeout: 2s", "timeout: 120s");
    mesh.push(&patient)?.applied().await?;
    greeter.say_hello(request()).await.expect("in time");
    assert_eq!(start.elapsed().as_secs(), 62);
    Ok(())
}
