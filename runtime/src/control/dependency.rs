//! From cached resources to complete configurations (gRFC A74). Pure.
//!
//! ```text
//!   Listener ─> RouteConfiguration ─> virtual host ─> clusters ─> Cluster ─> ClusterLoadAssignment
//! ```
//!
//! Each function notes in [`Needs`] every name that it looked at: the union over all targets is
//! what is subscribed. A Listener or RouteConfiguration without content fails its target; a
//! Cluster or EndpointAssignment without content is an error of that cluster alone.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sidestep_proto::ads::ResourceError;
use sidestep_proto::code;
use sidestep_proto::resource::{
    Cluster, Discovery, EndpointAssignment, HttpConnectionManager, HttpFilter, Listener,
    ListenerKind, ResourceType, RouteAction, RouteConfiguration, RouteSource, ServerListener,
};

use super::aggregate::{self, Leaves};
use super::authorities::Origins;
use super::named;
use super::names::{Host, Known};
use super::resource_cache::{Key, Lookup, ResourceCache};
use crate::balancer::Failure;
use crate::resolver::Transport;
use crate::routing;

/// Names that a configuration rests on.
pub(super) type Needs = BTreeSet<Key>;

/// Whom to ask about a failure; ends every text.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// URI of the control plane that is in use.
    pub(super) server: Arc<str>,
    /// This process's node id.
    pub(super) node: Arc<str>,
}

/// Written by the task, read by calls that fail.
pub(crate) type SharedOrigin = Arc<ArcSwap<Origin>>;

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(xDS server {}, node {:?})", self.server, self.node)
    }
}

/// How far a configuration has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolution<T> {
    /// Something it rests on has not been answered.
    Waiting,
    /// Complete.
    Ready(T),
    /// It cannot be complete, and why.
    Failed(Failure),
}

/// A client target's routes. Comparable: an equal one is no update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientRoutes {
    /// Holds only the target's virtual host, for every authority: which one applies is decided
    /// once, by the name that was dialled (gRFC A27).
    pub(super) configuration: Arc<RouteConfiguration>,
    /// The connection manager's bound on streams (gRFC A31).
    pub(super) max_stream_duration: Option<Duration>,
    /// The connection manager's filters.
    pub(super) filters: Vec<HttpFilter>,
    /// Each cluster that a route may choose, once, in the order of the routes.
    pub(super) clusters: Vec<Arc<str>>,
    /// Those among them that calls with sessions may go to.
    pub(super) sticky: Vec<Arc<str>>,
}

/// A cluster and its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClusterConfig {
    /// The cluster.
    pub(super) cluster: Arc<Cluster>,
    /// Its endpoints, or why there are none.
    pub(super) endpoints: Result<Arc<EndpointAssignment>, Failure>,
    /// What a target without a control plane says of security, which is not in the cluster.
    pub(super) transport: Transport,
    /// Of an aggregate, which has no endpoints of its own.
    pub(super) leaves: Option<Leaves>,
}

/// A server's listener and the routes of its chains, the default chain's last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerRoutes {
    /// The listener; its kind is `Server`.
    pub(super) listener: Arc<Listener>,
    /// Index-aligned with its chains.
    pub(super) chains: Vec<Result<Arc<RouteConfiguration>, Failure>>,
}

/// Resolves a channel's Listener and routes.
pub(super) fn client_routes(
    cache: &ResourceCache,
    origins: &Origins,
    listener: &Arc<str>,
    authority: &str,
    needs: &mut Needs,
) -> Resolution<ClientRoutes> {
    needs.insert((ResourceType::Listener, listener.clone()));
    let found = match cache.listener(listener) {
        Lookup::Waiting => return Resolution::Waiting,
        Lookup::Failed(error) => {
            return failed(origins, ResourceType::Listener, listener, &error);
        }
        Lookup::Found(found) => found,
    };
    let ListenerKind::Api(http) = &found.kind else {
        let origin = origins.of(&(ResourceType::Listener, listener.clone()));
        let text = format!("Listener {listener:?} is a server's, not a client's {origin}");
        return Resolution::Failed(Failure::new(code::WRONG_LISTENER_KIND, text));
    };
    match routes(cache, origins, http, needs) {
        Resolution::Waiting => Resolution::Waiting,
        Resolution::Failed(failure) => Resolution::Failed(failure),
        Resolution::Ready(configuration) => {
            let origin = origins.of(&(ResourceType::Listener, listener.clone()));
            select(&configuration, http, origin, authority)
        }
    }
}

/// What clusters are made of.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// What the control plane has said.
    pub(super) cache: &'a ResourceCache,
    /// Whom to ask about it.
    pub(super) origins: &'a Origins,
    /// What is known of a host name.
    pub(super) names: &'a dyn Fn(&Host) -> Known,
}

