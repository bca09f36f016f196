//! Backends in places of a test's choosing: what the mesh file does not say of an endpoint.

use sidestep::{Channel, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::resource::{Address, Health, LocalityEndpoints};
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;

use crate::fixture::{Backend, Fixture, builder, mesh_file};
use crate::load::{Tally, call};
use crate::raw;

/// Backends, and a control plane for their clients that says exactly what it is told.
pub struct Places {
    /// Where the backends have their listeners from.
    _servers: Fixture,
    /// The clients' control plane.
    pub plane: Fixture,
    /// In the order of their ids.
    pub backends: Vec<Backend>,
}

impl Places {
    /// A backend for each id. Nothing is said of them yet.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(ids: &[&str]) -> Self {
        let servers = Fixture::start(&mesh_file(&[], "")).await;
        let mesh = servers.mesh("greeter");
        let backends = ids.iter();
        let backends = backends.map(|id| Backend::start(&mesh, id, Faults::default()));
        let backends = backends.collect();
        let nothing = RawResources::unchecked([]).expect("nothing has no name to lack");
        Self {
            _servers: servers,
            plane: Fixture::raw(nothing).await,
            backends,
        }
    }

    /// The address of a backend.
    #[must_use]
    pub fn address(&self, backend: usize) -> &str {
        &self.backends[backend].address
    }

    /// A zone of backends, by index, of one health.
    #[must_use]
    pub fn zone(
        &self,
        zone: &str,
        priority: u32,
        weight: u32,
        backends: &[(usize, Health)],
    ) -> LocalityEndpoints {
        let addresses = backends.iter().map(|(at, _)| self.address(*at));
        let addresses: Vec<_> = addresses.collect();
        let mut locality = raw::locality(zone, priority, weight, &addresses);
        for (endpoint, (_, health)) in locality.endpoints.iter_mut().zip(backends) {
            endpoint.health = *health;
        }
        locality
    }

    /// Says that `greeter` is this cluster, with these endpoints.
    ///
    /// # Panics
    /// If a resource has no name.
    pub fn say(&self, cluster: Any, localities: Vec<LocalityEndpoints>) {
        let said = [
            raw::listener("greeter", "greeter"),
            raw::routes("greeter", &["greeter"]),
            cluster,
            raw::localities("greeter", localities),
        ];
        let said = self.plane.resources().replace(said);
        said.expect("each resource has a name");
    }

    /// A client process in `zone`.
    ///
    /// # Panics
    /// If the bootstrap is not valid.
    #[must_use]
    pub fn process(&self, zone: &str) -> Mesh {
        let mut bootstrap = self.plane.bootstrap("web");
        bootstrap["node"]["locality"] = serde_json::json!({"zone": zone});
        let process = builder(&bootstrap).build();
        process.expect("nothing in it can fail")
    }
}

/// Calls, counted.
pub async fn tally(channel: &Channel, calls: u32) -> Tally {
    let mut client = TestServiceClient::new(channel.clone());
    let mut tally = Tally::default();
    for _ in 0..calls {
        tally.count(call(&mut client).await);
    }
    tally
}

/// An endpoint at an address where perhaps nobody listens, for [`Places::say`].
///
/// # Panics
/// If it is not `IP:port`.
pub fn add(locality: &mut LocalityEndpoints, address: &str) {
    let mut endpoint = locality.endpoints[0].clone();
    endpoint.addresses = vec![Address::Tcp(address.parse().expect("IP:port"))];
    endpoint.health = Health::Unknown;
    locality.endpoints.push(endpoint);
}
