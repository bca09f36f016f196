//! The metrics of calls to this process's servers: cells by method and status.
//!
//! tonic does not say which methods a service has. So a method of a registered service counts
//! under its own name once a handler has begun a reply to it: a made-up one only ever gets a bare
//! status. Until then it counts as `other`, and so does what nobody registered (A66).

use std::sync::Arc;
use std::time::Duration;

use super::cells::{Count, Histogram, PerStatus};
use super::client_cells::nanos;
use super::instruments::{
    Instrument, SERVER_CALL_DURATION, SERVER_CALL_RCVD, SERVER_CALL_SENT, SERVER_CALL_STARTED,
};
use super::known::{Known, OTHER};
use super::{Reading, Shared};

/// Of all servers of a mesh.
#[derive(Debug)]
pub(crate) struct ServerCells {
    pub(super) shared: Arc<Shared>,
    known: Known<ServerMethod>,
    other: Arc<ServerMethod>,
}

/// What a server has registered.
#[derive(Debug, Clone)]
pub(crate) enum Services {
    /// The names of its services.
    Named(Vec<&'static str>),
    /// It was given routes as a whole.
    Any,
}

impl Services {
    /// Whether a path may be a method of one of them.
    fn has(&self, path: &str) -> bool {
        let Some((service, _method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
        else {
            return false;
        };
        match self {
            Self::Named(names) => names.contains(&service),
            Self::Any => true,
        }
    }
}

impl ServerCells {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            other: Arc::new(ServerMethod::new(OTHER, &shared)),
            shared,
            known: Known::default(),
        }
    }

    /// Whether calls are observed: one relaxed load.
    pub(crate) fn on(&self) -> bool {
        self.shared.on()
    }

    /// The cells of a path that is known to be a method, or wanted by the user.
    pub(super) fn find(&self, path: &str) -> Option<Arc<ServerMethod>> {
        self.known.get(path).or_else(|| {
            let wanted = self.shared.options.records_method(name(path));
            wanted.then(|| self.learn(path))?
        })
    }

    /// A handler has begun a reply.
    pub(super) fn begun(&self, path: &str, services: &Services) -> Option<Arc<ServerMethod>> {
        services.has(path).then(|| self.learn(path))?
    }

    fn learn(&self, path: &str) -> Option<Arc<ServerMethod>> {
        self.known.learn(path, || {
            Arc::new(ServerMethod::new(name(path), &self.shared))
        })
    }

    pub(super) fn other(&self) -> &Arc<ServerMethod> {
        &self.other
    }

    pub(super) fn read(
        &self,
        instrument: &'static Instrument,
        show: &mut impl FnMut(&[&str], Reading<'_>),
    ) {
        for method in self.known.all() {
            method.read(instrument, show);
        }
        self.other.read(instrument, show);
    }
}

fn name(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

/// Of one method.
#[derive(Debug)]
pub(super) struct ServerMethod {
    shared: Arc<Shared>,
    name: Box<str>,
    started: Count,
    ended: PerStatus<CallEnded>,
}

#[derive(Debug)]
struct CallEnded {
    duration: Histogram,
    sent: Histogram,
    received: Histogram,
}

impl ServerMethod {
    fn new(name: &str, shared: &Arc<Shared>) -> Self {
        Self {
            name: name.into(),
            started: shared.count(&SERVER_CALL_STARTED, &[name]),
            ended: PerStatus::default(),
            shared: Arc::clone(shared),
        }
    }

    pub(super) fn started(&self) {
        self.started.add_one();
    }

    pub(super) fn ended(&self, code: u32, duration: Duration, sent: u64, received: u64) {
        let cells = self.ended.get(code, |status| {
            let labels = [&*self.name, status];
            CallEnded {
                duration: self.shared.histogram(&SERVER_CALL_DURATION, &labels),
                sent: self.shared.histogram(&SERVER_CALL_SENT, &labels),
                received: self.shared.histogram(&SERVER_CALL_RCVD, &labels),
            }
        });
        cells.duration.record(nanos(duration));
        cells.sent.record(sent);
        cells.received.record(received);
    }

    fn read(&self, instrument: &'static Instrument, show: &mut impl FnMut(&[&str], Reading<'_>)) {
        let name = instrument.name;
        if name == SERVER_CALL_STARTED.name {
            let started = self.started.get();
            if started > 0 {
                let started = started.try_into().unwrap_or(i64::MAX);
                show(&[&self.name], Reading::Number(started));
            }
            return;
        }
        for (status, ended) in self.ended.each() {
            let of = [
                (&SERVER_CALL_DURATION, &ended.duration),
                (&SERVER_CALL_SENT, &ended.sent),
                (&SERVER_CALL_RCVD, &ended.received),
            ];
            if let Some((_, cell)) = of.into_iter().find(|(of, _)| of.name == name) {
                show(&[&*self.name, status], Reading::Histogram(cell));
            }
        }
    }
}
