//! The greeter in Rust: `polyglot-server ADDRESS`.

use sidestep::Mesh;
use sidestep_examples::Greeting;
use sidestep_examples::hello::greeter_server::GreeterServer;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_default();
    let greeter = GreeterServer::new(Greeting {
        server: "Rust".into(),
    });
    let server = Mesh::from_env()?.server(&address).add_service(greeter);
    Ok(server.serve().await?)
}
