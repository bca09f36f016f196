//! Dials a management server, secured or not.

use std::error::Error;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// How the connection to the server is secured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Security {
    /// Connect over TLS, to a server for which one of these roots vouches
    #[arg(long, value_name = "PEM", env = "SIDESTEP_CA")]
    ca: Option<PathBuf>,

    /// The certificate chain to show if the server demands one
    #[arg(
        long,
        value_name = "PEM",
        env = "SIDESTEP_CERT",
        requires_all = ["ca", "key"]
    )]
    cert: Option<PathBuf>,

    /// The private key of --cert
    #[arg(long, value_name = "PEM", env = "SIDESTEP_KEY", requires = "cert")]
    key: Option<PathBuf>,
}

/// Connects to `HOST:PORT`, `unix:/PATH` or a URL of one of them.
///
/// # Errors
/// In words: what is wrong with the address or the files, or why there is no connection.
pub(crate) async fn dial(server: &str, security: &Security) -> Result<Channel, String> {
    let secured = security.ca.is_some();
    if secured && (server.starts_with("unix:") || server.starts_with("http://")) {
        return Err(format!(
            "{server} is an address without TLS; leave --ca out"
        ));
    }
    if !secured && server.starts_with("https://") {
        return Err(format!("{server} is an address with TLS; say --ca PEM"));
    }
    let uri = if server.contains("://") || server.starts_with("unix:") {
        server.to_owned()
    } else {
        let scheme = if secured { "https" } else { "http" };
        format!("{scheme}://{server}")
    };
    let mut endpoint = Endpoint::from_shared(uri).map_err(|error| chain(&error))?;
    if let Some(tls) = security.config()? {
        endpoint = endpoint.tls_config(tls).map_err(|error| chain(&error))?;
    }
    endpoint.connect().await.map_err(|error| chain(&error))
}

impl Security {
    fn config(&self) -> Result<Option<ClientTlsConfig>, String> {
        let Some(ca) = &self.ca else {
            return Ok(None);
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let Some((cert, key)) = self.cert.as_ref().zip(self.key.as_ref()) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(Some(tls))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// An error and its causes in one line; tonic's own text is only "transport error".
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Layers that only pass their cause on would say it twice.
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
