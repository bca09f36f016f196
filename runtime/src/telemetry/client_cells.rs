//! The metrics of calls to one target: cells by method, status and backend.
//!
//! A call finds its method's cells once, by the addresses of the names that its generated client
//! put into the request; no text is hashed or compared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tonic::GrpcMethod;

use super::backend::Backend;
use super::cells::{Count, Histogram, PerStatus};
use super::instruments::{
    CLIENT_ATTEMPT_DURATION, CLIENT_ATTEMPT_RCVD, CLIENT_ATTEMPT_SENT, CLIENT_ATTEMPT_STARTED,
    CLIENT_CALL_DURATION, CLIENT_CALL_RETRIES, CLIENT_CALL_RETRY_DELAY,
    CLIENT_CALL_TRANSPARENT_RETRIES, Instrument,
};
use super::known::{Known, OTHER};
use super::{Reading, Shared, lock};

/// Of one target.
#[derive(Debug)]
pub(crate) struct ClientCells {
    pub(super) shared: Arc<Shared>,
    pub(super) target: Arc<str>,
    /// By the addresses of their names, ascending.
    registered: ArcSwap<Vec<(Names, Arc<ClientMethod>)>>,
    /// By their text; several addresses may have the same one.
    by_text: Mutex<BTreeMap<Box<str>, Arc<ClientMethod>>>,
    /// Taken by [`TelemetryOptions::record_method`](super::TelemetryOptions::record_method).
    generic: Known<ClientMethod>,
    other: Arc<ClientMethod>,
}

/// Where a generated client's service and method name are: both live as long as the program.
type Names = [usize; 4];

fn names(method: &GrpcMethod<'static>) -> Names {
    let (service, method) = (method.service(), method.method());
    [
        service.as_ptr() as usize,
        service.len(),
        method.as_ptr() as usize,
        method.len(),
    ]
}

impl ClientCells {
    pub(super) fn new(shared: Arc<Shared>, target: &str) -> Self {
        let target = Arc::from(target);
        Self {
            other: Arc::new(ClientMethod::new(OTHER, &target, &shared)),
            shared,
            target,
            registered: ArcSwap::default(),
            by_text: Mutex::default(),
            generic: Known::default(),
        }
    }

    /// Whether calls are observed: one relaxed load.
    pub(crate) fn on(&self) -> bool {
        self.shared.on()
    }

    /// The cells of a call's method.
    pub(super) fn method(
        &self,
        registered: Option<&GrpcMethod<'static>>,
        path: &str,
    ) -> Arc<ClientMethod> {
        let Some(method) = registered else {
            return self.generic(path);
        };
        let names = names(method);
        let table = self.registered.load();
        match table.binary_search_by_key(&names, |(names, _)| *names) {
            Ok(at) => Arc::clone(&table[at].1),
            Err(_) => self.register(names, method),
        }
    }

    /// The first call of a method by a client.
    #[cold]
    fn register(&self, names: Names, method: &GrpcMethod<'static>) -> Arc<ClientMethod> {
        let name = format!("{}/{}", method.service(), method.method());
        let mut by_text = lock(&self.by_text);
        let cells = by_text
            .entry(name.into())
            .or_insert_with_key(|name| self.make(name));
        let cells = Arc::clone(cells);
        // Still under the lock: two first calls at once must not lose one of them.
        let mut table = Vec::clone(&self.registered.load());
        if let Err(at) = table.binary_search_by_key(&names, |(names, _)| *names) {
            table.insert(at, (names, Arc::clone(&cells)));
            self.registered.store(Arc::new(table));
        }
        cells
    }

    fn generic(&self, path: &str) -> Arc<ClientMethod> {
        let name = path.strip_prefix('/').unwrap_or(path);
        let known = self.generic.get(name);
        let cells = known.or_else(|| {
            let wanted = self.shared.options.records_method(name);
            wanted.then(|| self.generic.learn(name, || self.make(name)))?
        });
        cells.unwrap_or_else(|| Arc::clone(&self.other))
    }

    fn make(&self, name: &str) -> Arc<ClientMethod> {
        Arc::new(ClientMethod::new(name, &self.target, &self.shared))
    }

