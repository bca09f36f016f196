//! From addresses to a connection that is ready for calls.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::uri::Scheme;
use rustls_pki_types::ServerName;
use sidestep_proto::code::{self, Code};
use sidestep_proto::resource::Address;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::connection::{Connection, Status};
use super::driver::{Driver, Keepalive};
use super::race::{self, Race};
use super::watched::Watched;
use crate::security::{ClientTls, SecurityError, handshake_error};

/// "The peer's SETTINGS have not come": no peer can set this limit, which is 32 bits on the wire.
const NO_SETTINGS: usize = usize::MAX - 1;

/// h2 ends a connection on which too many small frames wait unread: it counts what each has less
/// than 256 bytes, and by default allows half the window. One slow reader of small messages
/// would cost every call its connection; with this factor they may be as small as 16 bytes.
const SMALL_FRAMES: usize = 16;

/// What a connection runs over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Opens a byte stream to an address: [`default_connector`], or an in-memory pipe.
pub type Connector =
    Arc<dyn Fn(Address) -> BoxFuture<'static, io::Result<Box<dyn Io>>> + Send + Sync>;

/// How HTTP/2 is spoken on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Http2Options {
    /// Bytes that the peer may send ahead on one stream.
    pub initial_stream_window: u32,
    /// Bytes that the peer may send ahead on all streams together.
    pub initial_connection_window: u32,
    /// Most bytes of a response's header list, as HTTP/2 counts them.
    pub max_header_list: u32,
    /// After how long a silence, while calls are in flight, a ping is sent; at least 10 s
    /// (gRFC A8). `None`, the default: never.
    pub keepalive_interval: Option<Duration>,
    /// How long the answer to a ping may take; 20 s by default.
    pub keepalive_timeout: Duration,
    /// How long one try (dial, TLS, HTTP/2) may take; 20 s by default.
    pub connect_timeout: Duration,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            initial_stream_window: 2 * 1024 * 1024,
            initial_connection_window: 5 * 1024 * 1024,
            max_header_list: 16 * 1024,
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(20),
        }
    }
}

/// Whom to connect to, and how.
#[derive(Debug, Clone)]
pub struct ConnectTarget {
    /// Tried in this order, but with the families taking turns.
    pub addresses: Vec<Address>,
    /// `None`: plain text.
    pub tls: Option<Arc<ClientTls>>,
    /// Server name indication (and what a host-name verifying [`ClientTls`] verifies); a name, an
    /// IP address (then none is sent), or empty for the address itself.
    pub server_name: String,
    /// How HTTP/2 is spoken.
    pub options: Arc<Http2Options>,
}

/// No address gave a connection.
#[derive(Debug, Clone)]
pub struct ConnectError {
    /// What happened at each, in the order of the failures. Empty if there was no address.
    pub attempts: Vec<Attempt>,
}

/// One address that gave no connection.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The address.
    pub address: Address,
    /// When the try began.
    pub begun: Instant,
    /// Why it failed.
    pub error: AttemptError,
}

/// Why one address gave no connection.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The socket could not be connected.
    #[error("{0}")]
    Dial(String),
    /// There is no material for TLS.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The TLS handshake failed.
    #[error("TLS handshake: {reason}")]
    Tls {
        /// The kind of failure.
        code: Code,
        /// What happened.
        reason: String,
    },
    /// The peer did not begin to speak HTTP/2.
    #[error("HTTP/2 handshake: {reason}")]
    Http2 {
        /// The kind of failure: a peer may refuse a certificate as late as here.
        code: Code,
        /// What happened.
        reason: String,
    },
    /// Not done in time.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
}

impl AttemptError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Dial(_) => code::CANNOT_CONNECT,
            Self::Security(error) => error.code(),
            Self::Tls { code, .. } | Self::Http2 { code, .. } => *code,
            Self::TimedOut(_) => code::CONNECT_TIMED_OUT,
        }
    }

    fn handshake(reason: impl Into<String>) -> Self {
        Self::Tls {
            code: code::HANDSHAKE_FAILED,
            reason: reason.into(),
        }
    }
}

