//! The control planes as the task sees them: the ADS machine, its links, and what they said.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::ads::{
    Authorities, ClientConfig, ClientStream, Event, Known, Output, ServerFeatures, ServerInfo,
    Variant,
};
use sidestep_proto::bootstrap::{Credentials, Server};
use sidestep_proto::codec;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::core::Node;

use super::authorities::{self, Origins};
use super::dependency::{self, Needs};
use super::inspect::Calendar;
use super::resource_cache::{Key, ResourceCache};
use super::xds_metrics::XdsMetrics;
use super::{Config, WeakInbox, events};
use crate::inspect;
use crate::source::Link;
use crate::source::ads::{self, Dial, LinkId, Said};
use crate::source::static_::{self, StaticResources};

/// One process's view of its control planes.
pub(super) struct ConfigSource {
    inbox: WeakInbox,
    servers: Vec<Server>,
    dial: Dial,
    /// What takes the control plane's place, until the machine asks for it.
    static_resources: Option<StaticResources>,
    machine: ClientStream,
    /// Index-aligned with the servers.
    streams: Vec<Stream>,
    links: u64,
    cache: ResourceCache,
    origins: Origins,
    node: Node,
    metrics: XdsMetrics,
    /// The version of the last good response that routes rest on.
    revision: Arc<str>,
    changes: Changes,
}

/// The stream to one server: its link, and the rest for people.
#[derive(Debug, Default)]
struct Stream {
    link: Option<Link>,
    /// Whether anything is wanted of the server.
    used: bool,
    open: bool,
    /// Why the last try or stream ended.
    ended: Option<String>,
}

/// What differs since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What targets and servers rest on.
    pub(super) routes: Stale,
    /// EDS names, mapped to clusters by the task.
    pub(super) assignments: BTreeSet<Arc<str>>,
    /// Clusters themselves.
    pub(super) clusters: BTreeSet<Arc<str>>,
}

/// Which targets and servers are to be resolved again: who rests on one of these names, or all.
#[derive(Debug, Default)]
pub(super) struct Stale {
    pub(super) names: BTreeSet<Key>,
    pub(super) all: bool,
}

impl Stale {
    /// Whether what rests on `needs` is among them.
    pub(super) fn touches(&self, needs: &Needs) -> bool {
        self.all || self.names.iter().any(|name| needs.contains(name))
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.names.extend(more.names);
        self.all |= more.all;
    }
}

impl ConfigSource {
    /// `None` without a bootstrap.
    pub(super) fn new(config: &Config, inbox: WeakInbox, now: Instant) -> Option<Self> {
        let bootstrap = config.bootstrap.as_ref()?;
        let static_resources = config.static_resources.clone();
        let (servers, authorities, variant) = match &static_resources {
            None => {
                let (servers, authorities) = authorities::servers(bootstrap);
                (servers, authorities, config.variant)
            }
            Some(_) => (vec![no_server()], nobodys(), static_::Link::VARIANT),
        };
        let providers = config.providers.names().map(str::to_owned).collect();
        let node = bootstrap.wire_node(env!("CARGO_PKG_VERSION"));
        let origins = Origins::new(&servers, &authorities, &bootstrap.node.id);
        let machine = ClientStream::new(
            ClientConfig {
                variant,
                node: node.clone(),
                context: codec::Context {
                    certificate_providers: Some(providers),
                    custom_policies: Some(config.policies.clone()),
                },
                servers: servers.iter().map(info).collect(),
                authorities,
                timers: config.timers.ads.clone(),
                seed: fastrand::u64(..),
            },
            now,
        );
        Some(Self {
            inbox,
            static_resources,
            dial: Dial {
                connector: config.connector.clone(),
                resolver: config.resolver.clone(),
                variant,
                max_response_bytes: config.max_response_bytes,
                connect_timeout: config.timers.connect_timeout,
            },
            machine,
            streams: servers.iter().map(|_| Stream::default()).collect(),
            links: 0,
            cache: ResourceCache::default(),
            origins,
            servers,
            node,
            metrics: XdsMetrics::new(config.telemetry.clone()),
            revision: "".into(),
            changes: Changes::default(),
        })
    }

    /// What the control plane has said.
    pub(super) fn cache(&self) -> &ResourceCache {
        &self.cache
    }

    /// Whom to ask about failures, and whether anybody can be asked.
    pub(super) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The control plane's version of what routes rest on, for people.
    pub(super) fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    /// This process, as the control plane is told.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// The stream to the server that names without an authority are asked at.
    pub(super) fn inspect(&self) -> inspect::ControlPlane {
        self.inspect_server(self.machine.serving(0).unwrap_or(0))
    }

    /// The streams to all servers of which something is wanted.
    pub(super) fn inspect_all(&self) -> Vec<inspect::ControlPlane> {
        let servers = 0..self.servers.len();
        let used = servers.filter(|server| self.streams[*server].used);
        used.map(|server| self.inspect_server(server)).collect()
    }

    fn inspect_server(&self, server: usize) -> inspect::ControlPlane {
        let authorities = 0..self.origins.len();
        let served = authorities.filter(|a| self.machine.serving(*a) == Some(server));
        let authorities = served.map(|a| self.origins.name(a).map(str::to_owned));
        let stream = self.streams.get(server);
        let closed = stream.filter(|stream| !stream.open);
        inspect::ControlPlane {
            server: self.uri(server).to_owned(),
            authorities: authorities.collect(),
            connected: stream.is_some_and(|stream| stream.open),
            problem: closed.and_then(|stream| stream.ended.clone()),
        }
    }

