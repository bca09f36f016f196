//! A route by header: the same call goes to the stable version without `x-beta: 1`, and to the
//! canary with it. The decision is the mesh file's; the program only sets the header.
//!
//! ```text
//! GRPC_XDS_BOOTSTRAP=certs/web.json cargo run -p sidestep-examples --bin split-client
//! ```
//!
//! A number as argument is how many calls to make (default 4); every other one has the header.

use sidestep::Mesh;
use sidestep_examples::hello::HelloRequest;
use sidestep_examples::hello::greeter_client::GreeterClient;
use tonic::Request;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let calls: u64 = std::env::args().nth(1).map_or(Ok(4), |n| n.parse())?;
    let mut greeter = GreeterClient::new(Mesh::from_env()?.channel("xds:///greeter")?);

    for beta in (0..calls).map(|call| call % 2 == 1) {
        let mut request = Request::new(HelloRequest {
            name: "split".into(),
        });
        if beta {
            request.metadata_mut().insert("x-beta", "1".parse()?);
        }
        let reply = greeter.say_hello(request).await?.into_inner();
        println!("x-beta: {beta:5} -> {}", reply.server);
    }
    Ok(())
}
