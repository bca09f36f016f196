//! One state of the configuration, complete and closed in itself.
//!
//! Pure. [`Snapshot::build`] accepts a set of resources only if every name that one of them
//! mentions is there, so no client can be sent a route to a cluster that does not exist. Each
//! resource is encoded once, here; every stream shares the bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message as _;
use sidestep_proto::ads::Entry;
use sidestep_proto::code::{self, Code};
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::Any;

use crate::model::Place;
use crate::{proxy, reference};

/// A resource of any type, by name, as it will be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct RawResource {
    /// The name under which clients ask for it.
    pub name: String,
    /// The resource itself; its type URL says what it is.
    pub any: Any,
    /// Where it was written, if it was.
    pub origin: Option<Place>,
}

impl RawResource {
    /// Reads the name out of the resource. Every top-level xDS resource has its name in field 1.
    ///
    /// # Errors
    /// If the bytes are no protobuf message or hold no name.
    pub fn from_any(any: Any) -> Result<Self, UnnamedResource> {
        /// The part that all resource types have in common.
        #[derive(Clone, PartialEq, prost::Message)]
        struct Named {
            #[prost(string, tag = "1")]
            name: String,
        }
        match Named::decode(any.value.clone()) {
            Ok(Named { name }) if !name.is_empty() => Ok(Self {
                name,
                any,
                origin: None,
            }),
            _ => Err(UnnamedResource {
                type_url: any.type_url,
            }),
        }
    }
}

/// A resource whose name cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a resource of type {type_url:?} has no readable name [{}]",
    code::RESOURCE_UNNAMED
)]
pub struct UnnamedResource {
    /// Its type.
    pub type_url: String,
}

/// Whether names that a resource mentions must exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum References {
    /// All of them: the rule.
    #[default]
    Closed,
    /// Not checked: for tests that need to show clients a broken configuration.
    Open,
}

/// In which form clients are given what there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Delivery {
    /// As each kind of client takes it: the rule. A proxy is not shown listeners that are for
    /// channels and gets clusters in its own form; a name that does not exist is answered with the
    /// reason and the nearest names that do; who comes back with the current version is sent
    /// nothing.
    #[default]
    Fitted,
    /// As it is, to everybody: what a management server does that knows nothing of its clients. A
    /// name that does not exist is absent from whole states, is in `removed_resources` of delta
    /// responses, and is otherwise not answered.
    AsWritten,
}

/// Makes the listeners of servers, whose names hold addresses that nobody knows in advance.
pub trait ServerListeners: fmt::Debug + Send + Sync {
    /// The listener called `name` for a process of the service `service` (its `node.cluster`).
    ///
    /// `None` if `name` is not the name of a server's listener at all.
    ///
    /// # Errors
    /// With the text for the client, if the name is one but there can be no such listener.
    fn server_listener(&self, service: &str, name: &str) -> Option<Result<Any, String>>;
}

/// What [`Snapshot::server_listener`] remembers, by service and name.
type Made = BTreeMap<(String, String), Option<Result<Arc<Entry>, String>>>;

/// How many made listeners a snapshot remembers. Beyond it they are made afresh each time, so
/// that a client asking for one name after the other cannot fill the memory.
const MADE_LIMIT: usize = 100_000;

