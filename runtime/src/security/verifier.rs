//! Verifies a server by chain, validity and subject alternative names, in place of its host name
//! (gRFC A29: the control plane says which names are good); and by host name, where no control
//! plane has spoken yet.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sidestep_proto::resource::StringMatcher;

use super::tls::refused;
use super::{SecurityError, san};

/// Verifies host names against `roots`, or against the platform's (gRFC A65).
pub(super) fn host_name_verifier(
    roots: Option<Arc<RootCertStore>>,
    crypto: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, SecurityError> {
    let crypto = Arc::clone(crypto);
    match roots {
        Some(roots) => match WebPkiServerVerifier::builder_with_provider(roots, crypto).build() {
            Ok(verifier) => Ok(verifier),
            Err(error) => Err(SecurityError::Tls(error.to_string())),
        },
        None => match rustls_platform_verifier::Verifier::new(crypto) {
            Ok(verifier) => Ok(Arc::new(verifier)),
            Err(error) => Err(refused(error)),
        },
    }
}

#[derive(Debug)]
pub(super) struct SanVerifier {
    roots: Arc<RootCertStore>,
    sans: Arc<[StringMatcher]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SanVerifier {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        sans: Arc<[StringMatcher]>,
        crypto: &CryptoProvider,
    ) -> Self {
        Self {
            roots,
            sans,
            algorithms: crypto.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for SanVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        if san::accepts(&self.sans, end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
