//! The greeter's client as an ordinary tonic client, before it joins the mesh.

use sidestep_examples::hello::HelloRequest;
use sidestep_examples::hello::greeter_client::GreeterClient;
use tonic::transport::Endpoint;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let channel = Endpoint::from_static("http://127.0.0.1:50051").connect_lazy();
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
