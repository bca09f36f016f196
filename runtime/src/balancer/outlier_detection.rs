//! Leaves endpoints out for what their calls came to (gRFC A50).
//!
//! ```text
//!             a rule of the interval, or too many failures in a row
//!      in  ---------------------------------------------------------> ejected
//!       ^                                                              |    ^
//!       |  the time is over, and it was a rule of the interval         |    | the probe fails:
//!       +--------------------------------------------------------------+    | for longer
//!       |                                                              v    |
//!       +------------------------------------------------------- waits for one call
//!                                the probe succeeds              (a row of failures)
//! ```
//!
//! An ejected endpoint fails as far as the policy below can see; its connection stays. It stands
//! above the priorities, so shares are of the whole cluster (gRFC A75).
//!
//! gRPC has the two rules of the interval. Rows of failures are Envoy's, by gRPC's statuses
//! ([`Blame`](super::Blame)); they never eject the last endpoint that is in, and such an endpoint
//! comes back by one call: it alone is sent there until it has succeeded.

mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sidestep_proto::code;
use sidestep_proto::resource::{self, FailureRun};

use super::child::Child;
use super::{
    Action, Actions, Call, Connectivity, Ejected, Endpoint, Failure, Interest, Load, LoadBalancer,
    Pick, Picker, Standing, SubchannelId,
};
pub use rules::Cause;

/// Nobody looks at counters more often.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// The policy. Without rules it only passes on.
pub struct OutlierDetection {
    child: Child,
    /// Only with rules.
    config: Option<resource::OutlierDetection>,
    hosts: BTreeMap<SubchannelId, Host>,
    ejected: usize,
    interval_began: Instant,
    random: fastrand::Rng,
    news: Vec<News>,
}

/// An endpoint.
#[derive(Debug)]
struct Host {
    load: Arc<Load>,
    /// Of its connection, whatever the child was told.
    state: Connectivity,
    /// Ejections, less the intervals that went well since.
    multiplier: u32,
    /// Boxed: nearly all are in.
    ejection: Option<Box<Ejection>>,
}

#[derive(Debug)]
struct Ejection {
    since: Instant,
    cause: Cause,
    failure: Failure,
    /// Once its time is over: whether the one call has gone there.
    probe: Option<Arc<AtomicBool>>,
}

/// What happened to an endpoint, for those who tell of it.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Which one.
    pub endpoint: SubchannelId,
    /// What.
    pub what: Event,
}

/// What happened to an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It is left out from now on.
    Ejected {
        /// Why.
        cause: Cause,
        /// For how long at least.
        time: Duration,
    },
    /// It is an outlier, and stays in all the same.
    Spared {
        /// What it is an outlier for.
        cause: Cause,
        /// Why it stays.
        reason: Spared,
    },
    /// The next call goes there, to see.
    Probed,
    /// It is in again.
    Returned,
}

/// Why an outlier stays in (gRFC A91).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spared {
    /// The share of outliers to eject said so.
    EnforcementPercentage,
    /// Enough are ejected.
    MaxEjectionOverflow,
}

impl OutlierDetection {
    /// Around `child`, without rules.
    pub fn new(child: Box<dyn LoadBalancer>, now: Instant, seed: u64) -> Self {
        Self {
            child: Child::new(child),
            config: None,
            hosts: BTreeMap::new(),
            ejected: 0,
            interval_began: now,
            random: fastrand::Rng::with_seed(seed),
            news: Vec::new(),
        }
    }

    /// Puts another policy in the place of the one below. It is to be updated, and told the states
    /// of all connections: it hears of ejections then.
    pub fn replace_child(&mut self, child: Box<dyn LoadBalancer>) {
        self.child = Child::new(child);
    }

    /// What has happened since it was last asked.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Takes other rules over. Without any, everybody is in. The running interval goes on.
    pub fn configure(
        &mut self,
        now: Instant,
        config: Option<&resource::OutlierDetection>,
        out: &mut Actions,
    ) {
        let config = config.filter(|config| config.has_rules());
        if self.config.as_ref() == config {
            return;
        }
        if self.config.is_none() {
            self.interval_began = now;
            for host in self.hosts.values() {
                host.load.take_outcomes();
            }
        }
        self.config = config.cloned();
        for host in self.hosts.values() {
            watch(self.config.as_ref(), &host.load);
        }
        if self.config.is_none() {
            let ids: Vec<_> = self.hosts.keys().copied().collect();
            for id in ids {
                self.uneject(now, id, out);
            }
            for host in self.hosts.values_mut() {
                host.multiplier = 0;
            }
        }
    }

