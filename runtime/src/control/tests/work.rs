//! What an event costs does not grow with what it does not concern. Counted, not timed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidestep_proto::resource::{Resource, ResourceType};
use tokio::sync::mpsc;

use super::super::attempt::{AttemptId, Outcome};
use super::super::clients::{ClientKey, Clients};
use super::super::cluster::{Cluster, Context};
use super::super::config_source::Stale;
use super::super::dependency::{ClusterConfig, Resolution};
use super::super::dialer::Dialer;
use super::super::endpoint::visits;
use super::super::{Config, Inbox, Input};
use super::fixtures;
use crate::balancer::SubchannelId;
use crate::resolver::Transport;
use crate::security::CertificateProviders;
use crate::snapshot::ClusterId;
use crate::subchannel::ConnectError;

/// One cluster whose connections are never made, and what it uses.
struct Rig {
    cluster: Cluster,
    dialer: Dialer,
    config: Config,
    now: Instant,
    _inputs: (Inbox, mpsc::UnboundedReceiver<Input>),
}

impl Rig {
    fn new() -> Self {
        let mut config = Config::new(None, CertificateProviders::default());
        config.connector = Arc::new(|_| Box::pin(std::future::pending()));
        let (inbox, inputs) = mpsc::unbounded_channel();
        let dialer = Dialer {
            inbox: inbox.downgrade(),
            connector: config.connector.clone(),
            http2: config.http2.clone(),
            plaintext: super::super::PlaintextPolicy::Always,
            backoff: config.timers.connect_backoff,
            most_connections: 10,
            attempts: 0,
            telemetry: config.telemetry.clone(),
        };
        let backend = config.telemetry.backend("c", None);
        let target = Arc::from("xds:///c");
        Self {
            cluster: Cluster::new(ClusterId(0), backend, target, true, inbox.downgrade(), None),
            dialer,
            config,
            now: Instant::now(),
            _inputs: (inbox, inputs),
        }
    }

    fn run(&mut self, act: impl FnOnce(&mut Cluster, &mut Context<'_>)) -> usize {
        visits::take();
        let mut cx = Context {
            now: self.now,
            dialer: &mut self.dialer,
            providers: &self.config.providers,
            telemetry: &self.config.telemetry,
            home: &sidestep_proto::resource::Locality::default(),
        };
        act(&mut self.cluster, &mut cx);
        self.cluster.flush(self.now);
        visits::take()
    }

    /// Takes over these endpoints. Endpoints visited, and tries to connect.
    fn update(&mut self, endpoints: impl Iterator<Item = u32>) -> (usize, u64) {
        let address = |number| SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 443));
        let addresses: Vec<_> = endpoints.map(address).collect();
        let Resource::EndpointAssignment(endpoints) = fixtures::endpoints("c", &addresses) else {
            unreachable!("it is one");
        };
        let config = Resolution::Ready(ClusterConfig {
            cluster: Arc::new(fixtures::plain_cluster("c")),
            endpoints: Ok(endpoints),
            leaves: None,
            transport: Transport::Unsaid,
        });
        let before = self.dialer.attempts;
        let visited = self.run(|cluster, cx| cluster.configure(cx, config));
        (visited, self.dialer.attempts - before)
    }

    /// The try of one endpoint has failed. Endpoints visited.
    fn fail(&mut self, number: u32) -> usize {
        let attempt = AttemptId(u64::from(number) + 1);
        let failed = Outcome::Failed(ConnectError {
            attempts: Vec::new(),
        });
        self.run(|cluster, cx| cluster.heard(cx, SubchannelId(number), attempt, failed))
    }

    /// The next time-out has come. Endpoints visited.
    fn time_out(&mut self) -> usize {
        self.now = self.cluster.poll_timeout().expect("somebody waits");
        self.run(Cluster::handle_timeout)
    }
}

/// Endpoints visited by each kind of event.
fn visited(endpoints: u32) -> Vec<usize> {
    let mut rig = Rig::new();
    let (visited, tries) = rig.update(0..endpoints);
    // Once to have it connected, once to tell a new policy how it stands.
    assert_eq!(visited, 2 * endpoints as usize);
    assert_eq!(tries, u64::from(endpoints));
    let mut visited: Vec<_> = (0..10).map(|number| rig.fail(number)).collect();
    rig.now += Duration::from_millis(100);
    visited.push(rig.time_out());
    visited.push(rig.time_out());
    visited
}

#[tokio::test]
async fn an_event_visits_the_endpoint_that_it_concerns() {
    let few = visited(50);
    assert_eq!(few, visited(1_000));
    assert!(few.iter().all(|visits| *visits <= 3), "{few:?}");
}

#[tokio::test]
async fn an_update_connects_what_is_new_and_touches_no_other_connection() {
    for endpoints in [500, 2_000] {
        let mut rig = Rig::new();
        rig.update(0..endpoints);
        for changed in [1, 10, 100] {
            let first = endpoints + changed * 1_000;
            let next = (0..endpoints - changed).chain(first..first + changed);
            assert_eq!(rig.update(next.clone()), (changed as usize, changed.into()));
            // In another order it is the same.
            let turned: Vec<_> = next.rev().collect();
            assert_eq!(rig.update(turned.into_iter()), (0, 0));
            rig.update(0..endpoints);
        }
    }
}

#[tokio::test]
async fn a_changed_route_resolves_the_targets_that_rest_on_it() {
    let plane = super::plane::Plane::start().await;
    let config = fixtures::config(&plane);
    let (inbox, _inputs) = mpsc::unbounded_channel();
    let source =
        super::super::config_source::ConfigSource::new(&config, inbox.downgrade(), Instant::now());
    let source = source.expect("there is a bootstrap");
    let mut clients = Clients::default();
    let names: Vec<Arc<str>> = (0..1_000).map(|i| format!("target-{i}").into()).collect();
    let targets: Vec<_> = (names.iter())
        .map(|name| Arc::new(crate::snapshot::Target::new(name, None)))
        .collect();
    for (name, target) in names.iter().zip(&targets) {
        let key = ClientKey {
            listener: name.clone(),
            authority: name.clone(),
        };
        clients.watch(key, Arc::downgrade(target));
    }
    let mut resolve = |stale: Stale| {
        let (cache, origins, revision) = (source.cache(), source.origins(), source.revision());
        let now = Instant::now();
        clients.resolve(now, cache, origins, revision, &stale).len()
    };
    assert_eq!(resolve(Stale::default()), 1_000, "all are new");
    assert_eq!(resolve(Stale::default()), 0);
    let mut one = Stale::default();
    one.names.insert((ResourceType::Listener, names[7].clone()));
    assert_eq!(resolve(one), 1);
    let all = Stale {
        all: true,
        ..Stale::default()
    };
    assert_eq!(resolve(all), 1_000);
}
