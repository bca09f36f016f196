//! The listening socket: bind, listen, accept, and never give up accepting.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use sidestep_proto::resource::Address;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::{Sleep, sleep};

use super::ServerStats;
use crate::subchannel::Io;

/// A connection as accepted, nothing read yet.
pub(crate) struct Raw {
    pub(crate) io: Box<dyn Io>,
    /// Local and peer address; `None` for a Unix socket.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Accepted connections; errors are those of accepting.
pub(crate) type Sockets = BoxStream<'static, io::Result<Raw>>;

/// A bound address that does not listen yet: until there is something to serve, connecting is
/// refused, so a health check by TCP tells the truth (gRFC A36: not serving).
pub(crate) struct Bound {
    address: Address,
    listen: Box<dyn FnOnce() -> io::Result<Sockets> + Send>,
}

impl Bound {
    /// Binds; port 0 becomes a real one here.
    pub(crate) fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => Self::tcp(*address),
            Address::Unix(path) => Self::unix(Path::new(path)),
        }
    }

    /// Connections from somewhere else.
    pub(super) fn from_sockets(address: Address, sockets: Sockets) -> Self {
        Self {
            address,
            listen: Box::new(|| Ok(sockets)),
        }
    }

    /// The real address.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Starts listening. Must run inside a tokio runtime.
    pub(crate) fn listen(self) -> io::Result<Sockets> {
        (self.listen)()
    }

    fn tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // As std does on Unix: a restart must not wait for TIME_WAIT. Elsewhere the option would
        // let two servers share the port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        let real = socket.local_addr()?.as_socket().unwrap_or(address);
        let listen = move || {
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into()).map(tcp_sockets)
        };
        Ok(Self {
            address: Address::Tcp(real),
            listen: Box::new(listen),
        })
    }

    fn unix(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.set_nonblocking(true)?;
        let file = SocketFile(path.to_owned());
        let listen = move || {
            socket.listen(BACKLOG)?;
            UnixListener::from_std(socket.into()).map(|listener| unix_sockets(listener, file))
        };
        Ok(Self {
            address: Address::Unix(path.display().to_string()),
            listen: Box::new(listen),
        })
    }
}

/// Connections that the kernel holds for us; it lowers this to its own limit.
const BACKLOG: i32 = 1024;

fn tcp_sockets(listener: TcpListener) -> Sockets {
    let accept = move |cx: &mut std::task::Context<'_>| {
        let accepted = ready!(listener.poll_accept(cx));
        std::task::Poll::Ready(Some(accepted.and_then(|(io, peer)| tcp_raw(io, peer))))
    };
    stream::poll_fn(accept).boxed()
}

fn tcp_raw(io: TcpStream, peer: SocketAddr) -> io::Result<Raw> {
    // A socket that has gone already fails here; that is its own end, not the listener's.
    let gone = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    io.set_nodelay(true).map_err(gone)?;
    let local = io.local_addr().map_err(gone)?;
    Ok(Raw {
        io: Box::new(io),
        addresses: Some((local, peer)),
    })
}

fn unix_sockets(listener: UnixListener, file: SocketFile) -> Sockets {
    let accept = move |cx: &mut std::task::Context<'_>| {
        let _removed_with_the_listener = &file;
        let accepted = ready!(listener.poll_accept(cx));
        std::task::Poll::Ready(Some(accepted.map(|(io, _)| Raw {
            io: Box::new(io),
            addresses: None,
        })))
    };
    stream::poll_fn(accept).boxed()
}

/// A socket file that nobody listens on is left from a process that died.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