    /// Runs a step of the child, and passes on what it wants.
    fn step(
        &mut self,
        now: Instant,
        out: &mut Actions,
        step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions),
    ) {
        let from = out.len();
        let mut changed = self.child.step(out, step);
        if self.ejected > 0 {
            changed |= self.answer_for_ejected(now, from, out);
        }
        for action in &out[from..] {
            // Nobody need report that a connection was closed as asked.
            if let Action::Close(id) = action
                && let Some(host) = self.hosts.get_mut(id)
            {
                host.state = Connectivity::Idle;
            }
        }
        if changed {
            out.push(Action::Changed);
        }
    }

    /// A child that tries an ejected endpoint fails at once, even where the connection is up and
    /// nothing else will happen to it. Each is answered once: some ask again and again.
    fn answer_for_ejected(&mut self, now: Instant, from: usize, out: &mut Actions) -> bool {
        let asked = out[from..].iter().filter_map(|action| match action {
            Action::Connect(id) => Some(*id),
            Action::Close(_) | Action::Changed => None,
        });
        let mut changed = false;
        for id in asked.collect::<Vec<_>>() {
            if let Some(state) = self.hosts.get(&id).and_then(Host::failing) {
                changed |= self.child.step(out, |child, out| {
                    child.subchannel_changed(now, id, &state, out)
                });
            }
        }
        changed
    }

    /// Tells the child what it is to think of an endpoint.
    fn tell(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        let Some(host) = self.hosts.get(&id) else {
            return;
        };
        let state = host.failing().unwrap_or_else(|| host.state.clone());
        self.step(now, out, |child, out| {
            child.subchannel_changed(now, id, &state, out);
        });
    }

    /// Looks at the counters, then lets those in whose time is over.
    fn sweep(&mut self, now: Instant, config: &resource::OutlierDetection, out: &mut Actions) {
        self.interval_began = now;
        let hosts = self.hosts.iter();
        let calls: Vec<_> = hosts
            .map(|(id, host)| (*id, host.load.take_outcomes()))
            .collect();
        if let Some(rule) = &config.success_rate {
            for (id, cause) in rules::by_success_rate(rule, &calls) {
                self.consider(now, id, cause, rule.enforcing, out);
            }
        }
        if let Some(rule) = &config.failure_percentage {
            for (id, cause) in rules::by_failure_percentage(rule, &calls) {
                self.consider(now, id, cause, rule.enforcing, out);
            }
        }
        for host in self.hosts.values_mut() {
            match host.ejection.as_deref() {
                None => host.multiplier = host.multiplier.saturating_sub(1),
                // The one call may have been given up by its caller, or last for hours.
                Some(Ejection {
                    probe: Some(probe), ..
                }) => probe.store(false, Relaxed),
                Some(_) => {}
            }
        }
        self.release(now, config, |_| true, out);
    }

    /// Lets those in whose time is over, or has them probed.
    fn release(
        &mut self,
        now: Instant,
        config: &resource::OutlierDetection,
        whom: impl Fn(&Cause) -> bool,
        out: &mut Actions,
    ) {
        let over = |host: &Host| {
            let meant = host.ejection.as_ref().is_some_and(|e| whom(&e.cause));
            meant && host.until(config).is_some_and(|until| until <= now)
        };
        let over: Vec<_> = self
            .hosts
            .iter()
            .filter(|(_, host)| over(host))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            let Some(host) = self.hosts.get_mut(&id) else {
                continue;
            };
            let Some(ejection) = host.ejection.as_mut() else {
                continue;
            };
            if !ejection.cause.is_run() {
                self.uneject(now, id, out);
            } else if ejection.probe.is_none() {
                ejection.probe = Some(Arc::default());
                host.load.await_probe();
                self.tell_of(id, Event::Probed);
                out.push(Action::Changed);
            }
        }
    }

    /// An outlier: ejects it, unless that would be too many.
    fn consider(
        &mut self,
        now: Instant,
        id: SubchannelId,
        cause: Cause,
        enforcing: u32,
        out: &mut Actions,
    ) {
        let Some(config) = &self.config else {
            return;
        };
        let ejected = self
            .hosts
            .get(&id)
            .is_none_or(|host| host.ejection.is_some());
        if ejected {
            return;
        }
        let share = self.ejected as f64 * 100.0 / self.hosts.len() as f64;
        let full = share >= f64::from(config.max_ejection_percent);
        let last = cause.is_run() && self.ejected + 1 >= self.hosts.len();
        let spared = if full || last {
            Some(Spared::MaxEjectionOverflow)
        } else if self.random.u32(0..100) >= enforcing {
            Some(Spared::EnforcementPercentage)
        } else {
            None
        };
        match spared {
            Some(reason) => self.tell_of(id, Event::Spared { cause, reason }),
            None => self.eject(now, id, cause, out),
        }
    }

    /// Ejects an endpoint, once more if it is ejected already.
    fn eject(&mut self, now: Instant, id: SubchannelId, cause: Cause, out: &mut Actions) {
        let (Some(config), Some(host)) = (&self.config, self.hosts.get_mut(&id)) else {
            return;
        };
        host.multiplier = host.multiplier.saturating_add(1);
        host.load.reset_consecutive_failures();
        let time = ejection_time(config, host.multiplier);
        let text = format!("ejected for {time:?}, because {cause}");
        let ejection = Ejection {
            since: now,
            cause,
            failure: Failure::new(code::EJECTED, text),
            probe: None,
        };
        if host.ejection.replace(Box::new(ejection)).is_none() {
            self.ejected += 1;
        }
        self.tell_of(id, Event::Ejected { cause, time });
        self.tell(now, id, out);
        // Its probe is over.
        out.push(Action::Changed);
    }

    fn uneject(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        let Some(host) = self.hosts.get_mut(&id) else {
            return;
        };
        if host.ejection.take().is_some() {
            self.ejected -= 1;
            host.load.reset_consecutive_failures();
            self.tell_of(id, Event::Returned);
            self.tell(now, id, out);
            out.push(Action::Changed);
        }
    }

    fn tell_of(&mut self, endpoint: SubchannelId, what: Event) {
        self.news.push(News { endpoint, what });
    }

    fn next_sweep(&self) -> Option<Instant> {
        let config = self.config.as_ref()?;
        Some(self.interval_began + config.interval.max(SHORTEST_INTERVAL))
    }

    /// When the first of those whom a call may bring back may be tried.
    fn next_probe(&self) -> Option<Instant> {
        let config = self.config.as_ref().filter(|_| self.ejected > 0)?;
        let untried = self.hosts.values().filter(|host| {
            let ejection = host.ejection.as_ref();
            ejection.is_some_and(|e| e.cause.is_run() && e.probe.is_none())
        });
        untried.filter_map(|host| host.until(config)).min()
    }

    /// A call that was to show whether an endpoint works has ended, or failures are too many.
    fn look_at(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        let (Some(config), Some(host)) = (&self.config, self.hosts.get(&id)) else {
            return;
        };
        if let Some(ejection) = &host.ejection {
            let passed = ejection.probe.as_ref().and_then(|_| host.load.end_probe());
            match passed {
                Some(true) => self.uneject(now, id, out),
                Some(false) => self.eject(now, id, Cause::Probe, out),
                None => {}
            }
            return;
        }
        let (all, gateway) = host.load.consecutive_failures();
        let over = |rule: Option<FailureRun>, run| rule.filter(|rule| run >= rule.count);
        let found = over(config.consecutive_gateway_failures, gateway)
            .map(|rule| (Cause::ConsecutiveGatewayFailures(gateway), rule.enforcing))
            .or_else(|| {
                let rule = over(config.consecutive_failures, all)?;
                Some((Cause::ConsecutiveFailures(all), rule.enforcing))
            });
        if let Some((cause, enforcing)) = found {
            // Whatever comes of it, the next row is a new one.
            host.load.reset_consecutive_failures();
            self.consider(now, id, cause, enforcing, out);
        }
    }
}

