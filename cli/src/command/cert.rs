//! `sidestep cert dev`: certificates to begin with.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use sidestep_cli::certificates::{self, Issued, IssuedFile, Order};

use super::mesh_or_findings;
use crate::output::{Exit, Style};

const EXAMPLES: &str = "\
Examples:
  sidestep cert dev --out certs --mesh mesh.yaml
      for all services of the mesh file, with the identities that it gives them

  sidestep cert dev --out certs web greeter --trust-domain prod.example
      without a mesh file: spiffe://prod.example/sa/web and …/sa/greeter

  sidestep cert dev --out certs --mesh mesh.yaml --server-host mesh.internal --server-host 10.0.0.5
      for a control plane that other machines dial by these names

Writes into the directory:
  ca.pem            the root that everyone trusts; ca.key signs, keep it to yourself
  SERVICE.pem .key  a service's certificate: its SPIFFE id, its name, localhost
  control-plane.pem .key
                    for `sidestep serve --tls-cert … --tls-key …`

Run again, it keeps the authority, adds what is new and renews the leaves; running processes take
renewed files up by themselves. Keys are readable by you alone (mode 0600).

For development and first pilots. In production let an authority of your own (SPIRE, cert-manager,
Vault) write the same files: nothing else changes.";

/// Make certificates
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Make a development authority, and certificates for services and the control plane
    Dev(Dev),
}

#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
struct Dev {
    /// Services; left out, all of the mesh file
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// The directory to write to; an authority that is there is kept
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Mesh files, or directories of them: trust domain and identities are taken from there
    #[arg(
        long,
        value_name = "FILE|DIR",
        env = "SIDESTEP_MESH",
        value_delimiter = ':'
    )]
    mesh: Vec<PathBuf>,

    /// The trust domain [default: the mesh file's, else mesh.test]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,

    /// A name or IP address by which other machines dial the control plane; may be repeated
    #[arg(long = "server-host", value_name = "HOST")]
    server_hosts: Vec<String>,

    /// How many days the services' certificates last, 1 to 700
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=700))]
    days: u32,

    /// Begin a new authority: certificates of the old one are worth nothing any more
    #[arg(long)]
    renew: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let Kind::Dev(dev) = self.kind;
        dev.run()
    }
}

impl Dev {
    fn run(self) -> anyhow::Result<Exit> {
        let Ok(mesh) = mesh_or_findings(&self.mesh) else {
            return Ok(Exit::Failed);
        };
        let domain = self.trust_domain.as_deref();
        let (trust_domain, identities) =
            certificates::identities(mesh.as_ref(), domain, &self.services)?;
        let now = SystemTime::now();
        let issued = certificates::issue(&Order {
            directory: self.out.clone(),
            identities,
            trust_domain,
            control_plane_hosts: self.server_hosts,
            lifetime: Duration::from_secs(u64::from(self.days) * 86_400),
            renew: self.renew,
            now,
        })
        .with_context(|| format!("certificates in {}", self.out.display()))?;
        if self.json {
            println!("{:#}", to_json(&issued));
        } else {
            print(&issued, &self.out, now, Style::of(&std::io::stdout()));
        }
        Ok(Exit::Ok)
    }
}

fn print(issued: &Issued, directory: &Path, now: SystemTime, style: Style) {
    let authority = match issued.new_authority {
        true => "new development authority",
        false => "development authority, kept",
    };
    for (index, file) in issued.files.iter().enumerate() {
        let what = match index {
            0 => authority.to_owned(),
            _ => file.names.join(", "),
        };
        let left = file.not_after.duration_since(now).unwrap_or_default();
        println!(
            "{}\n  {what}\n  valid {} days",
            style.strong(&file.certificate.display().to_string()),
            left.as_secs() / 86_400
        );
    }
    for path in &issued.stale {
        let line = format!(
            "{}: not of this authority, nobody will trust it",
            path.display()
        );
        println!("{}", style.odd(&line));
    }
    let directory = directory.display();
    println!(
        "\nThe keys beside them are for your eyes only; {directory}/ca.key can sign for every service.\n\
         Next:\n  \
           sidestep serve mesh.yaml --tls-cert {directory}/control-plane.pem \
             --tls-key {directory}/control-plane.key --client-ca {directory}/ca.pem\n  \
           sidestep bootstrap runtime --service SERVICE --server 127.0.0.1:18000 --certs {directory}"
    );
}

fn to_json(issued: &Issued) -> Value {
    json!({
        "new_authority": issued.new_authority,
        "files": issued.files.iter().map(file_to_json).collect::<Vec<_>>(),
        "stale": issued.stale,
    })
}

fn file_to_json(file: &IssuedFile) -> Value {
    let not_after = file.not_after.duration_since(UNIX_EPOCH);
    json!({
        "certificate": file.certificate,
        "key": file.key,
        "names": file.names,
        "not_after": not_after.unwrap_or_default().as_secs(),
    })
}
