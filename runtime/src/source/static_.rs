//! Resources in the process, without a control plane.
//!
//! ```text
//!   StaticResources ──> View ──> ServerStream ══ ClientStream ──> cache, as from a control plane
//! ```
//!
//! The two protocol machines talk to each other without a socket between them, in one turn of the
//! control task: a replacement is taken whole before anything of it is published.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use prost::Message;
use sidestep_proto::ads::{
    Entry, Missing, Request, Response, ServerOutput, ServerStream, Variant, View,
};
use sidestep_proto::code::{self, Code};
use sidestep_proto::codec::{self, Context, InvalidResource, Reason};
use sidestep_proto::resource::{
    Discovery, ListenerKind, Resource, ResourceType, RouteAction, RouteSource,
};
use sidestep_proto::wire::discovery::{DeltaDiscoveryResponse, DiscoveryResponse};

pub use sidestep_proto::wire::Any;

/// How this source is named where a control plane's URI would stand.
pub(crate) const NAME: &str = "static resources";

/// gRPC's status code for what is not there.
const NOT_FOUND: i32 = 5;

/// Names that an error lists at most.
const NAMES_SHOWN: usize = 5;

/// A complete, validated set of xDS resources: all that a [`Mesh`](crate::Mesh) without a control
/// plane will ever know.
///
/// Made from Listeners, RouteConfigurations, Clusters and ClusterLoadAssignments, each as the
/// `Any` that a control plane would send. Validation is the one that those undergo, and in
/// addition every name that a resource mentions must be there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StaticResources {
    types: [BTreeMap<String, Any>; 4],
}

impl StaticResources {
    /// Checks a set of resources.
    ///
    /// # Errors
    /// Everything that is wrong with them, each fault with its resource and field.
    pub fn new(resources: impl IntoIterator<Item = Any>) -> Result<Self, InvalidResources> {
        let mut set = Self::default();
        let mut faults = Vec::new();
        for (index, any) in resources.into_iter().enumerate() {
            faults.extend(set.insert(index, any).err());
        }
        if faults.is_empty() {
            faults = set.faults(&Context::default());
        }
        if faults.is_empty() {
            return Ok(set);
        }
        Err(InvalidResources { faults })
    }

    /// Reads what `sidestep check --emit FILE` writes: an encoded
    /// `envoy.service.discovery.v3.DiscoveryResponse` whose `resources` are the set.
    ///
    /// # Errors
    /// The bytes are not such a message, or as for [`StaticResources::new`].
    pub fn decode(encoded: &[u8]) -> Result<Self, InvalidResources> {
        match DiscoveryResponse::decode(encoded) {
            Ok(response) => Self::new(response.resources),
            Err(error) => Err(InvalidResources {
                faults: vec![StaticFault::Undecodable(error.to_string())],
            }),
        }
    }

    /// How many resources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.types.iter().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks them for a process with these certificate providers.
    pub(crate) fn check(&self, cx: &Context) -> Result<(), InvalidResources> {
        let faults = self.faults(cx);
        if faults.is_empty() {
            return Ok(());
        }
        Err(InvalidResources { faults })
    }

    fn insert(&mut self, index: usize, any: Any) -> Result<(), StaticFault> {
        let Some(resource_type) = ResourceType::from_type_url(&any.type_url) else {
            let type_url = any.type_url;
            return Err(StaticFault::Type { index, type_url });
        };
        let decoded = codec::decode(resource_type, &any, &Context::default());
        let name = decoded.map_err(|reason| StaticFault::Unnamed { index, reason })?;
        let name = name.name;
        let twice = StaticFault::Duplicate {
            resource_type,
            name: name.clone(),
        };
        match self.types[resource_type as usize].insert(name, any) {
            None => Ok(()),
            Some(_) => Err(twice),
        }
    }

    fn faults(&self, cx: &Context) -> Vec<StaticFault> {
        let mut faults = Vec::new();
        for resource_type in ResourceType::ALL {
            for any in self.types[resource_type as usize].values() {
                // It had a name when it was inserted.
                let Ok(decoded) = codec::decode(resource_type, any, cx) else {
                    continue;
                };
                match decoded.result {
                    Err(invalid) => faults.push(StaticFault::Invalid(invalid)),
                    Ok(resource) => faults.extend(self.holes(&resource)),
                }
            }
        }
        faults
    }

