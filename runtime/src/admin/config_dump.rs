//! `/config_dump`: every subscribed resource as it was received.
//!
//! The shape is Envoy's: one dump for each type, each resource with its version, the time it was
//! new, its status and, where the newest version could not be used, its error.

use std::sync::Arc;

use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::Any;
use sidestep_proto::wire::json as messages;

use super::page::{Context, Page, Query, Reply, answer, render};
use super::{server_info, timestamp};
use crate::control::Question;
use crate::inspect::{Process, Resource, ResourceFailure};

/// The page.
pub(super) const PAGE: Page = Page {
    path: "/config_dump",
    about: "every resource as received, with version, time, status and error, as JSON",
    parameters: &[
        (
            "resource",
            "only this list, such as dynamic_active_clusters",
        ),
        ("name_regex", "only resources whose whole name matches"),
    ],
    answer: |context, query| answer(config_dump(context, query)),
};

/// How Envoy calls the dump of a type, the list in it, and the resource in an entry.
struct Names {
    dump: &'static str,
    list: &'static str,
    resource: &'static str,
}

fn names(resource_type: ResourceType) -> Names {
    let (dump, list, resource) = match resource_type {
        ResourceType::Cluster => ("ClustersConfigDump", "dynamic_active_clusters", "cluster"),
        ResourceType::EndpointAssignment => (
            "EndpointsConfigDump",
            "dynamic_endpoint_configs",
            "endpoint_config",
        ),
        ResourceType::Listener => ("ListenersConfigDump", "dynamic_listeners", "listener"),
        ResourceType::RouteConfiguration => {
            ("RoutesConfigDump", "dynamic_route_configs", "route_config")
        }
    };
    Names {
        dump,
        list,
        resource,
    }
}

async fn config_dump(context: Arc<Context>, query: Query) -> Result<Reply, Reply> {
    let pattern = query.one("name_regex").map(whole).transpose()?;
    let process = context.ask(Question::Process).await?;
    let mut resources = context.ask(Question::Resources).await?;
    if let Some(pattern) = pattern {
        resources.retain(|resource| pattern.is_match(&resource.name));
    }
    render(move || match query.one("resource") {
        None => Ok(Reply::json(&whole_dump(&process, &resources))),
        Some(list) => one_list(list, &resources),
    })
    .await
}

fn whole(pattern: &str) -> Result<Regex, Reply> {
    let whole = format!("^(?:{pattern})$");
    Regex::new(&whole).map_err(|error| {
        let text = format!("name_regex: {error}");
        Reply::error(StatusCode::BAD_REQUEST, text)
    })
}

fn whole_dump(process: &Process, resources: &[Resource]) -> Value {
    let bootstrap = process.node.as_ref().map(|node| {
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": {"node": server_info::node(node)},
        })
    });
    let dumps = ResourceType::ALL.map(|t| {
        let names = names(t);
        let mut dump = Map::new();
        let url = format!("type.googleapis.com/envoy.admin.v3.{}", names.dump);
        dump.insert("@type".into(), url.into());
        dump.insert(names.list.into(), list(t, resources));
        Value::Object(dump)
    });
    let configs: Vec<Value> = bootstrap.into_iter().chain(dumps).collect();
    json!({ "configs": configs })
}

fn one_list(list_name: &str, resources: &[Resource]) -> Result<Reply, Reply> {
    let found = ResourceType::ALL
        .into_iter()
        .find(|t| names(*t).list == list_name);
    let Some(found) = found else {
        let known = ResourceType::ALL.map(|t| names(t).list).join(", ");
        let text = format!("{list_name:?} is not in the dump; there are {known}");
        return Err(Reply::error(StatusCode::NOT_FOUND, text));
    };
    Ok(Reply::json(&json!({ "configs": list(found, resources) })))
}

fn list(resource_type: ResourceType, resources: &[Resource]) -> Value {
    let of_type = resources
        .iter()
        .filter(|resource| resource.resource_type == resource_type);
    of_type.map(entry).collect()
}

fn entry(resource: &Resource) -> Value {
    let names = names(resource.resource_type);
    let mut state = Map::new();
    state.insert("version_info".into(), resource.version.as_str().into());
    if let Some(content) = &resource.content {
        state.insert(names.resource.into(), shown(content));
    }
    if let Some(updated) = resource.updated {
        let at = timestamp::text(updated);
        state.insert("last_updated".into(), at.into());
    }
    let mut entry = Map::new();
    entry.insert("name".into(), resource.name.as_str().into());
    if resource.resource_type == ResourceType::Listener {
        // Envoy may have two of a listener, an active and a warming one.
        if resource.content.is_some() {
            entry.insert("active_state".into(), state.into());
        }
    } else {
        entry.append(&mut state);
    }
    entry.insert("client_status".into(), resource.status.word().into());
    if let Some(failure) = &resource.failure {
        entry.insert("error_state".into(), error_state(failure));
    }
    entry.into()
}

fn error_state(failure: &ResourceFailure) -> Value {
    let mut state = Map::new();
    if let Some(content) = &failure.content {
        state.insert("failed_configuration".into(), shown(content));
    }
    let at = timestamp::text(failure.at);
    state.insert("last_update_attempt".into(), at.into());
    state.insert("details".into(), failure.details.as_str().into());
    state.insert("version_info".into(), failure.version.as_str().into());
    state.into()
}

fn shown(any: &Any) -> Value {
    messages::render(any).json
}
