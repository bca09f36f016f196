//! The control plane as the task sees it: the ADS machine, its link, and what it said.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use sidestep_proto::ads::{
    ClientConfig, ClientStream, Event, Known, Output, ServerFeatures, ServerInfo,
};
use sidestep_proto::bootstrap::{Credentials, Server};
use sidestep_proto::codec;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::core::Node;

use super::dependency::{self, Origin, SharedOrigin};
use super::inspect::Calendar;
use super::resource_cache::{Key, ResourceCache};
use super::xds_metrics::XdsMetrics;
use super::{Config, WeakInbox, events};
use crate::inspect;
use crate::source::Link;
use crate::source::ads::{self, Dial, LinkId, Said};
use crate::source::static_::{self, StaticResources};

/// One process's view of its control plane.
pub(super) struct ConfigSource {
    inbox: WeakInbox,
    servers: Vec<Server>,
    dial: Dial,
    /// What takes the control plane's place, until the machine asks for it.
    static_resources: Option<StaticResources>,
    machine: ClientStream,
    link: Option<Link>,
    links: u64,
    cache: ResourceCache,
    origin: Origin,
    /// The same, for the texts of calls.
    shared_origin: SharedOrigin,
    unreachable: Option<String>,
    node: Node,
    stream: Stream,
    metrics: XdsMetrics,
    /// The version of the last good response that routes rest on.
    revision: Arc<str>,
    changes: Changes,
}

/// The stream to the control plane, for people.
#[derive(Debug, Default)]
struct Stream {
    /// Index of the server tried last.
    server: usize,
    open: bool,
    /// Why the last try or stream ended.
    ended: Option<String>,
}

/// What differs since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Something that routes rest on.
    pub(super) routes: bool,
    /// EDS names, mapped to clusters by the task.
    pub(super) assignments: BTreeSet<Arc<str>>,
    /// Clusters themselves.
    pub(super) clusters: BTreeSet<Arc<str>>,
}

impl ConfigSource {
    /// `None` without a bootstrap.
    pub(super) fn new(config: &Config, inbox: WeakInbox, now: Instant) -> Option<Self> {
        let bootstrap = config.bootstrap.as_ref()?;
        let static_resources = config.static_resources.clone();
        let (servers, variant) = match &static_resources {
            None => (bootstrap.servers.clone(), config.variant),
            Some(_) => (vec![no_server()], static_::Link::VARIANT),
        };
        let providers = config.providers.names().map(str::to_owned).collect();
        let node = bootstrap.wire_node(env!("CARGO_PKG_VERSION"));
        let machine = ClientStream::new(
            ClientConfig {
                variant,
                node: node.clone(),
                context: codec::Context {
                    certificate_providers: Some(providers),
                },
                servers: servers.iter().map(info).collect(),
                timers: config.timers.ads.clone(),
                seed: fastrand::u64(..),
            },
            now,
        );
        let first = servers.first().map_or("", |server| &server.uri);
        let origin = Origin {
            server: first.into(),
            node: bootstrap.node.id.as_str().into(),
        };
        Some(Self {
            inbox,
            static_resources,
            dial: Dial {
                connector: config.connector.clone(),
                variant,
                max_response_bytes: config.max_response_bytes,
                connect_timeout: config.timers.connect_timeout,
            },
            machine,
            link: None,
            links: 0,
            cache: ResourceCache::default(),
            shared_origin: Arc::new(ArcSwap::from_pointee(origin.clone())),
            origin,
            servers,
            unreachable: None,
            node,
            stream: Stream::default(),
            metrics: XdsMetrics::new(config.telemetry.clone()),
            revision: "".into(),
            changes: Changes::default(),
        })
    }

    /// What the control plane has said.
    pub(super) fn cache(&self) -> &ResourceCache {
        &self.cache
    }

    /// Ends the texts of failed calls, whatever the server in use is by then.
    pub(super) fn shared_origin(&self) -> SharedOrigin {
        Arc::clone(&self.shared_origin)
    }

    /// Ends every failure's text.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The control plane's version of what routes rest on, for people.
    pub(super) fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    /// Why no control plane can be asked, if so.
    pub(super) fn unreachable(&self) -> Option<&str> {
        self.unreachable.as_deref()
    }

    /// This process, as the control plane is told.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// The stream to the control plane.
    pub(super) fn inspect(&self) -> inspect::ControlPlane {
        let server = self.servers.get(self.stream.server);
        inspect::ControlPlane {
            server: server.map_or_else(String::new, |server| server.uri.clone()),
            connected: self.stream.open,
            problem: self.stream.ended.clone().filter(|_| !self.stream.open),
        }
    }

    /// Every subscribed resource.
    pub(super) fn resources(&self, calendar: Calendar) -> Vec<inspect::Resource> {
        let known = self.machine.resources();
        known.map(|known| self.resource(&known, calendar)).collect()
    }

    fn resource(&self, known: &Known<'_>, calendar: Calendar) -> inspect::Resource {
        let failure = known.error.zip(known.failed).map(|(error, failed)| {
            let text = dependency::failure(&self.origin, known.resource_type, known.name, error).0;
            inspect::ResourceFailure {
                details: text.to_string(),
                version: failed.version.clone(),
                at: calendar.date(failed.at),
                content: failed.raw.clone(),
            }
        });
        inspect::Resource {
            resource_type: known.resource_type,
            name: known.name.to_owned(),
            status: known.status(),
            version: known.version.to_owned(),
            content: known.content.cloned(),
            updated: known.updated.map(|at| calendar.date(at)),
            failure,
        }
    }

