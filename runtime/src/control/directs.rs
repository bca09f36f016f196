//! Targets without a control plane: one cluster each, made of addresses.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sidestep_proto::code;
use sidestep_proto::resource::{
    Address, Cluster, Discovery, Endpoint, EndpointAssignment, Forward, Health, LocalityEndpoints,
    PathMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, Text, VirtualHost,
    WeightedCluster,
};

use super::cluster::Context;
use super::clusters::Clusters;
use super::dependency::{ClusterConfig, Resolution};
use super::{Input, Timers, WeakInbox};
use crate::balancer::Failure;
use crate::inspect;
use crate::resolver::{self, DirectTarget, Place, Transport};
use crate::routing::{ClusterIndex, RouteTable};
use crate::snapshot::{Snapshot, Target, TargetState};
use crate::telemetry::Telemetry;

/// All direct targets that channels watch.
pub(super) struct Directs {
    inbox: WeakInbox,
    timers: Timers,
    clusters: Clusters,
    watches: HashMap<DirectTarget, Watch>,
}

struct Watch {
    targets: Vec<Weak<Target>>,
    name: Arc<str>,
    state: Arc<TargetState>,
    lookup: Lookup,
}

/// Of a name's addresses.
enum Lookup {
    /// Addresses need none.
    None,
    /// Under way; so many failed before.
    Running { failures: u32 },
    /// Succeeded then; repeated when connections fail, but not before a while.
    Fresh { since: Instant },
    /// Failed so many times in a row; repeated then.
    Failed { failures: u32, again: Instant },
}

impl Directs {
    pub(super) fn new(inbox: WeakInbox, timers: Timers, telemetry: Arc<Telemetry>) -> Self {
        Self {
            // The upper half of the ids: the lower one is the control plane's clusters'.
            clusters: Clusters::new(inbox.clone(), telemetry, 1 << 63),
            inbox,
            timers,
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
        direct: DirectTarget,
        target: Weak<Target>,
    ) {
        if !self.watches.contains_key(&direct) {
            let watch = self.open(cx, &direct);
            self.watches.insert(direct.clone(), watch);
        }
        if let Some(watch) = self.watches.get_mut(&direct) {
            if let Some(target) = target.upgrade() {
                target.publish(watch.state.clone());
            }
            watch.targets.push(target);
        }
    }

    /// A name was looked up.
    pub(super) fn found(
        &mut self,
        cx: &mut Context<'_>,
        direct: &DirectTarget,
        found: Result<Vec<Address>, String>,
    ) {
        let Some(watch) = self.watches.get_mut(direct) else {
            return;
        };
        let Lookup::Running { failures } = watch.lookup else {
            return;
        };
        let known = self
            .clusters
            .find(&watch.name)
            .is_some_and(|c| c.is_resolved());
        match found {
            Ok(addresses) => {
                watch.lookup = Lookup::Fresh { since: cx.now };
                let config = config(direct, &watch.name, Ok(&addresses));
                self.clusters
                    .change(&watch.name, |cluster| cluster.configure(cx, config));
            }
            Err(reason) => {
                let pause = self.timers.lookup_backoff * 2_u32.saturating_pow(failures.min(7));
                watch.lookup = Lookup::Failed {
                    failures: failures + 1,
                    again: cx.now + pause,
                };
                if !known || failures > 0 {
                    tracing::debug!(target: "sidestep::config", name = %direct, reason, "lookup failed");
                }
                // Addresses that were found once stay in use.
                if !known {
                    let failure = Failure::new(
                        code::NAME_NOT_RESOLVED,
                        format!("{direct} cannot be resolved: {reason}"),
                    );
                    let failed = config(direct, &watch.name, Err(failure));
                    self.clusters
                        .change(&watch.name, |cluster| cluster.configure(cx, failed));
                }
            }
        }
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

    /// Looks names up again where it is time, and lets clusters act.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.clusters.handle_timeout(cx);
        for (direct, watch) in &mut self.watches {
            let due = lookup_at(watch, &self.clusters, self.timers.lookup_interval);
            if due.is_some_and(|at| at <= cx.now) {
                let failures = match watch.lookup {
                    Lookup::Failed { failures, .. } => failures,
                    _ => 0,
                };
                watch.lookup = Lookup::Running { failures };
                start_lookup(self.inbox.clone(), direct.clone());
            }
        }
    }

    /// When [`Directs::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let watches = self.watches.values();
        let interval = self.timers.lookup_interval;
        watches
            .filter_map(|watch| lookup_at(watch, &self.clusters, interval))
            .chain(self.clusters.poll_timeout())
            .min()
    }

    fn open(&mut self, cx: &mut Context<'_>, direct: &DirectTarget) -> Watch {
        let policy = direct.lb_policy;
        let transport = direct.transport;
        let name: Arc<str> = match transport {
            Transport::Unsaid => format!("{direct} by {policy:?}").into(),
            _ => format!("{direct} by {policy:?} over {transport:?}").into(),
        };
        self.clusters.ensure(&name, &direct.to_string());
        let lookup = match &direct.place {
            Place::Addresses(addresses) => {
                let config = config(direct, &name, Ok(addresses));
                self.clusters
                    .change(&name, |cluster| cluster.configure(cx, config));
                Lookup::None
            }
            Place::Name { .. } => {
                start_lookup(self.inbox.clone(), direct.clone());
                Lookup::Running { failures: 0 }
            }
        };
        let cluster = self.clusters.find(&name).map(|c| c.shared.clone());
        let state = TargetState::Ready(Snapshot {
            routes: RouteTable::compile(&everything(&name), |_| ClusterIndex(0), None),
            clusters: cluster.into_iter().collect(),
        });
        Watch {
            targets: Vec::new(),
            name,
            state: Arc::new(state),
            lookup,
        }
    }
}

fn lookup_at(watch: &Watch, clusters: &Clusters, interval: Duration) -> Option<Instant> {
    match watch.lookup {
        Lookup::None | Lookup::Running { .. } => None,
        Lookup::Failed { again, .. } => Some(again),
        Lookup::Fresh { since } => {
            let failing = clusters.find(&watch.name).is_some_and(|c| c.is_failing());
            failing.then(|| since + interval)
        }
    }
}

fn start_lookup(inbox: WeakInbox, direct: DirectTarget) {
    let Place::Name { host, port } = direct.place.clone() else {
        return;
    };
    tokio::spawn(async move {
        let found = resolver::lookup(&host, port).await;
        if let Some(inbox) = inbox.upgrade() {
            // Nobody needs the answer after the control task has ended.
            let _ = inbox.send(Input::Found {
                direct,
                found: found.map_err(|error| error.to_string()),
            });
        }
    });
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
            name: name.to_owned(),
            discovery: Discovery::Eds {
                service_name: String::new(),
            },
            lb_policy: direct.lb_policy,
            tls: None,
            max_requests: u32::MAX,
        }),
        endpoints,
        transport: direct.transport,
    })
}

/// Every request goes to the one cluster.
fn everything(cluster: &str) -> RouteConfiguration {
    let forward = Forward {
        clusters: vec![WeightedCluster {
            name: cluster.to_owned(),
            weight: 1,
        }],
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