    fn holes<'a>(&'a self, resource: &'a Resource) -> impl Iterator<Item = StaticFault> + 'a {
        let absent = |(t, name): &(ResourceType, String)| {
            !self.types[*t as usize].contains_key(name.as_str())
        };
        let mentioned = mentions(resource).into_iter().filter(absent);
        let mentioned = mentioned.collect::<Vec<_>>().into_iter();
        mentioned.map(|(mentioned_type, mentioned)| StaticFault::Hole {
            resource_type: resource.resource_type(),
            name: resource.name().to_owned(),
            mentioned_type,
            mentioned,
        })
    }
}

/// What a resource rests on.
fn mentions(resource: &Resource) -> Vec<(ResourceType, String)> {
    let routes = |source: &RouteSource| match source {
        RouteSource::Named(name) => Some((ResourceType::RouteConfiguration, name.clone())),
        RouteSource::Inline(_) => None,
    };
    match resource {
        Resource::Listener(listener) => match &listener.kind {
            ListenerKind::Api(http) => routes(&http.routes).into_iter().collect(),
            ListenerKind::Server(server) => {
                let chains = server
                    .filter_chains
                    .iter()
                    .chain(&server.default_filter_chain);
                chains
                    .filter_map(|chain| routes(&chain.http.routes))
                    .collect()
            }
        },
        Resource::RouteConfiguration(configuration) => {
            let hosts = configuration.virtual_hosts.iter();
            let forwards =
                hosts
                    .flat_map(|host| &host.routes)
                    .filter_map(|route| match &route.action {
                        RouteAction::Forward(forward) => Some(forward),
                        _ => None,
                    });
            let clusters = forwards.flat_map(|forward| &forward.clusters);
            let named = clusters.map(|c| (ResourceType::Cluster, c.name.clone()));
            named.collect()
        }
        Resource::Cluster(cluster) => match &cluster.discovery {
            Discovery::Eds { service_name } => {
                vec![(ResourceType::EndpointAssignment, service_name.clone())]
            }
            Discovery::LogicalDns { .. } | Discovery::StrictDns { .. } => Vec::new(),
            Discovery::Aggregate { clusters } => {
                let clusters = clusters.iter().cloned();
                clusters.map(|c| (ResourceType::Cluster, c)).collect()
            }
        },
        Resource::EndpointAssignment(_) => Vec::new(),
    }
}

/// A set of resources that was refused whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidResources {
    /// Every fault found, not only the first.
    pub faults: Vec<StaticFault>,
}

impl fmt::Display for InvalidResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{fault} [{}]", fault.code())?;
        }
        Ok(())
    }
}

impl InvalidResources {
    /// The code of the first fault.
    #[must_use]
    pub fn code(&self) -> Code {
        let first = self.faults.first().map(StaticFault::code);
        // There is at least one.
        first.unwrap_or(code::RESOURCE_RULE)
    }
}

impl std::error::Error for InvalidResources {}

/// One thing that is wrong with a set of resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StaticFault {
    /// The bytes given are not a set of resources.
    #[error("not an encoded DiscoveryResponse: {0}")]
    Undecodable(String),
    /// A resource of a type that the runtime does not use.
    #[error(
        "resources[{index}]: {type_url:?} is not a Listener, RouteConfiguration, Cluster or \
         ClusterLoadAssignment"
    )]
    Type {
        /// Its place in the set.
        index: usize,
        /// Its type.
        type_url: String,
    },
    /// A resource whose name cannot be read.
    #[error("resources[{index}]: {reason}")]
    Unnamed {
        /// Its place in the set.
        index: usize,
        /// What is wrong with it.
        reason: Reason,
    },
    /// A resource that breaks a rule.
    #[error("{}", .0.text())]
    Invalid(InvalidResource),
    /// Two resources of one type have one name.
    #[error("{resource_type} {name:?} is there twice")]
    Duplicate {
        /// Their type.
        resource_type: ResourceType,
        /// Their name.
        name: String,
    },
    /// A resource mentions one that is not there.
    #[error("{resource_type} {name:?} mentions {mentioned_type} {mentioned:?}, which is not there")]
    Hole {
        /// The type of the resource that mentions it.
        resource_type: ResourceType,
        /// Its name.
        name: String,
        /// The type of what is absent.
        mentioned_type: ResourceType,
        /// The name of what is absent.
        mentioned: String,
    },
}