    fn uri(&self, server: usize) -> &str {
        self.servers.get(server).map_or("", |server| &server.uri)
    }

    /// Every subscribed resource.
    pub(super) fn resources(&self, calendar: Calendar) -> Vec<inspect::Resource> {
        let known = self.machine.resources();
        known.map(|known| self.resource(&known, calendar)).collect()
    }

    fn resource(&self, known: &Known<'_>, calendar: Calendar) -> inspect::Resource {
        let failure = known.error.zip(known.failed).map(|(error, failed)| {
            let name = known.name.into();
            let text = dependency::failure(&self.origins, known.resource_type, &name, error).0;
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
            server: known.server.map(|server| self.uri(server).to_owned()),
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
        let is_its = |stream: &Stream| matches!(&stream.link, Some(Link::Ads(l)) if l.id == link);
        let Some(server) = self.streams.iter().position(is_its) else {
            return;
        };
        match said {
            Said::Open => self.machine.handle_connected(now, server),
            Said::Response(response, read) => {
                self.machine.handle_response(now, server, response);
                self.drive(now);
                if let Some(Link::Ads(link)) = &self.streams[server].link {
                    link.answered(read);
                }
                return;
            }
            Said::Closed(closed) => {
                self.streams[server].link = None;
                match closed.is_unimplemented {
                    true => self
                        .machine
                        .handle_unimplemented(now, server, &closed.reason),
                    false => self.machine.handle_closed(now, server, &closed.reason),
                }
            }
        }
        self.drive(now);
    }

    /// The resources in the process are these from now on.
    pub(super) fn replace(&mut self, now: Instant, resources: StaticResources) {
        match self.streams.first_mut().map(|stream| &mut stream.link) {
            Some(Some(Link::Static(link))) => link.replace(now, resources),
            // Nothing was asked for yet.
            Some(None) if self.static_resources.is_some() => {
                self.static_resources = Some(resources);
            }
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
                    Output::Connect { server, variant } => self.connect(now, server, variant),
                    Output::Disconnect { server } => self.disconnect(server),
                    Output::Send { server, request } => {
                        if let Some(link) = &mut self.streams[server].link {
                            link.send(now, request);
                        }
                    }
                    Output::Event(event) => self.take(event),
                }
            }
            // The answers of a source in the process are there already.
            let first = self.streams.first_mut();
            let Some(Some(Link::Static(link))) = first.map(|stream| &mut stream.link) else {
                return;
            };
            let Some(response) = link.poll() else {
                return;
            };
            self.machine.handle_response(now, 0, response);
        }
    }

    fn connect(&mut self, now: Instant, server: usize, variant: Variant) {
        let stream = &mut self.streams[server];
        stream.used = true;
        if let Some(resources) = &mut self.static_resources {
            let resources = std::mem::take(resources);
            stream.link = Some(Link::Static(static_::Link::new(resources)));
            return self.machine.handle_connected(now, server);
        }
        self.links += 1;
        let (inbox, id) = (self.inbox.clone(), LinkId(self.links));
        let mut dial = self.dial.clone();
        dial.variant = variant;
        // The link before ends here.
        let link = ads::Link::open(inbox, id, self.servers[server].clone(), dial);
        stream.link = Some(Link::Ads(link));
    }

    /// Nothing is wanted of a server any more.
    fn disconnect(&mut self, server: usize) {
        self.streams[server] = Stream::default();
        self.metrics.disconnected(server, &self.servers);
        let (server, node) = (self.uri(server), &*self.node.id);
        tracing::info!(target: "sidestep::xds", server, node, "stream closed: not needed any more");
    }

    fn take(&mut self, event: Event) {
        events::tell(&event, &self.servers, &self.origins, &self.node.id);
        self.metrics.heard(&event, &self.servers, &self.machine);
        match &event {
            Event::StreamUp { server } => {
                self.streams[*server].open = true;
                self.streams[*server].ended = None;
                self.reachable(*server);
            }
            Event::StreamDown { server, reason, .. } => {
                self.streams[*server].open = false;
                self.streams[*server].ended = Some(reason.clone());
            }
            Event::NoDelta { server } => self.streams[*server].open = false,
            Event::Fallback { .. } => self.follow_servers(),
            Event::Unreachable { authority, reason } => {
                self.origins.reach(*authority, Some(reason.clone()));
                self.changes.routes.all = true;
            }
            Event::Accepted {
                resource_type: ResourceType::Listener | ResourceType::RouteConfiguration,
                version,
                ..
            } => self.revision = version.as_str().into(),
            _ => {}
        }
        let Some((resource_type, name)) = self.cache.apply(event) else {
            return;
        };
        match resource_type {
            ResourceType::Listener | ResourceType::RouteConfiguration => {
                self.changes.routes.names.insert((resource_type, name));
            }
            ResourceType::Cluster => {
                self.changes.clusters.insert(name);
            }
            ResourceType::EndpointAssignment => {
                self.changes.assignments.insert(name);
            }
        }
    }

    /// A server can be talked to: whoever waits for its resources has reason to.
    fn reachable(&mut self, server: usize) {
        for authority in 0..self.origins.len() {
            if self.machine.asks(authority, server) {
                self.origins.reach(authority, None);
            }
        }
    }

    /// Other servers may be in use than before.
    fn follow_servers(&mut self) {
        for authority in 0..self.origins.len() {
            let serving = self.machine.serving(authority);
            if let Some(server) = serving.and_then(|server| self.servers.get(server)) {
                self.origins.serve(authority, server);
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

/// Resources in the process are of every authority.
fn nobodys() -> Authorities {
    Authorities {
        default: vec![0],
        others: true,
        ..Authorities::default()
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
