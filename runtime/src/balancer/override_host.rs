//! Calls of a session go to its endpoint, whatever the policy would pick (gRFC A55, A75).
//!
//! ```text
//!   a call names hosts:  the first ready one takes it
//!                        else an idle one is connected and the call waits
//!                        else it waits for one that is connecting
//!                        else the policy below picks
//! ```
//!
//! The policy below never hears of draining endpoints: those get the calls of their sessions and no
//! others. A connection that only sessions need (to a draining endpoint, to a priority that is not
//! in use, or one that the policy gave up) is *ours*: the policy below does not hear of its states
//! until it asks for it, and a sweep, at most every 5 s, closes those whose sessions had no call
//! for the cluster's idle time-out.
//!
//! Where no endpoint takes sessions, the picker below is published as it is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::child::Child;
use super::{
    Action, Actions, Call, Connectivity, Endpoint, Failure, LoadBalancer, Pick, Picker, Standing,
    SubchannelId,
};
use crate::routing::Sticky;

/// Sweeps are no closer together than this.
const SWEEP_FLOOR: Duration = Duration::from_secs(5);
/// More hosts than this are not looked for: whatever a client sends, a pick stays short.
const MOST_HOSTS: usize = 16;

/// What sessions may do with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHost {
    /// Its addresses, comma-separated: by each of them a session may name it.
    pub hosts: Arc<str>,
    /// It takes the calls of its sessions only.
    pub draining: bool,
    /// How long a connection that only sessions need outlives their last call.
    pub idle_timeout: Duration,
}

/// The layer between a cluster's calls and its policy.
pub struct OverrideHost {
    child: Child,
    entries: HashMap<SubchannelId, Entry>,
    /// What pickers look hosts up in; `None` where no endpoint takes sessions.
    table: Option<Arc<Table>>,
    /// When connections that only sessions need are looked at again.
    sweep: Option<Instant>,
}

/// An endpoint that takes sessions.
struct Entry {
    settings: Arc<SessionHost>,
    state: Connectivity,
    /// The policy below has not asked for the connection, so it does not hear of it.
    ours: bool,
    host: Arc<Host>,
}

/// What pickers know of an endpoint, whichever picker is out.
#[derive(Debug)]
struct Host {
    id: SubchannelId,
    /// One of the four constants below.
    state: AtomicU8,
    /// Who waits for it: the two flags below.
    asked: AtomicU8,
    /// When a call of a session was last sent there: milliseconds since `epoch`, plus one.
    used: AtomicU64,
    epoch: Instant,
}

const FAILING: u8 = 0;
const IDLE: u8 = 1;
const CONNECTING: u8 = 2;
const READY: u8 = 3;

/// A call of a session waits for the endpoint.
const BY_SESSION: u8 = 1;
/// The policy below wants it connected.
const BY_POLICY: u8 = 2;

impl Host {
    fn new(id: SubchannelId, epoch: Instant) -> Self {
        Self {
            id,
            state: AtomicU8::new(IDLE),
            asked: AtomicU8::new(0),
            used: AtomicU64::new(0),
            epoch,
        }
    }

    fn use_at(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.epoch).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX - 1);
        self.used.store(millis + 1, Ordering::Relaxed);
    }

    fn used(&self) -> Option<Instant> {
        let millis = self.used.load(Ordering::Relaxed).checked_sub(1)?;
        self.epoch.checked_add(Duration::from_millis(millis))
    }

    /// Its state, for a call that waits unless that is ready. Noted before it is looked at: either
    /// the call sees a change, or the change sees the call and wakes it.
    fn ask(&self) -> u8 {
        let state = self.state.load(Ordering::SeqCst);
        if matches!(state, READY | FAILING) {
            return state;
        }
        self.asked.fetch_or(BY_SESSION, Ordering::SeqCst);
        self.state.load(Ordering::SeqCst)
    }
}

impl Entry {
    fn new(id: SubchannelId, now: Instant, settings: &Arc<SessionHost>) -> Self {
        Self {
            settings: Arc::clone(settings),
            state: Connectivity::Idle,
            ours: settings.draining,
            host: Arc::new(Host::new(id, now)),
        }
    }

