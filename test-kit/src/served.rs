//! A server in a task of its own.

use std::future::Future;

use sidestep::ServerError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server in a task of its own, to be ended in good order or as by a crash. Dropped, it goes on.
pub struct Served {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Served {
    /// Spawns what `serve` makes of the signal to drain:
    /// `Served::spawn(|stop| bound.serve_with_shutdown(stop))`.
    pub fn spawn<F>(serve: impl FnOnce(Stop) -> F) -> Self
    where
        F: Future<Output = Result<(), ServerError>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(Box::pin(async move { _ = stopped.await })));
        Self {
            stop: Some(stop),
            task,
        }
    }

    /// Drains, and waits until the server has ended.
    ///
    /// # Errors
    /// The server ended badly.
    ///
    /// # Panics
    /// If the server did.
    pub async fn shutdown(mut self) -> Result<(), ServerError> {
        self.stop.take();
        self.task.await.expect("the server did not panic")
    }

    /// Cuts every connection and closes the port, as a crash would.
    pub async fn kill(self) {
        self.task.abort();
        // Its end is what is waited for, whatever it was.
        _ = self.task.await;
    }
}

/// Ready when the server is to drain.
pub type Stop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