/// What a cluster rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ClusterNeeds {
    /// Resources.
    pub(super) resources: Needs,
    /// Host names.
    pub(super) hosts: BTreeSet<Host>,
}

/// Resolves one cluster.
pub(super) fn cluster_config(
    view: View<'_>,
    name: &Arc<str>,
    needs: &mut ClusterNeeds,
) -> Resolution<ClusterConfig> {
    let View { cache, origins, .. } = view;
    let key = (ResourceType::Cluster, name.clone());
    needs.resources.insert(key.clone());
    let cluster = match cache.cluster(name) {
        Lookup::Waiting => return Resolution::Waiting,
        Lookup::Failed(error) => return failed(origins, ResourceType::Cluster, name, &error),
        Lookup::Found(cluster) => cluster,
    };
    let endpoints = match &cluster.discovery {
        Discovery::Eds { service_name } => {
            endpoints(cache, origins, service_name, &mut needs.resources)
        }
        Discovery::Aggregate { .. } => return aggregate::config(view, name, cluster, needs),
        Discovery::LogicalDns { .. } | Discovery::StrictDns { .. } => {
            let origin = origins.of(&key);
            named::endpoints(cluster, view.names, origin, &mut needs.hosts)
        }
    };
    endpoints.map_or(Resolution::Waiting, |endpoints| {
        Resolution::Ready(ClusterConfig {
            cluster: cluster.clone(),
            endpoints,
            transport: Transport::Unsaid,
            leaves: None,
        })
    })
}

/// What EDS says under a name; `None` while it has said nothing.
fn endpoints(
    cache: &ResourceCache,
    origins: &Origins,
    service_name: &str,
    needs: &mut Needs,
) -> Option<Result<Arc<EndpointAssignment>, Failure>> {
    let service_name = Arc::from(service_name);
    let endpoints = match cache.endpoints(&service_name) {
        Lookup::Waiting => None,
        Lookup::Found(endpoints) => Some(Ok(endpoints.clone())),
        Lookup::Failed(error) => Some(Err(failure(
            origins,
            ResourceType::EndpointAssignment,
            &service_name,
            &error,
        ))),
    };
    needs.insert((ResourceType::EndpointAssignment, service_name));
    endpoints
}

/// Resolves a server's Listener and the routes of all its chains.
pub(super) fn server_routes(
    cache: &ResourceCache,
    origins: &Origins,
    name: &Arc<str>,
    needs: &mut Needs,
) -> Resolution<ServerRoutes> {
    needs.insert((ResourceType::Listener, name.clone()));
    let listener = match cache.listener(name) {
        Lookup::Waiting => return Resolution::Waiting,
        Lookup::Failed(error) => return failed(origins, ResourceType::Listener, name, &error),
        Lookup::Found(listener) => listener,
    };
    let ListenerKind::Server(server) = &listener.kind else {
        let origin = origins.of(&(ResourceType::Listener, name.clone()));
        let text = format!("Listener {name:?} is a client's, not a server's {origin}");
        return Resolution::Failed(Failure::new(code::WRONG_LISTENER_KIND, text));
    };
    let mut waiting = false;
    let mut chains = Vec::new();
    for http in connection_managers(server) {
        match routes(cache, origins, http, needs) {
            Resolution::Waiting => waiting = true,
            Resolution::Ready(configuration) => chains.push(Ok(configuration)),
            Resolution::Failed(failure) => chains.push(Err(failure)),
        }
    }
    if waiting {
        return Resolution::Waiting;
    }
    Resolution::Ready(ServerRoutes {
        listener: listener.clone(),
        chains,
    })
}

/// Why nothing will come of what something rests on, for now: a name of which nothing is known,
/// although all servers of its authority were tried.
pub(super) fn stuck<'a>(
    cache: &ResourceCache,
    origins: &Origins,
    needs: impl IntoIterator<Item = &'a Key>,
) -> Option<Failure> {
    let mut waiting = needs.into_iter().filter(|key| cache.is_waiting(key));
    let (key, reason) = waiting.find_map(|key| Some((key, origins.unreachable(key)?)))?;
    let ((resource_type, name), origin) = (key, origins.of(key));
    let text = format!("no control plane answers for {resource_type} {name:?}: {reason} {origin}");
    Some(Failure::new(code::CONTROL_PLANE_UNREACHABLE, text))
}

/// A listener was asked for, and there is nobody to ask.
pub(super) fn no_bootstrap() -> Failure {
    Failure::new(
        code::NO_BOOTSTRAP,
        "no control plane: xds: targets and meshed servers need a bootstrap",
    )
}

