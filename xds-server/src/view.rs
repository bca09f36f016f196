//! The configuration as one client sees it.
//!
//! Pure. Everyone sees the same resources by name. What differs: the listeners of servers are
//! made for the client's own service (`node.cluster`); a proxy that asks for all listeners gets
//! none that are for channels, since it would refuse them, and clusters in the form it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sidestep_proto::ads::{Entry, Missing, View};
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::core::Node;

use crate::nearest;
use crate::snapshot::{Delivery, Snapshot, short};

/// gRPC's status code for what is not there.
const NOT_FOUND: i32 = 5;

/// The configuration as one client sees it.
pub(crate) struct ClientView {
    snapshot: Arc<Snapshot>,
    service: String,
    /// Whether the client is a proxy and not a gRPC library.
    proxy: bool,
    /// Listeners asked for by name that are not in the snapshot, as made for this client.
    made: BTreeMap<String, Option<Result<Arc<Entry>, String>>>,
}

impl ClientView {
    /// What a client sees that has not said who it is.
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            service: String::new(),
            proxy: false,
            made: BTreeMap::new(),
        }
    }

    /// The client said who it is.
    pub(crate) fn identify(&mut self, node: &Node) {
        self.service.clone_from(&node.cluster);
        self.proxy = node.user_agent_name == "envoy";
    }

    /// Whether it is shown what suits a proxy.
    fn is_for_proxy(&self) -> bool {
        self.proxy && self.is_fitted()
    }

    fn is_fitted(&self) -> bool {
        self.snapshot.delivery() == Delivery::Fitted
    }

    /// The client is about to ask for these listeners.
    pub(crate) fn want_listeners<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        let listener = ResourceType::Listener.type_url();
        for name in names {
            if self.snapshot.find(listener, name).is_none() && !self.made.contains_key(name) {
                let made = self.snapshot.server_listener(&self.service, name);
                self.made.insert(name.clone(), made);
            }
        }
    }

    /// Only these listeners are still wanted.
    pub(crate) fn retain_listeners(&mut self, names: &[String]) {
        let names: BTreeSet<&String> = names.iter().collect();
        self.made.retain(|name, _| names.contains(name));
    }

    /// The configuration changed.
    pub(crate) fn update(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        for (name, made) in &mut self.made {
            *made = self.snapshot.server_listener(&self.service, name);
        }
    }
}

impl View for ClientView {
    fn revision(&self) -> u64 {
        self.snapshot.revision()
    }

    fn entry(&self, type_url: &str, name: &str) -> Option<&Arc<Entry>> {
        let made = || match self.made.get(name)? {
            Some(Ok(entry)) if type_url == ResourceType::Listener.type_url() => Some(entry),
            _ => None,
        };
        let found = self.snapshot.find(type_url, name);
        match self.is_for_proxy() {
            true => found.map(|entry| self.snapshot.for_proxy(type_url, entry)),
            false => found,
        }
        .or_else(made)
    }

