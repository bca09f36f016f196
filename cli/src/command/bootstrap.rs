//! `sidestep bootstrap`: the file that tells a process who it is and where its control plane is.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use serde_json::Value;
use sidestep_cli::bootstrap::envoy::{self, Egress, Ingress, Protocol, Sidecar};
use sidestep_cli::bootstrap::{self, Certificates, Process, RequestError, ServerAddress};
use sidestep_cli::files::{self, Readers};

use super::mesh_or_findings;
use crate::output::{Exit, Style};

const EXAMPLES: &str = "\
Examples:
  sidestep bootstrap runtime --service greeter --server 127.0.0.1:18000 --certs certs --out greeter.json
  GRPC_XDS_BOOTSTRAP=greeter.json cargo run
      a service on Sidestep's runtime, over TLS

  sidestep bootstrap grpc --service web --server mesh.internal:18000 --certs certs --out web.json
      a grpc-go, C++, Python or Java service: the same variable, the same file

  sidestep bootstrap envoy --service web --server mesh.internal:18000 --certs certs \\
      --egress 15001=greeter --out envoy.json
      an Envoy beside a service that cannot speak xDS";

const GRPC_EXAMPLES: &str = "\
Examples:
  sidestep bootstrap runtime --service greeter --server 127.0.0.1:18000 --certs certs --out greeter.json
  sidestep bootstrap grpc --service web --server mesh.internal:18000 --certs certs --out web.json
  sidestep bootstrap grpc --service web --server unix:/run/sidestep.sock

The process finds the file by GRPC_XDS_BOOTSTRAP=FILE (or its text in GRPC_XDS_BOOTSTRAP_CONFIG).
`--certs` is a directory that `sidestep cert dev` wrote, or any with ca.pem, SERVICE.pem and
SERVICE.key; with it the stream to the control plane is encrypted too, except through a Unix
socket. `--insecure` sends that stream in plaintext, the certificates then serve calls alone.";

const ENVOY_EXAMPLES: &str = "\
Examples:
  sidestep bootstrap envoy --service web --server 127.0.0.1:18000 --egress 15001=greeter --out envoy.json
  envoy --config-path envoy.json
      the application dials 127.0.0.1:15001 and reaches greeter by the mesh's routes

  sidestep bootstrap envoy --service greeter --server mesh.internal:18000 --certs certs \\
      --ingress 50051=8080 --out envoy.json
      others call port 50051 by mutual TLS; the application listens on 127.0.0.1:8080, in plaintext

What it does not do:
  - Capture by iptables is not offered: the application dials the egress port by itself, and the
    mesh file's endpoints name the ingress port.
  - The ingress port is the file's own: `mtls` of the mesh file does not change it. With --certs it
    demands a certificate of the same root, without it takes plaintext.
  - An Envoy reads the certificate files when it starts; restart it after a renewal.";

/// Write a bootstrap file: who a process is, where its control plane is
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// For a service on Sidestep's runtime
    #[command(after_long_help = GRPC_EXAMPLES)]
    Runtime(Common),
    /// For a service on grpc-go, gRPC C++, Python or Java
    #[command(after_long_help = GRPC_EXAMPLES)]
    Grpc(Common),
    /// For an Envoy beside a service, with explicit ports
    #[command(after_long_help = ENVOY_EXAMPLES)]
    Envoy(EnvoyArguments),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The service that the process is, as the mesh file calls it
    #[arg(long, value_name = "NAME")]
    service: String,

    /// The control plane: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDR", env = "SIDESTEP_SERVER")]
    server: ServerAddress,

    /// Where the process's certificates are: ca.pem, NAME.pem, NAME.key
    #[arg(long, value_name = "DIR")]
    certs: Option<PathBuf>,

    /// Allow plaintext to a control plane on another machine
    #[arg(long)]
    insecure: bool,

    /// Tells processes of one service apart [default: the service]
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,

    /// The region that it runs in
    #[arg(long, value_name = "REGION", default_value = "")]
    region: String,

    /// The zone that it runs in
    #[arg(long, value_name = "ZONE", default_value = "")]
    zone: String,

    /// Mesh files, or directories of them: refuse a service that they do not have
    #[arg(
        long,
        value_name = "FILE|DIR",
        env = "SIDESTEP_MESH",
        value_delimiter = ':'
    )]
    mesh: Vec<PathBuf>,

    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct EnvoyArguments {
    #[command(flatten)]
    common: Common,

    /// A port on 127.0.0.1 whose calls go to a service; may be repeated
    #[arg(long, value_name = "PORT=SERVICE")]
    egress: Vec<Egress>,

    /// A port whose calls go to the application's port on 127.0.0.1; may be repeated
    #[arg(long, value_name = "[IP:]PORT=PORT")]
    ingress: Vec<Ingress>,

    /// Also take the listeners among the mesh file's `resources`
    #[arg(long)]
    lds: bool,

    /// Envoy's own admin interface, on loopback
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,

    /// How Envoy speaks to the control plane
    #[arg(long, value_enum, default_value_t = Ads::Delta)]
    ads: Ads,
}