    /// Follows the connection. Answers whether calls have to pick again.
    fn follow(&mut self, state: &Connectivity) -> bool {
        self.state = state.clone();
        let state = match state {
            Connectivity::Idle => IDLE,
            Connectivity::Connecting => CONNECTING,
            Connectivity::Ready => READY,
            Connectivity::TransientFailure(_) => FAILING,
        };
        let before = self.host.state.swap(state, Ordering::SeqCst);
        // One that was just leaving may have been picked by a call that then waits.
        let left = before == READY && state != READY;
        // While it connects, waiting calls need not look again.
        let waited_for = state != CONNECTING
            && self.host.asked.fetch_and(!BY_SESSION, Ordering::SeqCst) & BY_SESSION != 0;
        left || waited_for
    }

    fn is_alive(&self) -> bool {
        matches!(self.state, Connectivity::Ready | Connectivity::Connecting)
    }

    /// Until when sessions keep the connection; `None`: no session ever used it.
    fn expires(&self) -> Option<Instant> {
        let used = self.host.used()?;
        used.checked_add(self.settings.idle_timeout)
    }

    fn is_used(&self, now: Instant) -> bool {
        self.expires().is_some_and(|at| at > now)
    }
}

impl OverrideHost {
    /// Over the policy that picks where no session does.
    #[must_use]
    pub fn new(child: Box<dyn LoadBalancer>) -> Self {
        Self {
            child: Child::new(child),
            entries: HashMap::new(),
            table: None,
            sweep: None,
        }
    }

    /// Lets the policy below take a step, and holds what sessions need.
    fn step(
        &mut self,
        now: Instant,
        out: &mut Actions,
        step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions),
    ) {
        let mut actions = Actions::new();
        let mut changed = self.child.step(&mut actions, step);
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Connect(id) => {
                    if let Some(state) = self.take_over(id) {
                        let mut more = Actions::new();
                        changed |= self.child.step(&mut more, |b, out| {
                            b.subchannel_changed(now, id, &state, out);
                        });
                        queue.extend(more);
                    }
                    out.push(Action::Connect(id));
                }
                Action::Close(id) => changed |= self.given_up(now, id, out),
                Action::Changed => changed = true,
            }
        }
        if changed {
            out.push(Action::Changed);
        }
    }

    /// The policy below wants a connection. The state to tell it of, if it has not heard.
    fn take_over(&mut self, id: SubchannelId) -> Option<Connectivity> {
        let entry = self.entries.get_mut(&id)?;
        let unheard = std::mem::take(&mut entry.ours) && entry.state != Connectivity::Idle;
        unheard.then(|| entry.state.clone())
    }

    /// The policy below gives a connection up: it is closed unless sessions need it. Answers
    /// whether calls have to pick again.
    fn given_up(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else {
            out.push(Action::Close(id));
            return false;
        };
        if entry.is_alive() && entry.is_used(now) {
            entry.ours = true;
            self.plan_sweep(now, id);
            return false;
        }
        out.push(Action::Close(id));
        entry.follow(&Connectivity::Idle)
    }

    /// Looks at this connection again when its time may be over.
    fn plan_sweep(&mut self, now: Instant, id: SubchannelId) {
        let entry = self.entries.get(&id);
        let Some(expires) = entry.and_then(Entry::expires) else {
            return;
        };
        let at = expires.max(now + SWEEP_FLOOR);
        self.sweep = Some(self.sweep.map_or(at, |sweep| sweep.min(at)));
    }

    /// Closes what sessions no longer need.
    fn sweep(&mut self, now: Instant, out: &mut Actions) {
        let mut next = None::<Instant>;
        let mut again = false;
        for (id, entry) in &mut self.entries {
            if !entry.ours || !entry.is_alive() {
                continue;
            }
            match entry.expires().filter(|at| *at > now) {
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None => {
                    out.push(Action::Close(*id));
                    entry.ours = entry.settings.draining;
                    again |= entry.follow(&Connectivity::Idle);
                }
            }
        }
        self.sweep = next.map(|at| at.max(now + SWEEP_FLOOR));
        if again {
            out.push(Action::Changed);
        }
    }

    /// Takes over which endpoints take sessions. Answers whether calls have to pick again.
    fn follow(&mut self, now: Instant, endpoints: &[Endpoint], out: &mut Actions) -> bool {
        let mut old = std::mem::take(&mut self.entries);
        let mut kept = Vec::new();
        let mut again = false;
        for endpoint in endpoints {
            let (id, before) = (endpoint.id, old.remove(&endpoint.id));
            match (&endpoint.session, before) {
                (Some(settings), Some(mut entry)) => {
                    let begins = settings.draining && !entry.settings.draining;
                    entry.settings = Arc::clone(settings);
                    if begins {
                        // The policy below forgets it with this update.
                        entry.ours = true;
                        if entry.is_alive() && !entry.is_used(now) {
                            out.push(Action::Close(id));
                            again |= entry.follow(&Connectivity::Idle);
                        }
                        kept.push(id);
                    }
                    self.entries.insert(id, entry);
                }
                (Some(settings), None) => {
                    self.entries.insert(id, Entry::new(id, now, settings));
                }
                // Sessions lead there no more, and nothing else needs the connection.
                (None, Some(entry)) if entry.ours && entry.is_alive() => {
                    out.push(Action::Close(id));
                }
                (None, _) => {}
            }
        }
        for id in kept {
            self.plan_sweep(now, id);
        }
        let fits = self
            .table
            .as_ref()
            .map_or(self.entries.is_empty(), |table| {
                !self.entries.is_empty() && table.is_of(&self.entries)
            });
        if !fits {
            let any = !self.entries.is_empty();
            self.table = any.then(|| Arc::new(Table::new(endpoints, &self.entries)));
        }
        again || !fits
    }
}