    fn entries(&self, type_url: &str) -> Box<dyn Iterator<Item = &Arc<Entry>> + '_> {
        let entries = self.snapshot.entries(type_url);
        if !self.is_for_proxy() {
            return Box::new(entries);
        }
        if type_url == ResourceType::Listener.type_url() {
            return Box::new(entries.filter(|entry| !self.snapshot.is_api_listener(&entry.name)));
        }
        if type_url == ResourceType::Cluster.type_url() {
            let cluster = ResourceType::Cluster.type_url();
            return Box::new(entries.map(|entry| self.snapshot.for_proxy(cluster, entry)));
        }
        Box::new(entries)
    }

    fn missing(&self, type_url: &str, name: &str, suggest: bool) -> Option<Missing> {
        if !self.is_fitted() {
            return None;
        }
        if type_url == ResourceType::Listener.type_url()
            && let Some(Some(Err(message))) = self.made.get(name)
        {
            return Some(Missing {
                code: NOT_FOUND,
                message: message.clone(),
            });
        }
        let hint = match suggest {
            true => nearest::hint(name, self.snapshot.names(type_url)),
            false => String::new(),
        };
        Some(Missing {
            code: NOT_FOUND,
            message: format!("no such {}: {name:?}{hint}", short(type_url)),
        })
    }

    fn trusts_versions(&self) -> bool {
        self.is_fitted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{api_listener, socket_listener};
    use crate::snapshot::{RawResource, References, ServerListeners};
    use crate::source::{Configuration, SourceText};
    use sidestep_proto::wire::Any;

    const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

    /// Knows one service; its listeners carry the port at the end of their names.
    #[derive(Debug)]
    struct OneService;

    impl ServerListeners for OneService {
        fn server_listener(&self, service: &str, name: &str) -> Option<Result<Any, String>> {
            let port = name.rsplit_once(':')?.1.parse().ok()?;
            Some(if service == "greeter" {
                Ok(socket_listener(name, port, "r"))
            } else {
                Err(format!("node.cluster {service:?}: no such service"))
            })
        }
    }

    fn snapshot(revision: u64) -> Arc<Snapshot> {
        let resources = [
            api_listener("greeter", "r"),
            socket_listener("edge", 1, "r"),
        ]
        .map(|any| RawResource::from_any(any).expect("named"))
        .into();
        let snapshot = Snapshot::build(revision, resources, References::Open, &Snapshot::default())
            .expect("open");
        Arc::new(snapshot.with_server_listeners(Some(Arc::new(OneService))))
    }

    fn view(cluster: &str, agent: &str) -> ClientView {
        let mut view = ClientView::new(snapshot(1));
        view.identify(&Node {
            cluster: cluster.to_owned(),
            user_agent_name: agent.to_owned(),
            ..Node::default()
        });
        view
    }

    #[test]
    fn a_proxy_is_given_only_listeners_for_sockets() {
        let names = |agent| {
            let view = view("greeter", agent);
            let names: Vec<String> = view.entries(LDS).map(|e| e.name.clone()).collect();
            names
        };
        assert_eq!(names("envoy"), ["edge"]);
        assert_eq!(names("gRPC Go"), ["edge", "greeter"]);
    }

    #[test]
    fn a_proxy_is_given_clusters_with_secrets_and_a_change_of_them() {
        const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        let mesh = |policy: &str| {
            let text = format!(
                "mesh: v1\ntrust_domain: prod.example\ndefaults: {{mtls: strict}}\n\
                 services:\n  greeter:\n    balance: {{policy: {policy}}}\n    \
                 endpoints: {{static: [{{address: \"10.0.0.1:1\"}}]}}\n"
            );
            let text = SourceText {
                path: "mesh.yaml".to_owned(),
                text,
            };
            Configuration::from_mesh(&[text])
                .expect("a good mesh")
                .resources
        };
        let build = |revision, policy, previous: &Snapshot| {
            let built = Snapshot::build(revision, mesh(policy), References::Closed, previous);
            Arc::new(built.expect("closed"))
        };
        let first = build(1, "round_robin", &Snapshot::default());
        let view = |snapshot: &Arc<Snapshot>, agent: &str| {
            let mut view = ClientView::new(Arc::clone(snapshot));
            view.identify(&Node {
                user_agent_name: agent.to_owned(),
                ..Node::default()
            });
            let named = Arc::clone(view.entry(CDS, "greeter").expect("there"));
            let listed = view.entries(CDS).find(|entry| entry.name == "greeter");
            assert!(Arc::ptr_eq(&named, listed.expect("listed")));
            named
        };
        let proxys = view(&first, "envoy");
        assert_ne!(proxys.version, view(&first, "gRPC Go").version);

        let same = build(2, "round_robin", &first);
        assert!(
            Arc::ptr_eq(&proxys, &view(&same, "envoy")),
            "nothing to send"
        );
        let other = build(3, "least_request", &same);
        assert_ne!(proxys.version, view(&other, "envoy").version);
    }

    #[test]
    fn a_server_gets_a_listener_made_for_its_service_and_address() {
        let mut view = view("greeter", "sidestep");
        let name = "server/127.0.0.1:8080".to_owned();
        assert!(view.entry(LDS, &name).is_none(), "nobody asked yet");
        view.want_listeners([&name]);
        let made = Arc::clone(view.entry(LDS, &name).expect("is made"));
        assert_eq!(made.name, name);
        view.update(snapshot(2));
        let again = view.entry(LDS, &name).expect("is made again");
        assert_eq!(again.version, made.version, "nothing to send");
        view.retain_listeners(&[]);
        assert!(view.entry(LDS, &name).is_none());
    }

    #[test]
    fn what_is_missing_is_explained() {
        let mut view = view("greter", "sidestep");
        let server = "server/127.0.0.1:8080".to_owned();
        view.want_listeners([&server]);
        assert_eq!(
            view.missing(LDS, &server, true),
            Some(Missing {
                code: 5,
                message: "node.cluster \"greter\": no such service".to_owned()
            })
        );
        assert_eq!(
            view.missing(LDS, "greetr", true).expect("a reason").message,
            "no such Listener: \"greetr\"; did you mean \"greeter\"?"
        );
    }
    #[test]
    fn as_written_everybody_is_given_everything_and_nothing_is_explained() {
        let resources = [
            api_listener("greeter", "r"),
            socket_listener("edge", 1, "r"),
        ];
        let resources = resources.map(|any| RawResource::from_any(any).expect("named"));
        let built = Snapshot::build(1, resources.into(), References::Open, &Snapshot::default());
        let snapshot = built.expect("open").with_delivery(Delivery::AsWritten);
        let mut view = ClientView::new(Arc::new(snapshot));
        view.identify(&Node {
            user_agent_name: "envoy".to_owned(),
            ..Node::default()
        });
        let names: Vec<_> = view.entries(LDS).map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["edge", "greeter"]);
        assert_eq!(view.missing(LDS, "greetr", true), None);
        assert!(!view.trusts_versions());
    }
}
