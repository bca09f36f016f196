//! How a cluster becomes what its configuration says.

use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::code;
use sidestep_proto::resource::{self, Locality, UpstreamTls};

use super::super::admission::Admission;
use super::super::dependency::ClusterConfig;
use super::super::dialer::Security;
use super::super::endpoint::Endpoint;
use super::super::reconcile::RosterUpdate;
use super::{Cluster, Context};
use crate::balancer::{
    self, Actions, Connectivity, Failure, LoadBalancer as _, OutlierDetection, SubchannelId,
};
use crate::resolver::Transport;
use crate::security::ClientTls;
use crate::snapshot::Slot;
use crate::telemetry::Backend;

impl Cluster {
    pub(super) fn apply(
        &mut self,
        cx: &mut Context<'_>,
        config: &ClusterConfig,
    ) -> Result<(), Failure> {
        let cluster = &config.cluster;
        if config.leaves.is_some() {
            // Policy, endpoints and limits are the leaves' (gRFC A75).
            self.disband();
            return Ok(());
        }
        self.leaf = None;
        self.shared.breaker().set_max(cluster.max_requests);
        self.scale(cx, cluster.max_connections_per_endpoint);
        self.secure(cx, cluster.tls.as_ref(), config.transport)?;
        self.roster
            .take_sessions(self.sticky.then_some(cluster.sessions));
        let (update, error) = match &config.endpoints {
            Ok(assignment) => {
                let threshold = cluster.panic_threshold;
                let admission = Admission::new(assignment, cx.home, threshold);
                (self.roster.update(assignment, &admission), None)
            }
            Err(failure) => (self.roster.clear(), Some(failure.clone())),
        };
        let error = error.or_else(|| {
            let mut endpoints = update.endpoints.iter();
            let none = endpoints.all(|e| e.session.as_ref().is_some_and(|s| s.draining));
            none.then(|| no_endpoints(&cluster.name))
        });
        self.drops = match &config.endpoints {
            Ok(assignment) => assignment.drops.clone(),
            Err(_) => Vec::new(),
        };
        self.admit(cx, &update);
        match update.endpoints.is_empty() {
            true => self.idleness.end(),
            false => self.idleness.begin(cx.now),
        }
        if !self.idleness.is_asleep() {
            self.balance(cx, cluster, &update, error.as_ref());
        }
        for id in &update.removed {
            self.retire(*id);
        }
        // The table changed even if the policy has nothing new to say.
        self.publication.want(cx.now, self.endpoints.len());
        Ok(())
    }

    /// New endpoints take their place in the table.
    fn admit(&mut self, cx: &Context<'_>, update: &RosterUpdate) {
        if !update.added.is_empty() {
            self.table = None;
        }
        for added in &update.added {
            let index = added.id.0 as usize;
            let backend = self.shared.backend().clone();
            let bell = self.shared.bell(added.id);
            let slot = Slot::new(added.address.clone(), backend, added.load.clone());
            let slot = slot.with_hosts(added.hosts.clone()).with_bell(bell);
            let slot = Arc::new(slot);
            if index < self.slots.len() {
                self.slots[index] = slot.clone();
            } else {
                // Ids are dense: a new one is the next.
                self.slots.push(slot.clone());
            }
            let endpoint = Endpoint::new(&self.shared, added, slot, &self.target, cx.dialer);
            self.endpoints.insert(added.id, Box::new(endpoint));
        }
        for (id, addresses) in &update.reordered {
            if let Some(endpoint) = self.endpoints.get_mut(id) {
                endpoint.reorder(addresses.clone());
            }
        }
        // Neighbours share a locality, and most stay where they were.
        let mut last: Option<(&Arc<Locality>, Arc<Backend>)> = None;
        for endpoint in &update.endpoints {
            let backend = match &last {
                Some((locality, backend)) if Arc::ptr_eq(locality, &endpoint.locality) => backend,
                _ => {
                    let locality = &endpoint.locality;
                    let backend = cx.telemetry.backend(self.shared.name(), Some(locality));
                    &last.insert((locality, backend)).1
                }
            };
            let current = &self.slots[endpoint.id.0 as usize].backend;
            if !Arc::ptr_eq(&current.load(), backend) {
                current.store(backend.clone());
            }
        }
    }

