//! The greeter as an ordinary tonic server, before it joins the mesh.

use sidestep_examples::Greeting;
use sidestep_examples::hello::greeter_server::GreeterServer;
use tonic::transport::Server;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:50051".into());
    let greeting = Greeting {
        server: address.clone(),
    };

    Server::builder()
        .add_service(GreeterServer::new(greeting))
        .serve_with_shutdown(address.parse()?, async {
            _ = tokio::signal::ctrl_c().await
        })
        .await?;
    Ok(())
}
