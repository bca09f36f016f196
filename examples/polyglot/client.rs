//! A caller in Rust.

use sidestep::Mesh;
use sidestep_examples::hello::HelloRequest;
use sidestep_examples::hello::greeter_client::GreeterClient;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut greeter = GreeterClient::new(Mesh::from_env()?.channel("xds:///greeter")?);
    for _ in 0..4 {
        let name = "Rust".into();
        let reply = greeter.say_hello(HelloRequest { name }).await?.into_inner();
        println!("{} (from {})", reply.message, reply.server);
    }
    Ok(())
}