    fn balance(
        &mut self,
        cx: &mut Context<'_>,
        cluster: &resource::Cluster,
        update: &RosterUpdate,
        error: Option<&Failure>,
    ) {
        let fresh = !matches!(&self.policy, Some((current, _)) if *current == cluster.lb_policy);
        if fresh {
            for endpoint in &update.endpoints {
                // The new policy asks for what it wants to know.
                endpoint.load.forget();
            }
            let made = balancer::build(&cluster.lb_policy, fastrand::u64(..));
            let policy = match self.policy.take() {
                // Who is ejected stays so.
                Some((_, mut policy)) => {
                    policy.replace_child(made);
                    policy
                }
                None => OutlierDetection::new(made, cx.now, fastrand::u64(..)),
            };
            self.policy = Some((cluster.lb_policy.clone(), policy));
        }
        let Some((_, policy)) = &mut self.policy else {
            return;
        };
        let mut actions = Actions::new();
        policy.configure(cx.now, cluster.outlier_detection.as_ref(), &mut actions);
        policy.update(cx.now, &update.endpoints, error, &mut actions);
        if fresh {
            for endpoint in &update.endpoints {
                // Connections made for the policy of before are not made again.
                let state = self.endpoints[&endpoint.id].connectivity();
                policy.subchannel_changed(cx.now, endpoint.id, &state, &mut actions);
            }
        }
        for endpoint in self.endpoints.values_mut() {
            endpoint.follow_reports();
        }
        self.act(cx, actions);
    }

    fn secure(
        &mut self,
        cx: &mut Context<'_>,
        tls: Option<&UpstreamTls>,
        transport: Transport,
    ) -> Result<(), Failure> {
        self.security = match (&self.security, tls, transport) {
            (Security::Unsaid, None, Transport::Unsaid) => return Ok(()),
            // A target without a control plane never changes its mind.
            (Security::Plaintext, _, Transport::Plaintext)
            | (Security::Tls(_), _, Transport::Tls) => return Ok(()),
            (Security::Tls(current), Some(tls), Transport::Unsaid) if current.key() == tls => {
                return Ok(());
            }
            (_, Some(tls), Transport::Unsaid) => {
                let made = ClientTls::new(tls, cx.providers);
                Security::Tls(Arc::new(made.map_err(|error| {
                    let text = format!("cluster {:?}: {error}", self.shared.name());
                    Failure::new(error.code(), text)
                })?))
            }
            (_, None, Transport::Unsaid) => Security::Unsaid,
            (_, _, Transport::Plaintext) => Security::Plaintext,
            (_, _, Transport::Tls) => Security::Tls(Arc::new(ClientTls::for_host())),
        };
        let ids: Vec<_> = self.endpoints.keys().copied().collect();
        for id in ids {
            self.step(cx, id, |endpoint, step| endpoint.secure(step));
        }
        Ok(())
    }

    /// Endpoints may have so many connections from now on. More than that are not closed.
    fn scale(&mut self, cx: &mut Context<'_>, most: u32) {
        let before = std::mem::replace(&mut self.most_connections, most);
        if before >= most {
            return;
        }
        let ids: Vec<_> = self.endpoints.keys().copied().collect();
        for id in ids {
            self.step(cx, id, Endpoint::grow_again);
        }
    }

    pub(super) fn tell(&self, config: &ClusterConfig) {
        tracing::debug!(
            target: "sidestep::config",
            cluster = &**self.shared.name(),
            endpoints = self.endpoints.len(),
            policy = ?config.cluster.lb_policy,
            tls = config.cluster.tls.is_some(),
            "cluster applied"
        );
    }

    /// All calls fail, and nothing stays connected.
    pub(super) fn fail(&mut self, now: Instant, failure: Failure) {
        tracing::warn!(
            target: "sidestep::config",
            cluster = &**self.shared.name(),
            reason = &*failure.0,
            "cluster cannot be used"
        );
        self.disband();
        self.decide(now, Connectivity::TransientFailure(failure));
    }

    /// Nothing stays connected; what is published stays so until the next decision.
    pub(super) fn disband(&mut self) {
        self.policy = None;
        self.drops.clear();
        self.idleness.end();
        let removed = self.roster.clear().removed;
        for id in removed {
            self.retire(id);
        }
        self.security = Security::Unsaid;
    }

    /// It is out of the configuration.
    pub(super) fn retire(&mut self, id: SubchannelId) {
        if let Some(endpoint) = self.endpoints.remove(&id) {
            endpoint.timer.map(|at| self.timers.remove(&(at, id)));
            self.retired.push(*endpoint);
        }
    }
}

fn no_endpoints(cluster: &str) -> Failure {
    Failure::new(
        code::NO_ENDPOINTS,
        format!("cluster {cluster:?} has no endpoint that may take calls"),
    )
}