    pub(super) fn read(
        &self,
        instrument: &'static Instrument,
        show: &mut impl FnMut(&[&str], Reading<'_>),
    ) {
        let mut methods: Vec<_> = lock(&self.by_text).values().cloned().collect();
        methods.extend(self.generic.all());
        methods.push(Arc::clone(&self.other));
        for method in methods {
            method.read(instrument, show);
        }
    }
}

/// Of one method at one target.
#[derive(Debug)]
pub(super) struct ClientMethod {
    shared: Arc<Shared>,
    pub(super) name: Box<str>,
    target: Arc<str>,
    attempts_started: Count,
    call_duration: PerStatus<Histogram>,
    retries: Histogram,
    transparent_retries: Histogram,
    retry_delay: Histogram,
    /// By the number of the backend, ascending.
    attempts: ArcSwap<Vec<Arc<AttemptCells>>>,
    writing: Mutex<()>,
}

/// Of the attempts of one method that went to one backend.
#[derive(Debug)]
struct AttemptCells {
    backend: Arc<Backend>,
    ended: PerStatus<AttemptEnded>,
}

#[derive(Debug)]
struct AttemptEnded {
    duration: Histogram,
    sent: Histogram,
    received: Histogram,
}

/// What is counted of an attempt.
pub(super) struct AttemptFigures {
    pub(super) code: u32,
    pub(super) duration: Duration,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl ClientMethod {
    fn new(name: &str, target: &Arc<str>, shared: &Arc<Shared>) -> Self {
        let labels = [name, &**target];
        Self {
            name: name.into(),
            target: Arc::clone(target),
            attempts_started: shared.count(&CLIENT_ATTEMPT_STARTED, &labels),
            call_duration: PerStatus::default(),
            retries: shared.histogram(&CLIENT_CALL_RETRIES, &labels),
            transparent_retries: shared.histogram(&CLIENT_CALL_TRANSPARENT_RETRIES, &labels),
            retry_delay: shared.histogram(&CLIENT_CALL_RETRY_DELAY, &labels),
            attempts: ArcSwap::default(),
            writing: Mutex::new(()),
            shared: Arc::clone(shared),
        }
    }

    pub(super) fn attempt_started(&self) {
        self.attempts_started.add_one();
    }

    pub(super) fn attempt_ended(&self, backend: &Arc<Backend>, figures: &AttemptFigures) {
        let table = self.attempts.load();
        let known = table.binary_search_by_key(&backend.id, |cells| cells.backend.id);
        match known {
            Ok(at) => self.record(&table[at], figures),
            Err(_) => self.record(&self.add_backend(backend), figures),
        }
    }

    fn record(&self, cells: &AttemptCells, figures: &AttemptFigures) {
        let ended = cells.ended.get(figures.code, |status| {
            let backend = &cells.backend;
            let labels = [
                &*self.name,
                &*self.target,
                status,
                backend.locality(),
                backend.service(),
            ];
            AttemptEnded {
                duration: self.shared.histogram(&CLIENT_ATTEMPT_DURATION, &labels),
                sent: self.shared.histogram(&CLIENT_ATTEMPT_SENT, &labels),
                received: self.shared.histogram(&CLIENT_ATTEMPT_RCVD, &labels),
            }
        });
        ended.duration.record(nanos(figures.duration));
        ended.sent.record(figures.sent);
        ended.received.record(figures.received);
    }

    #[cold]
    fn add_backend(&self, backend: &Arc<Backend>) -> Arc<AttemptCells> {
        let _one_at_a_time = lock(&self.writing);
        let mut table = Vec::clone(&self.attempts.load());
        match table.binary_search_by_key(&backend.id, |cells| cells.backend.id) {
            Ok(at) => Arc::clone(&table[at]),
            Err(at) => {
                let cells = Arc::new(AttemptCells {
                    backend: Arc::clone(backend),
                    ended: PerStatus::default(),
                });
                table.insert(at, Arc::clone(&cells));
                self.attempts.store(Arc::new(table));
                cells
            }
        }
    }

    pub(super) fn call_ended(&self, code: u32, duration: Duration) {
        let cell = self.call_duration.get(code, |status| {
            let labels = [&*self.name, &*self.target, status];
            self.shared.histogram(&CLIENT_CALL_DURATION, &labels)
        });
        cell.record(nanos(duration));
    }

    pub(super) fn retried(&self, retries: u32, transparent: u32, delay: Duration) {
        if retries > 0 {
            self.retries.record(retries.into());
        }
        if transparent > 0 {
            self.transparent_retries.record(transparent.into());
        }
        self.retry_delay.record(nanos(delay));
    }

    fn read(&self, instrument: &'static Instrument, show: &mut impl FnMut(&[&str], Reading<'_>)) {
        let labels = [&*self.name, &*self.target];
        let name = instrument.name;
        if name == CLIENT_ATTEMPT_STARTED.name {
            let started = self.attempts_started.get();
            if started > 0 {
                show(
                    &labels,
                    Reading::Number(started.try_into().unwrap_or(i64::MAX)),
                );
            }
        } else if name == CLIENT_CALL_DURATION.name {
            for (status, cell) in self.call_duration.each() {
                show(&[labels[0], labels[1], status], Reading::Histogram(cell));
            }
        } else if let Some(cell) = self.retry_cell(name) {
            if cell.counts().iter().any(|n| *n > 0) {
                show(&labels, Reading::Histogram(cell));
            }
        } else {
            self.read_attempts(name, show);
        }
    }

    fn retry_cell(&self, name: &str) -> Option<&Histogram> {
        let cells = [
            (&CLIENT_CALL_RETRIES, &self.retries),
            (&CLIENT_CALL_TRANSPARENT_RETRIES, &self.transparent_retries),
            (&CLIENT_CALL_RETRY_DELAY, &self.retry_delay),
        ];
        let found = cells.into_iter().find(|(of, _)| of.name == name);
        found.map(|(_, cell)| cell)
    }

    fn read_attempts(&self, name: &str, show: &mut impl FnMut(&[&str], Reading<'_>)) {
        for cells in &**self.attempts.load() {
            let backend = &cells.backend;
            for (status, ended) in cells.ended.each() {
                let of = [
                    (&CLIENT_ATTEMPT_DURATION, &ended.duration),
                    (&CLIENT_ATTEMPT_SENT, &ended.sent),
                    (&CLIENT_ATTEMPT_RCVD, &ended.received),
                ];
                let Some((_, cell)) = of.into_iter().find(|(of, _)| of.name == name) else {
                    return;
                };
                let labels = [
                    &*self.name,
                    &*self.target,
                    status,
                    backend.locality(),
                    backend.service(),
                ];
                show(&labels, Reading::Histogram(cell));
            }
        }
    }
}

/// Whole nanoseconds: 584 years fit.
pub(super) fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}
