//! What a process tells of its calls and of itself: metrics under gRPC's names, and the events
//! that spans and access logs hang on.
//!
//! ```text
//!   channel ── client::ClientCall ──┐  per call, one box          ┌─ prometheus_text()
//!   server  ── server::ServerCall ──┼─> cells (relaxed atomics) ──┤
//!   control ── add / set ───────────┘          │                  └─ Exporter (OpenTelemetry)
//!                   └─> CallSink (spans, access log), if any is installed
//! ```
//!
//! Off by default: then a call costs one relaxed load and a branch. Switch it on when the mesh is
//! made, or any time later:
//!
//! ```
//! use sidestep::{Mesh, telemetry::TelemetryOptions};
//!
//! # fn main() -> Result<(), sidestep::BuildError> {
//! let mesh = Mesh::builder().telemetry(TelemetryOptions::default()).build()?;
//! let text = mesh.telemetry().prometheus_text(); // what a /metrics page answers
//! # assert!(text.ends_with("# EOF\n"));
//! # Ok(())
//! # }
//! ```
//!
//! Names, labels, units and buckets
//! are those of gRFC A66, A78, A89, A94 and A96; see [`instruments`].
//!
//! Adding an instrument is one line in `instruments.rs`; adding a sink is one file that
//! implements [`CallSink`].

pub mod access_log;
mod backend;
mod cells;
pub(crate) mod client;
mod client_cells;
mod events;
pub mod instruments;
mod known;
pub(crate) mod messages;
mod options;
#[cfg(feature = "opentelemetry")]
pub mod otel;
mod prometheus;

mod registry;
pub(crate) mod server;
mod server_cells;
pub mod trace_context;
#[cfg(feature = "opentelemetry")]
mod trace_spans;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sidestep_proto::resource::Locality;

pub use backend::Backend;
pub use cells::{Exporter, Histogram, STATUS_NAMES, Series};
pub use events::{
    AttemptEnd, AttemptKind, CallSink, ClientEnd, ClientEvents, ClientStart, Picked, Refusal,
    ServerEnd, ServerEvents, ServerStart,
};
pub use messages::Passed;
pub use options::TelemetryOptions;

use backend::Backends;
use cells::{Also, Count};
use client_cells::ClientCells;
use instruments::{Buckets, Instrument, Kind};
use registry::Registry;
use server_cells::ServerCells;

/// All that one [`Mesh`](crate::Mesh) counts. `Send + Sync`; shared by an `Arc`.
#[derive(Debug)]
pub struct Telemetry {
    shared: Arc<Shared>,
    clients: Mutex<BTreeMap<Box<str>, Arc<ClientCells>>>,
    servers: Arc<ServerCells>,
    registry: Registry,
    backends: Backends,
}

/// What every cell and call refers to.
#[derive(Debug)]
pub(crate) struct Shared {
    on: AtomicBool,
    options: TelemetryOptions,
}

impl Shared {
    pub(crate) fn on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    fn sinks(&self) -> &[Arc<dyn CallSink>] {
        &self.options.sinks
    }

    fn series(&self, instrument: &'static Instrument, labels: &[&str]) -> Also {
        let exporters = self.options.exporters.iter();
        exporters
            .map(|exporter| exporter.series(instrument, labels))
            .collect()
    }

    fn count(&self, instrument: &'static Instrument, labels: &[&str]) -> Count {
        Count::new(self.series(instrument, labels))
    }

    fn histogram(&self, instrument: &'static Instrument, labels: &[&str]) -> Histogram {
        Histogram::new(buckets(instrument), self.series(instrument, labels))
    }
}

fn buckets(instrument: &Instrument) -> &'static Buckets {
    match instrument.kind {
        Kind::Histogram(buckets) => buckets,
        _ => unreachable!("{} is made as a histogram here only", instrument.name),
    }
}

