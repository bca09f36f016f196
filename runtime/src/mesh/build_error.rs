//! Why a mesh, a channel or a server cannot be made.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;

use sidestep_proto::bootstrap::{BootstrapError, NameError};
use sidestep_proto::code::{self, Code};

use super::builder::{ADMIN_VARIABLE, FILE_VARIABLE, TEXT_VARIABLE};
use crate::admin::AdminError;
use crate::security::SecurityError;
use crate::source::static_::InvalidResources;
use crate::telemetry::access_log::AccessLogError;

/// Why a mesh, a channel or a server could not be made. Nothing was sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// `SIDESTEP_ADMIN` asks for an admin endpoint that cannot be opened.
    Admin(AdminError),
    /// The access log cannot be written as asked.
    AccessLog(AccessLogError),
    /// The environment names no bootstrap.
    NoBootstrap,
    /// The bootstrap file cannot be read.
    Read {
        /// As `GRPC_XDS_BOOTSTRAP` says.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bootstrap is not valid.
    Bootstrap {
        /// The file, or where else the text came from.
        origin: String,
        /// What is wrong, and where in it.
        error: BootstrapError,
    },
    /// A target that cannot be dialled.
    Target {
        /// As given.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A target whose authority the bootstrap does not have.
    Authority {
        /// As given.
        target: String,
        /// Which authority.
        error: NameError,
    },
    /// Transport security cannot be set up.
    Security(SecurityError),
    /// Static resources that cannot be used.
    StaticResources(InvalidResources),
    /// Resources were to be replaced in a mesh that has a control plane.
    NotStatic,
    /// `SIDESTEP_MODE` has a value that means nothing.
    Mode {
        /// As set.
        value: String,
    },
}

impl BuildError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Admin(error) => error.code(),
            Self::AccessLog(error) => error.code(),
            Self::NoBootstrap => code::NO_BOOTSTRAP,
            Self::Read { .. } => code::BOOTSTRAP_UNREADABLE,
            Self::Bootstrap { error, .. } => error.code(),
            Self::Target { .. } => code::BAD_TARGET,
            Self::Authority { error, .. } => error.code(),
            Self::Security(error) => error.code(),
            Self::StaticResources(error) => error.code(),
            Self::NotStatic => code::NOT_STATIC,
            Self::Mode { .. } => code::BAD_MODE,
        }
    }

    /// What to do about it, in one line.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.code().hint()
    }

    fn say(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(error) => write!(f, "{ADMIN_VARIABLE}: {error}"),
            Self::AccessLog(error) => match error.source() {
                Some(cause) => write!(f, "{error}: {cause}"),
                None => write!(f, "{error}"),
            },
            Self::NoBootstrap => write!(
                f,
                "no xDS bootstrap: set {FILE_VARIABLE} to a bootstrap file or {TEXT_VARIABLE} to \
                 its text, pass one to Mesh::builder().bootstrap_json(), or dial a target that \
                 needs none (dns:///host:port, host:port, unix:path)"
            ),
            Self::Read { path, source } => write!(f, "bootstrap {}: {source}", path.display()),
            Self::Bootstrap { origin, error } => write!(f, "bootstrap {origin}: {error}"),
            Self::Target { target, reason } => write!(f, "target {target:?}: {reason}"),
            Self::Authority { target, error } => write!(f, "target {target:?}: {error}"),
            Self::Security(error) => write!(f, "{error}"),
            Self::StaticResources(error) => write!(f, "static resources: {error}"),
            Self::NotStatic => f.write_str(
                "this mesh takes its resources from a control plane: only one made by \
                 from_static() or static_resources() can have them replaced",
            ),
            Self::Mode { value } => write!(
                f,
                "SIDESTEP_MODE is {value:?}; allowed are `mesh` (the default) and `direct`"
            ),
        }
    }
}

/// What and where on the first line, which ends with the code; what to do on the second.
impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.say(f)?;
        // Of several faults, each shows its own code.
        if !matches!(self, Self::StaticResources(_)) {
            write!(f, " [{}]", self.code())?;
        }
        write!(f, "\n  hint: {}", self.hint())
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<AdminError> for BuildError {
    fn from(error: AdminError) -> Self {
        Self::Admin(error)
    }
}

impl From<AccessLogError> for BuildError {
    fn from(error: AccessLogError) -> Self {
        Self::AccessLog(error)
    }
}

impl From<SecurityError> for BuildError {
    fn from(error: SecurityError) -> Self {
        Self::Security(error)
    }
}

impl From<InvalidResources> for BuildError {
    fn from(error: InvalidResources) -> Self {
        Self::StaticResources(error)
    }
}