/// The form of ADS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ads {
    /// Only what changes
    Delta,
    /// State of the world: everything, each time
    Sotw,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let common = match &self.kind {
            Kind::Runtime(common) | Kind::Grpc(common) => common,
            Kind::Envoy(envoy) => &envoy.common,
        };
        let Ok(mesh) = mesh_or_findings(&common.mesh) else {
            return Ok(Exit::Failed);
        };
        let made = common.process().and_then(|process| {
            let mut services = vec![common.service.as_str()];
            let content = match &self.kind {
                Kind::Runtime(_) | Kind::Grpc(_) => bootstrap::grpc(&process),
                Kind::Envoy(envoy) => {
                    services.extend(envoy.egress.iter().map(|egress| egress.service.as_str()));
                    envoy.config(&process)?
                }
            };
            if let Some(mesh) = &mesh {
                for service in services {
                    bootstrap::check_service(mesh, service)?;
                }
            }
            Ok(content)
        });
        match made {
            Ok(content) => common.put(&content),
            Err(error) => Ok(refused(&error)),
        }
    }
}

/// Arguments that make no sense together are wrong usage; what is not there is a failure.
fn refused(error: &RequestError) -> Exit {
    let style = Style::of(&std::io::stderr());
    let code = error.code();
    let text = error.to_string();
    eprintln!("{}", crate::error::shown(style, code, &text, code.hint()));
    match error {
        RequestError::NoCertificate { .. } | RequestError::UnknownService { .. } => Exit::Failed,
        _ => Exit::Usage,
    }
}

impl Common {
    fn process(&self) -> Result<Process, RequestError> {
        let of = |directory: &PathBuf| Certificates::of(directory, &self.service);
        let certificates = self.certs.as_ref().map(of).transpose()?;
        let server = self.server.clone();
        let process = Process::new(&self.service, server, certificates, self.insecure)?;
        Ok(Process {
            node_id: self.node_id.clone().unwrap_or(process.node_id),
            region: self.region.clone(),
            zone: self.zone.clone(),
            ..process
        })
    }

    /// Prints it, or writes it and says so.
    fn put(&self, content: &Value) -> anyhow::Result<Exit> {
        let text = format!("{content:#}\n");
        let Some(out) = &self.out else {
            print!("{text}");
            return Ok(Exit::Ok);
        };
        files::replace(out, text.as_bytes(), Readers::Everyone)
            .with_context(|| format!("cannot write {}", out.display()))?;
        let encrypted = match self.process()?.tls {
            true => "TLS",
            false => "plaintext",
        };
        eprintln!(
            "wrote {}: service {}, control plane {} by {encrypted}",
            out.display(),
            self.service,
            self.server
        );
        Ok(Exit::Ok)
    }
}

impl EnvoyArguments {
    fn config(&self, process: &Process) -> Result<Value, RequestError> {
        let sidecar = Sidecar {
            egress: self.egress.clone(),
            ingress: self.ingress.clone(),
            lds: self.lds,
            admin: self.admin,
            protocol: match self.ads {
                Ads::Delta => Protocol::Delta,
                Ads::Sotw => Protocol::Sotw,
            },
        };
        envoy::check(process, &sidecar, self.common.insecure)?;
        Ok(envoy::config(process, &sidecar))
    }
}
