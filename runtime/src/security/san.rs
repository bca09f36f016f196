//! Matching of subject alternative names (gRFC A29).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls_pki_types::CertificateDer;
use sidestep_proto::resource::StringMatcher;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// One name that a certificate is made out to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum San {
    /// May begin with `*.`.
    Dns(String),
    /// A SPIFFE id, for instance.
    Uri(String),
    Email(String),
    Ip(IpAddr),
}

/// Whether `certificate` has a name that one of `matchers` matches. An empty list accepts every
/// certificate; a certificate without names, or one that cannot be read, matches nothing.
pub(super) fn accepts(matchers: &[StringMatcher], certificate: &CertificateDer<'_>) -> bool {
    matchers.is_empty()
        || names(certificate)
            .iter()
            .any(|name| matchers.iter().any(|matcher| is_match(matcher, name)))
}

/// All names of the kinds that matchers look at; none if the certificate cannot be read.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<San> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect()
}

fn name(name: &GeneralName<'_>) -> Option<San> {
    match name {
        GeneralName::DNSName(name) => Some(San::Dns((*name).to_owned())),
        GeneralName::URI(uri) => Some(San::Uri((*uri).to_owned())),
        GeneralName::RFC822Name(email) => Some(San::Email((*email).to_owned())),
        GeneralName::IPAddress(bytes) => ip(bytes).map(San::Ip),
        _ => None,
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

fn is_match(matcher: &StringMatcher, name: &San) -> bool {
    match (matcher, name) {
        (StringMatcher::Exact(wanted), San::Dns(name)) => is_dns_match(&wanted.value, name),
        (matcher, San::Dns(text) | San::Uri(text) | San::Email(text)) => matcher.is_match(text),
        // Rust prints IPv6 addresses in their shortest lower-case form, as the rule wants it.
        (matcher, San::Ip(ip)) => matcher.is_match(&ip.to_string()),
    }
}

/// Exact matching of host names: their case and a final dot mean nothing, and a certificate's
/// name may begin with `*.`, which stands for exactly one label.
fn is_dns_match(wanted: &str, name: &str) -> bool {
    let wanted = wanted.strip_suffix('.').unwrap_or(wanted);
    let name = name.strip_suffix('.').unwrap_or(name);
    let Some(parent) = name.strip_prefix("*.") else {
        return !name.contains('*') && wanted.eq_ignore_ascii_case(name);
    };
    if parent.is_empty() || parent.contains('*') {
        return false;
    }
    wanted
        .split_once('.')
        .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
}
