//! Are the certificates there, do they belong together, and how long do they last?

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};
use sidestep::security::Material;
use sidestep_proto::bootstrap::{Bootstrap, CertificateProviderConfig, Credentials};

use super::{Group, Report, Subject, span};
use crate::x509::Certificate;

const GROUP: Group = Group::Certificates;

const MAKE: &str = "`sidestep cert dev --out DIR SERVICE` makes a working set";
const RENEW: &str = "renew it (`sidestep cert dev` again, or your own authority); processes take new files up by themselves";

/// The three files that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Files {
    roots: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Checks each set of files that the bootstrap names, once.
pub(super) fn check(bootstrap: &Bootstrap, subject: &Subject, report: &mut Report) {
    let sets = sets(bootstrap);
    if sets.is_empty() {
        report.skip(GROUP, "the bootstrap names none");
    }
    let expected = subject.mesh.as_ref().and_then(|mesh| {
        let service = mesh.services.get(&bootstrap.node.cluster)?;
        mesh.spiffe_id(service)
    });
    for (files, used_for) in sets {
        let contents = Contents {
            roots: files.roots.as_deref().map(read),
            certificate: files.certificate.as_deref().map(read),
            key: files.key.as_deref().map(read),
        };
        report.good(GROUP, format!("used for {}", used_for.join(" and ")));
        judge(&files, &contents, expected.as_deref(), subject.now, report);
        if let Some(key) = &files.key {
            check_mode(key, report);
        }
    }
}

/// Each set and what it is for.
fn sets(bootstrap: &Bootstrap) -> BTreeMap<Files, Vec<String>> {
    let mut sets: BTreeMap<Files, Vec<String>> = BTreeMap::new();
    for server in &bootstrap.servers {
        if let Credentials::Tls {
            ca_certificate_file,
            certificate_file,
            private_key_file,
            ..
        } = &server.credentials
        {
            let files = Files {
                roots: ca_certificate_file.clone(),
                certificate: certificate_file.clone(),
                key: private_key_file.clone(),
            };
            let uses = sets.entry(files).or_default();
            uses.push(format!("the control plane {}", server.uri));
        }
    }
    for (name, provider) in &bootstrap.certificate_providers {
        if let CertificateProviderConfig::FileWatcher {
            certificate_file,
            private_key_file,
            ca_certificate_file,
            ..
        } = provider
        {
            let files = Files {
                roots: ca_certificate_file.clone(),
                certificate: certificate_file.clone(),
                key: private_key_file.clone(),
            };
            let uses = sets.entry(files).or_default();
            uses.push(format!("peers (certificate provider {name:?})"));
        }
    }
    sets
}

/// What the files hold, where there is one.
#[derive(Default)]
struct Contents {
    roots: Option<io::Result<Vec<u8>>>,
    certificate: Option<io::Result<Vec<u8>>>,
    key: Option<io::Result<Vec<u8>>>,
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

fn check_mode(key: &Path, report: &mut Report) {
    let Ok(metadata) = std::fs::metadata(key) else {
        return;
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        report.warn(
            GROUP,
            format!(
                "{}: others can read this key (mode {mode:04o})",
                key.display()
            ),
            format!("chmod 600 {}", key.display()),
        );
    }
}

/// Judges a set of files by their contents.
fn judge(
    files: &Files,
    contents: &Contents,
    expected: Option<&str>,
    now: SystemTime,
    report: &mut Report,
) {
    let roots = opened(files.roots.as_deref(), contents.roots.as_ref(), report);
    let chain = opened(
        files.certificate.as_deref(),
        contents.certificate.as_ref(),
        report,
    );
    let key = opened(files.key.as_deref(), contents.key.as_ref(), report);
    let authorities = roots.and_then(|(path, pem)| certificates(path, pem, report));
    for authority in authorities.iter().flatten() {
        if let Some(path) = &files.roots {
            validity(path, authority, now, report);
        }
    }
    let (Some((path, pem)), Some((key_path, key))) = (chain, key) else {
        return;
    };
    let Some(chain) = certificates(path, pem, report) else {
        return;
    };
    match Material::from_pem(Some((pem, key)), None) {
        Ok(_) => report.good(
            GROUP,
            format!("{}: the key of {}", key_path.display(), path.display()),
        ),
        Err(error) => report.fail(
            GROUP,
            format!(
                "{} is not the key of {}: {error}",
                key_path.display(),
                path.display()
            ),
            "put certificate and key of one pair there, written together",
        ),
    }
    identity(path, &chain[0], expected, report);
    if validity(path, &chain[0], now, report)
        && let (Some(authorities), Some(roots)) = (&authorities, &files.roots)
    {
        vouched_for(path, &chain, roots, authorities, now, report);
    }
}

/// A file with its content; what is wrong with it is reported.
fn opened<'a>(
    path: Option<&'a Path>,
    content: Option<&'a io::Result<Vec<u8>>>,
    report: &mut Report,
) -> Option<(&'a Path, &'a [u8])> {
    let path = path?;
    match content? {
        Ok(content) => Some((path, content)),
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run as the user of the service, or give the file to that user (chown)"
                }
                _ => MAKE,
            };
            report.fail(GROUP, format!("{}: {error}", path.display()), hint);
            None
        }
    }
}

