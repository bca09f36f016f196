//! The answer itself: resources as a client decodes them, routes as a client finds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use sidestep::explain::{self, Answer, Candidate, Share, words};
use sidestep::routing::{Around, Call, ClusterIndex, Criteria, RouteTable};
use sidestep_proto::codec::{self, Context};
use sidestep_proto::resource::{
    Cluster, Discovery, LbPolicy, ListenerKind, Resource, ResourceType, RouteConfiguration,
    RouteSource,
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
    let table = RouteTable::compile_in(
        &routes,
        |cluster| index_of(cluster, &mut clusters),
        &Around {
            max_stream_duration: manager.max_stream_duration,
            filters: &manager.filters,
        },
    );
    let explanation = table.explain(&Call {
        authority: name,
        path: &question.path,
        headers: &question.headers,
        random: 0,
        hash: 0,
        session: None,
        subset: None,
    });
    let mut outcome =
        explain::outcome(name, &explanation, |ClusterIndex(index), percent, asked| {
            known.share(&clusters[index as usize], percent, asked)
        });
    if let explain::Outcome::Sent { clusters, .. } = &mut outcome {
        for share in clusters {
            name_source(checked, share);
        }
    }
    let host = explanation.virtual_host.unwrap_or("none");
    Ok(Answer {
        service: name.clone(),
        path: question.path.clone(),
        listener: match place {
            Some(place) => format!("{name} ({place})"),
            None => name.clone(),
        },
        routes: format!("{}, virtual host {host}", routes.name),
        caller,
        rules: explain::rules(&explanation),
        outcome,
    })
}

/// Where endpoints come from that only a server asks for.
fn name_source(checked: &Checked, share: &mut Share) {
    // The part before the slash is the service, after it a version's name.
    let service = share.name.split('/').next().unwrap_or_default();
    let service = checked.mesh.services.get(service);
    if let Some(source) = service.and_then(|service| service.source())
        && share.endpoints.is_empty()
    {
        let (kind, written) = (source.id.kind, &source.written.value);
        let text = format!("whatever `{kind}: {written}` tells the server");
        share.endpoints.push(Candidate::in_words(text));
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

    fn share(&self, name: &str, percent: f64, asked: Option<&Criteria>) -> Share {
        let cluster = match self.find(ResourceType::Cluster, name) {
            Some((Resource::Cluster(cluster), _)) => Some(cluster),
            _ => None,
        };
        Share {
            name: name.to_owned(),
            percent,
            policy: cluster.map_or_else(
                || "clients refuse it".to_owned(),
                |cluster| match &cluster.discovery {
                    Discovery::Aggregate { clusters } => words::aggregate(clusters.len()),
                    _ => words::policy_tree(&cluster.lb_policy),
                },
            ),
            security: cluster.map_or_else(String::new, |c| words::security(c.tls.as_ref())),
            subset: asked.map(|asked| match cluster.map(|cluster| &cluster.lb_policy) {
                Some(LbPolicy::Subsets(_)) => format!("subset {}", asked.labels()),
                _ => words::no_subsets(asked),
            }),
            state: None,
            failing: false,
            endpoints: cluster.map_or_else(Vec::new, |cluster| self.endpoints(cluster)),
        }
    }

    /// What an aggregate is made of, in the order in which it is used. Which of them a client uses
    /// depends on what it can reach.
    fn members(&self, clusters: &[String]) -> Vec<Candidate> {
        let members = clusters.iter().zip(1..);
        let members = members.map(
            |(name, rank)| match self.find(ResourceType::Cluster, name) {
                Some((Resource::Cluster(cluster), _)) => match &cluster.discovery {
                    Discovery::Aggregate { clusters } => {
                        format!("{rank}. {name}: {}", words::aggregate(clusters.len()))
                    }
                    _ => format!("{rank}. {name}: {}", words::policy_tree(&cluster.lb_policy)),
                },
                _ => format!("{rank}. {name}: passed over, clients do not get it"),
            },
        );
        members.map(Candidate::in_words).collect()
    }

    fn endpoints(&self, cluster: &Cluster) -> Vec<Candidate> {
        let service_name = match &cluster.discovery {
            Discovery::Eds { service_name } => service_name,
            Discovery::LogicalDns { host, port, .. } => {
                let text = format!("{host}:{port} by DNS, all its addresses as one endpoint");
                return vec![Candidate::in_words(text)];
            }
            Discovery::StrictDns { localities, .. } => {
                let named = localities.iter().flat_map(|locality| &locality.endpoints);
                let named = named.map(|e| format!("{}:{} by DNS", e.host, e.port));
                return named.map(Candidate::in_words).collect();
            }
            Discovery::Aggregate { clusters } => return self.members(clusters),
        };
        let Some((Resource::EndpointAssignment(assignment), _)) =
            self.find(ResourceType::EndpointAssignment, service_name)
        else {
            return Vec::new();
        };
        let localities = assignment.localities.iter();
        localities
            .flat_map(|locality| {
                let place = &locality.locality;
                let endpoints = locality.endpoints.iter();
                endpoints.map(|e| Candidate::of_resource(e, place))
            })
            .collect()
    }
}