/// What one series has to say.
#[derive(Debug, Clone, Copy)]
pub enum Reading<'a> {
    /// Of a counter or gauge.
    Number(i64),
    /// Of a histogram.
    Histogram(&'a Histogram),
}

impl Telemetry {
    pub(crate) fn new(options: Option<TelemetryOptions>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            on: AtomicBool::new(options.is_some()),
            options: options.unwrap_or_default(),
        });
        Arc::new(Self {
            servers: Arc::new(ServerCells::new(Arc::clone(&shared))),
            clients: Mutex::default(),
            registry: Registry::default(),
            backends: Backends::default(),
            shared,
        })
    }

    /// Whether calls are observed: one relaxed load.
    #[must_use]
    pub fn on(&self) -> bool {
        self.shared.on()
    }

    /// Observes calls from now on. Calls under way stay unobserved.
    pub fn turn_on(&self) {
        self.shared.on.store(true, Ordering::Relaxed);
    }

    /// Observes no new calls. What was counted stays.
    pub fn turn_off(&self) {
        self.shared.on.store(false, Ordering::Relaxed);
    }

    /// Adds to a counter or an up-down counter, with a value for each of the instrument's
    /// labels. For what happens now and then: it takes a lock. Counts also while telemetry is
    /// off, so that what rises and falls is right when it is switched on.
    pub fn add(&self, instrument: &'static Instrument, labels: &[&str], n: i64) {
        self.registry.add(&self.shared, instrument, labels, n);
    }

    /// Sets a gauge, with a value for each of the instrument's labels. As [`Telemetry::add`].
    pub fn set(&self, instrument: &'static Instrument, labels: &[&str], value: i64) {
        self.registry.set(&self.shared, instrument, labels, value);
    }

    /// Drops a series whose subject is gone, so that it is exported no more.
    pub fn forget(&self, instrument: &'static Instrument, labels: &[&str]) {
        self.registry.forget(instrument, labels);
    }

    /// Shows each series of an instrument: its label values, in the order of
    /// [`Instrument::labels`], and its reading. `show` must not call the telemetry: it may be
    /// called under a lock.
    pub fn read(
        &self,
        instrument: &'static Instrument,
        mut show: impl FnMut(&[&str], Reading<'_>),
    ) {
        self.registry.read(instrument, &mut show);
        for client in lock(&self.clients).values() {
            client.read(instrument, &mut show);
        }
        self.servers.read(instrument, &mut show);
    }

    /// The media type of [`Telemetry::prometheus_text`].
    pub const PROMETHEUS_CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The metrics as a Prometheus server scrapes them: OpenMetrics text, ending in `# EOF`.
    /// Families without a series are left out. An application with a `prometheus_client` registry
    /// of its own registers the telemetry there instead: it is a `Collector`.
    #[must_use]
    pub fn prometheus_text(self: &Arc<Self>) -> String {
        prometheus::text(self)
    }

    /// The cells of the calls to a target, by the canonical form of it.
    pub(crate) fn client(&self, target: &str) -> Arc<ClientCells> {
        let label = self.shared.options.target_label(target);
        let mut clients = lock(&self.clients);
        if let Some(known) = clients.get(label) {
            return Arc::clone(known);
        }
        let cells = Arc::new(ClientCells::new(Arc::clone(&self.shared), label));
        clients.insert(label.into(), Arc::clone(&cells));
        cells
    }

    /// `grpc.target` of a target, by the canonical form of it.
    pub(crate) fn target_label(&self, target: &str) -> Arc<str> {
        self.shared.options.target_label(target).into()
    }

    pub(crate) fn server(&self) -> &Arc<ServerCells> {
        &self.servers
    }

    /// A cluster and a locality of it, as attempts are labelled with. The same two give the same
    /// value.
    pub(crate) fn backend(&self, service: &str, locality: Option<&Locality>) -> Arc<Backend> {
        self.backends.get(service, locality)
    }
}

/// A poisoned lock is taken: all that is done under it is a map's insertion or look-up.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
