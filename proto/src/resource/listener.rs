//! `envoy.config.listener.v3.Listener`: the entry of a client channel or of a server socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{DownstreamTls, RouteConfiguration, SessionState};

/// A listener: where a client's (or a server's) configuration begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listener {
    /// The subscribed name: a client's target, or the server's name from the bootstrap template.
    pub name: String,
    /// For whom it is.
    pub kind: ListenerKind,
}

/// The two uses of a listener.
#[allow(
    clippy::large_enum_variant,
    reason = "held once per listener, behind an Arc"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// `api_listener`: a gRPC client's (gRFC A27).
    Api(HttpConnectionManager),
    /// A listening socket: a gRPC server's (gRFC A36).
    Server(ServerListener),
}

/// The part of `HttpConnectionManager` that a gRPC data plane reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpConnectionManager {
    /// Inline routes, or the name of a RouteConfiguration.
    pub routes: RouteSource,
    /// `common_http_protocol_options.max_stream_duration` (gRFC A31). `None` or zero on the wire: no limit.
    pub max_stream_duration: Option<Duration>,
    /// HTTP filters in order; the last one is the router (gRFC A39).
    pub filters: Vec<HttpFilter>,
}

/// Where the routes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteSource {
    /// In the listener itself.
    Inline(Arc<RouteConfiguration>),
    /// In the RouteConfiguration of this name.
    Named(String),
}

/// One HTTP filter of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpFilter {
    /// Instance name; the key of per-route overrides.
    pub name: String,
    /// What it is and does.
    pub config: FilterConfig,
}

/// The filters that the runtime enforces. A filter that is not here is refused unless it is
/// marked optional, in which case it is left out (gRFC A39).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FilterConfig {
    /// `envoy.extensions.filters.http.fault.v3.HTTPFault` that injects nothing, as Istio puts one
    /// before every router. One that injects faults is refused.
    NoFault,
    /// `envoy.extensions.filters.http.stateful_session.v3.StatefulSession` (gRFC A55): calls of a
    /// session meet one endpoint. `None`: there are no sessions.
    StatefulSession(Option<SessionState>),
    /// `envoy.extensions.filters.http.router.v3.Router`: the terminal filter.
    Router,
}

/// What takes the place of a filter's own configuration, by the filter's instance name. A name that
/// the chain does not have, or that belongs to another kind of filter, changes nothing.
pub type FilterOverrides = BTreeMap<String, FilterConfig>;

/// A listening socket's configuration (gRFC A36).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerListener {
    /// The address it is for; must equal the real listening address.
    pub address: SocketAddr,
    /// Chains, one of which a connection is matched to.
    pub filter_chains: Vec<FilterChain>,
    /// Used when no chain matches. None: such a connection is closed.
    pub default_filter_chain: Option<FilterChain>,
}

/// What happens to a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilterChain {
    /// Its name; may be empty.
    pub name: String,
    /// Which connections it takes.
    pub matches: FilterChainMatch,
    /// TLS of the connection; `None` is plaintext.
    pub tls: Option<DownstreamTls>,
    /// What requests meet.
    pub http: HttpConnectionManager,
}

/// Conditions on a connection; empty lists do not restrict (section 4.3 of gRFC A36's algorithm).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FilterChainMatch {
    /// A chain that sets it never matches.
    pub destination_port: Option<u16>,
    /// Local address.
    pub prefix_ranges: Vec<CidrRange>,
    /// A chain that sets it never matches.
    pub server_names: Vec<String>,
    /// What the first bytes of the connection are. gRPC's own servers only ever see raw bytes;
    /// Sidestep's also tell TLS from plaintext, which is how a *permissive* port is expressed.
    pub transport_protocol: TransportProtocol,
    /// A chain that sets it never matches.
    pub application_protocols: Vec<String>,
    /// Same host or not.
    pub source_type: SourceType,
    /// Peer address (`source_prefix_ranges`).
    pub source_prefix_ranges: Vec<CidrRange>,
    /// Peer port.
    pub source_ports: Vec<u16>,
}

/// `FilterChainMatch.transport_protocol`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum TransportProtocol {
    /// Not set: any.
    #[default]
    Any,
    /// `raw_buffer`: not TLS.
    RawBuffer,
    /// `tls`: begins with a TLS record.
    Tls,
    /// Something else: never matches.
    Other(String),
}

/// `FilterChainMatch.source_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// Any peer.
    #[default]
    Any,
    /// Loopback or the same address.
    SameIpOrLoopback,
    /// Any other host.
    External,
}

/// An address range; the prefix is already masked and its length clamped to the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CidrRange {
    /// Network address with host bits zero.
    pub prefix: IpAddr,
    /// 0 to 32, or 0 to 128.
    pub len: u8,
}

impl CidrRange {
    /// Masks `prefix` and clamps `len`.
    #[must_use]
    pub fn new(prefix: IpAddr, len: u32) -> Self {
        match prefix {
            IpAddr::V4(v4) => {
                let len = len.min(32);
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                Self {
                    prefix: IpAddr::V4((u32::from(v4) & mask).into()),
                    len: len as u8,
                }
            }
            IpAddr::V6(v6) => {
                let len = len.min(128);
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                Self {
                    prefix: IpAddr::V6((u128::from(v6) & mask).into()),
                    len: len as u8,
                }
            }
        }
    }

    /// Whether `ip` lies in the range. The families are kept apart.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.prefix.is_ipv4() == ip.is_ipv4() && Self::new(ip, u32::from(self.len)) == *self
    }
}
