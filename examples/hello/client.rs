//! The greeter's client on the mesh.
//!
//! ```text
//! GRPC_XDS_BOOTSTRAP=certs/web.json cargo run -p sidestep-examples --bin hello-client
//! ```
//!
//! `examples/hello/README.md` has the commands that write that file.

use sidestep::Mesh;
use sidestep_examples::hello::HelloRequest;
use sidestep_examples::hello::greeter_client::GreeterClient;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let channel = Mesh::from_env()?.channel("xds:///greeter")?;
    let mut greeter = GreeterClient::new(channel);

    for _ in 0..4 {
        let reply = greeter
            .say_hello(HelloRequest {
                name: "mesh".into(),
            })
            .await?
            .into_inner();
        println!("{} (from {})", reply.message, reply.server);
    }
    Ok(())
}