/// Removes the file of a Unix socket when it is no longer listened on.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it before us; there is nothing to do about either.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Accepts for as long as it is asked: errors that pass (no file descriptor left) pause it, with
/// growing pauses, instead of ending it.
pub(crate) struct Acceptor {
    sockets: Sockets,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
    stats: Arc<ServerStats>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Acceptor {
    pub(crate) fn new(sockets: Sockets, stats: Arc<ServerStats>) -> Self {
        Self {
            sockets,
            pause: None,
            next_pause: FIRST_PAUSE,
            stats,
        }
    }

    /// The next connection. May be dropped and called again at any point.
    pub(crate) async fn next(&mut self) -> Raw {
        loop {
            if let Some(pause) = &mut self.pause {
                pause.await;
                self.pause = None;
            }
            match self.sockets.next().await {
                Some(Ok(raw)) => {
                    self.next_pause = FIRST_PAUSE;
                    return raw;
                }
                Some(Err(error)) if is_of_one_connection(&error) => {}
                Some(Err(error)) => self.back_off(&error),
                None => pending().await,
            }
        }
    }

    /// What has arrived already; used when the listener is about to close.
    pub(super) fn next_waiting(&mut self) -> Option<Raw> {
        use futures_util::FutureExt;
        self.sockets.next().now_or_never()??.ok()
    }

    fn back_off(&mut self, error: &io::Error) {
        self.stats.count_accept_error();
        let pause = self.next_pause;
        tracing::warn!(target: "sidestep::server", %error, ?pause, "accepting failed, pausing");
        self.pause = Some(Box::pin(sleep(pause)));
        self.next_pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn raw() -> Raw {
        Raw {
            io: Box::new(tokio::io::duplex(1).0),
            addresses: None,
        }
    }

    fn acceptor(items: Vec<io::Result<Raw>>) -> (Acceptor, Arc<ServerStats>) {
        let stats = Arc::new(ServerStats::default());
        let sockets = stream::iter(items).boxed();
        (Acceptor::new(sockets, stats.clone()), stats)
    }

    /// EMFILE.
    fn exhausted() -> io::Result<Raw> {
        Err(io::Error::from_raw_os_error(24))
    }

    #[tokio::test(start_paused = true)]
    async fn exhaustion_pauses_longer_and_longer_and_recovers() {
        let mut items: Vec<_> = (0..10).map(|_| exhausted()).collect();
        items.push(Ok(raw()));
        items.extend([exhausted(), Ok(raw())]);
        let (mut acceptor, stats) = acceptor(items);
        let start = Instant::now();
        acceptor.next().await;
        // 5 + 10 + … + 640 ms, then twice the longest pause.
        assert_eq!(start.elapsed().as_millis(), 1275 + 2 * 1000);
        assert_eq!(stats.accept_errors(), 10);
        let start = Instant::now();
        acceptor.next().await;
        assert_eq!(start.elapsed(), FIRST_PAUSE, "a success begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_died_in_the_queue_costs_no_pause() {
        let died = || Err(io::ErrorKind::ConnectionAborted.into());
        let (mut acceptor, stats) = acceptor(vec![died(), died(), Ok(raw())]);
        let start = Instant::now();
        acceptor.next().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(stats.accept_errors(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_survives_being_dropped_and_asked_again() {
        let (mut acceptor, _) = acceptor(vec![exhausted(), Ok(raw())]);
        let start = Instant::now();
        let slice = Duration::from_millis(2);
        assert!(tokio::time::timeout(slice, acceptor.next()).await.is_err());
        acceptor.next().await;
        assert_eq!(
            start.elapsed(),
            FIRST_PAUSE,
            "neither shorter nor begun anew"
        );
    }

    #[tokio::test]
    async fn a_bound_port_is_real_and_refuses_until_it_listens() {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = Bound::bind(&any).unwrap();
        let Address::Tcp(real) = *bound.address() else {
            panic!("a TCP address stays one");
        };
        assert_ne!(real.port(), 0);
        assert!(TcpStream::connect(real).await.is_err());
        let mut sockets = bound.listen().unwrap();
        let (near, raw) = tokio::join!(TcpStream::connect(real), sockets.next());
        let (local, peer) = raw.unwrap().unwrap().addresses.unwrap();
        assert_eq!((local, peer), (real, near.unwrap().local_addr().unwrap()));
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = Address::Unix(path.display().to_string());
        let sockets = Bound::bind(&address).unwrap().listen().unwrap();
        assert!(Bound::bind(&address).is_err(), "somebody listens there");
        drop(sockets);
        assert!(!path.exists(), "the file goes with the listener");
    }
}