impl Cause {
    /// Whether a row of failures led to it: a call decides about its end.
    fn is_run(&self) -> bool {
        match self {
            Self::SuccessRate { .. } | Self::FailurePercentage { .. } => false,
            Self::ConsecutiveFailures(_) | Self::ConsecutiveGatewayFailures(_) | Self::Probe => {
                true
            }
        }
    }
}

impl Host {
    /// What the child is told, if that is not the truth.
    fn failing(&self) -> Option<Connectivity> {
        let ejection = self.ejection.as_ref()?;
        Some(Connectivity::TransientFailure(ejection.failure.clone()))
    }

    /// When its ejection is over.
    fn until(&self, config: &resource::OutlierDetection) -> Option<Instant> {
        let ejection = self.ejection.as_ref()?;
        Some(ejection.since + ejection_time(config, self.multiplier))
    }
}

/// How long the ejection lasts that makes it so many.
fn ejection_time(config: &resource::OutlierDetection, multiplier: u32) -> Duration {
    let longest = config.max_ejection_time.max(config.base_ejection_time);
    let time = config.base_ejection_time.saturating_mul(multiplier);
    time.min(longest).min(FOREVER)
}

/// Far enough away, and still an instant.
const FOREVER: Duration = Duration::from_secs(1 << 32);

