//! Wire to resource and back. One file per resource, decoding above, encoding below.
//!
//! What grpc-go accepts is accepted, what it refuses is refused. A field that could admit or
//! redirect a call and is not enforced is refused; any other field that is not honoured is
//! reported as [`Ignored`].
#![allow(
    deprecated,
    reason = "fields that the API has deprecated still arrive, and old clients still need them"
)]

mod at;
mod cluster;
mod dns;
mod endpoint_assignment;
mod error;
mod hash_policy;
mod http_filter;
mod labels;
mod lb_policy;
mod listener;
mod matching;
mod retry;
mod route;
mod route_configuration;
mod security;
mod server_listener;
mod session_hosts;
mod stateful_session;

pub use error::{Ignored, InvalidResource, Reason, Unnamed};

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Name;

use crate::resource::name::into_canonical;
use crate::resource::{RegisteredPolicy, Resource, ResourceType};
use crate::wire::{self, Any, UnpackError};
use at::{At, Fault};

/// What decoding needs to know about this process.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Names under `certificate_providers` in the bootstrap. `None` accepts any name: for tools
    /// that check resources on behalf of processes they do not know.
    pub certificate_providers: Option<BTreeSet<String>>,
    /// Load-balancing policies that this process brings itself. `None`, for the same tools: one
    /// that is not known is taken where a cluster names nothing else that is.
    pub custom_policies: Option<Vec<Arc<dyn RegisteredPolicy>>>,
}

/// A resource whose name could be read.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Its name.
    pub name: String,
    /// The resource, or the rule that it breaks.
    pub result: Result<Resource, InvalidResource>,
    /// Fields seen and not honoured.
    pub ignored: Vec<Ignored>,
}

/// Decodes and validates one entry of a response.
///
/// Works in two steps, so that an error has an owner: the name first, the rules after. A
/// `discovery.v3.Resource` around the resource is taken off.
///
/// # Errors
/// The entry cannot be named: it is of another type than `expected`, is not that message, or its
/// name is empty.
pub fn decode(expected: ResourceType, any: &Any, cx: &Context) -> Result<Decoded, Reason> {
    let inner = unwrap(any)?;
    let any = inner.as_ref().unwrap_or(any);
    if any.type_url != expected.type_url() {
        let found = &any.type_url;
        return Err(Reason::Unsupported(format!(
            "type {found:?} in place of {expected}"
        )));
    }
    match expected {
        ResourceType::Cluster => {
            let mut message: wire::cluster::Cluster = unpack(any)?;
            message.name = into_canonical(message.name);
            named(expected, message.name.clone(), cx, |at| {
                cluster::decode(at, message).map(|r| Resource::Cluster(Arc::new(r)))
            })
        }
        ResourceType::EndpointAssignment => {
            let mut message: wire::endpoint::ClusterLoadAssignment = unpack(any)?;
            message.cluster_name = into_canonical(message.cluster_name);
            named(expected, message.cluster_name.clone(), cx, |at| {
                endpoint_assignment::decode(at, message)
                    .map(|r| Resource::EndpointAssignment(Arc::new(r)))
            })
        }
        ResourceType::Listener => {
            let mut message: wire::listener::Listener = unpack(any)?;
            message.name = into_canonical(message.name);
            named(expected, message.name.clone(), cx, |at| {
                listener::decode(at, message).map(|r| Resource::Listener(Arc::new(r)))
            })
        }
        ResourceType::RouteConfiguration => {
            let mut message: wire::route::RouteConfiguration = unpack(any)?;
            message.name = into_canonical(message.name);
            named(expected, message.name.clone(), cx, |at| {
                route_configuration::decode(at, message)
                    .map(|r| Resource::RouteConfiguration(Arc::new(r)))
            })
        }
    }
}

/// Encodes a resource so that every gRPC runtime, Envoy and [`decode`] understand it.
///
/// What [`decode`] makes of it equals `resource`.
#[must_use]
pub fn encode(resource: &Resource) -> Any {
    match resource {
        Resource::Cluster(r) => Any::pack(&cluster::encode(r)),
        Resource::EndpointAssignment(r) => Any::pack(&endpoint_assignment::encode(r)),
        Resource::Listener(r) => Any::pack(&listener::encode(r)),
        Resource::RouteConfiguration(r) => Any::pack(&route_configuration::encode(r)),
    }
}

/// What a `discovery.v3.Resource` wraps; `None` if there is no such wrapper.
fn unwrap(any: &Any) -> Result<Option<Any>, Reason> {
    if !any.is::<wire::discovery::Resource>() {
        return Ok(None);
    }
    let wrapper: wire::discovery::Resource = unpack(any)?;
    match wrapper.resource {
        Some(inner) => Ok(Some(inner)),
        None => Err(Reason::Rule(format!(
            "the wrapper {:?} holds no resource",
            wrapper.name
        ))),
    }
}

fn unpack<M: Name + Default>(any: &Any) -> Result<M, Reason> {
    any.unpack()
        .map_err(|e: UnpackError| Reason::Undecodable(e.to_string()))
}

fn named(
    resource_type: ResourceType,
    name: String,
    cx: &Context,
    read: impl FnOnce(&At<'_>) -> at::Result<Resource>,
) -> Result<Decoded, Reason> {
    if name.is_empty() {
        return Err(Reason::Rule(format!("a {resource_type} must have a name")));
    }
    let ledger = RefCell::default();
    let result = read(&At::root(cx, &ledger)).map_err(|Fault { path, reason }| InvalidResource {
        resource_type,
        name: name.clone(),
        path,
        reason,
    });
    Ok(Decoded {
        name,
        result,
        ignored: ledger.into_inner(),
    })
}

#[cfg(test)]
mod tests;