/// Each chain's connection manager, the default chain's last.
fn connection_managers(server: &ServerListener) -> impl Iterator<Item = &HttpConnectionManager> {
    let chains = server.filter_chains.iter();
    chains
        .chain(&server.default_filter_chain)
        .map(|chain| &chain.http)
}

fn routes(
    cache: &ResourceCache,
    origins: &Origins,
    http: &HttpConnectionManager,
    needs: &mut Needs,
) -> Resolution<Arc<RouteConfiguration>> {
    let name = match &http.routes {
        RouteSource::Inline(configuration) => return Resolution::Ready(configuration.clone()),
        RouteSource::Named(name) => Arc::from(name.as_str()),
    };
    let resolution = match cache.route_configuration(&name) {
        Lookup::Waiting => Resolution::Waiting,
        Lookup::Found(configuration) => Resolution::Ready(configuration.clone()),
        Lookup::Failed(error) => failed(origins, ResourceType::RouteConfiguration, &name, &error),
    };
    needs.insert((ResourceType::RouteConfiguration, name));
    resolution
}

fn select(
    configuration: &RouteConfiguration,
    http: &HttpConnectionManager,
    origin: &Origin,
    authority: &str,
) -> Resolution<ClientRoutes> {
    let Some(host) = routing::virtual_host(&configuration.virtual_hosts, authority) else {
        let text = format!(
            "RouteConfiguration {:?} has no virtual host for {authority:?} {origin}",
            configuration.name
        );
        return Resolution::Failed(Failure::new(code::NO_VIRTUAL_HOST, text));
    };
    let mut host = host.clone();
    host.domains = vec!["*".into()];
    let mut clusters: Vec<Arc<str>> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut sticky = BTreeSet::new();
    for route in &host.routes {
        let RouteAction::Forward(forward) = &route.action else {
            continue;
        };
        for weighted in &forward.clusters {
            if seen.insert(weighted.name.clone()) {
                clusters.push(weighted.name.as_str().into());
            }
        }
        if routing::has_sessions(forward, &http.filters) {
            // A session may be in any of them, whichever its call draws.
            sticky.extend(forward.clusters.iter().map(|c| Arc::from(c.name.as_str())));
        }
    }
    Resolution::Ready(ClientRoutes {
        configuration: Arc::new(RouteConfiguration {
            name: configuration.name.clone(),
            virtual_hosts: vec![host],
        }),
        max_stream_duration: http.max_stream_duration,
        filters: http.filters.clone(),
        clusters,
        sticky: sticky.into_iter().collect(),
    })
}

fn failed<T>(
    origins: &Origins,
    resource_type: ResourceType,
    name: &Arc<str>,
    error: &ResourceError,
) -> Resolution<T> {
    Resolution::Failed(failure(origins, resource_type, name, error))
}

pub(super) fn failure(
    origins: &Origins,
    resource_type: ResourceType,
    name: &Arc<str>,
    error: &ResourceError,
) -> Failure {
    let origin = origins.of(&(resource_type, name.clone()));
    let text = match error {
        ResourceError::Invalid(invalid) => format!("invalid {}", invalid.text()),
        ResourceError::Deleted => format!("{resource_type} {name:?} was deleted"),
        ResourceError::DoesNotExist => format!("{resource_type} {name:?} does not exist"),
        ResourceError::Refused { code, message } => {
            format!("{resource_type} {name:?} was refused: {message} (code {code})")
        }
        ResourceError::TimedOut => format!("{resource_type} {name:?} was not answered in time"),
        ResourceError::UnknownAuthority { authority } => {
            format!("{resource_type} {name:?}: the bootstrap has no authority {authority:?}")
        }
        ResourceError::BadName(invalid) => format!("{resource_type} {name:?} {invalid}"),
    };
    Failure::new(error.code(), format!("{text} {origin}"))
}

#[cfg(test)]
pub(super) mod tests {
    use sidestep_proto::ads::{Authorities, Event, ServerFeatures};
    use sidestep_proto::bootstrap::{Credentials, Server};
    use sidestep_proto::resource::Resource;

    use super::super::tests::fixtures;
    use super::*;

    pub(in super::super) fn origins() -> Origins {
        let server = Server {
            uri: "plane:1".into(),
            credentials: Credentials::Insecure,
            features: ServerFeatures::default(),
        };
        let authorities = Authorities {
            default: vec![0],
            ..Authorities::default()
        };
        Origins::new(&[server], &authorities, "me")
    }

    /// Nothing is known of host names.
    pub(in super::super) fn view<'a>(cache: &'a ResourceCache, origins: &'a Origins) -> View<'a> {
        View {
            cache,
            origins,
            names: &|_| Known::Waiting,
        }
    }

