//! Targets without a control plane: one cluster each, made of addresses.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sidestep_proto::resource::{
    Address, Cluster, DnsLookup, Endpoint, EndpointAssignment, Forward, Health, Labels,
    LocalityEndpoints, PathMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, Text,
    VirtualHost, WeightedCluster,
};

use super::WeakInbox;
use super::cluster::Context;
use super::clusters::Clusters;
use super::dependency::{ClusterConfig, ClusterNeeds, Resolution};
use super::names::{Host, Known, Names};
use crate::balancer::Failure;
use crate::inspect;
use crate::resolver::{DirectTarget, Place, Transport, with_port};
use crate::routing::{ClusterIndex, RouteTable};
use crate::snapshot::{Snapshot, Target, TargetState};
use crate::telemetry::Telemetry;

/// All direct targets that channels watch.
pub(super) struct Directs {
    clusters: Clusters,
    watches: HashMap<DirectTarget, Watch>,
}

struct Watch {
    targets: Vec<Weak<Target>>,
    name: Arc<str>,
    state: Arc<TargetState>,
    /// Addresses need none.
    host: Option<Host>,
}

impl Directs {
    pub(super) fn new(
        inbox: WeakInbox,
        telemetry: Arc<Telemetry>,
        idle_timeout: Option<Duration>,
    ) -> Self {
        Self {
            // The upper half of the ids: the lower one is the control plane's clusters'.
            clusters: Clusters::new(inbox, telemetry, idle_timeout, 1 << 63),
            watches: HashMap::new(),
        }
    }

    /// Its clusters.
    pub(super) fn clusters(&mut self) -> &mut Clusters {
        &mut self.clusters
    }

    /// A channel dialled.
    pub(super) fn watch(
        &mut self,
        cx: &mut Context<'_>,
        names: &Names,
        direct: DirectTarget,
        target: Weak<Target>,
    ) {
        if !self.watches.contains_key(&direct) {
            let watch = self.open(cx, names, &direct);
            self.watches.insert(direct.clone(), watch);
        }
        if let Some(watch) = self.watches.get_mut(&direct) {
            if let Some(target) = target.upgrade() {
                target.publish(watch.state.clone());
            }
            watch.targets.push(target);
        }
    }

    /// Something else is known of a host name.
    pub(super) fn follow(&mut self, cx: &mut Context<'_>, names: &Names, host: &Host) {
        let affected = self.watches.iter();
        let affected = affected.filter(|(_, watch)| watch.host.as_ref() == Some(host));
        for (direct, watch) in affected {
            let config = of_name(direct, &watch.name, names.find(host));
            self.clusters
                .change(&watch.name, |cluster| cluster.configure(cx, config));
        }
    }

