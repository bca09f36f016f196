//! What stands in a certificate, as far as people ask.
//!
//! Pure: bytes in, facts out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};

/// A certificate, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The encoding.
    pub der: Vec<u8>,
    /// The subject: `CN=web`.
    pub subject: String,
    /// The subject's common name; empty if there is none.
    pub common_name: String,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Its URI names: the SPIFFE id.
    pub uris: Vec<String>,
    /// Its host names.
    pub hosts: Vec<String>,
    /// Its IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Good from this second on.
    pub not_before: SystemTime,
    /// Good until this second.
    pub not_after: SystemTime,
    /// The encoded public key with its algorithm (SubjectPublicKeyInfo).
    pub public_key: Vec<u8>,
}

impl Certificate {
    /// All certificates of a PEM text, in its order; at least one.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let all = parsed.map_err(|error| error.to_string())?;
        if all.is_empty() {
            return Err("no certificate in it".to_owned());
        }
        all.iter().map(|der| Self::from_der(der)).collect()
    }

    /// One certificate.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let mut names = Self {
            der: der.to_vec(),
            subject: parsed.subject().to_string(),
            common_name: common_name(&parsed),
            is_ca: parsed.is_ca(),
            uris: Vec::new(),
            hosts: Vec::new(),
            addresses: Vec::new(),
            not_before: time(parsed.validity().not_before),
            not_after: time(parsed.validity().not_after),
            public_key: parsed.public_key().raw.to_vec(),
        };
        let extension = parsed.subject_alternative_name();
        if let Some(extension) = extension.map_err(|error| error.to_string())? {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                    GeneralName::DNSName(host) => names.hosts.push((*host).to_owned()),
                    GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        Ok(names)
    }

    /// Host names and addresses together, as text.
    pub fn dialled_names(&self) -> impl Iterator<Item = String> + '_ {
        let addresses = self.addresses.iter().map(ToString::to_string);
        self.hosts.iter().cloned().chain(addresses)
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> String {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().and_then(|name| name.as_str().ok());
    name.unwrap_or_default().to_owned()
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    match time.timestamp() {
        0.. => UNIX_EPOCH + seconds,
        _ => UNIX_EPOCH - seconds,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from);
    v4().map(IpAddr::from).or_else(|| v6().map(IpAddr::from))
}
