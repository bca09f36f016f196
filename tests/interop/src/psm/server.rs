//! The server: the interop service, and a second port on which its health is set.

use serde_json::json;
use sidestep::{Mesh, Server};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::flags::{Flag, Flags, boolean, say, switch, value};
use crate::process::{self, GRACE, Terminated, terminated, text};
use crate::server::report;
use crate::service::{Faults, Testing};
use crate::testing::Empty;
use crate::testing::xds_update_health_service_server::{
    XdsUpdateHealthService, XdsUpdateHealthServiceServer,
};

/// The usual flags. In secure mode the port is configured by xDS, and the maintenance port must be
/// another one.
pub const FLAGS: [Flag; 8] = [
    value("port"),
    value("maintenance_port"),
    value("server_id"),
    value("host_name"),
    value("host"),
    switch("secure_mode"),
    switch("enable_csm_observability").later(),
    boolean("help"),
];

/// Sets the health that the server tells.
struct SetHealth(HealthReporter);

#[tonic::async_trait]
impl XdsUpdateHealthService for SetHealth {
    async fn set_serving(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        report(&self.0, ServingStatus::Serving).await;
        Ok(Response::new(Empty {}))
    }

    async fn set_not_serving(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        report(&self.0, ServingStatus::NotServing).await;
        Ok(Response::new(Empty {}))
    }
}

/// Runs it until it is told to end.
///
/// # Errors
/// What is wrong with its flags, its bootstrap or its ports.
pub async fn run() -> Result<(), String> {
    let flags = Flags::of_process(&FLAGS)?;
    let secure = flags.is_set("secure_mode");
    let port: u16 = flags.number("port", 8080)?;
    let maintenance: u16 = flags.number("maintenance_port", if secure { 8081 } else { port })?;
    if secure && port == maintenance && port != 0 {
        return Err("--secure_mode: the maintenance port must be another one".to_owned());
    }
    let host = flags.text("host").unwrap_or("0.0.0.0");
    let name = flags.text("host_name").map_or_else(machine, str::to_owned);
    let mut testing = Testing::new(&name, Faults::default());
    if let Some(id) = flags.text("server_id") {
        testing = testing.with_server_id(id);
    }
    let testing = testing.into_service();
    let mesh = process::mesh()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    report(&reporter, ServingStatus::Serving).await;
    let upkeep = Routes::new(health)
        .add_service(XdsUpdateHealthServiceServer::new(SetHealth(reporter)))
        .add_service(mesh.client_status());
    let terminated = terminated()?;
    let cut = terminated.clone().cut();
    let serving = async {
        if port == maintenance && !secure {
            let (address, serving) =
                plain(host, port, upkeep.add_service(testing), &terminated).await?;
            say("ready", json!({ "addr": address, "maintenance": address }));
            return serving.await;
        }
        let (upkeep_address, upkeep) = plain(host, maintenance, upkeep, &terminated).await?;
        let ready = |address: &str| {
            say(
                "ready",
                json!({ "addr": address, "maintenance": upkeep_address }),
            );
        };
        if secure {
            let bound = meshed(&mesh, host, port).add_service(testing).bind();
            let bound = bound.map_err(text)?;
            ready(&bound.address().to_string());
            let serving = bound.serve_with_shutdown(terminated.clone().wait());
            let (served, kept) = tokio::join!(serving, upkeep);
            return served.map_err(text).and(kept);
        }
        let (address, serving) = plain(host, port, Routes::new(testing), &terminated).await?;
        ready(&address);
        let (served, kept) = tokio::join!(serving, upkeep);
        served.and(kept)
    };
    tokio::select! {
        ended = serving => ended,
        () = cut => Ok(()),
    }
}

fn meshed(mesh: &Mesh, host: &str, port: u16) -> Server {
    let server = mesh.server(format!("{host}:{port}"));
    let server = server.options(|options| options.drain_grace = GRACE);
    server.plaintext_where_unsecured()
}

/// Binds a port in plaintext: its address, and what serves there.
async fn plain(
    host: &str,
    port: u16,
    routes: Routes,
    terminated: &Terminated,
) -> Result<(String, impl Future<Output = Result<(), String>>), String> {
    let socket = tokio::net::TcpListener::bind((host, port)).await;
    let socket = socket.map_err(|error| format!("cannot listen on {host}:{port}: {error}"))?;
    let address = socket.local_addr().map_err(text)?.to_string();
    let incoming = tonic::transport::server::TcpIncoming::from(socket);
    let stop = terminated.clone().wait();
    let mut server = tonic::transport::Server::builder();
    let serving = server
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming.with_nodelay(Some(true)), stop);
    Ok((address, async move { serving.await.map_err(text) }))
}

/// The name of this machine.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
