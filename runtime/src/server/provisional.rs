//! Stand-ins until the branches with the real ones are merged.
#![allow(missing_docs, dead_code)]
use crate::balancer::Failure;
use crate::routing::RouteTable;
use crate::security::{CertificateProvider, PeerIdentity, SecurityError};
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
#[derive(Debug, Default, Clone)]
pub struct CertificateProviders(std::collections::BTreeMap<String, Arc<dyn CertificateProvider>>);
impl CertificateProviders {
    pub fn with(mut self, name: &str, p: Arc<dyn CertificateProvider>) -> Self {
        self.0.insert(name.into(), p);
        self
    }
    pub fn find(&self, name: &str) -> Result<Arc<dyn CertificateProvider>, SecurityError> {
        self.0
            .get(name)
            .cloned()
            .ok_or_else(|| SecurityError::NoProvider(name.into()))
    }
}
#[derive(Debug)]
pub struct ServerTls(DownstreamTls, Arc<dyn CertificateProvider>);
impl ServerTls {
    pub fn new(tls: &DownstreamTls, p: &CertificateProviders) -> Result<Self, SecurityError> {
        Ok(Self(tls.clone(), p.find(&tls.identity.instance)?))
    }
    pub fn config(&self) -> Result<Arc<rustls::ServerConfig>, SecurityError> {
        let m = self.1.current()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let b = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let b = match &self.0.roots {
            None => b.with_no_client_auth(),
            Some(_) => {
                let v = rustls::server::WebPkiClientVerifier::builder_with_provider(
                    m.roots.clone().unwrap(),
                    provider,
                );
                let v = if self.0.require_client_certificate {
                    v
                } else {
                    v.allow_unauthenticated()
                };
                b.with_client_cert_verifier(v.build().unwrap())
            }
        };
        let id = m
            .identity
            .clone()
            .ok_or_else(|| SecurityError::Tls("no identity".into()))?;
        let mut c = b.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
            (*id).clone(),
        )));
        c.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(c))
    }
}
pub fn peer_identity(c: &[rustls_pki_types::CertificateDer<'_>]) -> PeerIdentity {
    PeerIdentity {
        certificates: Arc::new(c.iter().map(|c| c.clone().into_owned()).collect()),
        uri_sans: [].into(),
        dns_sans: [].into(),
    }
}