fn watch(config: Option<&resource::OutlierDetection>, load: &Load) {
    match config {
        Some(config) => {
            let count = |rule: Option<FailureRun>| rule.map(|rule| rule.count);
            load.watch(Interest::OUTCOMES);
            load.set_failure_limits(
                count(config.consecutive_failures),
                count(config.consecutive_gateway_failures),
            );
        }
        None => {
            load.unwatch(Interest::OUTCOMES);
            load.set_failure_limits(None, None);
        }
    }
}

impl LoadBalancer for OutlierDetection {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        let mut old = std::mem::take(&mut self.hosts);
        for endpoint in endpoints {
            let mut host = old.remove(&endpoint.id).unwrap_or_else(|| Host {
                load: Arc::clone(&endpoint.load),
                state: Connectivity::Idle,
                multiplier: 0,
                ejection: None,
            });
            host.load = Arc::clone(&endpoint.load);
            if let Some(config) = &self.config {
                watch(Some(config), &host.load);
                if host.ejection.as_ref().is_some_and(|e| e.probe.is_some()) {
                    host.load.await_probe();
                }
            }
            self.hosts.insert(endpoint.id, host);
        }
        let hosts = self.hosts.values();
        self.ejected = hosts.filter(|host| host.ejection.is_some()).count();
        self.step(now, out, |child, out| {
            child.update(now, endpoints, error, out)
        });
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.state = state.clone();
            let probe = host.ejection.as_ref().and_then(|e| e.probe.as_ref());
            if probe.is_some() {
                // Only one that is ready can be tried.
                out.push(Action::Changed);
            }
        }
        self.tell(now, id, out);
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.step(now, out, |child, out| child.connect_requested(now, id, out));
    }

    fn noticed(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.look_at(now, id, out);
        self.step(now, out, |child, out| child.noticed(now, id, out));
    }

    fn next_timeout(&self) -> Option<Instant> {
        let child = self.child.balancer().next_timeout();
        let timeouts = [child, self.next_sweep(), self.next_probe()];
        timeouts.into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.child.balancer().next_timeout()) {
            self.step(now, out, |child, out| child.handle_timeout(now, out));
        }
        let Some(config) = self.config.clone() else {
            return;
        };
        if due(self.next_sweep()) {
            self.sweep(now, &config, out);
        } else if due(self.next_probe()) {
            self.release(now, &config, Cause::is_run, out);
        }
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        let mut standing = self.child.standing(id);
        if let (Some(config), Some(host)) = (&self.config, self.hosts.get(&id))
            && let (Some(until), Some(ejection)) = (host.until(config), &host.ejection)
        {
            standing.ejected = Some(Ejected {
                until,
                reason: ejection.cause.to_string().into(),
            });
        }
        standing
    }

    fn connectivity(&self) -> Connectivity {
        self.child.connectivity()
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        let picker = self.child.picker();
        if self.ejected == 0 {
            return picker;
        }
        let ready = self
            .hosts
            .iter()
            .filter(|(_, h)| h.state == Connectivity::Ready);
        let probes = ready.filter_map(|(id, host)| {
            let taken = host.ejection.as_ref()?.probe.as_ref()?;
            Some((*id, Arc::clone(taken)))
        });
        let probes: Box<[_]> = probes.collect();
        match probes.is_empty() {
            true => picker,
            false => Arc::new(Probing { probes, picker }),
        }
    }
}

/// Sends one call to each endpoint that is to be tried.
#[derive(Debug)]
struct Probing {
    /// With whether its call has gone.
    probes: Box<[(SubchannelId, Arc<AtomicBool>)]>,
    picker: Arc<dyn Picker>,
}

impl Picker for Probing {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let untaken = |(id, taken): &&(SubchannelId, Arc<AtomicBool>)| {
            // The usual case without a write.
            !taken.load(Relaxed) && self.picker.admits(call, *id) && !taken.swap(true, Relaxed)
        };
        match self.probes.iter().find(untaken) {
            Some((id, _)) => Pick::Ready(*id),
            None => self.picker.pick(call),
        }
    }

    fn admits(&self, call: &Call<'_>, id: SubchannelId) -> bool {
        self.picker.admits(call, id)
    }

    fn explain(&self, call: &Call<'_>) -> Option<String> {
        self.picker.explain(call)
    }
}

#[cfg(test)]
mod tests;