fn certificates(path: &Path, pem: &[u8], report: &mut Report) -> Option<Vec<Certificate>> {
    match Certificate::from_pem(pem) {
        Ok(certificates) => Some(certificates),
        Err(error) => {
            report.fail(GROUP, format!("{}: {error}", path.display()), MAKE);
            None
        }
    }
}

fn identity(path: &Path, leaf: &Certificate, expected: Option<&str>, report: &mut Report) {
    let path = path.display();
    let ids: Vec<&String> = leaf
        .uris
        .iter()
        .filter(|uri| uri.starts_with("spiffe://"))
        .collect();
    match (ids.as_slice(), expected) {
        ([id], Some(expected)) if *id != expected => report.fail(
            GROUP,
            format!("{path}: made out to {id}, but the mesh file says {expected}"),
            "give the process the certificate of its service, or correct `identity` or `trust_domain`",
        ),
        ([id], _) => report.good(GROUP, format!("{path}: {id}")),
        ([], _) => report.warn(
            GROUP,
            format!("{path}: no SPIFFE id in it"),
            "peers in the mesh are known by it; `sidestep cert dev` puts one in",
        ),
        _ => report.fail(
            GROUP,
            format!("{path}: {} SPIFFE ids in it", ids.len()),
            "a certificate has exactly one (the SPIFFE standard)",
        ),
    }
}

/// Whether it is good now.
fn validity(path: &Path, certificate: &Certificate, now: SystemTime, report: &mut Report) -> bool {
    let path = path.display();
    let name = &certificate.subject;
    if let Ok(early) = certificate.not_before.duration_since(now)
        && !early.is_zero()
    {
        report.fail(
            GROUP,
            format!("{path}: {name} becomes valid in {} only", span(early)),
            "is this machine's clock behind, or was the one that issued it ahead?",
        );
        return false;
    }
    let Ok(left) = certificate.not_after.duration_since(now) else {
        let since = now
            .duration_since(certificate.not_after)
            .unwrap_or_default();
        report.fail(
            GROUP,
            format!("{path}: {name} expired {} ago", span(since)),
            RENEW,
        );
        return false;
    };
    let age = now
        .duration_since(certificate.not_before)
        .unwrap_or_default();
    let says = format!(
        "{path}: {name}, {} old, valid for {}",
        span(age),
        span(left)
    );
    if is_near_its_end(age, left) {
        report.warn(GROUP, says, RENEW);
    } else {
        report.good(GROUP, says);
    }
    true
}

/// A fifth of its life is left, or less.
fn is_near_its_end(age: Duration, left: Duration) -> bool {
    left < (age + left) / 5
}

fn vouched_for(
    path: &Path,
    chain: &[Certificate],
    roots: &Path,
    authorities: &[Certificate],
    now: SystemTime,
    report: &mut Report,
) {
    match verify(chain, authorities, now) {
        Ok(()) => report.good(
            GROUP,
            format!("{}: vouched for by {}", path.display(), roots.display()),
        ),
        Err(error) => report.fail(
            GROUP,
            format!(
                "{}: nobody in {} vouches for it: {error}",
                path.display(),
                roots.display()
            ),
            "certificate and roots are of two authorities: issue it anew by the one of the roots",
        ),
    }
}

/// Whether a leaf may be used by a client, by its chain, the roots and the time.
fn verify(
    chain: &[Certificate],
    authorities: &[Certificate],
    now: SystemTime,
) -> Result<(), String> {
    let der: Vec<CertificateDer<'_>> = chain.iter().map(|c| c.der.as_slice().into()).collect();
    let roots: Vec<CertificateDer<'_>> = authorities
        .iter()
        .map(|c| c.der.as_slice().into())
        .collect();
    let anchors: Result<Vec<_>, _> = roots.iter().map(webpki::anchor_from_trusted_cert).collect();
    let anchors = anchors.map_err(|error| error.to_string())?;
    let leaf = webpki::EndEntityCert::try_from(&der[0]).map_err(|error| error.to_string())?;
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    leaf.verify_for_usage(
        algorithms.all,
        &anchors,
        &der[1..],
        UnixTime::since_unix_epoch(since),
        webpki::KeyUsage::client_auth(),
        None,
        None,
    )
    .map(drop)
    .map_err(|error| error.to_string())
}
