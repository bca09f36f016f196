//! Listening sockets: TCP and Unix, with or without TLS, able to be cut.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use rustls::ServerConfig;
use sidestep_proto::code::{self, Code};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Out of file descriptors, or the like: accepting goes on after a pause.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A TLS handshake takes a few round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client that is turned away may take to notice; a busy machine takes its time, and a
/// client that was cut off before never learns why.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What such a client may still send, in bytes.
const LAST_BYTES: u64 = 64 << 10;

/// TLS handshakes at the same time; further connections wait in the backlog.
const HANDSHAKES: usize = 1024;

/// What new connections use for TLS; `None`: plaintext.
pub(crate) type CurrentTls = Option<watch::Receiver<Arc<ServerConfig>>>;

/// Where a server listens: `127.0.0.1:18000`, `[::1]:0` or `unix:/run/sidestep.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port; port 0 takes any free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket. A stale one that nobody listens on is replaced.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.is_empty() {
                return Ok(Self::Unix(path.into()));
            }
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| InvalidListenAddress(text.to_owned()))
    }
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address to listen on, expected IP:PORT or unix:/PATH [{code}]",
    code = code::CONTROL_PLANE_ADDRESS
)]
pub struct InvalidListenAddress(String);

impl InvalidListenAddress {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        code::CONTROL_PLANE_ADDRESS
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A bound socket.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Binds `address`. A port that a server of before has just left can be taken at once.
    pub(crate) async fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    TcpSocket::new_v6()?
                };
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Self::Tcp(socket.listen(BACKLOG)?))
            }
            ListenAddress::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path)?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// The address, with the port that was really taken.
    pub(crate) fn address(&self) -> io::Result<ListenAddress> {
        Ok(match self {
            Self::Tcp(listener) => ListenAddress::Tcp(listener.local_addr()?),
            Self::Unix(_, file) => ListenAddress::Unix(file.0.clone()),
        })
    }

    /// Hands connections over until `stop` turns true; each breaks as soon as `cut` does. With
    /// `tls`, only those whose handshake succeeded.
    pub(crate) async fn accept(
        self,
        tls: CurrentTls,
        connections: mpsc::Sender<io::Result<Connection>>,
        mut stop: watch::Receiver<bool>,
        cut: watch::Receiver<bool>,
    ) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                accepted = self.next() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(target: "sidestep_server::socket", %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(tls) = &tls else {
                let connection = Connection::new(stream.into(), peer, cut.clone());
                if connections.send(Ok(connection)).await.is_err() {
                    return;
                }
                continue;
            };
            let permit = tokio::select! {
                permit = Arc::clone(&handshakes).acquire_owned() => permit,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
            let (connections, mut cut) = (connections.clone(), cut.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let secured = tokio::select! {
                    secured = handshake(acceptor, stream, &peer) => secured,
                    _ = cut.wait_for(|cut| *cut) => return,
                };
                if let Some(stream) = secured {
                    let connection = Connection::new(stream.into(), peer, cut);
                    // Nobody serves any more: the connection just ends.
                    let _ = connections.send(Ok(connection)).await;
                }
            });
        }
    }

    async fn next(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Socket::Tcp(stream), Peer::Tcp(peer)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// Removes the file of a Unix socket when its listener goes.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If somebody else removed it, so much the better.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A server that was killed leaves its socket file behind, on which nobody answers.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

/// Secures a connection. Who does not manage to is told nothing beyond the TLS alert, the operator
/// is.
async fn handshake(
    acceptor: TlsAcceptor,
    socket: Socket,
    peer: &Peer,
) -> Option<Box<TlsStream<Socket>>> {
    let accepting = acceptor.accept(socket).into_fallible();
    let error = match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => return Some(Box::new(stream)),
        // Probes of load balancers connect and leave.
        Ok(Err((error, _))) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
        Ok(Err((error, socket))) => {
            let _ = tokio::time::timeout(LAST_WORDS, last_words(socket)).await;
            error.to_string()
        }
        Err(_) => format!("not done within {HANDSHAKE_TIMEOUT:?}"),
    };
    tracing::warn!(
        target: "sidestep_server::socket", %peer, %error,
        "a client was turned away: the TLS handshake failed"
    );
    None
}

/// Lets the TLS alert arrive, which says why: a socket that is closed with something unread in it
/// takes back what it has sent.
async fn last_words(mut socket: Socket) -> io::Result<()> {
    socket.shutdown().await?;
    let mut sink = tokio::io::sink();
    tokio::io::copy(&mut socket.take(LAST_BYTES), &mut sink).await?;
    Ok(())
}

/// The two kinds of socket.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket, secured or not.
enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl From<Box<TlsStream<Socket>>> for Stream {
    fn from(stream: Box<TlsStream<Socket>>) -> Self {
        Self::Tls(stream)
    }
}

/// A connection that breaks when the server is cut.
pub(crate) struct Connection {
    stream: Stream,
    peer: Peer,
    cut: BoxFuture<'static, ()>,
}

impl Connection {
    fn new(stream: Stream, peer: Peer, mut cut: watch::Receiver<bool>) -> Self {
        let cut = async move {
            // A sender that is gone cuts as well.
            let _ = cut.wait_for(|cut| *cut).await;
        };
        Self {
            stream,
            peer,
            cut: cut.boxed(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.poll_unpin(cx).is_ready() {
            // Finished futures must not be polled again.
            self.cut = std::future::ready(()).boxed();
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["127.0.0.1:18000", "[::1]:0", "unix:/run/sidestep.sock"] {
            let address: ListenAddress = text.parse().expect("an address");
            assert_eq!(address.to_string(), text);
            assert!(address.is_local());
        }
        let anywhere: ListenAddress = "0.0.0.0:1".parse().expect("an address");
        assert!(!anywhere.is_local());
        for wrong in ["", "unix:", "localhost", "1.2.3.4"] {
            assert!(wrong.parse::<ListenAddress>().is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        let address = ListenAddress::Unix(path.clone());
        let listener = Listener::bind(&address).await.expect("replaces");
        let error = Listener::bind(&address)
            .await
            .map(drop)
            .expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists(), "is removed");
    }
}
