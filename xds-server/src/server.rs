//! The management server as one thing to start and stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sidestep_proto::code::{self, Code};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::api::{AggregatedDiscovery, LoadReports, Operations};
use crate::load::LoadReporting;
use crate::observer::StreamObserver;
use crate::socket::{Connection, ListenAddress, Listener};
use crate::source::endpoints::LookOptions;
use crate::source::endpoints::state::Board;
use crate::source::{Living, Source, SourceError};
use crate::store::Store;
use crate::tls::{Reloading, ServerTls, TlsError};
use crate::tracker::Tracker;

/// A client that does not answer pings is gone, even if its machine never said so.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams that one connection may have open. A process needs one; a proxy may carry many.
const STREAMS: u32 = 1024;

/// How long connections have to end in good order before they are cut.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// The management server.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use sidestep_server::{FileSource, ListenAddress, ManagementServer};
///
/// let running = ManagementServer::builder()
///     .source(FileSource::new(["mesh.yaml"]))
///     .listen("127.0.0.1:18000".parse::<ListenAddress>()?)
///     .start()
///     .await?;
/// println!("serving on {}", running.address());
/// # running.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ManagementServer(());

impl ManagementServer {
    /// Starts from the defaults: any free loopback port, no source.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            source: None,
            listen: ListenAddress::Tcp(([127, 0, 0, 1], 0).into()),
            tls: None,
            look: LookOptions::default(),
            observers: Vec::new(),
            load_reporting: None,
        }
    }
}

/// What a server is made of.
pub struct Builder {
    source: Option<Box<dyn Source>>,
    listen: ListenAddress,
    tls: Option<ServerTls>,
    look: LookOptions,
    observers: Vec<Arc<dyn StreamObserver>>,
    load_reporting: Option<LoadReporting>,
}

impl Builder {
    /// Where the configuration comes from. Without one the server is empty until
    /// [`Running::store`] is given something.
    #[must_use]
    pub fn source(mut self, source: impl Source) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Where to listen. Default: any free port of 127.0.0.1.
    #[must_use]
    pub fn listen(mut self, address: impl Into<ListenAddress>) -> Self {
        self.listen = address.into();
        self
    }

    /// Secures every connection by these files, which are followed as they change. Default:
    /// plaintext, which is for loopback addresses and Unix sockets.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How living endpoint sources look: for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn look_options(mut self, options: LookOptions) -> Self {
        self.look = options;
        self
    }

    /// Adds somebody who hears what happens on the streams.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn StreamObserver>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Takes load reports, on the same port. Default: that service does not exist.
    #[must_use]
    pub fn load_reporting(mut self, reporting: LoadReporting) -> Self {
        self.load_reporting = Some(reporting);
        self
    }

    /// Loads the configuration, binds and serves, on tasks of the current tokio runtime.
    ///
    /// # Errors
    /// If the source has no valid state to begin with, the TLS files cannot be used or the address
    /// cannot be bound.
    pub async fn start(self) -> Result<Running, StartError> {
        let tls = self.tls.map(Reloading::start).transpose()?;
        let store = Store::new();
        let board = Board::default();
        let source = match self.source {
            Some(source) => {
                let living = Living::new(source, self.look, board.clone());
                Some(load(Box::new(living), &store).await?)
            }
            None => None,
        };
        let bind_error = |error| StartError::Bind {
            address: self.listen.clone(),
            error,
        };
        let listener = Listener::bind(&self.listen).await.map_err(bind_error)?;
        let address = listener.address().map_err(bind_error)?;

        let tracker = Arc::new(Tracker::default());
        let mut observers = self.observers;
        observers.insert(0, Arc::clone(&tracker) as Arc<dyn StreamObserver>);

        let stop = watch::Sender::new(false);
        let cut = watch::Sender::new(false);
        let (connections, accepted) = mpsc::channel(16);
        let ads = AggregatedDiscovery::new(store.clone(), observers.into(), stop.subscribe());
        let operations = Operations::new(store.clone(), Arc::clone(&tracker), board.clone());
        let mut services = Routes::new(ads).add_service(operations);
        if let Some(reporting) = self.load_reporting {
            let reports = LoadReports::new(store.clone(), reporting, stop.subscribe());
            services = services.add_service(reports);
        }
        let tasks = Tasks {
            following: source.map(|source| tokio::spawn(follow(source, store.clone()))),
            accepting: tokio::spawn(listener.accept(
                tls.as_ref().map(Reloading::config),
                connections,
                stop.subscribe(),
                cut.subscribe(),
            )),
            reloading: tls.map(|tls| tokio::spawn(tls.follow())),
            serving: tokio::spawn(serve(services, accepted, stop.subscribe())),
            stop,
            cut,
        };
        Ok(Running {
            address,
            store,
            tracker,
            board,
            tasks,
        })
    }
}

