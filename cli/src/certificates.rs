//! A development certificate authority in a directory, and leaf certificates for a mesh's
//! services.
//!
//! ```text
//!   mesh file, names ── identities ──> Order ── issue ──> DIR/ca.pem, DIR/greeter.pem, …
//! ```
//!
//! The authority is kept: a second run with the same directory adds services, or renews their
//! leaves, under the same root. Keys are readable by their owner alone.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use sidestep_proto::code::{self, Code};
use sidestep_server::model::Mesh;
use sidestep_server::nearest;

use crate::files::{self, Readers};
use crate::x509::Certificate;

/// The control plane's certificate is called this, so no service can be.
pub const CONTROL_PLANE: &str = "control-plane";

/// The trust domain where neither the mesh file nor the user says one.
pub const DEFAULT_TRUST_DOMAIN: &str = "mesh.test";

/// The authority's common name: who meets its certificates elsewhere shall know what they are.
const AUTHORITY: &str = "sidestep development CA";
/// Its organisation.
const WARNING: &str = "for development only, do not trust in production";

/// How long an authority lasts.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(2 * 365 * 86_400);

/// Clocks of other machines may be behind.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// Under these names this machine reaches itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A service and the SPIFFE id that its certificate is made out to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name in the mesh file; also that of its files.
    pub service: String,
    /// `spiffe://prod.example/ns/prod/sa/web`.
    pub spiffe_id: String,
}

/// What to issue.
#[derive(Debug, Clone)]
pub struct Order {
    /// The directory of the authority; made if it is not there.
    pub directory: PathBuf,
    /// Who gets a certificate, besides the control plane.
    pub identities: Vec<Identity>,
    /// The trust domain of the control plane's own id.
    pub trust_domain: String,
    /// Names and IP addresses under which processes dial the control plane, loopback apart. Those
    /// in a certificate that it has already stay.
    pub control_plane_hosts: Vec<String>,
    /// How long leaves last, at most as long as the authority.
    pub lifetime: Duration,
    /// Begins a new authority where there is one.
    pub renew: bool,
    /// The time.
    pub now: SystemTime,
}

/// What was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Whether the authority is new.
    pub new_authority: bool,
    /// The authority and then the leaves, the control plane's last.
    pub files: Vec<IssuedFile>,
    /// Certificates in the directory that a former authority signed.
    pub stale: Vec<PathBuf>,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedFile {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM, mode 0600.
    pub key: PathBuf,
    /// What it is made out to: the SPIFFE id first.
    pub names: Vec<String>,
    /// Good until then.
    pub not_after: SystemTime,
}

impl CertificateError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownService { .. } => code::NO_SUCH_SERVICE,
            Self::NoServices
            | Self::BadName(_)
            | Self::ReservedName(_)
            | Self::TrustDomainDiffers { .. }
            | Self::BadTrustDomain(_)
            | Self::BadHost(_) => code::WRONG_USAGE,
            Self::HalfAnAuthority { .. }
            | Self::ForeignAuthority { .. }
            | Self::ExpiredAuthority { .. }
            | Self::WrongAuthorityKey { .. }
            | Self::Unusable { .. }
            | Self::Write { .. }
            | Self::Generate(_) => code::CERTIFICATES_NOT_ISSUED,
        }
    }
}

