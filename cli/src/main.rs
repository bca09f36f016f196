//! `sidestep`: one binary for the whole mesh.
//!
//! Each verb is a file under `command` that reads its arguments, calls a library, and prints.

mod command;
mod demo;
mod dial;
mod error;
mod output;
mod pages;
mod process;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};

use crate::command::Command;
use crate::output::{Exit, Style};

/// A service mesh without sidecars: control plane and tools.
#[derive(Debug, Parser)]
#[command(name = "sidestep", version, max_term_width = 100, after_long_help = AFTER_HELP)]
#[command(disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// How log lines and `serve`'s own lines look
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "SIDESTEP_LOG_FORMAT"
    )]
    log_format: LogFormat,
}

/// The look of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

const AFTER_HELP: &str = "\
Begin here:
  sidestep demo                        see a whole mesh at work
  sidestep check mesh.yaml             is the mesh file right?
  sidestep cert dev --out certs --mesh mesh.yaml
                                       certificates for its services and the control plane
  sidestep serve mesh.yaml             serve it to every process that asks
  sidestep bootstrap runtime --service web --server 127.0.0.1:18000 --certs certs --out web.json
                                       tell a process who it is: GRPC_XDS_BOOTSTRAP=web.json
  sidestep status                      who runs what, and what was refused
  sidestep status --process 127.0.0.1:9901
                                       what one process runs, and how its endpoints are
  sidestep doctor --call greeter       what is wrong here? (with the process's GRPC_XDS_BOOTSTRAP)
  sidestep explain greeter --mesh mesh.yaml
                                       where would a call go, and why?
  sidestep help SX0205                 what an error means, and what to do about it

Exit codes:
  0  everything is in order
  1  the check failed, or the command could not do its work
  2  wrong usage
  3  the server or the process cannot be reached
  4  partly in order: a client refused its configuration, or the newest edit was refused,
     or a process is not ready

Environment:
  RUST_LOG             which log lines to show, for example RUST_LOG=sidestep_server=debug
  NO_COLOR             no colours
  SIDESTEP_LISTEN      where `serve` listens
  SIDESTEP_SERVER      which server `status` asks and `bootstrap` names
  SIDESTEP_CA, SIDESTEP_CERT, SIDESTEP_KEY
                       how `status` connects to a server with TLS
  SIDESTEP_MESH        which mesh file `explain`, `cert`, `bootstrap` and `doctor` read
  GRPC_XDS_BOOTSTRAP   whose bootstrap `doctor` examines
  SIDESTEP_LOG_FORMAT  text or json
A flag wins over its environment variable.";

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return not_understood(&error),
    };
    log_to_stderr(arguments.log_format, arguments.command.log_filter());
    match run(arguments) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let style = Style::of(&std::io::stderr());
            eprintln!("{}", error::ended(style, &error));
            Exit::Failed.into()
        }
    }
}

/// Help and version come this way too, to standard output.
fn not_understood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let style = Style::of(&std::io::stderr());
    eprintln!("{}", error::usage(style, &error.render().to_string()));
    Exit::Usage.into()
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let json = arguments.log_format == LogFormat::Json;
    runtime.block_on(arguments.command.run(json))
}

/// Standard output carries answers; everything said on the way goes to standard error.
fn log_to_stderr(format: LogFormat, default_filter: &str) {
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(Style::of(&std::io::stderr()).is_coloured())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
