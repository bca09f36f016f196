//! A source whose meshes have living endpoint sources: follows both.
//!
//! ```text
//!   inner source ── mesh ──┐
//!                          ├─> compile ─> Configuration
//!   endpoint sources ──> Board ┘
//! ```
//!
//! An edit that names new endpoint sources waits for their first answers, for a while; so a service
//! that moves from one source to another is never empty in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use sidestep_proto::code;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::endpoints::state::{Board, SourceState};
use super::endpoints::{LookOptions, SourceId};
use super::{Configuration, LivingMesh, Source, SourceError};
use crate::compile::ResolvedEndpoints;
use crate::model::{Diagnostic, Service, Severity};
use crate::snapshot::Snapshot;

/// A source and the endpoint sources of the mesh that it gives.
pub(crate) struct Living {
    inner: Box<dyn Source>,
    /// The inner source has no further change.
    ended: bool,
    options: LookOptions,
    board: Board,
    changes: watch::Receiver<BTreeMap<SourceId, SourceState>>,
    running: BTreeMap<SourceId, Asking>,
    /// An edit whose sources may not have answered yet, and until when it waits for them.
    fresh: Option<(Arc<LivingMesh>, Instant)>,
    /// The mesh in use and the endpoints that it was last compiled with.
    current: Option<(Arc<LivingMesh>, ResolvedEndpoints)>,
}

/// A task that asks one source.
struct Asking(AbortHandle);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Living {
    pub(crate) fn new(inner: Box<dyn Source>, options: LookOptions, board: Board) -> Self {
        Self {
            inner,
            ended: false,
            options,
            changes: board.watch(),
            board,
            running: BTreeMap::new(),
            fresh: None,
            current: None,
        }
    }

    async fn changed(&mut self) -> Option<Result<Configuration, SourceError>> {
        loop {
            if let Some(taken) = self.take_fresh().await {
                return Some(taken);
            }
            if let Some(refreshed) = self.refreshed() {
                return Some(refreshed);
            }
            if self.ended && self.current.is_none() {
                return None;
            }
            tokio::select! {
                biased;
                next = self.inner.next(), if !self.ended => match next {
                    None => self.ended = true,
                    Some(Ok(Configuration { living: Some(mesh), .. })) => self.adopt(mesh),
                    Some(Ok(fixed)) => {
                        self.forget();
                        return Some(Ok(fixed));
                    }
                    Some(Err(error)) => return Some(Err(error)),
                },
                // The board lives as long as this does.
                _ = self.changes.changed() => {}
            }
        }
    }

    /// Begins to ask the sources of a mesh. Those in use go on until it is in force.
    fn adopt(&mut self, mesh: Arc<LivingMesh>) {
        for id in mesh.mesh.sources().into_keys() {
            if !self.running.contains_key(id) {
                self.board.open(id);
                let task = ask(id.clone(), self.options.clone(), self.board.clone());
                let asking = Asking(tokio::spawn(task).abort_handle());
                self.running.insert(id.clone(), asking);
            }
        }
        self.fresh = Some((mesh, Instant::now() + self.options.first_answer));
    }

    /// Compiles an edit once its sources have answered, or have had the time to.
    async fn take_fresh(&mut self) -> Option<Result<Configuration, SourceError>> {
        let (mesh, until) = self.fresh.clone()?;
        let answered = |sources: &BTreeMap<SourceId, SourceState>| {
            let looked = |id| sources.get(id).is_none_or(|state| state.looked);
            mesh.mesh.sources().into_keys().all(looked)
        };
        let wait = self.changes.wait_for(answered);
        // Out of time: what is missing is said in the warnings.
        let _ = tokio::time::timeout_at(until, wait).await.map(drop);
        self.fresh = None;
        let resolved = self.board.resolved(mesh.mesh.sources().into_keys());
        let taken = self.compile(&mesh, &resolved).and_then(|configuration| {
            Snapshot::check(&configuration.resources, configuration.references)?;
            Ok(configuration)
        });
        if taken.is_ok() {
            self.current = Some((mesh, resolved));
        }
        self.prune();
        Some(taken)
    }

    /// The mesh in use with the endpoints of now, if they have changed.
    fn refreshed(&mut self) -> Option<Result<Configuration, SourceError>> {
        let (mesh, before) = self.current.as_ref()?;
        let resolved = self.board.resolved(mesh.mesh.sources().into_keys());
        if resolved == *before {
            return None;
        }
        let mesh = Arc::clone(mesh);
        let refreshed = self.compile(&mesh, &resolved);
        self.current = Some((mesh, resolved));
        Some(refreshed.map(|configuration| Configuration {
            refresh: true,
            ..configuration
        }))
    }

    fn compile(
        &self,
        mesh: &LivingMesh,
        resolved: &ResolvedEndpoints,
    ) -> Result<Configuration, SourceError> {
        let mut configuration = Configuration::of(&mesh.mesh, mesh.warnings.clone(), resolved)?;
        let sources = self.board.sources();
        for (id, services) in mesh.mesh.sources() {
            let state = sources.get(id).cloned().unwrap_or_default();
            if state.endpoints.is_empty() {
                let warnings = services.iter().map(|service| without(service, &state));
                configuration.warnings.extend(warnings.flatten());
            }
        }
        Ok(configuration)
    }

    /// Ends the sources that the mesh in use does not name.
    fn prune(&mut self) {
        let mut used = BTreeMap::new();
        if let Some((mesh, _)) = &self.current {
            for (id, services) in mesh.mesh.sources() {
                let names = services.iter().map(|service| service.name.clone());
                used.insert(id.clone(), names.collect());
            }
        }
        self.running.retain(|id, _| used.contains_key(id));
        self.board.keep(&used);
    }

    /// The newest configuration has no living sources.
    fn forget(&mut self) {
        self.current = None;
        self.prune();
    }
}

impl Source for Living {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn next(&mut self) -> BoxFuture<'_, Option<Result<Configuration, SourceError>>> {
        self.changed().boxed()
    }
}

/// Asks one source for ever.
async fn ask(id: SourceId, options: LookOptions, board: Board) {
    let mut source = (id.kind().open)(&id.locator, &options);
    loop {
        let look = source.next().await;
        board.record(&id, SystemTime::now(), look);
        // A source that never waits must not starve the others.
        tokio::task::yield_now().await;
    }
}

/// That a service has no endpoints, and why.
fn without(service: &Service, state: &SourceState) -> Option<Diagnostic> {
    let source = service.source()?;
    let reason = match &state.error {
        Some(error) => error.as_str(),
        None if state.looked => "the list is empty",
        None => "there is no answer yet",
    };
    let message = format!(
        "no endpoints from `{}`: {reason}; calls fail until there are",
        source.written.value
    );
    let path = format!("services.{}.endpoints.{}", service.name, source.id.kind);
    let place = &source.written.place;
    Some(Diagnostic::new(
        state.code.unwrap_or(code::SOURCE_UNREACHABLE),
        Severity::Warning,
        place,
        &path,
        message,
    ))
}

#[cfg(test)]
mod tests;