impl LoadBalancer for OverrideHost {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        if self.follow(now, endpoints, out) {
            out.push(Action::Changed);
        }
        let draining = |e: &Endpoint| e.session.as_ref().is_some_and(|s| s.draining);
        if endpoints.iter().any(draining) {
            let others = endpoints.iter().filter(|e| !draining(e));
            let others: Vec<_> = others.cloned().collect();
            self.step(now, out, |b, out| b.update(now, &others, error, out));
        } else {
            self.step(now, out, |b, out| b.update(now, endpoints, error, out));
        }
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        let ours = match self.entries.get_mut(&id) {
            None => false,
            Some(entry) => {
                let before = std::mem::replace(&mut entry.state, state.clone());
                let ours = entry.ours;
                if ours && before == Connectivity::Idle && *state == Connectivity::Ready {
                    // It was connected before there was this policy, for whomever.
                    entry.host.use_at(now);
                }
                if entry.follow(state) {
                    out.push(Action::Changed);
                }
                if *state == Connectivity::Idle {
                    // Whoever wants it back asks for it.
                    entry.ours = entry.settings.draining;
                } else if ours && entry.is_alive() && !entry.is_used(now) {
                    // A try of the policy below that was forgotten, and that nobody wants.
                    out.push(Action::Close(id));
                    if entry.follow(&Connectivity::Idle) {
                        out.push(Action::Changed);
                    }
                }
                ours
            }
        };
        if ours {
            self.plan_sweep(now, id);
        } else {
            self.step(now, out, |b, out| b.subchannel_changed(now, id, state, out));
        }
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return self.step(now, out, |b, out| b.connect_requested(now, id, out));
        };
        let asked = entry.host.asked.fetch_and(!BY_POLICY, Ordering::SeqCst);
        if asked & BY_SESSION != 0 && entry.state == Connectivity::Idle {
            entry.ours = true;
            entry.host.use_at(now);
            out.push(Action::Connect(id));
        }
        // Pickers of before the first session note nothing: then it was the policy below.
        if asked & BY_POLICY != 0 || asked == 0 {
            self.step(now, out, |b, out| b.connect_requested(now, id, out));
        }
    }

    fn noticed(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.step(now, out, |b, out| b.noticed(now, id, out));
    }

    fn next_timeout(&self) -> Option<Instant> {
        let child = self.child.balancer().next_timeout();
        child.into_iter().chain(self.sweep).min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        if self.sweep.is_some_and(|at| at <= now) {
            self.sweep(now, out);
        }
        let child = self.child.balancer().next_timeout();
        if child.is_some_and(|at| at <= now) {
            self.step(now, out, |b, out| b.handle_timeout(now, out));
        }
    }

    fn connectivity(&self) -> Connectivity {
        self.child.connectivity()
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        let below = self.child.standing(id);
        match self.entries.get(&id) {
            Some(entry) if entry.settings.draining => Standing {
                passed_over: Some("it is draining: only its sessions go there".into()),
                ..below
            },
            _ => below,
        }
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        let below = self.child.picker();
        match &self.table {
            None => below,
            Some(table) => Arc::new(ByHost {
                table: Arc::clone(table),
                below,
            }),
        }
    }
}

