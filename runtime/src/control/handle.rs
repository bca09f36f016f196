//! The way in: what channels and servers hold.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use sidestep_proto::code;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Asker, Config, Inbox, Input, ServerState, SharedOrigins, Task};
use crate::balancer::Failure;
use crate::resolver::DirectTarget;
use crate::snapshot::{Target, TargetState};
use crate::source::static_::StaticResources;

/// Talks to the control task. Cheap to clone.
///
/// The task starts on the tokio runtime that is current at the first use inside one, and ends when
/// the last handle and the last target are gone.
#[derive(Clone)]
pub struct Handle {
    inbox: Inbox,
    unstarted: Arc<Mutex<Option<Task>>>,
    /// Whom to ask about failures; `None` without a control plane.
    origins: Option<SharedOrigins>,
}

impl Handle {
    /// Prepares the task; nothing runs yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let (inbox, inputs) = mpsc::unbounded_channel();
        let task = Task::new(config, inbox.downgrade(), inputs);
        let origins = task.origins();
        Self {
            inbox,
            origins,
            unstarted: Arc::new(Mutex::new(Some(task))),
        }
    }

    /// Watches a listener name for a channel. `authority` selects the virtual host: the target's
    /// path as dialled (gRFC A27), not the listener name, which may be a template's result.
    #[must_use]
    pub fn target(&self, listener_name: &str, authority: &str) -> Arc<Target> {
        let target = Target::new(listener_name, Some(self.clone()));
        let origins = self.origins.as_ref();
        let origin = origins.and_then(|origins| origins.of(listener_name));
        let target = Arc::new(target.with_origin(origin));
        self.send(Input::Watch {
            listener: listener_name.into(),
            authority: authority.into(),
            target: Arc::downgrade(&target),
        });
        self.start();
        target
    }

    /// Resolves a target that needs no control plane: one cluster whose endpoints are the
    /// addresses found.
    #[must_use]
    pub fn direct(&self, direct: DirectTarget) -> Arc<Target> {
        let target = Arc::new(Target::new(&direct.to_string(), Some(self.clone())));
        self.send(Input::WatchDirect {
            direct,
            target: Arc::downgrade(&target),
        });
        self.start();
        target
    }

    /// A target that will never lead anywhere: its calls fail with `reason`.
    #[must_use]
    pub(crate) fn nowhere(&self, name: &str, reason: &str) -> Arc<Target> {
        let target = Target::new(name, Some(self.clone()));
        target.publish(Arc::new(TargetState::Ended(Failure::new(
            code::NO_DETOUR,
            reason,
        ))));
        Arc::new(target)
    }

    /// Watches a listener name for a server, until the receiver is dropped. Keep a handle for as
    /// long as the server runs: the receiver alone does not keep the task.
    #[must_use]
    pub fn server(&self, listener_name: &str) -> watch::Receiver<ServerState> {
        let (state, receiver) = watch::channel(ServerState::Pending);
        self.send(Input::WatchServer {
            listener: listener_name.into(),
            state,
        });
        self.start();
        receiver
    }

    /// Replaces the resources in the process, whole. Nothing happens in a process that has a control
    /// plane instead.
    pub fn replace(&self, resources: StaticResources) {
        self.send(Input::Replaced(resources));
        self.start();
    }

    /// Waits until all that the control plane has said is in use, and all that was asked of it is
    /// answered. Ends, too, when the task does.
    pub(crate) async fn settled(&self) {
        let (waiting, settled) = oneshot::channel();
        self.send(Input::Settled(waiting));
        self.start();
        // A task that ended has dropped it.
        let _ = settled.await;
    }

    /// Starts the task if a runtime is current and it has not started.
    pub(crate) fn start(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let task = self
            .unstarted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            runtime.spawn(task.run());
        }
    }

    /// For questions about the state.
    pub(crate) fn asker(&self) -> Asker {
        self.start();
        Asker(self.inbox.downgrade())
    }

    pub(crate) fn send(&self, input: Input) {
        if let Err(unheard) = self.inbox.send(input) {
            super::refuse(unheard.0);
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
