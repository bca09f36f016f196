//! The same service on the mesh.
//!
//! `footprint-meshed serve ADDRESS` serves. `footprint-meshed call COUNT ROUNDS` holds channels to
//! the services `s000`, `s001`, … and calls each ROUNDS times, prints how many calls were answered,
//! and stays until it is ended. The bootstrap says where the control plane is.

#[path = "../../greeter.rs"]
mod greeter;

use std::error::Error;

use greeter::Greeting;
use greeter::hello::HelloRequest;
use greeter::hello::greeter_client::GreeterClient;
use greeter::hello::greeter_server::GreeterServer;
use sidestep::{Channel, Mesh};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mesh = Mesh::from_env()?;
    let _held = match arguments.as_slice() {
        ["serve", address] => {
            let server = mesh.server(*address);
            let server = server.add_service(GreeterServer::new(Greeting));
            return Ok(server
                .serve_with_shutdown(async { _ = tokio::signal::ctrl_c().await })
                .await?);
        }
        ["call", count, rounds] => call(&mesh, count.parse()?, rounds.parse()?).await?,
        _ => return Err("usage: footprint-meshed serve ADDRESS | call COUNT ROUNDS".into()),
    };
    std::future::pending().await
}

async fn call(mesh: &Mesh, count: u32, rounds: u32) -> Outcome<Vec<GreeterClient<Channel>>> {
    let mut held = Vec::new();
    for number in 0..count {
        let channel = mesh.channel(&format!("xds:///s{number:03}"))?;
        held.push(GreeterClient::new(channel));
    }
    let mut answered = 0;
    for greeter in &mut held {
        for _ in 0..rounds {
            let name = "mesh".to_owned();
            answered += u32::from(greeter.say_hello(HelloRequest { name }).await.is_ok());
        }
    }
    println!(r#"{{"event":"done","answered":{answered}}}"#);
    Ok(held)
}
