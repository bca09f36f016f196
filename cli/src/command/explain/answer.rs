//! The answer itself: resources as a client decodes them, routes as a client finds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use sidestep::routing::{Action, Call, ClusterIndex, Forward, RouteTable, RouteTimeout, Tried};
use sidestep_proto::codec::{self, Context};
use sidestep_proto::resource::{
    Cluster, Discovery, Endpoint, LbPolicy, ListenerKind, Resource, ResourceType, RetryPolicy,
    RouteConfiguration, RouteSource, StringMatcher,
};
use sidestep_server::model::Place;
use sidestep_server::{Checked, nearest};

/// A call that might be made.
pub(super) struct Question {
    /// The name that is dialled.
    pub(super) service: String,
    /// `/package.Service/Method`.
    pub(super) path: String,
    /// Its headers.
    pub(super) headers: HeaderMap,
    /// The service that makes it.
    pub(super) caller: Option<String>,
}

/// What becomes of it.
pub(super) struct Answer {
    /// The listener, and where it was written.
    pub(super) listener: String,
    /// The route configuration and the virtual host in it.
    pub(super) routes: String,
    /// The caller and its identity.
    pub(super) caller: Option<String>,
    /// The rules that were tried, in order.
    pub(super) rules: Vec<Rule>,
    /// Where the call goes.
    pub(super) outcome: Outcome,
}

/// A rule and whether it takes the call.
pub(super) struct Rule {
    /// Its name, if it has one.
    pub(super) name: Option<String>,
    /// Why it does not take the call.
    pub(super) refused: Option<String>,
}

/// Where a call goes.
pub(super) enum Outcome {
    /// To one of these.
    Sent {
        /// The clusters among which is drawn.
        shares: Vec<Share>,
        /// How long it may take, in words.
        timeout: String,
        /// Whether it is tried again, in words.
        retry: String,
    },
    /// Nowhere.
    Fails(String),
}

/// A cluster and its share of such calls.
pub(super) struct Share {
    /// Its name.
    pub(super) cluster: String,
    /// Of a hundred calls.
    pub(super) percent: f64,
    /// How an endpoint is picked.
    pub(super) policy: &'static str,
    /// How the connection is secured.
    pub(super) security: String,
    /// The endpoints, with what sets them apart.
    pub(super) endpoints: Vec<String>,
}

/// Follows a call through the mesh as a client would.
pub(super) fn find(checked: &Checked, question: &Question) -> Result<Answer, String> {
    let caller = question
        .caller
        .as_deref()
        .map(|caller| identify(checked, caller))
        .transpose()?;
    let known = Known::decode(checked)?;
    let name = &question.service;
    let (listener, place) = known.listener(name)?;
    let ListenerKind::Api(manager) = &listener.kind else {
        return Err(format!("{name:?} is a server's listener, not a service"));
    };
    let routes = known.routes(&manager.routes)?;
    let mut clusters: Vec<String> = Vec::new();
    let table = RouteTable::compile(
        &routes,
        |cluster| index_of(cluster, &mut clusters),
        manager.max_stream_duration,
    );
    let explanation = table.explain(&Call {
        authority: name,
        path: &question.path,
        headers: &question.headers,
        random: 0,
    });
    let outcome = match (explanation.virtual_host, explanation.route) {
        (None, _) => Outcome::Fails(format!("no virtual host takes {name:?}")),
        (_, None) => Outcome::Fails("no rule takes the call".to_owned()),
        (_, Some(route)) => known.outcome(&route.action, &clusters),
    };
    let mut outcome = outcome;
    if let Outcome::Sent { shares, .. } = &mut outcome {
        shares
            .iter_mut()
            .for_each(|share| name_source(checked, share));
    }
    let host = explanation.virtual_host.unwrap_or("none");
    Ok(Answer {
        listener: match place {
            Some(place) => format!("{name} ({place})"),
            None => name.clone(),
        },
        routes: format!("{}, virtual host {host}", routes.name),
        caller,
        rules: explanation.tried.iter().map(rule).collect(),
        outcome,
    })
}

