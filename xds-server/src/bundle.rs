//! A mesh as a set of resources for processes that have no control plane.
//!
//! Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use prost::Message as _;
use sidestep_proto::code;
use sidestep_proto::codec;
use sidestep_proto::resource::{Address, ResourceType};
use sidestep_proto::wire::Any;
use sidestep_proto::wire::discovery::DiscoveryResponse;

use crate::compile::{ResolvedEndpoints, compile};
use crate::model::{Diagnostic, Mesh, Service, Severity};
use crate::snapshot::{RawResource, References, Snapshot};
use crate::source::mesh::parse;
use crate::source::{SourceError, SourceText};

/// How servers ask for their Listener where a bootstrap does not say otherwise.
const LISTENER_PREFIX: &str = "grpc/server?xds.resource.listening_address=";

/// A living source of endpoints: without a control plane nobody asks it.
fn unasked(service: &Service) -> Option<Diagnostic> {
    let source = service.source()?;
    let path = format!("services.{}.endpoints", service.name);
    let message = format!(
        "`{}` needs a control plane that asks it; write `static:` and a list",
        source.id.kind
    );
    let place = &source.written.place;
    Some(Diagnostic::new(
        code::SOURCE_NEEDS_SERVER,
        Severity::Error,
        place,
        &path,
        message,
    ))
}

/// Everything that the processes of a mesh would be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// The resources, closed in themselves.
    pub resources: Vec<Any>,
}

impl Bundle {
    /// Compiles mesh files, all of them as one mesh.
    ///
    /// Beside what channels need it has the Listener of each server: for each address among the
    /// endpoints, and for `0.0.0.0` and `[::]` with its port where no two services would share
    /// that. Resources of types that only proxies use are left out.
    ///
    /// # Errors
    /// Everything that is wrong, located.
    pub fn from_mesh(texts: &[SourceText]) -> Result<Self, SourceError> {
        let (mesh, _) = parse(texts)?;
        Self::of(&mesh)
    }

    /// Compiles a mesh that was read; see [`Bundle::from_mesh`].
    ///
    /// # Errors
    /// Everything that is wrong with native resources, located.
    pub fn of(mesh: &Mesh) -> Result<Self, SourceError> {
        let living: Vec<_> = mesh.services.values().filter_map(unasked).collect();
        if !living.is_empty() {
            return Err(SourceError::Invalid(living));
        }
        let none = ResolvedEndpoints::default();
        let (compiled, _) = compile(mesh, &none).map_err(SourceError::Invalid)?;
        let known = |type_url: &str| ResourceType::from_type_url(type_url).is_some();
        let raw: Vec<_> = compiled
            .resources
            .iter()
            .filter(|resource| known(&resource.type_url))
            .map(|resource| RawResource {
                name: resource.name.clone(),
                any: resource.to_any(),
                origin: Some(resource.provenance.clone()),
            })
            .collect();
        let mut resources: Vec<Any> = raw.iter().map(|resource| resource.any.clone()).collect();
        Snapshot::build(1, raw, References::Closed, &Snapshot::default())?;
        for (address, service) in listening(mesh) {
            let name = format!("{LISTENER_PREFIX}{address}");
            let listener = compiled.server_listener(&service.name, &name, address);
            // The service is the mesh's own.
            resources.extend(listener.iter().map(codec::encode));
        }
        Ok(Self { resources })
    }

    /// As the bytes of an `envoy.service.discovery.v3.DiscoveryResponse`, which the runtime's
    /// `StaticResources::decode` reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let response = DiscoveryResponse {
            resources: self.resources.clone(),
            ..DiscoveryResponse::default()
        };
        response.encode_to_vec()
    }
}

/// Who listens where. An address that two services would share is nobody's.
fn listening(mesh: &Mesh) -> BTreeMap<SocketAddr, &Service> {
    let mut found: BTreeMap<SocketAddr, Option<&Service>> = BTreeMap::new();
    for service in mesh.services.values() {
        for endpoint in service.endpoints() {
            let Address::Tcp(address) = endpoint.address else {
                continue;
            };
            let any = |ip: IpAddr| SocketAddr::new(ip, address.port());
            for address in [
                address,
                any(Ipv4Addr::UNSPECIFIED.into()),
                any(Ipv6Addr::UNSPECIFIED.into()),
            ] {
                found
                    .entry(address)
                    .and_modify(|owner| *owner = owner.filter(|o| o.name == service.name))
                    .or_insert(Some(service));
            }
        }
    }
    let sole = found.into_iter();
    sole.filter_map(|(address, service)| Some((address, service?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mesh: &str) -> Vec<String> {
        let text = SourceText {
            path: "mesh.yaml".to_owned(),
            text: mesh.to_owned(),
        };
        let bundle = Bundle::from_mesh(&[text]).expect("a good mesh");
        let decoded = DiscoveryResponse::decode(bundle.encode().as_slice()).expect("encoded");
        assert_eq!(decoded.resources, bundle.resources);
        let listeners = bundle
            .resources
            .into_iter()
            .map(|any| RawResource::from_any(any).expect("named"))
            .filter(|raw| raw.any.type_url == ResourceType::Listener.type_url());
        listeners.map(|raw| raw.name).collect()
    }

    #[test]
    fn servers_find_their_listener_by_their_address_and_by_any() {
        let mesh = "mesh: v1\nservices:\n  a: {endpoints: {static: [{address: \"10.0.0.1:80\"}, {address: \"10.0.0.2:80\"}]}}\n";
        let mut expected: Vec<String> = ["0.0.0.0:80", "10.0.0.1:80", "10.0.0.2:80", "[::]:80"]
            .iter()
            .map(|address| format!("{LISTENER_PREFIX}{address}"))
            .collect();
        expected.insert(0, "a".to_owned());
        assert_eq!(names(mesh), expected);
    }

    #[test]
    fn an_address_of_two_services_is_nobodys() {
        let mesh = "mesh: v1\nservices:\n  a: {endpoints: {static: [{address: \"10.0.0.1:80\"}]}}\n  b: {endpoints: {static: [{address: \"10.0.0.2:80\"}]}}\n";
        let found = names(mesh);
        assert!(
            !found.iter().any(|name| name.contains("0.0.0.0")),
            "{found:?}"
        );
        assert!(found.iter().any(|name| name.ends_with("10.0.0.2:80")));
    }

    #[test]
    fn living_sources_need_a_control_plane() {
        let text = "mesh: v1\nservices:\n  a: {endpoints: {dns: \"a.b:1\"}}\n";
        let text = SourceText {
            path: "mesh.yaml".to_owned(),
            text: text.to_owned(),
        };
        let error = Bundle::from_mesh(&[text]).expect_err("nobody asks");
        let expected = "mesh.yaml:3:24: services.a.endpoints: `dns` needs a control plane that asks it; write `static:` and a list [SX0237]";
        assert_eq!(error.to_string(), expected);
    }
}