impl ConnectError {
    /// The code of the first failure.
    #[must_use]
    pub fn code(&self) -> Code {
        let first = self.attempts.first();
        first.map_or(code::CANNOT_CONNECT, |attempt| attempt.error.code())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts.is_empty() {
            return f.write_str("no address to connect to");
        }
        for (i, attempt) in self.attempts.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            let Attempt { address, error, .. } = attempt;
            write!(f, "{separator}{address}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

/// Connects to the first address that answers.
///
/// Families take turns; each address is tried 250 ms after the one before or as soon as that
/// failed. The first complete handshake wins and the others are dropped (gRFC A61).
///
/// # Errors
/// When every address has failed.
pub async fn connect(
    connector: &Connector,
    target: &ConnectTarget,
) -> Result<(Connection, Pin<Box<Driver>>), ConnectError> {
    let addresses = race::interleaved(&target.addresses);
    let mut race = Race::new(addresses.len());
    let mut under_way = FuturesUnordered::new();
    // One address is the rule, and a thousand tries may fail at once.
    let mut failed = Vec::with_capacity(addresses.len());
    loop {
        while let Some(place) = race.poll(now()) {
            let address = &addresses[place];
            under_way.push(async move {
                let begun = now();
                (place, begun, attempt(connector, target, address).await)
            });
        }
        if race.is_lost() {
            return Err(ConnectError { attempts: failed });
        }
        let next = race.next_timeout();
        tokio::select! {
            biased;
            Some((place, begun, made)) = under_way.next() => match made {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    race.failed(place);
                    let address = addresses[place].clone();
                    failed.push(Attempt { address, begun, error });
                }
            },
            () = sleep_until(next.unwrap_or_else(now).into()), if next.is_some() => {}
        }
    }
}

/// By tokio's clock, so that tests may pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn attempt(
    connector: &Connector,
    target: &ConnectTarget,
    address: &Address,
) -> Result<(Connection, Pin<Box<Driver>>), AttemptError> {
    let limit = target.options.connect_timeout;
    timeout(limit, establish(connector, target, address))
        .await
        .unwrap_or(Err(AttemptError::TimedOut(limit)))
}

async fn establish(
    connector: &Connector,
    target: &ConnectTarget,
    address: &Address,
) -> Result<(Connection, Pin<Box<Driver>>), AttemptError> {
    let dialled = connector(address.clone()).await;
    let io = dialled.map_err(|error| AttemptError::Dial(error.to_string()))?;
    // What follows needs kilobytes of state, and most of the time most tries of a process that is
    // in trouble do not come this far: it is boxed, so that they do not hold it.
    let io = match &target.tls {
        None => io,
        Some(tls) => Box::pin(secure(io, tls, &target.server_name, address)).await?,
    };
    let scheme = if target.tls.is_some() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    Box::pin(start_http2(
        Watched::new(io),
        address,
        scheme,
        &target.options,
    ))
    .await
}

async fn secure(
    io: Box<dyn Io>,
    tls: &ClientTls,
    server_name: &str,
    address: &Address,
) -> Result<Box<dyn Io>, AttemptError> {
    let config = tls.config()?;
    let name = tls_name(server_name, address)?;
    let stream = TlsConnector::from(config).connect(name, io).await;
    let stream = stream.map_err(|error| {
        let (code, reason) = handshake_error(&error);
        AttemptError::Tls { code, reason }
    })?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(AttemptError::handshake("the server did not agree to h2"));
    }
    Ok(Box::new(stream))
}

/// IP addresses are never sent as a name; the unspecified one stands for "no name at all".
fn tls_name(server_name: &str, address: &Address) -> Result<ServerName<'static>, AttemptError> {
    if !server_name.is_empty() {
        return ServerName::try_from(server_name.to_owned())
            .map_err(|_| AttemptError::handshake(format!("{server_name:?} is no server name")));
    }
    let ip = match address {
        Address::Tcp(address) => address.ip(),
        Address::Unix(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    Ok(ServerName::IpAddress(ip.into()))
}

/// Done once the peer's SETTINGS are here: only then is it known to speak HTTP/2, and how many
/// streams it takes.
async fn start_http2(
    io: Watched,
    address: &Address,
    scheme: Scheme,
    options: &Http2Options,
) -> Result<(Connection, Pin<Box<Driver>>), AttemptError> {
    let refused = io.refused();
    let failed = |error: h2::Error| AttemptError::Http2 {
        code: match refused.load(Ordering::Relaxed) {
            true => code::CERTIFICATE_REFUSED,
            false => code::NOT_HTTP2,
        },
        reason: error.to_string(),
    };
    let (heard, news, written) = (io.heard(), io.news(), io.written());
    let (sender, mut h2) = h2::client::Builder::new()
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .max_header_list_size(options.max_header_list)
        .initial_max_send_streams(NO_SETTINGS)
        .data_frame_budget(SMALL_FRAMES * options.initial_connection_window as usize)
        .enable_push(false)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(failed)?;
    poll_fn(|cx| match Pin::new(&mut h2).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(AttemptError::Http2 {
            code: code::NOT_HTTP2,
            reason: "the server closed the connection".to_owned(),
        })),
        Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
        Poll::Pending if h2.max_concurrent_send_streams() == NO_SETTINGS => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await?;
    let keepalive = options
        .keepalive_interval
        .zip(h2.ping_pong())
        .map(|(interval, ping)| Keepalive::new(ping, heard, interval, options.keepalive_timeout));
    let status = Arc::new(Status::new(address.clone(), scheme, written));
    let driver = Driver::new(h2, sender.clone(), keepalive, news, Arc::clone(&status));
    Ok((Connection::new(sender, status), Box::pin(driver)))
}

/// TCP without delay (Nagle's algorithm off) and Unix sockets.
#[must_use]
pub fn default_connector() -> Connector {
    Arc::new(|address| Box::pin(dial(address)))
}

async fn dial(address: Address) -> io::Result<Box<dyn Io>> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        #[cfg(unix)]
        Address::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        #[cfg(not(unix))]
        Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
