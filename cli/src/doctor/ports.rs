//! Ports: free where this process wants to listen, open where calls are to go.

use std::io;
use std::net::{SocketAddr, TcpListener};

use sidestep_proto::resource::Address;
use sidestep_server::model::Mesh;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Group, PATIENCE, Report, Subject};

const GROUP: Group = Group::Ports;

/// A look at each of some endpoints says enough.
const ENDPOINTS: usize = 64;

pub(super) async fn check(subject: &Subject, report: &mut Report) {
    for address in &subject.listen {
        listening(*address, report);
    }
    match &subject.mesh {
        Some(mesh) => endpoints(mesh, report).await,
        None if subject.listen.is_empty() => {
            report.skip(GROUP, "none named; --listen ADDR and --mesh FILE name some");
        }
        None => {}
    }
}

fn listening(address: SocketAddr, report: &mut Report) {
    let Err(error) = TcpListener::bind(address) else {
        return report.good(GROUP, format!("{address} is free to listen on"));
    };
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has it (`ss -ltnp` shows which): end it or choose another port"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 are for root: choose another",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        _ => "choose another address",
    };
    report.fail(GROUP, format!("{address}: {error}"), hint);
}

/// Whether somebody takes connections at the endpoints of the mesh file. That nobody does is no
/// fault of this process: it may be a server that comes later.
async fn endpoints(mesh: &Mesh, report: &mut Report) {
    let mut all = mesh.services.values().flat_map(|service| {
        let of = |endpoint| (service.name.clone(), endpoint);
        service
            .endpoints()
            .iter()
            .map(move |endpoint| of(&endpoint.address))
    });
    let mut tries = JoinSet::new();
    for (service, address) in all.by_ref().take(ENDPOINTS) {
        let address = address.clone();
        tries.spawn(async move {
            let failed = connect(&address).await.err();
            (service, address, failed)
        });
    }
    let left_out = all.count();
    if tries.is_empty() {
        return report.skip(
            GROUP,
            "the mesh file lists no endpoints; targets and dns are the server's",
        );
    }
    let mut tried = tries.join_all().await;
    tried.sort_by_key(|(service, address, _)| (service.clone(), address.to_string()));
    for (service, address, failed) in tried {
        match failed {
            None => report.good(GROUP, format!("{service}: {address} takes connections")),
            Some(error) => report.warn(
                GROUP,
                format!("{service}: nobody takes connections at {address}: {error}"),
                "start a server there, or take the endpoint out of the mesh file",
            ),
        }
    }
    if left_out > 0 {
        report.skip(GROUP, format!("{left_out} more endpoints were not tried"));
    }
}

async fn connect(address: &Address) -> io::Result<()> {
    let connected = async {
        match address {
            Address::Tcp(address) => TcpStream::connect(address).await.map(drop),
            Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        }
    };
    match timeout(PATIENCE, connected).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no answer within 5 s",
        )),
    }
}
