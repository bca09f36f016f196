//! Who plays in a scenario: a client, a server and a control plane.

use std::collections::BTreeSet;
use std::fmt;

use super::peer::{Client, Peer, Plane, Server};

/// Which runs a scenario or a cast is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Every run, CI's too.
    Quick,
    /// Every run on a machine that has built Istio's discovery server before, else `--full` only.
    IfBuilt,
    /// Every run, once there is an earlier tag.
    IfTagged,
    /// `--full` only.
    Full,
}

/// One way to cast a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cast {
    pub(crate) client: Client,
    pub(crate) server: Server,
    pub(crate) plane: Plane,
    pub(crate) tier: Tier,
}

impl Cast {
    /// A cast of every run.
    pub(crate) const fn new(client: Client, server: Server, plane: Plane) -> Self {
        Self {
            client,
            server,
            plane,
            tier: Tier::Quick,
        }
    }

    /// The same cast, for full runs only.
    pub(crate) const fn in_full_runs(mut self) -> Self {
        self.tier = Tier::Full;
        self
    }

    /// What has to be installed for it.
    pub(crate) fn peers(self) -> BTreeSet<Peer> {
        let peers = [self.client.peer(), self.server.peer(), self.plane.peer()];
        peers.into_iter().flatten().collect()
    }
}

/// As `--only NAME/CAST` takes it: `go-ours-mgmt`, the client first, the control plane last.
impl fmt::Display for Cast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            server,
            plane,
            ..
        } = self;
        let words = [client.word(), server.word(), plane.word()];
        f.pad(&words.join("-"))
    }
}

/// A cell's column in the matrix: with whom one side of ours was played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    /// Our client calls this server.
    OurClient(Server),
    /// Our programs are configured by this control plane.
    Under(Plane),
    /// This client is configured by our control plane or calls our server.
    TheirClient(Client),
}

/// The columns of the matrix, in order.
pub(crate) const COLUMNS: &[Column] = &[
    Column::OurClient(Server::Ours),
    Column::OurClient(Server::Go),
    Column::OurClient(Server::Python),
    Column::OurClient(Server::Node),
    Column::OurClient(Server::Java),
    Column::OurClient(Server::Envoy),
    Column::Under(Plane::GoControlPlane),
    Column::Under(Plane::Istio),
    Column::TheirClient(Client::Go),
    Column::TheirClient(Client::Python),
    Column::TheirClient(Client::Node),
    Column::TheirClient(Client::Java),
    Column::TheirClient(Client::Envoy),
];

impl Column {
    /// Where a cast counts: in the column of whoever is opposite us.
    pub(crate) fn of(cast: Cast) -> Vec<Self> {
        let server = cast.server;
        let is_foreign = matches!(cast.plane, Plane::GoControlPlane | Plane::Istio);
        let is_ours = is_ours(cast.client);
        let mut columns = Vec::new();
        if is_ours {
            columns.push(Self::OurClient(server));
        } else if !is_foreign || server == Server::Ours {
            columns.push(Self::TheirClient(cast.client));
        }
        if is_foreign && (is_ours || server == Server::Ours) {
            columns.push(Self::Under(cast.plane));
        }
        columns
    }

    /// What its versions are of.
    pub(crate) const fn peer(self) -> Option<Peer> {
        match self {
            Self::OurClient(server) => server.peer(),
            Self::Under(plane) => plane.peer(),
            Self::TheirClient(client) => client.peer(),
        }
    }
}

/// Earlier tonics' stubs call through our channel.
const fn is_ours(client: Client) -> bool {
    matches!(client, Client::Ours | Client::Tonic012 | Client::Tonic013)
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OurClient(server) => server.fmt(f),
            Self::Under(plane) => plane.fmt(f),
            Self::TheirClient(client) => client.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cast_counts_for_whoever_is_opposite_us() {
        let columns = |client, server, plane| Column::of(Cast::new(client, server, plane));
        assert_eq!(
            columns(Client::Ours, Server::Ours, Plane::Mgmt),
            [Column::OurClient(Server::Ours)]
        );
        assert_eq!(
            columns(Client::Ours, Server::Go, Plane::GoControlPlane),
            [
                Column::OurClient(Server::Go),
                Column::Under(Plane::GoControlPlane)
            ]
        );
        assert_eq!(
            columns(Client::Java, Server::Ours, Plane::Serve),
            [Column::TheirClient(Client::Java)]
        );
        // Nobody of ours is in it.
        assert_eq!(columns(Client::Go, Server::Go, Plane::Istio), []);
    }

    #[test]
    fn a_cast_has_a_name() {
        let cast = Cast::new(Client::Python, Server::Ours, Plane::GoControlPlane);
        assert_eq!(cast.to_string(), "python-ours-gocontrolplane");
        let peers: Vec<Peer> = cast.peers().into_iter().collect();
        assert_eq!(peers, [Peer::GoControlPlane, Peer::Grpcio]);
    }
}
