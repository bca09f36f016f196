//! One connection to a control plane, made by the runtime's own code.

use std::sync::Arc;

use http::uri::{Authority, Scheme};
use sidestep::resolver::{self, DirectTarget, Place};
use sidestep::security::ClientTls;
use sidestep::subchannel::{
    AttemptError, ConnectTarget, Http2Options, Single, connect, default_connector,
};
use sidestep_proto::bootstrap::{Credentials, Server};

use super::PATIENCE;

/// An open connection.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) single: Single,
    pub(super) encrypted: bool,
}

/// Why there is none.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) hint: &'static str,
    /// Nobody is there, as opposed to somebody who does not want to talk.
    pub(super) nobody: bool,
}

pub(super) async fn dial(server: &Server) -> Result<Link, Refusal> {
    let bad_address = |reason: String| Refusal {
        reason,
        hint: "correct server_uri in the bootstrap: HOST:PORT or unix:/PATH",
        nobody: true,
    };
    let bare = server.uri.strip_prefix("https://").unwrap_or(&server.uri);
    let place = DirectTarget::parse(bare).map_err(|error| bad_address(error.to_string()))?;
    let addresses = match &place.place {
        Place::Addresses(addresses) => addresses.clone(),
        Place::Name { host, port } => {
            resolver::lookup(host, *port)
                .await
                .map_err(|error| Refusal {
                    reason: format!("{host}: {error}"),
                    hint: "is the name right, and does this machine's DNS know it?",
                    nobody: true,
                })?
        }
    };
    let authority = Authority::try_from(place.authority());
    let authority = authority.map_err(|error| bad_address(error.to_string()))?;
    let (tls, scheme) = match tls(&server.credentials) {
        Some(tls) => (Some(Arc::new(tls)), Scheme::HTTPS),
        None => (None, Scheme::HTTP),
    };
    let encrypted = tls.is_some();
    let target = ConnectTarget {
        addresses,
        tls,
        server_name: place.host().to_owned(),
        options: Arc::new(Http2Options {
            connect_timeout: PATIENCE,
            ..Http2Options::default()
        }),
    };
    match connect(&default_connector(), &target).await {
        Ok((connection, driver)) => {
            tokio::spawn(driver);
            Ok(Link {
                single: Single::new(connection, scheme, authority),
                encrypted,
            })
        }
        Err(error) => Err(refusal(
            error.attempts.last().map(|attempt| &attempt.error),
            error.to_string(),
            encrypted,
        )),
    }
}

fn tls(credentials: &Credentials) -> Option<ClientTls> {
    match credentials {
        Credentials::Insecure => None,
        Credentials::Tls {
            ca_certificate_file,
            certificate_file,
            private_key_file,
            ..
        } => {
            let identity = certificate_file.clone().zip(private_key_file.clone());
            Some(ClientTls::for_control_plane(
                ca_certificate_file.clone(),
                identity,
            ))
        }
    }
}

fn refusal(error: Option<&AttemptError>, reason: String, encrypted: bool) -> Refusal {
    let hint = match error {
        Some(AttemptError::Tls { reason: text, .. }) => tls_hint(text),
        Some(AttemptError::Security(_)) => "see the group certificates",
        Some(AttemptError::Http2 { .. }) => broken_off_hint(encrypted),
        _ => "is `sidestep serve` running there? A firewall in between?",
    };
    Refusal {
        reason,
        hint,
        nobody: matches!(
            error,
            None | Some(AttemptError::Dial(_) | AttemptError::TimedOut(_))
        ),
    }
}

/// What to do when a connection ended that had begun well.
pub(super) fn broken_off_hint(encrypted: bool) -> &'static str {
    match encrypted {
        true => {
            "the server did not take this process's certificate (--client-ca there, \
             certificate_file here), or it is no gRPC server"
        }
        false => {
            "the server may want TLS: write the bootstrap with --certs DIR; or it is no gRPC server"
        }
    }
}

/// By rustls' words for it.
fn tls_hint(text: &str) -> &'static str {
    const OTHER_AUTHORITY: &str = "the server's certificate is of another authority: give this process the ca.pem of that one";
    let known = [
        ("UnknownIssuer", OTHER_AUTHORITY),
        // Development authorities have one name and many keys.
        ("BadSignature", OTHER_AUTHORITY),
        (
            "not valid for name",
            "the server's certificate lacks the name that is dialled: \
             sidestep cert dev --out DIR … --server-host NAME",
        ),
        (
            "expired",
            "the server's certificate expired, or a clock is wrong: renew it",
        ),
        (
            "not valid yet",
            "a clock is wrong, here or where the certificate was issued",
        ),
        (
            "InvalidContentType",
            "the server speaks plaintext: start it with --tls-cert, or write the bootstrap with --insecure",
        ),
    ];
    let found = known.iter().find(|(word, _)| text.contains(word));
    found.map_or(
        "the server speaks no TLS, or did not take this process's certificate",
        |(_, hint)| hint,
    )
}
