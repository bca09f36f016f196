//! Transport security of clusters and filter chains (gRFC A29).

use super::StringMatcher;

/// `CertificateProviderPluginInstance`: an entry of the bootstrap's `certificate_providers`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateInstance {
    /// The key in the bootstrap.
    pub instance: String,
    /// Opaque to us; `file_watcher` ignores it.
    pub certificate_name: String,
}

/// `UpstreamTlsContext`: how a client secures its connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// Where the trusted roots come from.
    pub roots: CertificateInstance,
    /// Where the client's own certificate comes from, if it shows one.
    pub identity: Option<CertificateInstance>,
    /// Any of these must match a name in the server's certificate; empty accepts every
    /// certificate that the roots vouch for.
    pub sans: Vec<StringMatcher>,
}

/// `DownstreamTlsContext`: how a server secures its connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DownstreamTls {
    /// Where the server's certificate comes from.
    pub identity: CertificateInstance,
    /// Where the roots for client certificates come from; `None`: none is asked for.
    pub roots: Option<CertificateInstance>,
    /// Whether a client without a certificate is refused.
    pub require_client_certificate: bool,
}
