//! What a process tells by `tracing`, caught by a test.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::load::PATIENCE;

/// One event of our own targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `sidestep::…` or `sidestep_server::…`.
    pub target: String,
    /// How loud.
    pub level: Level,
    /// Its text.
    pub message: String,
    /// Its fields, as text.
    pub fields: BTreeMap<String, String>,
}

impl Told {
    /// A field's text; empty if there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

/// Catches the events of everything that runs on this thread, for as long as it lives.
pub struct Events {
    told: watch::Receiver<Vec<Told>>,
    _guard: DefaultGuard,
}

impl Events {
    /// Begins.
    #[must_use]
    pub fn catch() -> Self {
        Self::of(&["sidestep::"])
    }

    /// Begins, and catches those of the control plane too.
    #[must_use]
    pub fn catch_all() -> Self {
        Self::of(&["sidestep::", "sidestep_server::"])
    }

    fn of(targets: &'static [&'static str]) -> Self {
        // While there is but one subscriber, tracing asks nobody but the thread that comes upon an
        // event first whether anybody wants it: a test that catches nothing would answer for us.
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
        let (sender, told) = watch::channel(Vec::new());
        let layer = Catch {
            targets,
            told: Arc::new(Mutex::new(sender)),
        };
        let subscriber = tracing_subscriber::registry().with(layer);
        Self {
            told,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// All events so far, in order.
    #[must_use]
    pub fn all(&self) -> Vec<Told> {
        self.told.borrow().clone()
    }

    /// Waits for an event with this target and message for which `wanted` holds.
    ///
    /// # Panics
    /// If it does not come in time: with all that came.
    pub async fn wait(
        &mut self,
        target: &str,
        message: &str,
        wanted: impl Fn(&Told) -> bool,
    ) -> Told {
        let is = |told: &Told| told.target == target && told.message == message && wanted(told);
        let came = self.told.wait_for(|all| all.iter().any(&is));
        let came = tokio::time::timeout(PATIENCE, came).await.map(|_| ());
        let all = self.all();
        assert!(came.is_ok(), "no {target} {message:?} in {all:#?}");
        all.into_iter().find(is).expect("it was seen")
    }
}

struct Catch {
    /// What their targets begin with.
    targets: &'static [&'static str],
    told: Arc<Mutex<watch::Sender<Vec<Told>>>>,
}

impl<S: Subscriber> Layer<S> for Catch {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let ours = |begin: &&str| metadata.target().starts_with(*begin);
        if !self.targets.iter().any(ours) {
            return;
        }
        let mut told = Told {
            target: metadata.target().to_owned(),
            level: *metadata.level(),
            message: String::new(),
            fields: BTreeMap::new(),
        };
        event.record(&mut told);
        let sender = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send_modify(|all| all.push(told));
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => _ = self.fields.insert(name.to_owned(), text),
        }
    }
}
