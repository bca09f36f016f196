//! The service over tonic and rustls alone. What is done is printed as one line of JSON, then the
//! program stays until it is ended.
//!
//! - `footprint-plain serve COUNT` serves COUNT loopback addresses, the same port on each.
//! - `footprint-plain call PORT COUNT` holds a channel to each of them, and calls each once.
//! - `footprint-plain via PORT COUNT ROUNDS` calls the services `s000`, `s001`, … through the proxy
//!   on that port, each ROUNDS times, several services at once. A call that takes too long is given
//!   up: a connection that is slow to open must not hold up the others.
//!
//! With `TLS_CA`, `TLS_CERT` and `TLS_KEY` the first two do so over mutual TLS.

#[path = "../../greeter.rs"]
mod greeter;

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use greeter::Greeting;
use greeter::hello::HelloRequest;
use greeter::hello::greeter_client::GreeterClient;
use greeter::hello::greeter_server::GreeterServer;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Greeter = GreeterClient<Channel>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _held = match arguments.as_slice() {
        ["serve", count] => serve(count.parse()?).await?,
        ["call", port, count] => call(port.parse()?, count.parse()?).await?,
        ["via", port, count, rounds] => via(port.parse()?, count.parse()?, rounds.parse()?).await?,
        _ => return Err("usage: footprint-plain serve|call|via …, see the source".into()),
    };
    std::future::pending().await
}

/// The `number`th of the loopback addresses.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number)
}

async fn serve(count: u32) -> Outcome<Vec<Greeter>> {
    let first = TcpIncoming::bind((address(0), 0).into())?;
    let port = first.local_addr()?.port();
    let mut all = vec![first];
    for number in 1..count {
        all.push(TcpIncoming::bind((address(number), port).into())?);
    }
    for incoming in all {
        let mut server = Server::builder();
        if let Some((ca, identity)) = certificates()? {
            let tls = ServerTlsConfig::new().identity(identity).client_ca_root(ca);
            server = server.tls_config(tls)?;
        }
        let server = server.add_service(GreeterServer::new(Greeting));
        tokio::spawn(server.serve_with_incoming(incoming));
    }
    println!(r#"{{"event":"ready","port":{port}}}"#);
    Ok(Vec::new())
}

async fn call(port: u16, count: u32) -> Outcome<Vec<Greeter>> {
    let mut held = Vec::new();
    let mut answered = 0;
    for number in 0..count {
        let uri = format!("http://{}:{port}", address(number));
        let mut endpoint = Endpoint::from_shared(uri)?;
        if let Some((ca, identity)) = certificates()? {
            let tls = ClientTlsConfig::new().identity(identity).ca_certificate(ca);
            endpoint = endpoint.tls_config(tls)?;
        }
        let mut greeter = GreeterClient::new(endpoint.connect_lazy());
        let name = "plain".to_owned();
        answered += u32::from(greeter.say_hello(HelloRequest { name }).await.is_ok());
        held.push(greeter);
    }
    println!(r#"{{"event":"done","answered":{answered}}}"#);
    Ok(held)
}

async fn via(port: u16, count: u32, rounds: u32) -> Outcome<Vec<Greeter>> {
    const AT_ONCE: usize = 16;
    const PATIENCE: Duration = Duration::from_secs(5);
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.timeout(PATIENCE);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut services = JoinSet::new();
    for number in 0..count {
        let service = format!("http://s{number:03}").parse()?;
        let channel = endpoint.clone().origin(service).connect_lazy();
        let room = Arc::clone(&room);
        services.spawn(async move {
            let _place = room.acquire().await;
            rounds_of(GreeterClient::new(channel), rounds).await
        });
    }
    let answered: u32 = services.join_all().await.into_iter().sum();
    println!(r#"{{"event":"done","answered":{answered}}}"#);
    Ok(Vec::new())
}

/// How many of so many calls were answered; why the others were not goes to standard error.
async fn rounds_of(mut greeter: Greeter, rounds: u32) -> u32 {
    let mut answered = 0;
    for _ in 0..rounds {
        let name = "proxy".to_owned();
        match greeter.say_hello(HelloRequest { name }).await {
            Ok(_) => answered += 1,
            Err(status) => eprintln!("{status}"),
        }
    }
    answered
}

fn certificates() -> Outcome<Option<(Certificate, Identity)>> {
    let Ok(ca) = std::env::var("TLS_CA") else {
        return Ok(None);
    };
    let read = |name| -> Outcome<String> { Ok(std::fs::read_to_string(std::env::var(name)?)?) };
    let identity = Identity::from_pem(read("TLS_CERT")?, read("TLS_KEY")?);
    Ok(Some((
        Certificate::from_pem(std::fs::read_to_string(ca)?),
        identity,
    )))
}