/// A running server. Dropping it cuts every connection at once, as a crash would;
/// [`Running::shutdown`] ends in good order.
pub struct Running {
    address: ListenAddress,
    store: Store,
    tracker: Arc<Tracker>,
    board: Board,
    tasks: Tasks,
}

impl Running {
    /// Where it listens, with the port that was really taken.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// The configuration in use and the fate of changes.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Who is connected.
    #[must_use]
    pub fn tracker(&self) -> &Arc<Tracker> {
        &self.tracker
    }

    /// The living endpoint sources, and what is known of each.
    #[must_use]
    pub fn endpoint_sources(&self) -> &Board {
        &self.board
    }

    /// Ends every stream with `UNAVAILABLE`, then the connections; what has not ended after a
    /// second is cut. The address is free for a new server afterwards.
    pub async fn shutdown(mut self) {
        self.tasks.stop.send_replace(true);
        let _ = (&mut self.tasks.accepting).await;
        let _ = tokio::time::timeout(SHUTDOWN_GRACE, &mut self.tasks.serving).await;
    }

    /// Cuts every connection as a crash would. The address is free for a new server afterwards.
    pub async fn kill(mut self) {
        self.tasks.cut.send_replace(true);
        self.tasks.stop.send_replace(true);
        let _ = (&mut self.tasks.accepting).await;
    }
}

/// What runs, and how to end it.
struct Tasks {
    following: Option<JoinHandle<()>>,
    reloading: Option<JoinHandle<()>>,
    accepting: JoinHandle<()>,
    serving: JoinHandle<()>,
    stop: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.cut.send_replace(true);
        self.stop.send_replace(true);
        for task in self.following.iter().chain(&self.reloading) {
            task.abort();
        }
        self.accepting.abort();
        self.serving.abort();
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no valid configuration to begin with.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The files for TLS cannot be used.
    #[error("TLS of the ADS port: {0}")]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error} [{}]", code::CONTROL_PLANE_BIND)]
    Bind {
        /// The address.
        address: ListenAddress,
        /// The system's words.
        #[source]
        error: io::Error,
    },
}

impl StartError {
    /// Its code; that of the first fault, if there are several.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Source(error) => error.code(),
            Self::Tls(error) => error.code(),
            Self::Bind { .. } => code::CONTROL_PLANE_BIND,
        }
    }
}

async fn load(mut source: Box<dyn Source>, store: &Store) -> Result<Box<dyn Source>, StartError> {
    if let Some(first) = source.next().await {
        store.apply(first)?;
    }
    Ok(source)
}

async fn follow(mut source: Box<dyn Source>, store: Store) {
    while let Some(change) = source.next().await {
        match store.apply(change) {
            Ok(snapshot) => tracing::info!(
                target: "sidestep_server::store",
                revision = snapshot.revision(),
                "configuration changed"
            ),
            Err(error) => tracing::warn!(
                target: "sidestep_server::store",
                %error,
                "change refused, the last good configuration stays"
            ),
        }
    }
}

async fn serve(
    services: Routes,
    accepted: mpsc::Receiver<io::Result<Connection>>,
    mut stop: watch::Receiver<bool>,
) {
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let result = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS)
        .add_routes(services)
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stopped)
        .await;
    if let Err(error) = result {
        tracing::error!(target: "sidestep_server::server", %error, "serving ended");
    }
}
