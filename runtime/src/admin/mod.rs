//! The admin endpoint of a process: what it runs, how it is doing, and why a call goes where it
//! goes. Opt-in ([`crate::Mesh::admin`]), on loopback unless asked otherwise in so many words, and
//! read-only.
//!
//! ```text
//!   curl, Prometheus, grpcdebug, `sidestep status|explain --process`
//!       │  HTTP/1.1 and HTTP/2 on one port
//!       v
//!   server ──> a page of PAGES, or csds ──> Asker ──> control task ──> plain values ──> text, JSON
//! ```
//!
//! Names and shapes are those of Envoy's admin endpoint where both have the same thing. The server
//! lives as long as the mesh does and holds nothing up: neither calls (an answer is copied out of
//! the control task, and rendered off the worker threads) nor the end of the process.

mod clusters;
mod config_dump;
mod csds;
mod explain;
mod index;
mod metrics;
mod page;
mod ready;
mod server;
mod server_info;
mod timestamp;

use std::sync::Arc;

use sidestep_proto::code::{self, Code};
use sidestep_proto::resource::Address;

use crate::control::{Asker, Question};
use crate::server::Bound;
use crate::telemetry::Telemetry;
use page::Page;

pub use csds::{ClientStatus, SERVICE as CSDS_SERVICE};

/// The pages there are. A new one is a file here and a line in this list.
const PAGES: &[&Page] = &[
    &index::PAGE,
    &index::HELP,
    &ready::PAGE,
    &server_info::PAGE,
    &config_dump::PAGE,
    &clusters::PAGE,
    &metrics::PAGE,
    &metrics::ENVOYS_NAME,
    &explain::PAGE,
];

/// Why the admin endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Neither `IP:port` nor `unix:path`.
    #[error("admin endpoint: {0:?} is no address: give IP:port, [IPv6]:port or unix:/path")]
    Address(String),
    /// Whoever reaches the address reads everything, so only this machine may, unless the program
    /// says otherwise.
    #[error(
        "admin endpoint: {0} can be reached from other machines: use a loopback address or a Unix \
         socket, or Mesh::admin_beyond_loopback() if that is meant"
    )]
    NotLoopback(Address),
    /// The address cannot be bound.
    #[error("admin endpoint: cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: Address,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing to run it on.
    #[error("admin endpoint: no tokio runtime: call Mesh::admin() inside one")]
    NoRuntime,
}

impl AdminError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Address(_) => code::ADMIN_ADDRESS,
            Self::NotLoopback(_) => code::ADMIN_NOT_LOOPBACK,
            Self::Bind { .. } => code::ADMIN_BIND,
            Self::NoRuntime => code::ADMIN_NO_RUNTIME,
        }
    }

    /// What to do about it, in one line.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.code().hint()
    }
}

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This machine.
    Loopback,
    /// Whoever the address lets in.
    Anyone,
}

/// Opens the endpoint; it is closed when the task that `asker` asks has ended.
pub(crate) fn open(
    address: &str,
    reach: Reach,
    asker: Asker,
    telemetry: &Arc<Telemetry>,
) -> Result<Address, AdminError> {
    let runtime =
        tokio::runtime::Handle::try_current().map_err(|_not_there| AdminError::NoRuntime)?;
    let address = crate::server::parse_address(address)
        .map_err(|_not_one| AdminError::Address(address.to_owned()))?;
    if reach == Reach::Loopback && !is_local(&address) {
        return Err(AdminError::NotLoopback(address));
    }
    let failed = |source| AdminError::Bind {
        address: address.clone(),
        source,
    };
    let bound = Bound::bind(&address).map_err(failed)?;
    let real = bound.address().clone();
    let sockets = bound.listen().map_err(failed)?;
    let context = page::Context::new(asker.clone(), telemetry.clone());
    let checks_host = reach == Reach::Loopback && matches!(real, Address::Tcp(_));
    let serving = server::serve(sockets, context, checks_host);
    runtime.spawn(async move {
        tokio::select! {
            () = serving => {}
            // Comes when the task drops the question.
            _ = asker.ask(Question::End) => {}
        }
    });
    tracing::info!(target: "sidestep::admin", address = %real, "admin endpoint open");
    Ok(real)
}

fn is_local(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Address::Unix(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_there_once_and_explained() {
        for (at, page) in PAGES.iter().enumerate() {
            assert!(page.path.starts_with('/') && !page.about.is_empty());
            assert!(PAGES[..at].iter().all(|other| other.path != page.path));
        }
    }
}
