//! A response of either variant in one shape.

use crate::ads::Response;
use crate::wire::Any;
use crate::wire::discovery::{Resource as WireResource, ResourceError};
use crate::wire::rpc::Status;

/// A response.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) items: Vec<Item>,
    pub(super) removed: Vec<String>,
    pub(super) errors: Vec<(String, Status)>,
    /// State of the world: what is missing from LDS and CDS is gone.
    pub(super) is_whole: bool,
}

/// One resource in it.
#[derive(Debug)]
pub(super) struct Item {
    /// Delta says the name outside of the resource.
    pub(super) name: Option<String>,
    pub(super) version: String,
    /// Absent in heartbeats, which only refresh a TTL.
    pub(super) any: Option<Any>,
}

impl From<Response> for Update {
    fn from(response: Response) -> Self {
        match response {
            Response::StateOfTheWorld(r) => Self {
                version: r.version_info,
                nonce: r.nonce,
                items: r.resources.into_iter().map(Item::bare).collect(),
                removed: Vec::new(),
                errors: errors(r.resource_errors),
                is_whole: true,
            },
            Response::Delta(r) => Self {
                version: r.system_version_info,
                nonce: r.nonce,
                items: r.resources.into_iter().map(Item::from).collect(),
                removed: r
                    .removed_resources
                    .into_iter()
                    .chain(r.removed_resource_names.into_iter().map(|n| n.name))
                    .collect(),
                errors: errors(r.resource_errors),
                is_whole: false,
            },
        }
    }
}

impl Item {
    fn bare(any: Any) -> Self {
        Self {
            name: None,
            version: String::new(),
            any: Some(any),
        }
    }
}

impl From<WireResource> for Item {
    fn from(resource: WireResource) -> Self {
        let located = resource.resource_name.map(|n| n.name);
        Self {
            name: Some(resource.name)
                .filter(|name| !name.is_empty())
                .or(located),
            version: resource.version,
            any: resource.resource,
        }
    }
}

/// Errors without a name speak about nothing we could have asked for.
fn errors(errors: Vec<ResourceError>) -> Vec<(String, Status)> {
    errors
        .into_iter()
        .filter_map(|e| Some((e.resource_name?.name, e.error_detail.unwrap_or_default())))
        .collect()
}
