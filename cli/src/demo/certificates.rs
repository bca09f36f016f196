//! The demo's certificate authority: one root, and short-lived leaves with SPIFFE ids.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use super::mesh_file::TRUST_DOMAIN;

/// Signs leaves.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "sidestep demo root");
        CertifiedIssuer::self_signed(params, KeyPair::generate()?).map(Self)
    }

    /// The root certificate, PEM.
    pub(super) fn root(&self) -> String {
        self.0.pem()
    }

    /// A leaf for a process of `service`: its SPIFFE id, the host name that the control group's
    /// TLS insists on, and the generation, by which a peer can tell it from the one before.
    pub(super) fn issue(&self, service: &str, generation: u32) -> Result<Issued, rcgen::Error> {
        let names = vec![host(service), generation_name(generation)];
        let mut params = CertificateParams::new(names)?;
        let id = format!("spiffe://{TRUST_DOMAIN}/sa/{service}").try_into()?;
        params.subject_alt_names.push(SanType::URI(id));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Issued {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The host name in the certificates of a service.
pub(super) fn host(service: &str) -> String {
    format!("{service}.{TRUST_DOMAIN}")
}

/// The name in a certificate that says how often certificates were rotated before it.
fn generation_name(generation: u32) -> String {
    format!("generation-{generation}.{TRUST_DOMAIN}")
}

/// Reads [`generation_name`] back.
pub(super) fn generation_of(name: &str) -> Option<u32> {
    let number = name.strip_prefix("generation-")?;
    number
        .strip_suffix(TRUST_DOMAIN)?
        .strip_suffix('.')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_can_be_read_back() {
        assert_eq!(generation_of(&generation_name(7)), Some(7));
        assert_eq!(generation_of(&host("greeter")), None);
    }

    #[test]
    fn a_leaf_comes_with_its_key() {
        let authority = Authority::new().expect("a root");
        let issued = authority.issue("greeter", 1).expect("a leaf");
        assert!(issued.chain.contains("BEGIN CERTIFICATE"));
        assert!(issued.key.contains("PRIVATE KEY"));
        assert!(authority.root().contains("BEGIN CERTIFICATE"));
    }
}