/// Why nothing, or not everything, was issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Nobody is named.
    #[error("no service is named: give the services' names, or --mesh FILE for all of a mesh")]
    NoServices,
    /// The name cannot be that of a service, nor of a file.
    #[error("{0:?} cannot be the name of a service: use letters, digits, `-`, `_` and `.`")]
    BadName(String),
    /// The name is that of another file.
    #[error(
        "a service called {0:?} would get the files of the authority or the control plane; \
         issue its certificate elsewhere"
    )]
    ReservedName(String),
    /// The mesh file does not have it.
    #[error("{service:?} is no service of the mesh file{hint}")]
    UnknownService {
        /// As given.
        service: String,
        /// `; did you mean …?`, or nothing.
        hint: String,
    },
    /// Two trust domains.
    #[error("--trust-domain says {said:?}, the mesh file {written:?}: servers would be refused")]
    TrustDomainDiffers {
        /// By the user.
        said: String,
        /// In the mesh file.
        written: String,
    },
    /// Not a trust domain.
    #[error("{0:?} cannot be a trust domain: use lower-case letters, digits, `-`, `_` and `.`")]
    BadTrustDomain(String),
    /// Not a host name.
    #[error("{0:?} is neither a host name nor an IP address")]
    BadHost(String),
    /// One of the authority's two files is not there.
    #[error("{} is there, but not {}: bring it back, or begin a new authority with --renew", present.display(), missing.display())]
    HalfAnAuthority {
        /// This one is.
        present: PathBuf,
        /// This one is not.
        missing: PathBuf,
    },
    /// It was not made here.
    #[error("{} belongs to {subject:?}, which is no development authority of sidestep: choose another --out", path.display())]
    ForeignAuthority {
        /// The certificate.
        path: PathBuf,
        /// Its subject.
        subject: String,
    },
    /// It cannot sign any more.
    #[error("the authority in {} has expired: begin a new one with --renew", path.display())]
    ExpiredAuthority {
        /// The certificate.
        path: PathBuf,
    },
    /// Certificate and key are not a pair.
    #[error("{} is not the key of {}: bring the right one back, or begin a new authority with --renew", key.display(), certificate.display())]
    WrongAuthorityKey {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// A file that is there cannot be used.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The cryptography refused.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// Trust domain and identities of `services`: by the mesh file if there is one (without names,
/// all its services), else `spiffe://DOMAIN/sa/SERVICE`.
///
/// # Errors
/// A name that is none, or that the mesh file does not have; two trust domains.
pub fn identities(
    mesh: Option<&Mesh>,
    trust_domain: Option<&str>,
    services: &[String],
) -> Result<(String, Vec<Identity>), CertificateError> {
    let written = mesh.and_then(|mesh| mesh.trust_domain.as_ref());
    let written = written.map(|domain| domain.value.as_str());
    let domain = match (trust_domain, written) {
        (Some(said), Some(written)) if said != written => {
            return Err(CertificateError::TrustDomainDiffers {
                said: said.to_owned(),
                written: written.to_owned(),
            });
        }
        (Some(said), _) => said,
        (None, Some(written)) => written,
        (None, None) => DEFAULT_TRUST_DOMAIN,
    };
    check_domain(domain)?;
    let named: BTreeSet<&str> = match mesh {
        Some(mesh) if services.is_empty() => mesh.services.keys().map(String::as_str).collect(),
        _ => services.iter().map(String::as_str).collect(),
    };
    if named.is_empty() {
        return Err(CertificateError::NoServices);
    }
    let identity = |service: &str| {
        check_name(service)?;
        let path = match mesh {
            Some(mesh) => path_in(mesh, service)?,
            None => format!("sa/{service}"),
        };
        Ok(Identity {
            service: service.to_owned(),
            spiffe_id: format!("spiffe://{domain}/{path}"),
        })
    };
    let identities: Result<_, CertificateError> = named.into_iter().map(identity).collect();
    Ok((domain.to_owned(), identities?))
}

fn path_in(mesh: &Mesh, service: &str) -> Result<String, CertificateError> {
    match mesh.services.get(service) {
        Some(known) => Ok(known.identity.clone()),
        None => Err(CertificateError::UnknownService {
            service: service.to_owned(),
            hint: nearest::hint(service, mesh.services.keys().map(String::as_str)),
        }),
    }
}

fn check_domain(domain: &str) -> Result<(), CertificateError> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if domain.is_empty() || !domain.chars().all(valid) {
        return Err(CertificateError::BadTrustDomain(domain.to_owned()));
    }
    Ok(())
}

/// As strict as the mesh file; and a leading dot would hide the files.
fn check_name(service: &str) -> Result<(), CertificateError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if service.is_empty() || service.starts_with('.') || !service.chars().all(valid) {
        return Err(CertificateError::BadName(service.to_owned()));
    }
    if service == "ca" || service == CONTROL_PLANE {
        return Err(CertificateError::ReservedName(service.to_owned()));
    }
    Ok(())
}

/// Issues certificates as ordered, and an authority if there is none yet. Files that others read
/// are replaced one by one, each whole.
///
/// # Errors
/// Nothing is overwritten when the authority in the directory cannot be used; a write that fails
/// leaves what was written before it.
pub fn issue(order: &Order) -> Result<Issued, CertificateError> {
    for host in &order.control_plane_hosts {
        check_host(host)?;
    }
    let directory = &order.directory;
    let ca = pair(directory, "ca");
    let found = match order.renew {
        true => None,
        false => Authority::open(&ca, order.now)?,
    };
    let fresh = !directory.exists();
    let new_authority = found.is_none();
    let authority = match found {
        Some(authority) => authority,
        None => Authority::begin(&ca, order.now)?,
    };
    if fresh {
        // A key in a repository is a key that everyone has.
        let ignore = directory.join(".gitignore");
        write(&ignore, "*\n", Readers::Everyone)?;
    }
    let mut files = vec![authority.file];
    let not_after = (order.now + order.lifetime).min(files[0].not_after);
    let mut leaf = |name: &str, names: Vec<String>| -> Result<(), CertificateError> {
        let file = IssuedFile {
            names,
            not_after,
            ..pair(directory, name)
        };
        sign(&authority.issuer, name, &file, order.now)?;
        files.push(file);
        Ok(())
    };
    for identity in &order.identities {
        let own = [identity.spiffe_id.as_str(), &identity.service];
        leaf(&identity.service, texts(own.into_iter().chain(LOOPBACK)))?;
    }
    leaf(CONTROL_PLANE, control_plane_names(order))?;
    let stale = match new_authority {
        true => others(directory, &files),
        false => Vec::new(),
    };
    Ok(Issued {
        new_authority,
        files,
        stale,
    })
}

fn texts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}

fn check_host(host: &str) -> Result<(), CertificateError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
    let is_name = !host.is_empty() && host.chars().all(valid);
    match is_name || host.parse::<std::net::IpAddr>().is_ok() {
        true => Ok(()),
        false => Err(CertificateError::BadHost(host.to_owned())),
    }
}