/// One state of the configuration.
#[derive(Default)]
pub struct Snapshot {
    revision: u64,
    types: BTreeMap<String, BTreeMap<String, Arc<Entry>>>,
    /// Clusters that a proxy is told in another form.
    for_proxies: BTreeMap<String, Arc<Entry>>,
    api_listeners: BTreeSet<String>,
    delivery: Delivery,
    server_listeners: Option<Arc<dyn ServerListeners>>,
    made: Mutex<Made>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision)
            .field("resources", &self.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Checks and encodes `resources`. What has not changed since `previous` is taken over from
    /// it, so that equal content exists once in memory, however many revisions mention it.
    ///
    /// # Errors
    /// With every fault found, not only the first: names given twice, and (unless `references`
    /// is [`References::Open`]) names mentioned but absent.
    pub fn build(
        revision: u64,
        resources: Vec<RawResource>,
        references: References,
        previous: &Self,
    ) -> Result<Self, InconsistentSnapshot> {
        Self::check(&resources, references)?;
        let mut snapshot = Self {
            revision,
            ..Self::default()
        };
        for resource in resources {
            snapshot.insert(resource, previous);
        }
        Ok(snapshot)
    }

    /// What [`Self::build`] would say, without building.
    pub(crate) fn check(
        resources: &[RawResource],
        references: References,
    ) -> Result<(), InconsistentSnapshot> {
        let mut faults = duplicates(resources);
        if references == References::Closed {
            faults.extend(holes(resources));
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(InconsistentSnapshot { faults })
        }
    }

    /// Adds what makes the listeners of servers on demand.
    #[must_use]
    pub fn with_server_listeners(mut self, listeners: Option<Arc<dyn ServerListeners>>) -> Self {
        self.server_listeners = listeners;
        self
    }

    /// Sets the form in which clients are given it.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// The form in which clients are given it.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// The listener of a server, made when first asked for; see [`ServerListeners`].
    pub fn server_listener(&self, service: &str, name: &str) -> Option<Result<Arc<Entry>, String>> {
        let maker = self.server_listeners.as_ref()?;
        let key = (service.to_owned(), name.to_owned());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&key) {
            return known.clone();
        }
        let answer = maker
            .server_listener(service, name)
            .map(|result| result.map(|any| Arc::new(encode(name, &any))));
        if made.len() < MADE_LIMIT {
            made.insert(key, answer.clone());
        }
        answer
    }

    /// Counts up with every accepted change. 0 is the empty state before the first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The resource of this type and name.
    #[must_use]
    pub fn find(&self, type_url: &str, name: &str) -> Option<&Arc<Entry>> {
        self.types.get(type_url)?.get(name)
    }

    /// The form in which a proxy takes a resource that `entry` is for everybody else.
    #[must_use]
    pub fn for_proxy<'a>(&'a self, type_url: &str, entry: &'a Arc<Entry>) -> &'a Arc<Entry> {
        let other = match type_url == ResourceType::Cluster.type_url() {
            true => self.for_proxies.get(&entry.name),
            false => None,
        };
        other.unwrap_or(entry)
    }

    /// All resources of a type, by name.
    pub fn entries<'a>(&'a self, type_url: &str) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        self.types
            .get(type_url)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// The names of a type, ascending.
    pub fn names<'a>(&'a self, type_url: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.entries(type_url).map(|entry| entry.name.as_str())
    }

    /// How many resources there are, of all types.
    #[must_use]
    pub fn len(&self) -> usize {
        self.types.values().map(BTreeMap::len).sum()
    }

    /// Whether there is no resource at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this listener is for channels (`api_listener`) rather than for a socket. A proxy
    /// has no use for those.
    #[must_use]
    pub fn is_api_listener(&self, name: &str) -> bool {
        self.api_listeners.contains(name)
    }

    fn insert(&mut self, resource: RawResource, previous: &Self) {
        let RawResource { name, any, .. } = resource;
        if reference::is_api_listener(&any) {
            self.api_listeners.insert(name.clone());
        }
        let fresh = encode(&name, &any);
        let entry = match previous.find(&any.type_url, &name) {
            Some(known) if known.version == fresh.version && known.resource == fresh.resource => {
                let other = previous.for_proxy(&any.type_url, known);
                if !Arc::ptr_eq(other, known) {
                    self.for_proxies.insert(name.clone(), Arc::clone(other));
                }
                Arc::clone(known)
            }
            _ => {
                if let Some(other) = proxy::form(&any) {
                    let other = Arc::new(encode(&name, &other));
                    self.for_proxies.insert(name.clone(), other);
                }
                Arc::new(fresh)
            }
        };
        self.types
            .entry(any.type_url)
            .or_default()
            .insert(name, entry);
    }
}

/// A resource as the streams send it: encoded, with the hash of its content as version, so that
/// the same content has the same version after a restart and on every replica.
pub(crate) fn encode(name: &str, any: &Any) -> Entry {
    let resource = any.encode_to_vec();
    Entry {
        name: name.to_owned(),
        version: format!("{:016x}", fnv1a(&resource)),
        resource: resource.into(),
    }
}

/// FNV-1a, 64 bits: tells contents apart, protects against nobody.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Why a set of resources was refused: everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InconsistentSnapshot {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for InconsistentSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for InconsistentSnapshot {}

/// One thing that is wrong with a set of resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where the resource at fault was written, if it was.
    pub origin: Option<Place>,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// What is wrong with a resource among others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// It mentions another one that is not there.
    #[error("{from} mentions {} {name:?}, which does not exist", short(type_url))]
    Hole {
        /// The resource: type and name, for people.
        from: String,
        /// The type of the absent one, as a type URL.
        type_url: String,
        /// Its name.
        name: String,
    },
    /// Another one has the same type and name.
    #[error("{resource} is defined twice{}", already(first.as_ref()))]
    Duplicate {
        /// Type and name, for people.
        resource: String,
        /// Where the other one was written, if it was.
        first: Option<Place>,
    },
}

impl FaultKind {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Hole { .. } => code::DANGLING_REFERENCE,
            Self::Duplicate { .. } => code::RESOURCE_TWICE,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{} [{}]", self.kind, self.kind.code())
    }
}

fn already(first: Option<&Place>) -> String {
    first.map_or_else(String::new, |place| format!(", already at {place}"))
}

