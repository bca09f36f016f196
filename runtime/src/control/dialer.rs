//! How connections are begun: what all of them have in common.

use std::sync::Arc;

use sidestep_proto::code::{self, Code};
use sidestep_proto::resource::Address;

use super::attempt::{self, AttemptId, Claim, Owner};
use super::{PlaintextPolicy, WeakInbox};
use crate::balancer::SubchannelId;
use crate::security::ClientTls;
use crate::snapshot::ClusterId;
use crate::subchannel::state::Backoff;
use crate::subchannel::{ConnectTarget, Connector, Http2Options};
use crate::telemetry::Telemetry;

/// What every connection of the process is made with.
pub(super) struct Dialer {
    pub(super) inbox: WeakInbox,
    pub(super) connector: Connector,
    pub(super) http2: Arc<Http2Options>,
    pub(super) plaintext: PlaintextPolicy,
    pub(super) backoff: Backoff,
    /// Most connections to one endpoint, whatever the control plane says (gRFC A105).
    pub(super) most_connections: u32,
    pub(super) attempts: u64,
    pub(super) telemetry: Arc<Telemetry>,
}

/// How the endpoints of a cluster are secured.
pub(super) enum Security {
    /// The control plane says nothing of it.
    Unsaid,
    /// Plaintext to any peer: asked for by the program and by the operator.
    Plaintext,
    /// TLS.
    Tls(Arc<ClientTls>),
}

impl Security {
    fn tls(&self) -> Option<Arc<ClientTls>> {
        match self {
            Self::Tls(tls) => Some(tls.clone()),
            Self::Unsaid | Self::Plaintext => None,
        }
    }
}

impl Dialer {
    /// Begins to connect.
    pub(super) fn dial(
        &mut self,
        security: &Security,
        (cluster, endpoint): (ClusterId, SubchannelId),
        addresses: Vec<Address>,
        server_name: String,
    ) -> Claim {
        self.attempts += 1;
        let owner = Owner {
            cluster,
            endpoint,
            attempt: AttemptId(self.attempts),
        };
        let target = ConnectTarget {
            addresses,
            tls: security.tls(),
            server_name,
            options: self.http2.clone(),
        };
        attempt::start(self.inbox.clone(), self.connector.clone(), owner, target)
    }

    /// Those of `addresses` that may be dialled: without transport security only those whose
    /// traffic stays on this machine, unless the builder allowed all.
    pub(super) fn allowed(
        &self,
        security: &Security,
        addresses: &[Address],
    ) -> Result<Vec<Address>, (Code, &'static str)> {
        let unsaid = matches!(security, Security::Unsaid);
        if !unsaid || self.plaintext == PlaintextPolicy::Always {
            return Ok(addresses.to_vec());
        }
        let all = addresses.iter();
        let local: Vec<_> = all.filter(|address| is_local(address)).cloned().collect();
        if local.is_empty() {
            return Err((
                code::PLAINTEXT_NOT_ALLOWED,
                "the control plane gives no transport security and the peer is not local; \
                 plaintext_where_unsecured() of the builder allows it",
            ));
        }
        Ok(local)
    }
}

fn is_local(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Address::Unix(_) => true,
    }
}