/// Where endpoints come from that only a server asks for.
fn name_source(checked: &Checked, share: &mut Share) {
    // The part before the slash is the service, after it a version's name.
    let service = share.cluster.split('/').next().unwrap_or_default();
    let service = checked.mesh.services.get(service);
    if let Some(source) = service.and_then(|service| service.source())
        && share.endpoints.is_empty()
    {
        let (kind, written) = (source.id.kind, &source.written.value);
        let text = format!("whatever `{kind}: {written}` tells the server");
        share.endpoints.push(text);
    }
}

fn identify(checked: &Checked, caller: &str) -> Result<String, String> {
    let services = &checked.mesh.services;
    let service = services.get(caller).ok_or_else(|| {
        let hint = nearest::hint(caller, services.keys().map(String::as_str));
        format!("no such service: {caller:?}{hint}")
    })?;
    Ok(match checked.mesh.spiffe_id(service) {
        Some(id) => format!("{caller} ({id})"),
        None => caller.to_owned(),
    })
}

fn index_of(cluster: &str, clusters: &mut Vec<String>) -> ClusterIndex {
    let found = clusters.iter().position(|name| name == cluster);
    let index = found.unwrap_or_else(|| {
        clusters.push(cluster.to_owned());
        clusters.len() - 1
    });
    // A mesh with four thousand million clusters does not fit into memory.
    ClusterIndex(u32::try_from(index).unwrap_or(u32::MAX))
}

fn rule(tried: &Tried<'_>) -> Rule {
    let seen = || match &tried.seen {
        Some(value) => format!(" (it is {value:?})"),
        None => String::new(),
    };
    Rule {
        name: (!tried.name.is_empty()).then(|| tried.name.to_owned()),
        refused: tried
            .mismatch
            .as_ref()
            .map(|mismatch| format!("{mismatch}{}", seen())),
    }
}

/// The resources of the mesh as a client decodes them.
struct Known(BTreeMap<(ResourceType, String), (Resource, Option<Place>)>);

impl Known {
    fn decode(checked: &Checked) -> Result<Self, String> {
        let mut known = BTreeMap::new();
        for raw in &checked.configuration.resources {
            // Native resources of other types concern proxies alone.
            let Some(resource_type) = ResourceType::from_type_url(&raw.any.type_url) else {
                continue;
            };
            let decoded = codec::decode(resource_type, &raw.any, &Context::default());
            let decoded = decoded.map_err(|reason| reason.to_string())?;
            if let Ok(resource) = decoded.result {
                let place = raw.origin.clone();
                known.insert((resource_type, decoded.name), (resource, place));
            }
        }
        Ok(Self(known))
    }

    fn find(&self, resource_type: ResourceType, name: &str) -> Option<&(Resource, Option<Place>)> {
        self.0.get(&(resource_type, name.to_owned()))
    }

    fn listener(
        &self,
        name: &str,
    ) -> Result<(&sidestep_proto::resource::Listener, Option<&Place>), String> {
        match self.find(ResourceType::Listener, name) {
            Some((Resource::Listener(listener), place)) => Ok((listener, place.as_ref())),
            _ => {
                let listeners = self.0.keys().filter(|(t, _)| *t == ResourceType::Listener);
                let hint = nearest::hint(name, listeners.map(|(_, name)| name.as_str()));
                Err(format!("no such service: {name:?}{hint}"))
            }
        }
    }

    fn routes(&self, source: &RouteSource) -> Result<Arc<RouteConfiguration>, String> {
        match source {
            RouteSource::Inline(routes) => Ok(Arc::clone(routes)),
            RouteSource::Named(name) => match self.find(ResourceType::RouteConfiguration, name) {
                Some((Resource::RouteConfiguration(routes), _)) => Ok(Arc::clone(routes)),
                _ => Err(format!("clients refuse the RouteConfiguration {name:?}")),
            },
        }
    }

    fn outcome(&self, action: &Action, clusters: &[String]) -> Outcome {
        match action {
            Action::Forward(forward) => Outcome::Sent {
                shares: self.shares(forward, clusters),
                timeout: timeout(forward.timeout),
                retry: forward
                    .retry
                    .as_ref()
                    .map_or_else(|| "only calls that no server has begun".to_owned(), retry),
            },
            Action::NonForwarding => Outcome::Fails("the rule is for servers".to_owned()),
            Action::Unsupported => {
                Outcome::Fails("the rule does something that gRPC cannot do".to_owned())
            }
        }
    }

