//! Certificates for measurements with mutual TLS, made anew for each lab.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use serde::{Deserialize, Serialize};
use tonic::transport::Identity;

/// The name that tonic's own client looks for.
pub const HOST: &str = "bench.example";

/// What one end shows and trusts, all PEM.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// Its certificate.
    pub chain: String,
    /// The key of that.
    pub key: String,
    /// Who issues the certificates of its peers.
    pub root: String,
}

impl Credentials {
    /// As tonic takes it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::from_pem(&self.chain, &self.key)
    }
}

/// The authority of a lab.
pub struct Issuer(CertifiedIssuer<'static, KeyPair>);

impl Issuer {
    /// With a key of its own.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self> {
        let mut params = named("authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        Ok(Self(CertifiedIssuer::self_signed(params, key)?))
    }

    /// For a service of the mesh: it carries the SPIFFE id, and [`HOST`].
    ///
    /// # Errors
    /// The system has no random numbers, or the name is not ASCII.
    pub fn issue(&self, service: &str) -> Result<Credentials> {
        let mut params = named(service);
        params.subject_alt_names = vec![
            SanType::URI(format!("spiffe://bench.example/sa/{service}").try_into()?),
            SanType::DnsName(HOST.try_into()?),
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        Ok(Credentials {
            chain: params.signed_by(&key, &self.0)?.pem(),
            key: key.serialize_pem(),
            root: self.0.pem(),
        })
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
