//! Verifies a server by chain, validity and subject alternative names, in place of its host name
//! (gRFC A29: the control plane says which names are good); and by host name, where no control
//! plane has spoken yet.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sidestep_proto::code::{self, Code};
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

/// The certificate is good, but it is somebody else's. rustls has words for host names only.
#[derive(Debug)]
struct WrongName {
    presented: Vec<String>,
    wanted: Vec<String>,
}

impl WrongName {
    fn new(wanted: &[StringMatcher], certificate: &CertificateDer<'_>) -> Self {
        let presented = san::names(certificate);
        Self {
            presented: presented.iter().map(ToString::to_string).collect(),
            wanted: wanted.iter().map(san::describe).collect(),
        }
    }
}

impl fmt::Display for WrongName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.wanted.join(" or ");
        if self.presented.is_empty() {
            return write!(f, "the server's certificate has no name, not even {wanted}");
        }
        let presented = self.presented.join(", ");
        write!(
            f,
            "the server's certificate is for {presented}, not {wanted}"
        )
    }
}

impl std::error::Error for WrongName {}

impl From<WrongName> for Error {
    fn from(wrong: WrongName) -> Self {
        CertificateError::Other(OtherError(Arc::new(wrong))).into()
    }
}

/// What a failed handshake says, with our own words where the failure is of our own making.
pub(crate) fn handshake_error(error: &io::Error) -> (Code, String) {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<Error>());
    match cause {
        Some(Error::InvalidCertificate(CertificateError::Other(ours))) => {
            (code::WRONG_NAME, ours.to_string())
        }
        Some(Error::InvalidMessage(_)) => not_tls(error),
        Some(cause) => (code_of(cause), error.to_string()),
        // A server that expects plaintext hangs up on a hello.
        None if hung_up(error) => not_tls(error),
        None => (code::HANDSHAKE_FAILED, error.to_string()),
    }
}

fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn not_tls(error: &io::Error) -> (Code, String) {
    let text = format!("the peer does not answer in TLS ({error})");
    (code::NOT_TLS, text)
}

fn code_of(error: &Error) -> Code {
    use CertificateError as Bad;
    match error {
        Error::InvalidCertificate(bad) => match bad {
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. } => code::CERTIFICATE_EXPIRED,
            Bad::UnknownIssuer | Bad::BadSignature => code::UNTRUSTED_CERTIFICATE,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => code::WRONG_NAME,
            _ => code::HANDSHAKE_FAILED,
        },
        Error::AlertReceived(_) => code::CERTIFICATE_REFUSED,
        _ => code::HANDSHAKE_FAILED,
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
            Err(WrongName::new(&self.sans, end_entity).into())
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
