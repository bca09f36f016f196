//! Who is at the other end.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::PeerIdentity;
use super::san::{self, San};

/// The identity in a verified certificate chain, leaf first. An empty chain gives one without
/// names.
#[must_use]
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> PeerIdentity {
    let names = certificates.first().map(san::names).unwrap_or_default();
    let mut uris = Vec::new();
    let mut hosts = Vec::new();
    for name in names {
        match name {
            San::Uri(uri) => uris.push(uri),
            San::Dns(host) => hosts.push(host),
            San::Email(_) | San::Ip(_) => {}
        }
    }
    let owned = certificates.iter().map(|c| c.clone().into_owned());
    PeerIdentity {
        certificates: Arc::new(owned.collect()),
        uri_sans: uris.into(),
        dns_sans: hosts.into(),
    }
}
