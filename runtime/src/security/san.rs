//! Matching of subject alternative names (gRFC A29).

use std::fmt;
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

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Email(text) => f.write_str(text),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// What a matcher wants, for people.
pub(super) fn describe(matcher: &StringMatcher) -> String {
    match matcher {
        StringMatcher::Exact(text) => text.value.clone(),
        StringMatcher::Prefix(text) => format!("{}…", text.value),
        StringMatcher::Suffix(text) => format!("…{}", text.value),
        StringMatcher::Contains(text) => format!("…{}…", text.value),
        StringMatcher::Regex(pattern) => format!("/{}/", pattern.as_str()),
    }
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

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::Text;

    use super::*;

    fn text(value: &str) -> Text {
        Text {
            value: value.to_owned(),
            ignore_case: false,
        }
    }

    fn exact(value: &str) -> StringMatcher {
        StringMatcher::Exact(text(value))
    }

    #[test]
    fn host_names_match_with_one_wildcard_label() {
        for (wanted, name, expected) in [
            ("a.test", "a.test", true),
            ("A.Test", "a.test", true),
            ("a.test.", "a.test", true),
            ("a.test", "b.test", false),
            ("x.a.test", "*.a.test", true),
            ("X.A.test", "*.a.TEST", true),
            ("y.x.a.test", "*.a.test", false),
            ("a.test", "*.a.test", false),
            (".a.test", "*.a.test", false),
            ("xa.test", "x*.test", false),
            ("x.y.test", "*.*.test", false),
            ("x.y.test", "x.*.test", false),
            ("*.a.test", "*.a.test", true),
            ("anything", "*", false),
            ("anything", "*.", false),
            ("x.", "*.", false),
        ] {
            let matched = is_match(&exact(wanted), &San::Dns(name.to_owned()));
            assert_eq!(matched, expected, "{wanted} against {name}");
        }
    }

    #[test]
    fn a_wildcard_means_something_only_in_the_certificate_and_for_exact_matchers() {
        let name = San::Dns("*.a.test".to_owned());
        assert!(!is_match(&StringMatcher::Prefix(text("x.")), &name));
        assert!(is_match(&StringMatcher::Suffix(text(".a.test")), &name));
        assert!(!is_match(
            &exact("*.a.test"),
            &San::Dns("x.a.test".to_owned())
        ));
    }

    #[test]
    fn other_kinds_match_as_text() {
        let spiffe = San::Uri("spiffe://mesh/a".to_owned());
        assert!(is_match(&exact("spiffe://mesh/a"), &spiffe));
        assert!(!is_match(&exact("SPIFFE://mesh/a"), &spiffe));
        assert!(is_match(
            &StringMatcher::Prefix(text("spiffe://mesh/")),
            &spiffe
        ));
        assert!(is_match(
            &exact("a@mesh.test"),
            &San::Email("a@mesh.test".to_owned())
        ));
        let ip = ip(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa]).unwrap();
        assert!(is_match(&exact("2001:db8::a"), &San::Ip(ip)));
        assert!(!is_match(&exact("2001:DB8::A"), &San::Ip(ip)));
    }

    #[test]
    fn no_matcher_accepts_and_no_certificate_matches_none() {
        let unreadable = CertificateDer::from(vec![1, 2, 3]);
        assert!(accepts(&[], &unreadable));
        assert!(!accepts(&[StringMatcher::Contains(text("a"))], &unreadable));
        assert!(names(&unreadable).is_empty());
    }
}