/// Hosts by their addresses and by their ids.
#[derive(Debug)]
struct Table {
    by_address: HashMap<Box<str>, Arc<Host>>,
    by_id: Box<[Option<Arc<Host>>]>,
    /// What it was made of.
    settings: HashMap<SubchannelId, Arc<SessionHost>>,
}

impl Table {
    fn new(endpoints: &[Endpoint], entries: &HashMap<SubchannelId, Entry>) -> Self {
        let last = entries.keys().map(|id| id.0 as usize + 1).max();
        let mut by_id = vec![None; last.unwrap_or(0)];
        let mut by_address = HashMap::new();
        // In the order of the control plane: an address that is there twice means the first.
        for endpoint in endpoints {
            let Some(entry) = entries.get(&endpoint.id) else {
                continue;
            };
            by_id[endpoint.id.0 as usize] = Some(Arc::clone(&entry.host));
            for address in entry.settings.hosts.split(',') {
                let host = || Arc::clone(&entry.host);
                by_address.entry(address.into()).or_insert_with(host);
            }
        }
        let settings = entries.iter();
        Self {
            by_address,
            by_id: by_id.into(),
            settings: settings
                .map(|(id, entry)| (*id, Arc::clone(&entry.settings)))
                .collect(),
        }
    }

    /// Whether these entries would make the same table.
    fn is_of(&self, entries: &HashMap<SubchannelId, Entry>) -> bool {
        let same = |(id, entry): (&SubchannelId, &Entry)| {
            let host = self.host(*id);
            host.is_some_and(|host| Arc::ptr_eq(host, &entry.host))
                && self.settings.get(id) == Some(&entry.settings)
        };
        self.settings.len() == entries.len() && entries.iter().all(same)
    }

    fn host(&self, id: SubchannelId) -> Option<&Arc<Host>> {
        self.by_id.get(id.0 as usize)?.as_ref()
    }

    /// Where the session is; `None`: nowhere that can take the call.
    fn pick(&self, session: &Sticky<'_>) -> Option<Pick<'static>> {
        let mut waiting = None;
        for address in session.hosts.split(',').take(MOST_HOSTS) {
            let Some(host) = self.by_address.get(address) else {
                continue;
            };
            match (host.ask(), waiting) {
                (READY, _) => {
                    host.use_at(session.now);
                    return Some(Pick::Ready(host.id));
                }
                (IDLE, None | Some(Pick::Queue)) => waiting = Some(Pick::Connect(host.id)),
                (CONNECTING, None) => waiting = Some(Pick::Queue),
                _ => {}
            }
        }
        waiting
    }
}

/// Sessions first, then the policy below.
#[derive(Debug)]
struct ByHost {
    table: Arc<Table>,
    below: Arc<dyn Picker>,
}

impl Picker for ByHost {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        if let Some(session) = &call.session
            && let Some(pick) = self.table.pick(session)
        {
            return pick;
        }
        let pick = self.below.pick(call);
        match (pick, &call.session) {
            (Pick::Ready(id), Some(session)) => {
                if let Some(host) = self.table.host(id) {
                    host.use_at(session.now);
                }
            }
            (Pick::Connect(id), _) => {
                if let Some(host) = self.table.host(id) {
                    host.asked.fetch_or(BY_POLICY, Ordering::SeqCst);
                }
            }
            _ => {}
        }
        pick
    }

    fn admits(&self, call: &Call<'_>, id: SubchannelId) -> bool {
        self.below.admits(call, id)
    }

    fn explain(&self, call: &Call<'_>) -> Option<String> {
        self.below.explain(call)
    }
}

#[cfg(test)]
mod tests;