    /// Every host name that a target leads to.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.clusters.hosts()
    }

    /// Every target that a channel still uses, in the order of their names.
    pub(super) fn inspect(&self) -> Vec<inspect::Target> {
        let used = self.watches.iter().filter(|(_, watch)| {
            let mut targets = watch.targets.iter();
            targets.any(|target| target.strong_count() > 0)
        });
        let mut targets: Vec<_> = used
            .map(|(direct, watch)| inspect::Target {
                name: direct.to_string().into(),
                authority: "".into(),
                routes: "".into(),
                state: watch.state.clone(),
                unresolved: self.unresolved(&watch.name),
            })
            .collect();
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        targets
    }

    /// Why a target has no address to call.
    fn unresolved(&self, cluster: &str) -> Option<String> {
        let cluster = self.clusters.find(cluster)?;
        match cluster.is_resolved() {
            true => cluster.error(),
            false => Some("its name is being looked up".to_owned()),
        }
    }

    /// Forgets targets that no channel uses any more.
    pub(super) fn sweep(&mut self) {
        self.watches.retain(|_, watch| {
            watch.targets.retain(|target| target.strong_count() > 0);
            !watch.targets.is_empty()
        });
        let wanted: BTreeSet<_> = self.watches.values().map(|w| w.name.clone()).collect();
        self.clusters.retain(&wanted);
    }

    /// Nothing will change any more.
    pub(super) fn end(&self, failure: &Failure) {
        let ended = Arc::new(TargetState::Ended(failure.clone()));
        let targets = self.watches.values().flat_map(|watch| &watch.targets);
        for target in targets.filter_map(Weak::upgrade) {
            target.publish(ended.clone());
        }
    }

    /// Lets clusters act.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.clusters.handle_timeout(cx);
    }

    /// When [`Directs::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.clusters.poll_timeout()
    }

    fn open(&mut self, cx: &mut Context<'_>, names: &Names, direct: &DirectTarget) -> Watch {
        let policy = direct.lb_policy.clone();
        let transport = direct.transport;
        let name: Arc<str> = match transport {
            Transport::Unsaid => format!("{direct} by {policy:?}").into(),
            _ => format!("{direct} by {policy:?} over {transport:?}").into(),
        };
        self.clusters.ensure(&name, &direct.to_string());
        let (host, config) = match &direct.place {
            Place::Addresses(addresses) => (None, config(direct, &name, Ok(addresses))),
            Place::Name { host, .. } => {
                let host = Host {
                    name: host.as_str().into(),
                    lookup: DnsLookup::default(),
                };
                let config = of_name(direct, &name, names.find(&host));
                (Some(host), config)
            }
        };
        let needs = ClusterNeeds {
            hosts: host.iter().cloned().collect(),
            ..ClusterNeeds::default()
        };
        self.clusters.rests_on(&name, needs);
        self.clusters
            .change(&name, |cluster| cluster.configure(cx, config));
        let cluster = self.clusters.find(&name).map(|c| c.shared.clone());
        let state = TargetState::Ready(Snapshot {
            routes: RouteTable::compile(&everything(&name), |_| ClusterIndex(0), None),
            clusters: cluster.into_iter().collect(),
        });
        Watch {
            targets: Vec::new(),
            name,
            state: Arc::new(state),
            host,
        }
    }
}

fn of_name(direct: &DirectTarget, name: &str, known: Known) -> Resolution<ClusterConfig> {
    match known {
        Known::Waiting => Resolution::Waiting,
        Known::Found(addresses) => {
            let port = match direct.place {
                Place::Name { port, .. } => port,
                Place::Addresses(_) => 0,
            };
            let addresses = with_port(&addresses, port).collect();
            config(direct, name, Ok(&addresses))
        }
        Known::Failed(error) => {
            let text = format!("{direct} cannot be resolved: {error}");
            config(direct, name, Err(Failure::new(error.code(), text)))
        }
    }
}

fn config(
    direct: &DirectTarget,
    name: &str,
    addresses: Result<&Vec<Address>, Failure>,
) -> Resolution<ClusterConfig> {
    let endpoints = addresses.map(|addresses| {
        let endpoints = addresses.iter().map(|address| Endpoint {
            addresses: vec![address.clone()],
            hostname: direct.host().to_owned(),
            weight: 1,
            health: Health::Unknown,
            hash_key: None,
            labels: Labels::default(),
        });
        Arc::new(EndpointAssignment {
            cluster: name.to_owned(),
            localities: vec![LocalityEndpoints {
                locality: sidestep_proto::resource::Locality::default(),
                priority: 0,
                weight: 1,
                endpoints: endpoints.collect(),
            }],
            drops: Vec::new(),
        })
    });
    Resolution::Ready(ClusterConfig {
        cluster: Arc::new(Cluster {
            lb_policy: direct.lb_policy.clone(),
            max_requests: u32::MAX,
            ..Cluster::eds(name)
        }),
        endpoints,
        transport: direct.transport,
        leaves: None,
    })
}

/// Every request goes to the one cluster.
fn everything(cluster: &str) -> RouteConfiguration {
    let forward = Forward {
        clusters: vec![WeightedCluster::new(cluster.to_owned(), 1)],
        max_stream_duration: None,
        grpc_timeout_header_max: None,
        retry: None,
        hash_policies: Vec::new(),
    };
    RouteConfiguration {
        name: String::new(),
        virtual_hosts: vec![VirtualHost {
            name: String::new(),
            domains: vec!["*".into()],
            routes: vec![Route {
                name: String::new(),
                matches: RouteMatch {
                    path: PathMatcher::Prefix(Text::exact("")),
                    headers: Vec::new(),
                    fraction: None,
                },
                action: RouteAction::Forward(forward),
            }],
        }],
    }
}
