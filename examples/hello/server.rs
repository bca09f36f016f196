//! The greeter as a meshed server.
//!
//! ```text
//! GRPC_XDS_BOOTSTRAP=certs/greeter.json cargo run -p sidestep-examples --bin hello-server
//! ```
//!
//! `examples/hello/README.md` has the commands that write that file.

use sidestep::Mesh;
use sidestep_examples::Greeting;
use sidestep_examples::hello::greeter_server::GreeterServer;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:50051".into());
    let greeting = Greeting {
        server: address.clone(),
    };

    Mesh::from_env()?
        .server(&address)
        .add_service(GreeterServer::new(greeting))
        .serve_with_shutdown(async { _ = tokio::signal::ctrl_c().await })
        .await?;
    Ok(())
}