    fn shares(&self, forward: &Forward, clusters: &[String]) -> Vec<Share> {
        let sum = forward.clusters.last().map_or(1, |(upto, _)| *upto);
        let mut before = 0;
        let mut shares = Vec::new();
        for (upto, ClusterIndex(index)) in &forward.clusters {
            let weight = upto - before;
            before = *upto;
            let name = &clusters[*index as usize];
            shares.push(self.share(name, weight as f64 * 100.0 / sum as f64));
        }
        shares
    }

    fn share(&self, name: &str, percent: f64) -> Share {
        let cluster = match self.find(ResourceType::Cluster, name) {
            Some((Resource::Cluster(cluster), _)) => Some(cluster),
            _ => None,
        };
        Share {
            cluster: name.to_owned(),
            percent,
            policy: cluster.map_or("clients refuse it", |cluster| policy(cluster.lb_policy)),
            security: cluster.map_or_else(String::new, |cluster| security(cluster)),
            endpoints: cluster.map_or_else(Vec::new, |cluster| self.endpoints(cluster)),
        }
    }

    fn endpoints(&self, cluster: &Cluster) -> Vec<String> {
        let service_name = match &cluster.discovery {
            Discovery::Eds { service_name } => service_name,
            Discovery::LogicalDns { host, port } => return vec![format!("{host}:{port} by DNS")],
            Discovery::Aggregate { clusters } => return clusters.clone(),
        };
        let Some((Resource::EndpointAssignment(assignment), _)) =
            self.find(ResourceType::EndpointAssignment, service_name)
        else {
            return Vec::new();
        };
        let localities = assignment.localities.iter();
        localities
            .flat_map(|locality| {
                let zone = &locality.locality.zone;
                locality.endpoints.iter().map(|e| endpoint(e, zone))
            })
            .collect()
    }
}

fn endpoint(endpoint: &Endpoint, zone: &str) -> String {
    let mut text = endpoint
        .addresses
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    if !zone.is_empty() {
        text.push_str(&format!(", zone {zone}"));
    }
    if endpoint.weight != 1 {
        text.push_str(&format!(", weight {}", endpoint.weight));
    }
    if !endpoint.health.is_usable() {
        text.push_str(", not used");
    }
    text
}

fn policy(policy: LbPolicy) -> &'static str {
    match policy {
        LbPolicy::RoundRobin => "round robin",
        LbPolicy::LeastRequest { .. } => "least request",
        LbPolicy::PickFirst { .. } => "pick first",
        _ => "another policy",
    }
}

fn security(cluster: &Cluster) -> String {
    let Some(tls) = &cluster.tls else {
        return "plaintext".to_owned();
    };
    let kind = if tls.identity.is_some() {
        "mutual TLS"
    } else {
        "TLS"
    };
    let names: Vec<String> = tls.sans.iter().map(wanted).collect();
    if names.is_empty() {
        return kind.to_owned();
    }
    format!("{kind}, the server must be {}", names.join(" or "))
}

fn wanted(matcher: &StringMatcher) -> String {
    match matcher {
        StringMatcher::Exact(text) => text.value.to_string(),
        StringMatcher::Prefix(text) => format!("{}…", text.value),
        StringMatcher::Suffix(text) => format!("…{}", text.value),
        StringMatcher::Contains(text) => format!("…{}…", text.value),
        StringMatcher::Regex(pattern) => format!("a match of {}", pattern.as_str()),
    }
}

fn timeout(timeout: RouteTimeout) -> String {
    match timeout {
        RouteTimeout::Application => "the caller's own deadline".to_owned(),
        RouteTimeout::AtMost(limit) => {
            format!("at most {limit:?}, or the caller's own deadline if that is sooner")
        }
    }
}

fn retry(policy: &RetryPolicy) -> String {
    format!(
        "up to {} attempts in all, on {}",
        policy.max_attempts,
        policy.on.to_wire()
    )
}
