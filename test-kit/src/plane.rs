//! The control plane of a test: on a loopback port, able to be cut off and brought back.

use std::collections::BTreeMap;
use std::sync::Arc;

use sidestep_server::observer::{StreamEvent, StreamInfo, StreamObserver};
use sidestep_server::{
    Configuration, ListenAddress, ManagementServer, RawResources, Running, SourceError, StartError,
};
use tokio::sync::watch;

/// A management server that survives its own death: the address stays, and the configuration.
pub struct ControlPlane {
    content: Content,
    address: ListenAddress,
    running: Option<Running>,
    settled: Arc<Settled>,
}

/// What is served.
enum Content {
    /// What was applied last.
    Own(Configuration),
    /// Whatever this holds.
    Raw(RawResources),
}

impl ControlPlane {
    /// Starts with nothing to serve.
    ///
    /// # Errors
    /// There is no free loopback port.
    pub async fn start() -> Result<Self, StartError> {
        Self::with(Content::Own(Configuration::default())).await
    }

    /// Starts with resources that the test holds and changes, valid or not.
    ///
    /// # Errors
    /// There is no free loopback port.
    pub async fn raw(resources: RawResources) -> Result<Self, StartError> {
        Self::with(Content::Raw(resources)).await
    }

    async fn with(content: Content) -> Result<Self, StartError> {
        let settled = Arc::new(Settled::default());
        let mut server = ManagementServer::builder().observer(settled.clone());
        if let Content::Raw(resources) = &content {
            server = server.source(resources.clone());
        }
        let running = server.start().await?;
        Ok(Self {
            content,
            address: running.address().clone(),
            running: Some(running),
            settled,
        })
    }

    /// Where it listens, and will again after [`ControlPlane::restore`].
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// The server, unless it is cut off.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Serves this from now on, or from [`ControlPlane::restore`] on. Returns the revision, if it
    /// has one already.
    ///
    /// # Errors
    /// It is not consistent; nothing has changed.
    pub fn apply(&mut self, configuration: Configuration) -> Result<Option<u64>, SourceError> {
        let revision = match &self.running {
            Some(running) => {
                let snapshot = running.store().apply(Ok(configuration.clone()))?;
                Some(snapshot.revision())
            }
            None => None,
        };
        self.content = Content::Own(configuration);
        Ok(revision)
    }

    /// Cuts every connection and closes the port, as a crash would.
    pub async fn cut(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill().await;
        }
    }

    /// Starts it again on the same port, with what was applied last. Returns the revision.
    ///
    /// # Errors
    /// Somebody else has taken the port.
    pub async fn restore(&mut self) -> Result<u64, StartError> {
        if let Some(running) = &self.running {
            return Ok(running.store().snapshot().revision());
        }
        self.settled = Arc::new(Settled::default());
        let mut server = ManagementServer::builder()
            .observer(self.settled.clone())
            .listen(self.address.clone());
        if let Content::Raw(resources) = &self.content {
            server = server.source(resources.clone());
        }
        let running = server.start().await?;
        if let Content::Own(configuration) = &self.content {
            // It was consistent when it was applied.
            running.store().apply(Ok(configuration.clone()))?;
        }
        let revision = running.store().snapshot().revision();
        self.running = Some(running);
        Ok(revision)
    }

    /// How far the streams are.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.settled.0.subscribe()
    }
}

/// By stream, the last revision to which it has answered in full.
pub(crate) type Progress = BTreeMap<u64, Option<u64>>;

#[derive(Default)]
struct Settled(watch::Sender<Progress>);

impl StreamObserver for Settled {
    fn observe(&self, stream: &StreamInfo, event: StreamEvent<'_>) {
        match event {
            StreamEvent::Opened => self.0.send_modify(|all| _ = all.insert(stream.id, None)),
            StreamEvent::Settled { revision } => {
                self.0
                    .send_modify(|all| _ = all.insert(stream.id, Some(revision)));
            }
            StreamEvent::Closed { .. } => self.0.send_modify(|all| _ = all.remove(&stream.id)),
            _ => {}
        }
    }
}
