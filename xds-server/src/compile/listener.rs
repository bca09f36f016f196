//! Listeners: of channels by name, of servers by service and address.

use std::net::SocketAddr;
use std::sync::Arc;

use sidestep_proto::code::{self, Code};
use sidestep_proto::codec;
use sidestep_proto::resource::{
    DownstreamTls, FilterChain, FilterChainMatch, FilterConfig, HttpConnectionManager, HttpFilter,
    Listener, ListenerKind, Resource, Route, RouteAction, RouteConfiguration, RouteSource,
    ServerListener, TransportProtocol, VirtualHost,
};
use sidestep_proto::wire::Any;

use super::CompiledMesh;
use super::cluster::instance;
use super::route::everything;
use crate::model::{Mtls, Service};
use crate::nearest;

/// Why a server gets no listener.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissingListener {
    /// The process does not say which service it is.
    #[error("node.cluster is empty: a server's bootstrap names its service there")]
    NoService,
    /// The process says it is a service that the mesh does not have.
    #[error("node.cluster {service:?}: no such service{hint}")]
    UnknownService {
        /// What it says.
        service: String,
        /// `; did you mean …?`, or nothing.
        hint: String,
    },
}

impl MissingListener {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoService => code::NODE_WITHOUT_SERVICE,
            Self::UnknownService { .. } => code::NODE_UNKNOWN_SERVICE,
        }
    }
}

impl CompiledMesh {
    /// The Listener of a server of `service` (its `node.cluster`) at `address`, under the name
    /// that was asked for (gRFC A36).
    ///
    /// # Errors
    /// If there is no such service.
    pub fn server_listener(
        &self,
        service: &str,
        listener_name: &str,
        address: SocketAddr,
    ) -> Result<Resource, MissingListener> {
        let Some(mtls) = self.services.get(service) else {
            return Err(self.missing(service));
        };
        Ok(Resource::Listener(Arc::new(Listener {
            name: listener_name.to_owned(),
            kind: ListenerKind::Server(ServerListener {
                address,
                filter_chains: chains(*mtls),
                default_filter_chain: None,
            }),
        })))
    }

    /// As [`server_listener`](Self::server_listener), with the address taken from the name and
    /// the answer ready to be sent. `None`: the name does not end in an address, so it is no
    /// server's.
    ///
    /// # Errors
    /// The text for the client, if there is no such service.
    #[must_use]
    pub fn server_listener_by_name(
        &self,
        service: &str,
        listener_name: &str,
    ) -> Option<Result<Any, String>> {
        let address = listening_address(listener_name)?;
        let listener = self.server_listener(service, listener_name, address);
        Some(match listener {
            Ok(resource) => Ok(codec::encode(&resource)),
            Err(missing) => Err(format!("{missing} [{}]", missing.code())),
        })
    }

    fn missing(&self, service: &str) -> MissingListener {
        if service.is_empty() {
            return MissingListener::NoService;
        }
        MissingListener::UnknownService {
            service: service.to_owned(),
            hint: nearest::hint(service, self.services.keys().map(String::as_str)),
        }
    }
}

/// The address at the end of a listener's name: after its last `=` or `/`, whatever the template
/// in the bootstrap looks like. In `xdstp:` names the brackets of IPv6 are percent-encoded.
#[must_use]
pub fn listening_address(listener_name: &str) -> Option<SocketAddr> {
    let tail = listener_name.rsplit(['=', '/']).next()?;
    let plain = tail
        .replace("%5B", "[")
        .replace("%5D", "]")
        .replace("%3A", ":");
    plain.parse().ok()
}

/// A channel's listener: routes under the service's name.
pub(super) fn api(name: &str, service: &Service) -> Listener {
    let mut http = connection_manager(RouteSource::Named(service.name.clone()));
    if has_sessions(service) {
        let filter = HttpFilter {
            name: SESSIONS.to_owned(),
            config: FilterConfig::StatefulSession(service.session.clone()),
        };
        http.filters.insert(0, filter);
    }
    Listener {
        name: name.to_owned(),
        kind: ListenerKind::Api(http),
    }
}

/// The instance of the filter that routes may override.
pub(super) const SESSIONS: &str = "session_affinity";

/// Whether calls of any route may have sessions.
pub(super) fn has_sessions(service: &Service) -> bool {
    let mut own = service.routes.iter().filter_map(|r| r.session.as_ref());
    service.session.is_some() || own.any(Option::is_some)
}

fn connection_manager(routes: RouteSource) -> HttpConnectionManager {
    HttpConnectionManager {
        routes,
        max_stream_duration: None,
        filters: vec![HttpFilter {
            name: "router".to_owned(),
            config: FilterConfig::Router,
        }],
    }
}

fn chains(mtls: Mtls) -> Vec<FilterChain> {
    let secure = |matches| chain("mtls", matches, Some(mutual_tls()));
    let plain = |matches| chain("plaintext", matches, None);
    match mtls {
        Mtls::Off => vec![plain(TransportProtocol::Any)],
        Mtls::Strict => vec![secure(TransportProtocol::Any)],
        Mtls::Permissive => vec![
            secure(TransportProtocol::Tls),
            plain(TransportProtocol::RawBuffer),
        ],
    }
}

fn chain(name: &str, transport: TransportProtocol, tls: Option<DownstreamTls>) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        matches: FilterChainMatch {
            transport_protocol: transport,
            ..FilterChainMatch::default()
        },
        tls,
        http: connection_manager(RouteSource::Inline(Arc::new(inbound()))),
    }
}

fn mutual_tls() -> DownstreamTls {
    DownstreamTls {
        identity: instance(),
        roots: Some(instance()),
        require_client_certificate: true,
    }
}

/// Every request reaches the server's own handlers.
fn inbound() -> RouteConfiguration {
    RouteConfiguration {
        name: "inbound".to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "inbound".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                name: String::new(),
                matches: everything(),
                action: RouteAction::NonForwarding,
            }],
        }],
    }
}