    /// Everything that is asked for is there, or is an error.
    pub(in super::super) fn cache(
        resources: &[Resource],
        missing: &[(ResourceType, &str)],
    ) -> ResourceCache {
        let mut cache = ResourceCache::default();
        for resource in resources {
            cache.expect((resource.resource_type(), resource.name().into()));
            cache.apply(Event::Resource(resource.clone()));
        }
        for (resource_type, name) in missing {
            cache.expect((*resource_type, Arc::from(*name)));
            cache.apply(Event::Error {
                resource_type: *resource_type,
                name: (*name).into(),
                error: ResourceError::DoesNotExist,
                cached: false,
            });
        }
        cache
    }

    fn client(cache: &ResourceCache, authority: &str) -> (Resolution<ClientRoutes>, Vec<String>) {
        let mut needs = Needs::new();
        let routes = client_routes(cache, &origins(), &"l".into(), authority, &mut needs);
        (routes, needs.iter().map(|key| key.1.to_string()).collect())
    }

    fn text<T: fmt::Debug>(resolution: Resolution<T>) -> String {
        match resolution {
            Resolution::Failed(failure) => failure.0.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_target_needs_more_the_more_is_known() {
        let (routes, needs) = client(&cache(&[], &[]), "a");
        assert_eq!((routes, needs), (Resolution::Waiting, vec!["l".into()]));
        let listener = fixtures::listener("l", "r");
        let (routes, needs) = client(&cache(std::slice::from_ref(&listener), &[]), "a");
        assert_eq!(routes, Resolution::Waiting);
        assert_eq!(needs, ["l", "r"]);
        let all = [listener, fixtures::routes("r", &["x", "y", "x"])];
        let (routes, needs) = client(&cache(&all, &[]), "a");
        let Resolution::Ready(routes) = routes else {
            panic!("{routes:?}");
        };
        assert_eq!(needs, ["l", "r"]);
        assert_eq!(routes.clusters, [Arc::from("x"), Arc::from("y")]);
    }

    #[test]
    fn only_the_virtual_host_of_the_authority_counts() {
        let Resource::RouteConfiguration(configuration) = fixtures::routes("r", &["x"]) else {
            unreachable!("it is one");
        };
        let mut configuration = (*configuration).clone();
        configuration.virtual_hosts[0].domains = vec!["a".into()];
        let routes = Resource::RouteConfiguration(Arc::new(configuration));
        let cache = cache(&[fixtures::listener("l", "r"), routes], &[]);
        assert!(matches!(client(&cache, "A").0, Resolution::Ready(_)));
        let text = text(client(&cache, "b").0);
        assert_eq!(
            text,
            "RouteConfiguration \"r\" has no virtual host for \"b\" (xDS server plane:1, node \"me\")"
        );
    }

    #[test]
    fn failures_name_resource_server_and_node() {
        let listener = fixtures::listener("l", "r");
        for (cache, expected) in [
            (
                cache(&[], &[(ResourceType::Listener, "l")]),
                "Listener \"l\"",
            ),
            (
                cache(&[listener], &[(ResourceType::RouteConfiguration, "r")]),
                "RouteConfiguration \"r\"",
            ),
        ] {
            assert_eq!(
                text(client(&cache, "a").0),
                format!("{expected} does not exist (xDS server plane:1, node \"me\")")
            );
        }
    }

    #[test]
    fn a_cluster_is_complete_with_its_endpoints_or_with_why_there_are_none() {
        let resolve = |cache: &ResourceCache| {
            let mut needs = ClusterNeeds::default();
            let origins = origins();
            let config = cluster_config(view(cache, &origins), &"c".into(), &mut needs);
            (config, needs.resources.len())
        };
        let cluster = fixtures::cluster("c");
        let alone = cache(std::slice::from_ref(&cluster), &[]);
        assert_eq!(resolve(&alone), (Resolution::Waiting, 2));
        let missing = [(ResourceType::EndpointAssignment, "c")];
        let (config, _) = resolve(&cache(std::slice::from_ref(&cluster), &missing));
        let Resolution::Ready(ClusterConfig { endpoints, .. }) = config else {
            panic!("{config:?}");
        };
        let failure = endpoints.expect_err("there are none").0;
        assert!(
            failure.starts_with("ClusterLoadAssignment \"c\""),
            "{failure}"
        );
        let both = [cluster, fixtures::endpoints("c", &[])];
        let (config, _) = resolve(&cache(&both, &[]));
        assert!(matches!(config, Resolution::Ready(c) if c.endpoints.is_ok()));
    }
}