    /// What differs since the last time.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Hears from a link.
    pub(super) fn heard(&mut self, now: Instant, link: LinkId, said: Said) {
        let Some(Link::Ads(current)) = &self.link else {
            return;
        };
        if current.id != link {
            return;
        }
        match said {
            Said::Open => self.machine.handle_connected(now),
            Said::Response(response, read) => {
                self.machine.handle_response(now, response);
                self.drive(now);
                if let Some(Link::Ads(link)) = &self.link {
                    link.answered(read);
                }
                return;
            }
            Said::Closed(reason) => {
                self.link = None;
                self.machine.handle_closed(now, &reason);
            }
        }
        self.drive(now);
    }

    /// The resources in the process are these from now on.
    pub(super) fn replace(&mut self, now: Instant, resources: StaticResources) {
        match &mut self.link {
            Some(Link::Static(link)) => link.replace(now, resources),
            // Nothing was asked for yet.
            None if self.static_resources.is_some() => self.static_resources = Some(resources),
            _ => return,
        }
        self.drive(now);
    }

    /// Wants these.
    pub(super) fn subscribe(&mut self, now: Instant, names: Vec<Key>) {
        for key in names {
            self.machine.subscribe(now, key.0, &key.1);
            self.cache.expect(key);
            self.metrics.names_changed();
        }
        self.drive(now);
    }

    /// Does not want these any more.
    pub(super) fn unsubscribe(&mut self, now: Instant, names: Vec<Key>) {
        for key in names {
            self.machine.unsubscribe(now, key.0, &key.1);
            self.cache.forget(&key);
            self.metrics.names_changed();
        }
        self.drive(now);
    }

    /// When [`ConfigSource::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    /// The moment has come, or not: the machine knows.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.machine.handle_timeout(now);
            self.drive(now);
        }
    }

    /// Brings the metrics up to date at the end of a turn.
    pub(super) fn settle(&mut self) {
        self.metrics.settle(&self.machine);
    }

    fn drive(&mut self, now: Instant) {
        loop {
            while let Some(output) = self.machine.poll_output() {
                match output {
                    Output::Connect { server } => self.connect(now, server),
                    Output::Send(request) => {
                        if let Some(link) = &mut self.link {
                            link.send(now, request);
                        }
                    }
                    Output::Event(event) => self.take(event),
                }
            }
            // The answers of a source in the process are there already.
            let Some(Link::Static(link)) = &mut self.link else {
                return;
            };
            let Some(response) = link.poll() else {
                return;
            };
            self.machine.handle_response(now, response);
        }
    }

    fn connect(&mut self, now: Instant, server: usize) {
        if let Some(resources) = &mut self.static_resources {
            let resources = std::mem::take(resources);
            self.link = Some(Link::Static(static_::Link::new(resources)));
            return self.machine.handle_connected(now);
        }
        self.links += 1;
        let (inbox, id) = (self.inbox.clone(), LinkId(self.links));
        let server = self.servers[server].clone();
        // The link before ends here.
        let link = ads::Link::open(inbox, id, server, self.dial.clone());
        self.link = Some(Link::Ads(link));
    }

    fn take(&mut self, event: Event) {
        events::tell(&event, &self.servers, &self.origin);
        let current = self.stream.server;
        self.metrics
            .heard(&event, current, &self.servers, &self.machine);
        match &event {
            Event::StreamUp { server } => {
                self.origin.server = self.servers[*server].uri.as_str().into();
                self.shared_origin.store(Arc::new(self.origin.clone()));
                self.unreachable = None;
                self.stream = Stream {
                    server: *server,
                    open: true,
                    ended: None,
                };
            }
            Event::StreamDown { server, reason, .. } => {
                self.stream = Stream {
                    server: *server,
                    open: false,
                    ended: Some(reason.clone()),
                };
            }
            Event::Unreachable { reason } => {
                self.unreachable = Some(reason.clone());
                self.changes.routes = true;
            }
            Event::Accepted {
                resource_type: ResourceType::Listener | ResourceType::RouteConfiguration,
                version,
            } => self.revision = version.as_str().into(),
            _ => {}
        }
        let Some((resource_type, name)) = self.cache.apply(event) else {
            return;
        };
        match resource_type {
            ResourceType::Listener | ResourceType::RouteConfiguration => self.changes.routes = true,
            ResourceType::Cluster => {
                self.changes.clusters.insert(name);
            }
            ResourceType::EndpointAssignment => {
                self.changes.assignments.insert(name);
            }
        }
    }
}

/// Stands where a control plane would, for the machine and in texts.
fn no_server() -> Server {
    Server {
        uri: static_::NAME.to_owned(),
        credentials: Credentials::Insecure,
        features: ServerFeatures::default(),
    }
}

fn info(server: &Server) -> ServerInfo {
    let features = &server.features;
    ServerInfo {
        uri: server.uri.clone(),
        features: ServerFeatures {
            ignore_resource_deletion: features.ignore_resource_deletion,
            trusted_xds_server: features.trusted_xds_server,
            fail_on_data_errors: features.fail_on_data_errors,
            resource_timer_is_transient_error: features.resource_timer_is_transient_error,
        },
    }
}
