//! A certificate authority that lives as long as a test.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use sidestep::security::CertificateProvider;
use sidestep::security::provider::static_::StaticProvider;

/// Issues the certificates of a mesh in a test. Every leaf is valid until 2100 unless it says
/// otherwise, and has a subject of its own, as other gRPC implementations demand.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        let mut params = named("test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate"),
        }
    }
}

impl Authority {
    /// A provider with a leaf certificate that carries `uri`, and this authority as its root.
    ///
    /// # Panics
    /// If `uri` is not ASCII.
    #[must_use]
    pub fn provider(&self, uri: &str) -> Arc<dyn CertificateProvider> {
        let (chain, key) = self.leaf(uri);
        let provider = StaticProvider::from_pem(
            Some((chain.as_bytes(), key.as_bytes())),
            Some(self.root().as_bytes()),
        );
        Arc::new(provider.expect("what was just made is valid"))
    }

    /// A provider that has this authority as its root and no certificate of its own.
    ///
    /// # Panics
    /// Never: what it reads was just made.
    #[must_use]
    pub fn roots_only(&self) -> Arc<dyn CertificateProvider> {
        let provider = StaticProvider::from_pem(None, Some(self.root().as_bytes()));
        Arc::new(provider.expect("what was just made is valid"))
    }

    /// A leaf certificate that carries `uri`, and its key, both PEM.
    ///
    /// # Panics
    /// If `uri` is not ASCII.
    #[must_use]
    pub fn leaf(&self, uri: &str) -> (String, String) {
        self.leaf_until(uri, 2100)
    }

    /// [`Self::leaf`], valid until the beginning of a year.
    ///
    /// # Panics
    /// If `uri` is not ASCII.
    #[must_use]
    pub fn leaf_until(&self, uri: &str, year: i32) -> (String, String) {
        let mut params = named(uri);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI is ASCII"))];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        self.issue(params)
    }

    /// A leaf certificate for a host, and its key, both PEM.
    ///
    /// # Panics
    /// If `host` is not ASCII.
    #[must_use]
    pub fn host_leaf(&self, host: &str) -> (String, String) {
        let mut params = named(host);
        params.subject_alt_names = vec![SanType::DnsName(host.try_into().expect("ASCII"))];
        self.issue(params)
    }

    /// The authority's own certificate, PEM.
    #[must_use]
    pub fn root(&self) -> String {
        self.issuer.pem()
    }

    /// The authority's own certificate as if it were a leaf, and its key, both PEM: a mistake.
    #[must_use]
    pub fn itself(&self) -> (String, String) {
        (self.root(), self.issuer.key().serialize_pem())
    }

    fn issue(&self, mut params: CertificateParams) -> (String, String) {
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        (leaf.pem(), key.serialize_pem())
    }
}

/// Parameters with a subject; X.520 allows 64 characters of it.
fn named(subject: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let subject: String = subject.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, subject);
    params
}
