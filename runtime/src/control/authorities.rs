//! Who answers for which names (gRFC A47): servers, and what calls say of them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sidestep_proto::ads::Authorities;
use sidestep_proto::bootstrap::{Bootstrap, Server};
use sidestep_proto::resource::name;

use super::dependency::{Origin, SharedOrigin};
use super::resource_cache::Key;

/// Every server of a bootstrap, once, and which of them each authority has. Servers are the same
/// if address, credentials and features are.
pub(super) fn servers(bootstrap: &Bootstrap) -> (Vec<Server>, Authorities) {
    let mut servers = Vec::new();
    let mut places = |list: &[Server]| -> Vec<usize> {
        let place = |server: &Server| {
            let known = servers.iter().position(|known| known == server);
            known.unwrap_or_else(|| {
                servers.push(server.clone());
                servers.len() - 1
            })
        };
        list.iter().map(place).collect()
    };
    let default = places(&bootstrap.servers);
    let named = bootstrap.authorities.iter();
    let named = named.map(|(name, authority)| (name.clone(), places(&authority.servers)));
    let authorities = Authorities {
        default,
        named: named.collect(),
        others: false,
    };
    (servers, authorities)
}

/// What is to be said of each authority: whom to ask, and whether anybody can be asked.
#[derive(Debug)]
pub(super) struct Origins {
    /// The number of an authority by its name. The default's is 0.
    numbers: BTreeMap<String, usize>,
    all: Vec<Said>,
}

#[derive(Debug)]
struct Said {
    origin: Origin,
    /// The same, for the texts of calls.
    shared: SharedOrigin,
    /// Why none of its servers can be asked, if so.
    unreachable: Option<String>,
}

impl Origins {
    /// Each authority is served by its first server. The numbers are those of
    /// [`sidestep_proto::ads::ClientStream::authority_of`].
    pub(super) fn new(servers: &[Server], authorities: &Authorities, node: &str) -> Self {
        let lists = std::iter::once(&authorities.default).chain(authorities.named.values());
        let all = lists.map(|list| {
            let first = list.first().and_then(|first| servers.get(*first));
            let origin = Origin {
                server: first.map_or("", |server| &server.uri).into(),
                node: node.into(),
            };
            Said {
                shared: Arc::new(ArcSwap::from_pointee(origin.clone())),
                origin,
                unreachable: None,
            }
        });
        Self {
            all: all.collect(),
            numbers: authorities.named.keys().cloned().zip(1..).collect(),
        }
    }

    /// Whom to ask about a resource.
    pub(super) fn of(&self, key: &Key) -> &Origin {
        &self.all[self.number(key)].origin
    }

    /// Ends the texts of failed calls to a listener, whatever the server in use is by then.
    pub(super) fn shared(&self) -> SharedOrigins {
        SharedOrigins {
            numbers: self.numbers.clone(),
            all: self.all.iter().map(|said| said.shared.clone()).collect(),
        }
    }

    /// Why nobody can be asked for a resource, if so.
    pub(super) fn unreachable(&self, key: &Key) -> Option<&str> {
        self.all[self.number(key)].unreachable.as_deref()
    }

    /// An authority is served by this server now.
    pub(super) fn serve(&mut self, authority: usize, server: &Server) {
        if let Some(said) = self.all.get_mut(authority) {
            said.origin.server = server.uri.as_str().into();
            said.shared.store(Arc::new(said.origin.clone()));
        }
    }

    /// Nobody can be asked for an authority's resources, or somebody can again.
    pub(super) fn reach(&mut self, authority: usize, unreachable: Option<String>) {
        if let Some(said) = self.all.get_mut(authority) {
            said.unreachable = unreachable;
        }
    }

    /// How many authorities there are, the default included.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The name of an authority; `None`: of names that are not `xdstp:` names.
    pub(super) fn name(&self, authority: usize) -> Option<&str> {
        let mut numbers = self.numbers.iter();
        let named = numbers.find(|(_, number)| **number == authority);
        named.map(|(name, _)| name.as_str())
    }

    fn number(&self, (resource_type, name): &Key) -> usize {
        match name::authority(*resource_type, name) {
            Ok(Some(authority)) => self.numbers.get(authority).copied().unwrap_or(0),
            _ => 0,
        }
    }
}

/// The same for the way in, which has no task to ask.
#[derive(Debug, Clone)]
pub(crate) struct SharedOrigins {
    numbers: BTreeMap<String, usize>,
    all: Vec<SharedOrigin>,
}

impl SharedOrigins {
    /// Whom to ask about a listener.
    pub(crate) fn of(&self, listener: &str) -> Option<SharedOrigin> {
        let parsed = name::NewStyleName::parse(listener).ok().flatten();
        let number = parsed.and_then(|name| self.numbers.get(name.authority));
        self.all.get(number.copied().unwrap_or(0)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::ResourceType;

    use super::*;

    const BOOTSTRAP: &str = r#"{
      "xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]},
                      {"server_uri": "b:1", "channel_creds": [{"type": "insecure"}]}],
      "authorities": {
        "one": {"xds_servers": [{"server_uri": "b:1", "channel_creds": [{"type": "insecure"}]}]},
        "same": {},
        "strict": {"xds_servers": [{"server_uri": "b:1", "channel_creds": [{"type": "insecure"}],
                                    "server_features": ["fail_on_data_errors"]}]}
      }
    }"#;

    #[test]
    fn equal_servers_are_one() {
        let (servers, authorities) = servers(&Bootstrap::parse(BOOTSTRAP).unwrap());
        let uris: Vec<_> = servers.iter().map(|server| &*server.uri).collect();
        assert_eq!(uris, ["a:1", "b:1", "b:1"]);
        assert_eq!(authorities.default, [0, 1]);
        assert_eq!(authorities.named["one"], [1]);
        assert_eq!(authorities.named["same"], [0, 1]);
        assert_eq!(authorities.named["strict"], [2]);
    }

    #[test]
    fn texts_name_the_server_of_the_resources_authority() {
        let bootstrap = Bootstrap::parse(BOOTSTRAP).unwrap();
        let (servers, authorities) = servers(&bootstrap);
        let mut origins = Origins::new(&servers, &authorities, "me");
        let key = |name: &str| (ResourceType::Cluster, Arc::from(name));
        let one = key("xdstp://one/envoy.config.cluster.v3.Cluster/x");
        assert_eq!(&*origins.of(&key("plain")).server, "a:1");
        assert_eq!(&*origins.of(&one).server, "b:1");
        origins.serve(0, &servers[1]);
        assert_eq!(&*origins.of(&key("plain")).server, "b:1");
        origins.reach(1, Some("gone".into()));
        assert_eq!(origins.unreachable(&one), Some("gone"));
        assert_eq!(origins.unreachable(&key("plain")), None);
        assert_eq!(origins.name(1), Some("one"));
        assert_eq!(origins.name(0), None);
        let shared = origins
            .shared()
            .of("xdstp://one/envoy.config.listener.v3.Listener/x");
        assert_eq!(&*shared.unwrap().load().server, "b:1");
    }
}