/// `type.googleapis.com/envoy.config.cluster.v3.Cluster` without all but its last word.
pub(crate) fn short(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

fn describe(resource: &RawResource) -> String {
    format!("{} {:?}", short(&resource.any.type_url), resource.name)
}

fn duplicates(resources: &[RawResource]) -> Vec<Fault> {
    let mut seen: BTreeMap<(&str, &str), &RawResource> = BTreeMap::new();
    let mut faults = Vec::new();
    for resource in resources {
        let key = (resource.any.type_url.as_str(), resource.name.as_str());
        if let Some(first) = seen.insert(key, resource) {
            faults.push(Fault {
                origin: resource.origin.clone(),
                kind: FaultKind::Duplicate {
                    resource: describe(resource),
                    first: first.origin.clone(),
                },
            });
        }
    }
    faults
}

fn holes(resources: &[RawResource]) -> Vec<Fault> {
    let known: BTreeSet<(&str, &str)> = resources
        .iter()
        .map(|r| (r.any.type_url.as_str(), r.name.as_str()))
        .collect();
    let mut faults = Vec::new();
    for resource in resources {
        for reference in reference::of(&resource.any) {
            let type_url = reference.resource_type.type_url();
            if !known.contains(&(type_url, reference.name.as_str())) {
                faults.push(Fault {
                    origin: resource.origin.clone(),
                    kind: FaultKind::Hole {
                        from: describe(resource),
                        type_url: type_url.to_owned(),
                        name: reference.name,
                    },
                });
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{api_listener, assignment, cluster, routes};
    use sidestep_proto::resource::ResourceType;

    const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    fn raw(any: Any) -> RawResource {
        RawResource::from_any(any).expect("fixtures have names")
    }

    fn place(file: &str, line: u32) -> Option<Place> {
        Some(Place {
            file: file.into(),
            line,
            column: 1,
        })
    }

    fn mesh() -> Vec<RawResource> {
        vec![
            raw(api_listener("greeter", "greeter-routes")),
            raw(routes("greeter-routes", &["greeter-v1"])),
            raw(cluster("greeter-v1")),
            raw(assignment("greeter-v1", &["127.0.0.1:1"])),
        ]
    }

    fn build(resources: Vec<RawResource>) -> Result<Snapshot, InconsistentSnapshot> {
        Snapshot::build(1, resources, References::Closed, &Snapshot::default())
    }

    #[test]
    fn a_closed_set_is_encoded_once_and_found_by_type_and_name() {
        let snapshot = build(mesh()).expect("closed");
        assert_eq!(snapshot.len(), 4);
        let entry = snapshot.find(CLUSTER, "greeter-v1").expect("is there");
        let any = Any::decode(entry.resource.clone()).expect("an Any");
        assert_eq!(any, cluster("greeter-v1"));
        assert!(snapshot.is_api_listener("greeter"));
        assert!(!snapshot.is_api_listener("greeter-v1"));
        assert!(snapshot.find(CLUSTER, "other").is_none());
    }

    #[test]
    fn every_hole_is_listed() {
        let mut listener = raw(api_listener("greeter", "absent-routes"));
        listener.origin = place("mesh.yaml", 3);
        let error = build(vec![
            listener,
            raw(routes("r", &["absent-a", "absent-b"])),
            raw(cluster("c")),
        ])
        .expect_err("four holes");
        assert_eq!(
            error.to_string(),
            "mesh.yaml:3:1: Listener \"greeter\" mentions RouteConfiguration \"absent-routes\", which does not exist [SX0234]\n\
             RouteConfiguration \"r\" mentions Cluster \"absent-a\", which does not exist [SX0234]\n\
             RouteConfiguration \"r\" mentions Cluster \"absent-b\", which does not exist [SX0234]\n\
             Cluster \"c\" mentions ClusterLoadAssignment \"c\", which does not exist [SX0234]"
        );
    }

    #[test]
    fn a_name_given_twice_is_refused_with_both_places() {
        let mut resources = mesh();
        resources[2].origin = place("a.yaml", 2);
        let mut again = raw(cluster("greeter-v1"));
        again.origin = place("b.yaml", 9);
        resources.push(again);
        let error = build(resources).expect_err("a duplicate");
        assert_eq!(
            error.to_string(),
            "b.yaml:9:1: Cluster \"greeter-v1\" is defined twice, already at a.yaml:2:1 [SX0233]"
        );
    }

    #[test]
    fn open_references_are_for_those_who_ask() {
        let resources = vec![raw(cluster("c"))];
        assert!(
            Snapshot::build(1, resources, References::Open, &Snapshot::default()).is_ok(),
            "not checked"
        );
    }

    #[test]
    fn versions_follow_content_and_unchanged_entries_are_shared() {
        let first = build(mesh()).expect("closed");
        let mut changed = mesh();
        changed[3] = raw(assignment("greeter-v1", &["127.0.0.1:2"]));
        let second = Snapshot::build(2, changed, References::Closed, &first).expect("still closed");
        let eds = ResourceType::EndpointAssignment.type_url();
        let (old, new) = (
            first.find(eds, "greeter-v1").expect("is there"),
            second.find(eds, "greeter-v1").expect("is there"),
        );
        assert_ne!(old.version, new.version);
        assert!(Arc::ptr_eq(
            first.find(CLUSTER, "greeter-v1").expect("is there"),
            second.find(CLUSTER, "greeter-v1").expect("is there"),
        ));
        assert_eq!(second.revision(), 2);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_resource_without_a_name_is_refused() {
        let any = Any {
            type_url: CLUSTER.to_owned(),
            value: bytes::Bytes::from_static(&[0xff]),
        };
        assert!(RawResource::from_any(any).is_err());
    }
}