impl StaticFault {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Undecodable(_) => code::RESOURCE_UNDECODABLE,
            Self::Type { .. } => code::RESOURCE_UNSUPPORTED,
            Self::Unnamed { reason, .. } => reason.code(),
            Self::Invalid(invalid) => invalid.code(),
            Self::Duplicate { .. } => code::RESOURCE_DUPLICATE,
            Self::Hole { .. } => code::DANGLING_REFERENCE,
        }
    }
}

/// The resources now, as the stream reads them. Equal content keeps its version over
/// replacements, so it is not sent again.
#[derive(Debug, Default)]
struct Current {
    revision: u64,
    types: [BTreeMap<String, Arc<Entry>>; 4],
}

impl Current {
    fn replace(&mut self, resources: StaticResources) {
        self.revision += 1;
        for (known, new) in self.types.iter_mut().zip(resources.types) {
            let old = std::mem::take(known);
            let entries = new.into_iter().map(|(name, any)| {
                let resource = any.encode_to_vec();
                let same = old.get(&name).filter(|entry| entry.resource == resource);
                let entry = same.cloned().unwrap_or_else(|| {
                    Arc::new(Entry {
                        name: name.clone(),
                        version: self.revision.to_string(),
                        resource: resource.into(),
                    })
                });
                (name, entry)
            });
            *known = entries.collect();
        }
    }

    fn of(&self, type_url: &str) -> Option<&BTreeMap<String, Arc<Entry>>> {
        let t = ResourceType::from_type_url(type_url)?;
        Some(&self.types[t as usize])
    }
}

impl View for Current {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn entry(&self, t: &str, name: &str) -> Option<&Arc<Entry>> {
        self.of(t)?.get(name)
    }

    fn entries(&self, t: &str) -> Box<dyn Iterator<Item = &Arc<Entry>> + '_> {
        Box::new(self.of(t).into_iter().flat_map(BTreeMap::values))
    }

    fn missing(&self, t: &str, name: &str, _: bool) -> Option<Missing> {
        let noun = ResourceType::from_type_url(t).map_or(t, |known| known.wire_name());
        let known = self.of(t).into_iter().flat_map(BTreeMap::keys);
        let known: Vec<String> = known
            .take(NAMES_SHOWN)
            .map(|name| format!("{name:?}"))
            .collect();
        let known = match known.is_empty() {
            true => format!("they have no {noun} at all"),
            false => format!("they have {}", known.join(", ")),
        };
        Some(Missing {
            code: NOT_FOUND,
            message: format!("the static resources have no {noun} {name:?}; {known}"),
        })
    }
}

/// Both ends of a stream that needs no network.
#[derive(Debug)]
pub(crate) struct Link {
    stream: ServerStream,
    current: Current,
    responses: VecDeque<Response>,
}

impl Link {
    /// The variant that is spoken: in delta, what is missing is said at once.
    pub(crate) const VARIANT: Variant = Variant::Delta;

    /// A stream that serves these.
    pub(crate) fn new(resources: StaticResources) -> Self {
        let mut current = Current::default();
        current.replace(resources);
        Self {
            stream: ServerStream::new(Self::VARIANT),
            current,
            responses: VecDeque::new(),
        }
    }

    /// Takes a request.
    pub(crate) fn send(&mut self, now: Instant, request: Request) {
        self.stream.handle_request(now, request, &self.current);
        self.take_outputs();
    }

    /// Serves these from now on.
    pub(crate) fn replace(&mut self, now: Instant, resources: StaticResources) {
        self.current.replace(resources);
        self.stream.handle_view(now, &self.current);
        self.take_outputs();
    }

    /// The next answer, if there is one.
    pub(crate) fn poll(&mut self) -> Option<Response> {
        self.responses.pop_front()
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.stream.poll_output() {
            let ServerOutput::Send(response) = output else {
                continue;
            };
            match DeltaDiscoveryResponse::decode(response.encode()) {
                Ok(response) => self.responses.push_back(Response::Delta(response)),
                // Our own encoding: a test of the protocol crate holds both against each other.
                Err(error) => tracing::error!(target: "sidestep::config", %error, "static source"),
            }
        }
    }
}
