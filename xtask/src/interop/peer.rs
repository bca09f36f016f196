//! Who can play what. A client, a server and a control plane each speak the same contract, so any
//! of them can stand in any scenario.

use std::fmt;

/// What has to be installed, and has a version of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    GrpcGo,
    GoControlPlane,
    Grpcio,
    GrpcNode,
    GrpcJava,
    Envoy,
    Istio,
    Tonic012,
    Tonic013,
}

impl Peer {
    /// As its project calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::GrpcGo => "grpc-go",
            Self::GoControlPlane => "go-control-plane",
            Self::Grpcio => "grpcio",
            Self::GrpcNode => "grpc-node",
            Self::GrpcJava => "grpc-java",
            Self::Envoy => "envoy",
            Self::Istio => "istio",
            Self::Tonic012 | Self::Tonic013 => "tonic",
        }
    }
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    Ours,
    Go,
    /// gRPC C-core, which stands for C++, Python, Ruby and PHP.
    Python,
    Node,
    Java,
    Envoy,
    Tonic012,
    Tonic013,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    Ours,
    Go,
    Python,
    Node,
    Java,
    Envoy,
}

/// Who configures.
#[expect(clippy::enum_variant_names, reason = "its project's own name")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plane {
    /// Nobody: addresses are dialled directly.
    None,
    /// `sidestep serve` with a mesh file.
    Serve,
    /// `sidestep-interop-mgmt` with resources in JSON.
    Mgmt,
    /// go-control-plane with the same resources.
    GoControlPlane,
    /// Istio's discovery server.
    Istio,
}

impl Client {
    /// The word for it in a cast's name.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "go",
            Self::Python => "python",
            Self::Node => "node",
            Self::Java => "java",
            Self::Envoy => "envoy",
            Self::Tonic012 => "tonic012",
            Self::Tonic013 => "tonic013",
        }
    }

    /// What it needs; nothing for our own.
    pub(crate) const fn peer(self) -> Option<Peer> {
        match self {
            Self::Ours => None,
            Self::Go => Some(Peer::GrpcGo),
            Self::Python => Some(Peer::Grpcio),
            Self::Node => Some(Peer::GrpcNode),
            Self::Java => Some(Peer::GrpcJava),
            Self::Envoy => Some(Peer::Envoy),
            Self::Tonic012 => Some(Peer::Tonic012),
            Self::Tonic013 => Some(Peer::Tonic013),
        }
    }
}

impl Server {
    /// The word for it in a cast's name.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "go",
            Self::Python => "python",
            Self::Node => "node",
            Self::Java => "java",
            Self::Envoy => "envoy",
        }
    }

    /// What it needs; nothing for our own.
    pub(crate) const fn peer(self) -> Option<Peer> {
        match self {
            Self::Ours => None,
            Self::Go => Some(Peer::GrpcGo),
            Self::Python => Some(Peer::Grpcio),
            Self::Node => Some(Peer::GrpcNode),
            Self::Java => Some(Peer::GrpcJava),
            Self::Envoy => Some(Peer::Envoy),
        }
    }
}

impl Plane {
    /// The word for it in a cast's name.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Serve => "serve",
            Self::Mgmt => "mgmt",
            Self::GoControlPlane => "gocontrolplane",
            Self::Istio => "istio",
        }
    }

    /// What it needs; nothing for our own.
    pub(crate) const fn peer(self) -> Option<Peer> {
        match self {
            Self::None | Self::Serve | Self::Mgmt => None,
            Self::GoControlPlane => Some(Peer::GoControlPlane),
            Self::Istio => Some(Peer::Istio),
        }
    }
}

/// As a column of the matrix is headed.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Go => "grpc-go",
            Self::Python => "C-core (Python)",
            Self::Node => "grpc-node",
            Self::Java => "grpc-java",
            Self::Envoy => "Envoy",
            Self::Tonic012 => "tonic 0.12",
            Self::Tonic013 => "tonic 0.13",
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Go => "grpc-go",
            Self::Python => "C-core (Python)",
            Self::Node => "grpc-node",
            Self::Java => "grpc-java",
            Self::Envoy => "Envoy",
        })
    }
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Serve => "`sidestep serve`",
            Self::Mgmt => "ours",
            Self::GoControlPlane => "go-control-plane",
            Self::Istio => "Istio",
        })
    }
}