/// Names that it has had stay: adding a service must not cut off whoever dials it by them.
fn control_plane_names(order: &Order) -> Vec<String> {
    let id = format!("spiffe://{}/sa/{CONTROL_PLANE}", order.trust_domain);
    let mut names = texts([id.as_str(), CONTROL_PLANE].into_iter().chain(LOOPBACK));
    let before = std::fs::read(pair(&order.directory, CONTROL_PLANE).certificate);
    let before = before.ok().and_then(|pem| Certificate::from_pem(&pem).ok());
    let before = before.into_iter().flatten().take(1);
    let before: Vec<String> = before
        .flat_map(|old| old.dialled_names().collect::<Vec<_>>())
        .collect();
    for name in order.control_plane_hosts.iter().chain(&before) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Certificates in `directory` that are not among `files`.
fn others(directory: &Path, files: &[IssuedFile]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut others: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "pem"))
        .filter(|path| files.iter().all(|file| file.certificate != *path))
        .collect();
    others.sort();
    others
}

/// Where certificate and key of `name` are.
fn pair(directory: &Path, name: &str) -> IssuedFile {
    IssuedFile {
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
        names: Vec::new(),
        not_after: SystemTime::UNIX_EPOCH,
    }
}

/// Signs leaves.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: IssuedFile,
}

impl Authority {
    /// A new one, written to its files.
    fn begin(place: &IssuedFile, now: SystemTime) -> Result<Self, CertificateError> {
        let not_after = now + AUTHORITY_LIFETIME;
        let mut params = validity(CertificateParams::default(), now, not_after);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = name(AUTHORITY);
        let organisation = DnType::OrganizationName;
        params.distinguished_name.push(organisation, WARNING);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        write(&place.key, &key.serialize_pem(), Readers::Owner)?;
        write(&place.certificate, &certificate.pem(), Readers::Everyone)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            file: IssuedFile {
                names: vec![AUTHORITY.to_owned()],
                not_after,
                ..place.clone()
            },
        })
    }

    /// The one that is there, if there is one.
    fn open(place: &IssuedFile, now: SystemTime) -> Result<Option<Self>, CertificateError> {
        let certificate = place.certificate.clone();
        let key = place.key.clone();
        match (certificate.exists(), key.exists()) {
            (false, false) => return Ok(None),
            (true, true) => {}
            (true, false) => {
                return Err(CertificateError::HalfAnAuthority {
                    present: certificate,
                    missing: key,
                });
            }
            (false, true) => {
                return Err(CertificateError::HalfAnAuthority {
                    present: key,
                    missing: certificate,
                });
            }
        }
        let pem = read(&certificate)?;
        let key_pem = read(&key)?;
        let unusable = |path: &Path, reason: String| CertificateError::Unusable {
            path: path.to_owned(),
            reason,
        };
        let read = Certificate::from_pem(pem.as_bytes()).map_err(|e| unusable(&certificate, e))?;
        let read = &read[0];
        if read.common_name != AUTHORITY {
            return Err(CertificateError::ForeignAuthority {
                path: certificate,
                subject: read.subject.clone(),
            });
        }
        if read.not_after <= now {
            return Err(CertificateError::ExpiredAuthority { path: certificate });
        }
        let pair = KeyPair::from_pem(&key_pem).map_err(|e| unusable(&key, e.to_string()))?;
        if pair.subject_public_key_info() != read.public_key {
            return Err(CertificateError::WrongAuthorityKey { key, certificate });
        }
        let not_after = read.not_after;
        Ok(Some(Self {
            issuer: Issuer::from_ca_cert_pem(&pem, pair)?,
            file: IssuedFile {
                names: vec![AUTHORITY.to_owned()],
                not_after,
                ..place.clone()
            },
        }))
    }
}

/// Makes a leaf out to `file.names` and writes it: the key first, since whoever watches the files
/// waits until both fit.
fn sign(
    issuer: &Issuer<'_, KeyPair>,
    common_name: &str,
    file: &IssuedFile,
    now: SystemTime,
) -> Result<(), CertificateError> {
    let (uris, hosts): (Vec<_>, Vec<_>) = file
        .names
        .iter()
        .cloned()
        .partition(|name| name.starts_with("spiffe:"));
    let mut params = validity(CertificateParams::new(hosts)?, now, file.not_after);
    for uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    }
    params.distinguished_name = name(common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    write(&file.key, &key.serialize_pem(), Readers::Owner)?;
    write(&file.certificate, &certificate.pem(), Readers::Everyone)
}

fn validity(
    mut params: CertificateParams,
    now: SystemTime,
    not_after: SystemTime,
) -> CertificateParams {
    params.not_before = (now - SKEW).into();
    params.not_after = not_after.into();
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn read(path: &Path) -> Result<String, CertificateError> {
    std::fs::read_to_string(path).map_err(|error| CertificateError::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn write(path: &Path, text: &str, readers: Readers) -> Result<(), CertificateError> {
    files::replace(path, text.as_bytes(), readers).map_err(|source| CertificateError::Write {
        path: path.to_owned(),
        source,
    })
}
