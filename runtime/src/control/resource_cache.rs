//! What the control plane has said about each subscribed name. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use sidestep_proto::ads::{Event, ResourceError};
use sidestep_proto::resource::{
    Cluster, EndpointAssignment, Listener, Resource, ResourceType, RouteConfiguration,
};

/// A resource's type and name.
pub(super) type Key = (ResourceType, Arc<str>);

/// What is known of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup<T> {
    /// Nothing yet.
    Waiting,
    /// The last good content.
    Found(T),
    /// There is no good content, and why.
    Failed(ResourceError),
}

#[derive(Debug, Default)]
struct Entry {
    resource: Option<Resource>,
    /// Beside a resource it is an ambient error (gRFC A88) and changes nothing for calls.
    error: Option<ResourceError>,
}

/// One entry for each subscribed name.
#[derive(Debug, Default)]
pub(super) struct ResourceCache {
    entries: HashMap<ResourceType, HashMap<Arc<str>, Entry>>,
}

impl ResourceCache {
    /// Makes room for a name that was just subscribed.
    pub(super) fn expect(&mut self, key: Key) {
        let (resource_type, name) = key;
        let names = self.entries.entry(resource_type).or_default();
        names.entry(name).or_default();
    }

    /// Forgets a name that was just unsubscribed: when it is subscribed again, nothing stale is
    /// served.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(names) = self.entries.get_mut(&key.0) {
            names.remove(&key.1);
        }
    }

    /// Whether there is an answer for every name that is subscribed.
    pub(super) fn is_complete(&self) -> bool {
        let mut entries = self.entries.values().flat_map(HashMap::values);
        entries.all(|entry| entry.resource.is_some() || entry.error.is_some())
    }

    /// Whether nothing is known of a name, for good or ill.
    pub(super) fn is_waiting(&self, key: &Key) -> bool {
        let entry = self.entries.get(&key.0).and_then(|names| names.get(&key.1));
        entry.is_none_or(|entry| entry.resource.is_none() && entry.error.is_none())
    }

    /// Takes in what the ADS machine says. Answers with the name whose lookup may now differ.
    pub(super) fn apply(&mut self, event: Event) -> Option<Key> {
        match event {
            Event::Resource(resource) => {
                let key = (resource.resource_type(), Arc::from(resource.name()));
                let entry = self.entry(key.0, &key.1)?;
                entry.error = None;
                entry.resource = Some(resource);
                Some(key)
            }
            Event::Error {
                resource_type,
                name,
                error,
                cached,
            } => {
                let entry = self.entry(resource_type, &name)?;
                if !cached {
                    entry.resource = None;
                }
                entry.error = Some(error);
                (!cached).then(|| (resource_type, name.into()))
            }
            Event::Cleared {
                resource_type,
                name,
            } => {
                self.entry(resource_type, &name)?.error = None;
                None
            }
            _ => None,
        }
    }

    /// The Listener of this name.
    pub(super) fn listener(&self, name: &str) -> Lookup<&Arc<Listener>> {
        self.lookup(ResourceType::Listener, name, |resource| match resource {
            Resource::Listener(found) => Some(found),
            _ => None,
        })
    }

    /// The RouteConfiguration of this name.
    pub(super) fn route_configuration(&self, name: &str) -> Lookup<&Arc<RouteConfiguration>> {
        self.lookup(
            ResourceType::RouteConfiguration,
            name,
            |resource| match resource {
                Resource::RouteConfiguration(found) => Some(found),
                _ => None,
            },
        )
    }

    /// The Cluster of this name.
    pub(super) fn cluster(&self, name: &str) -> Lookup<&Arc<Cluster>> {
        self.lookup(ResourceType::Cluster, name, |resource| match resource {
            Resource::Cluster(found) => Some(found),
            _ => None,
        })
    }

    /// The EndpointAssignment of this name.
    pub(super) fn endpoints(&self, name: &str) -> Lookup<&Arc<EndpointAssignment>> {
        self.lookup(
            ResourceType::EndpointAssignment,
            name,
            |resource| match resource {
                Resource::EndpointAssignment(found) => Some(found),
                _ => None,
            },
        )
    }

    fn entry(&mut self, resource_type: ResourceType, name: &str) -> Option<&mut Entry> {
        self.entries.get_mut(&resource_type)?.get_mut(name)
    }

    fn lookup<'a, T>(
        &'a self,
        resource_type: ResourceType,
        name: &str,
        unwrap: impl Fn(&'a Resource) -> Option<&'a T>,
    ) -> Lookup<&'a T> {
        match self
            .entries
            .get(&resource_type)
            .and_then(|names| names.get(name))
        {
            Some(Entry {
                resource: Some(resource),
                ..
            }) => unwrap(resource).map_or(Lookup::Waiting, Lookup::Found),
            Some(Entry {
                error: Some(error), ..
            }) => Lookup::Failed(error.clone()),
            _ => Lookup::Waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str, max_requests: u32) -> Resource {
        Resource::Cluster(Arc::new(Cluster {
            max_requests,
            ..Cluster::eds(name)
        }))
    }

    fn error(name: &str, cached: bool) -> Event {
        Event::Error {
            resource_type: ResourceType::Cluster,
            name: name.into(),
            error: ResourceError::DoesNotExist,
            cached,
        }
    }

    fn key(name: &str) -> Key {
        (ResourceType::Cluster, name.into())
    }

    #[test]
    fn an_ambient_error_leaves_the_resource() {
        let mut cache = ResourceCache::default();
        cache.expect(key("a"));
        assert_eq!(cache.cluster("a"), Lookup::Waiting);
        assert_eq!(
            cache.apply(Event::Resource(cluster("a", 1))),
            Some(key("a"))
        );
        assert_eq!(cache.apply(error("a", true)), None);
        assert!(matches!(cache.cluster("a"), Lookup::Found(c) if c.max_requests == 1));
    }

    #[test]
    fn a_fatal_error_takes_the_resource_away_and_a_resource_the_error() {
        let mut cache = ResourceCache::default();
        cache.expect(key("a"));
        cache.apply(Event::Resource(cluster("a", 1)));
        assert_eq!(cache.apply(error("a", false)), Some(key("a")));
        assert_eq!(
            cache.cluster("a"),
            Lookup::Failed(ResourceError::DoesNotExist)
        );
        cache.apply(Event::Resource(cluster("a", 2)));
        assert!(matches!(cache.cluster("a"), Lookup::Found(c) if c.max_requests == 2));
    }

    #[test]
    fn what_nobody_subscribed_is_not_kept() {
        let mut cache = ResourceCache::default();
        assert_eq!(cache.apply(Event::Resource(cluster("a", 1))), None);
        cache.expect(key("a"));
        assert_eq!(cache.cluster("a"), Lookup::Waiting);
    }

    #[test]
    fn a_name_that_comes_back_starts_afresh() {
        let mut cache = ResourceCache::default();
        cache.expect(key("a"));
        cache.apply(Event::Resource(cluster("a", 1)));
        cache.forget(&key("a"));
        cache.expect(key("a"));
        assert_eq!(cache.cluster("a"), Lookup::Waiting);
    }
}
