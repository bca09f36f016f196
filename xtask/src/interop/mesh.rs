//! What our side of a scenario consists of: a mesh file under `sidestep serve`, bootstraps,
//! certificates and servers of the interop service.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use serde_json::{Value, json};

use super::install::Installed;
use super::process::{Process, address};
use super::stage::{Backend, Stage};

/// `mtls` of the mesh.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    Plaintext,
    MutualTls,
}

impl Security {
    /// What `--creds` of a client is.
    pub(super) const fn credentials(self) -> &'static str {
        match self {
            Self::Plaintext => "insecure",
            Self::MutualTls => "xds",
        }
    }
}

/// The trust domain of every scenario.
pub(super) const TRUST_DOMAIN: &str = "interop.example";

/// A control plane of ours and the file that it follows.
pub(super) struct ControlPlane {
    file: PathBuf,
    process: Process,
    /// `127.0.0.1:port`.
    pub(super) address: String,
}

impl ControlPlane {
    /// Serves `mesh` from a file in `folder`.
    pub(super) fn start(installed: &Installed, folder: &Path, mesh: &str) -> Result<Self> {
        let file = folder.join("mesh.yaml");
        fs::write(&file, mesh)?;
        let mut command = Command::new(&installed.sidestep);
        command.args(["serve", "--log-format=json"]).arg(&file);
        command.args(["--listen", "127.0.0.1:0"]);
        let process = Process::start("sidestep-serve", folder, &mut command)?;
        let address = address(&process.event("serving")?, "address")?;
        Ok(Self {
            file,
            process,
            address,
        })
    }

    /// Replaces the file as editors do, and waits until it is in force.
    pub(super) fn edit(&self, mesh: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, mesh)?;
        fs::rename(&new, &self.file)?;
        self.process.event("changed").map(drop)
    }

    /// Writes the bootstrap of a process that is `service`; with `certificates`, the folder of its
    /// own.
    pub(super) fn bootstrap(
        &self,
        folder: &Path,
        service: &str,
        certificates: Option<&Path>,
    ) -> Result<PathBuf> {
        bootstrap(folder, &self.address, service, certificates)
    }
}

/// Writes the bootstrap of a process that is `service`.
pub(super) fn bootstrap(
    folder: &Path,
    control_plane: &str,
    service: &str,
    certificates: Option<&Path>,
) -> Result<PathBuf> {
    let mut content = json!({
        "xds_servers": [{
            "server_uri": control_plane,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        // grpc-node takes no node without a locality.
        "node": {"id": format!("{service}-node"), "cluster": service, "locality": {}},
        "server_listener_resource_name_template":
            "grpc/server?xds.resource.listening_address=%s",
    });
    if let Some(certificates) = certificates {
        content["certificate_providers"] = json!({"default": {
            "plugin_name": "file_watcher",
            "config": {
                "certificate_file": certificates.join("certificate.pem"),
                "private_key_file": certificates.join("key.pem"),
                "ca_certificate_file": certificates.join("roots.pem"),
                "refresh_interval": "600s",
            },
        }});
    }
    let file = folder.join(format!("{service}-bootstrap.json"));
    fs::write(&file, content.to_string())?;
    Ok(file)
}

/// A mesh of `web`, who calls, and `greeter` with these endpoints.
pub(super) fn file(security: Security, endpoints: &[String]) -> String {
    let mtls = match security {
        Security::Plaintext => "off",
        Security::MutualTls => "strict",
    };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|address| json!({"address": address}))
        .collect();
    format!(
        "mesh: v1\n\
         trust_domain: {TRUST_DOMAIN}\n\
         defaults: {{mtls: {mtls}}}\n\
         services:\n  \
           web: {{}}\n  \
           greeter:\n    \
             endpoints: {{static: {}}}\n    \
             balance: {{policy: round_robin}}\n",
        Value::from(endpoints)
    )
}

/// An authority that lasts for one scenario.
pub(crate) struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    trust_domain: &'static str,
}

impl Certificates {
    pub(crate) fn new(folder: &Path, trust_domain: &'static str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // C-core takes a leaf with its issuer's name for a self-signed certificate.
        let name = DnType::CommonName;
        params.distinguished_name.push(name, "interop authority");
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            folder: folder.to_owned(),
            trust_domain,
        })
    }

    /// The folder with certificate, key and roots of `service` in this mesh.
    pub(crate) fn of(&self, service: &str) -> Result<PathBuf> {
        self.issue(service, Vec::new())
    }

    /// The same, also for peers outside the mesh, who go by the address.
    pub(crate) fn at(&self, service: &str, address: IpAddr) -> Result<PathBuf> {
        self.issue(service, vec![SanType::IpAddress(address)])
    }

    fn issue(&self, service: &str, mut names: Vec<SanType>) -> Result<PathBuf> {
        let mut params = CertificateParams::default();
        let id = format!("spiffe://{}/sa/{service}", self.trust_domain);
        names.insert(0, SanType::URI(id.try_into()?));
        params.subject_alt_names = names;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let folder = self.folder.join(format!("{service}-certificates"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("certificate.pem"), certificate.pem())?;
        fs::write(folder.join("key.pem"), key.serialize_pem())?;
        fs::write(folder.join("roots.pem"), self.issuer.pem())?;
        Ok(folder)
    }
}

/// A server of ours without xDS, and its address.
pub(super) fn plain_server(
    installed: &Installed,
    folder: &Path,
    id: &str,
    flags: &[&str],
) -> Result<(Process, String)> {
    let mut command = Command::new(&installed.server);
    command.args(["--id", id]).args(flags);
    let process = Process::start(id, folder, &mut command)?;
    let address = process.ready()?;
    Ok((process, address))
}

/// A control plane and the cast's server, meshed as `greeter`, which serves.
pub(super) struct Meshed {
    control_plane: ControlPlane,
    /// Where the server listens.
    pub(super) address: String,
    certificates: Option<Certificates>,
    _server: Backend,
}

impl Meshed {
    pub(super) fn start(stage: &Stage<'_>, security: Security) -> Result<Self> {
        let folder = stage.folder;
        let control_plane = ControlPlane::start(stage.installed, folder, &file(security, &[]))?;
        let certificates = match security {
            Security::Plaintext => None,
            Security::MutualTls => Some(Certificates::new(folder, TRUST_DOMAIN)?),
        };
        let own = certificates.as_ref().map(|c| c.of("greeter")).transpose()?;
        let bootstrap = control_plane.bootstrap(folder, "greeter", own.as_deref())?;
        let server = stage.meshed_server("greeter-1", &bootstrap)?;
        server.serves()?;
        let address = server.address.clone();
        control_plane.edit(&file(security, std::slice::from_ref(&address)))?;
        Ok(Self {
            control_plane,
            address,
            certificates,
            _server: server,
        })
    }

    /// The bootstrap of a caller.
    pub(super) fn caller(&self, folder: &Path) -> Result<PathBuf> {
        let own = self
            .certificates
            .as_ref()
            .map(|c| c.of("web"))
            .transpose()?;
        self.control_plane.bootstrap(folder, "web", own.as_deref())
    }
}
