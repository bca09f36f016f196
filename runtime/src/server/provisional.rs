//! Stand-ins until the branches with the real ones are merged.
#![allow(missing_docs, dead_code)]
use crate::balancer::Failure;
use crate::routing::{Action, Call};
use crate::security::{PeerIdentity, SecurityError};
use arc_swap::ArcSwap;
use sidestep_proto::resource::{DownstreamTls, ServerListener};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub enum ServerState {
    Pending,
    Failed(Failure),
    Serving(Arc<ServerConfig>),
}
#[derive(Debug)]
pub struct ServerConfig {
    pub listener: Arc<ServerListener>,
    pub chains: Vec<ChainRoutes>,
}
#[derive(Debug, Clone)]
pub struct ChainRoutes {
    pub routes: Arc<ArcSwap<RoutesState>>,
}
#[derive(Debug)]
pub enum RoutesState {
    Ready(RouteTable),
    Failed(Failure),
}
#[derive(Debug)]
pub struct Route {
    pub action: Action,
}
#[derive(Debug)]
pub struct RouteTable(pub Vec<(String, Route)>);
impl RouteTable {
    pub fn find(&self, call: &Call<'_>) -> Option<&Route> {
        self.0
            .iter()
            .find(|(p, _)| call.path.starts_with(p))
            .map(|(_, r)| r)
    }
}
#[derive(Debug, Default, Clone)]
pub struct CertificateProviders;
#[derive(Debug)]
pub struct ServerTls;
impl ServerTls {
    pub fn new(_: &DownstreamTls, _: &CertificateProviders) -> Result<Self, SecurityError> {
        Ok(Self)
    }
    pub fn config(&self) -> Result<Arc<rustls::ServerConfig>, SecurityError> {
        Err(SecurityError::Tls("x".into()))
    }
}
pub fn peer_identity(_: &[rustls_pki_types::CertificateDer<'_>]) -> PeerIdentity {
    PeerIdentity {
        certificates: Default::default(),
        uri_sans: [].into(),
        dns_sans: [].into(),
    }
}
