//! The mesh as xDS resources, each with the place it comes from.
//!
//! Pure: the same mesh and the same endpoints of living sources give the same resources. For a service `greeter` with endpoints:
//!
//! | resource | names |
//! |---|---|
//! | Listener (for channels) | `greeter`, and each of its `hosts` |
//! | RouteConfiguration | `greeter` |
//! | Cluster, ClusterLoadAssignment | `greeter` for all endpoints, `greeter/canary` for each name in `versions` |
//!
//! The names are stable: native resources may refer to them, which is how an Envoy listener of
//! one's own uses the mesh's routes. What depends on who asks is only the Listener of a server,
//! made by [`CompiledMesh::server_listener`] for a service and an address.

mod cluster;
mod listener;
mod resolved;
mod route;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sidestep_proto::code;
use sidestep_proto::codec;
use sidestep_proto::resource::{Resource, ResourceType};
use sidestep_proto::wire::Any;

use crate::model::{Diagnostic, Endpoints, Mesh, Mtls, Place, Report, Service, SourceRef};
use crate::native;

pub use listener::{MissingListener, listening_address};
pub use resolved::{ResolvedEndpoint, ResolvedEndpoints};

/// The key under `certificate_providers` in the bootstrap that compiled TLS contexts name.
pub const CERTIFICATE_INSTANCE: &str = "default";

/// A mesh as resources.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledMesh {
    /// All resources that can be named in advance. A type and name is there once.
    pub resources: Vec<CompiledResource>,
    services: BTreeMap<String, Mtls>,
}

/// A resource and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledResource {
    /// The name under which clients ask for it.
    pub name: String,
    /// Its type.
    pub type_url: String,
    /// The resource itself.
    pub content: Content,
    /// Where it was written.
    pub provenance: Place,
}

/// A resource, understood or only carried.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// One of the types that the runtime knows.
    Known(Resource),
    /// Envoy-native: sent as it was written. Holds also those native resources whose type the
    /// runtime knows, since they may have fields for Envoy alone.
    Native(Any),
}

impl CompiledResource {
    /// The resource as it is sent.
    #[must_use]
    pub fn to_any(&self) -> Any {
        match &self.content {
            Content::Known(resource) => codec::encode(resource),
            Content::Native(any) => any.clone(),
        }
    }
}

/// Compiles a mesh. `resolved` is what its living sources have told: of those that are not in it
/// nothing is known yet, and their services have no endpoints. The second part of the answer are
/// warnings.
///
/// # Errors
/// If a native resource is not valid, or if two resources have one type and name. Services that
/// could be read always compile.
pub fn compile(
    mesh: &Mesh,
    resolved: &ResolvedEndpoints,
) -> Result<(CompiledMesh, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut report = Report::default();
    let mut resources = Vec::new();
    for service in mesh.services.values() {
        let endpoints = match &service.endpoints {
            None => continue,
            Some(Endpoints::Static(written)) => written.iter().map(Into::into).collect(),
            Some(Endpoints::Living(source)) => {
                let told = resolved.of(&source.id).unwrap_or_default().to_vec();
                check_versions(service, source, &told, &mut report);
                told
            }
        };
        add_service(mesh, service, &endpoints, &mut resources);
    }
    for resource in &mesh.resources {
        resources.extend(native::compile(resource, &mut report));
    }
    check_unique(&resources, &mut report);
    let services = mesh.services.values();
    let compiled = CompiledMesh {
        resources,
        services: services
            .map(|service| (service.name.clone(), service.settings.mtls))
            .collect(),
    };
    let warnings = report.finish()?;
    Ok((compiled, warnings))
}

/// A version that no endpoint has now may have one later, or be misspelt.
fn check_versions(
    service: &Service,
    source: &SourceRef,
    told: &[ResolvedEndpoint],
    report: &mut Report,
) {
    let has = |version: &str| told.iter().any(|e| e.version.as_deref() == Some(version));
    let missing = service.versions.iter().filter(|(_, v)| !has(&v.value));
    for (name, version) in missing.filter(|_| !told.is_empty()) {
        let path = format!("services.{}.versions.{name}", service.name);
        let message = format!(
            "no endpoint from `{}` has the version {:?} now",
            source.written.value, version.value
        );
        report.warning(
            code::VERSION_WITHOUT_ENDPOINT,
            &version.place,
            &path,
            message,
        );
    }
}

fn add_service(
    mesh: &Mesh,
    service: &Service,
    endpoints: &[ResolvedEndpoint],
    out: &mut Vec<CompiledResource>,
) {
    let mut add = |resource: Resource, place: &Place| {
        out.push(CompiledResource {
            name: resource.name().to_owned(),
            type_url: resource.resource_type().type_url().to_owned(),
            content: Content::Known(resource),
            provenance: place.clone(),
        });
    };
    let place = &service.place;
    for (name, version, place) in cluster::sets(service) {
        let cluster = cluster::cluster(mesh, service, &name);
        let assignment = cluster::endpoints(endpoints, name, version);
        add(Resource::Cluster(Arc::new(cluster)), place);
        add(Resource::EndpointAssignment(Arc::new(assignment)), place);
    }
    let routes = route::route_configuration(service);
    add(Resource::RouteConfiguration(Arc::new(routes)), place);
    let api = |name: &str| Resource::Listener(Arc::new(listener::api(name, service)));
    add(api(&service.name), place);
    for host in &service.hosts {
        add(api(&host.value), &host.place);
    }
}

fn check_unique(resources: &[CompiledResource], report: &mut Report) {
    let mut seen: HashMap<(&str, &str), &Place> = HashMap::new();
    for resource in resources {
        let key = (resource.type_url.as_str(), resource.name.as_str());
        if let Some(first) = seen.insert(key, &resource.provenance) {
            let noun = ResourceType::from_type_url(&resource.type_url).map_or_else(
                || resource.type_url.clone(),
                |known| known.wire_name().to_owned(),
            );
            let message = format!("the {noun} {:?} is already made at {first}", resource.name);
            report.error(
                code::RESOURCE_TWICE,
                &resource.provenance,
                "resources",
                message,
            );
        }
    }
}

#[cfg(test)]
mod tests;
