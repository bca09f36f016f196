//! What a process wants to be told, said when its mesh is made.

use std::fmt;
use std::sync::Arc;

use super::{CallSink, Exporter};

type Filter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Options of [`MeshBuilder::telemetry`](crate::MeshBuilder::telemetry).
#[derive(Clone, Default)]
pub struct TelemetryOptions {
    pub(super) exporters: Vec<Arc<dyn Exporter>>,
    pub(super) sinks: Vec<Arc<dyn CallSink>>,
    methods: Option<Filter>,
    targets: Option<Filter>,
}

impl TelemetryOptions {
    /// Sends every measurement there too, such as to an OpenTelemetry meter. May be said more
    /// than once.
    #[must_use]
    pub fn exporter(mut self, exporter: Arc<dyn Exporter>) -> Self {
        self.exporters.push(exporter);
        self
    }

    /// Tells every call's events there. May be said more than once.
    #[must_use]
    pub fn sink(mut self, sink: Arc<dyn CallSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Which methods that no generated client and no registered service names are counted under
    /// their own name (`package.Service/Method`) all the same. Default: none, they count as
    /// `other` (A66), so that a peer cannot make up series. At most 1,000 are taken.
    #[must_use]
    pub fn record_method(mut self, wanted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.methods = Some(Arc::new(wanted));
        self
    }

    /// Which targets are counted under their own name; the others count as `other`. Default: all
    /// (A66).
    #[must_use]
    pub fn record_target(mut self, wanted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.targets = Some(Arc::new(wanted));
        self
    }

    pub(super) fn records_method(&self, method: &str) -> bool {
        self.methods.as_ref().is_some_and(|wanted| wanted(method))
    }

    pub(super) fn target_label<'a>(&self, target: &'a str) -> &'a str {
        match &self.targets {
            Some(wanted) if !wanted(target) => super::known::OTHER,
            _ => target,
        }
    }
}

impl fmt::Debug for TelemetryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelemetryOptions")
            .field("exporters", &self.exporters)
            .field("sinks", &self.sinks)
            .finish_non_exhaustive()
    }
}
