//! What is compared with what: cases, and the sets that they run in.

use anyhow::{Context as _, Result};

use super::stage::Key;

/// What makes the calls, and where they go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) client: Client,
    pub(super) to: To,
}

/// A client program, with what its `--case` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    Rust(&'static str),
    Go(&'static str),
}

/// The other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The servers; by the control plane they are the service of that name.
    Servers(&'static str),
    /// Servers without TLS, whatever the set's security is.
    Plaintext,
    /// Servers that have joined the mesh.
    Meshed,
    /// A sidecar on the client's side, in front of the servers.
    Sidecar,
    /// That, and one in front of the servers.
    TwoSidecars,
}

impl Case {
    const fn rust(name: &'static str, client: &'static str, to: To) -> Self {
        let client = Client::Rust(client);
        Self { name, client, to }
    }

    const fn go(name: &'static str, client: &'static str, to: To) -> Self {
        let client = Client::Go(client);
        Self { name, client, to }
    }
}

/// All there are.
const CASES: &[Case] = &[
    Case::rust("h2", "h2", To::Servers(ECHO)),
    Case::rust("tonic-1", "tonic-1", To::Servers(ECHO)),
    Case::rust("tonic-x3", "tonic-x3", To::Servers(ECHO)),
    Case::rust("tonic-x3-plaintext", "tonic-x3", To::Plaintext),
    Case::rust("tonic-balance", "tonic-balance", To::Servers(ECHO)),
    Case::rust("tonic-xds", "tonic-xds", To::Servers(ECHO)),
    Case::rust("sidestep-1", "sidestep", To::Servers(SINGLE)),
    Case::rust("sidestep-x3", "sidestep", To::Servers(ECHO)),
    Case::rust("sidestep-both", "sidestep", To::Meshed),
    Case::go("grpc-go", "grpc-go", To::Servers(ECHO)),
    Case::go("grpc-go-xds", "grpc-go-xds", To::Servers(ECHO)),
    Case::rust("envoy-client", "tonic-1", To::Sidecar),
    Case::rust("envoy-both", "tonic-1", To::TwoSidecars),
    Case::rust("sidestep-3-routes", "sidestep", To::Servers(FEW)),
    Case::rust("sidestep-1000-routes", "sidestep", To::Servers(MANY)),
    Case::rust("tonic-xds-3-routes", "tonic-xds", To::Servers(FEW)),
    Case::rust("tonic-xds-1000-routes", "tonic-xds", To::Servers(MANY)),
    Case::go("grpc-go-xds-3-routes", "grpc-go-xds", To::Servers(FEW)),
    Case::go("grpc-go-xds-1000-routes", "grpc-go-xds", To::Servers(MANY)),
];

/// Services of the control plane: all three servers behind a weighted route with a time-out, one of
/// them, the servers among 3 routes and clusters, and among 1,000.
pub(super) const ECHO: &str = "echo";
pub(super) const SINGLE: &str = "single";
pub(super) const FEW: &str = "few";
pub(super) const MANY: &str = "many";

/// The case of this name.
pub(super) fn case(name: &str) -> Result<&'static Case> {
    let names = || CASES.iter().map(|case| case.name).collect::<Vec<_>>();
    let found = CASES.iter().find(|case| case.name == name);
    found.with_context(|| format!("no case {name}; there are {}", names().join(", ")))
}

/// Between client and servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Security {
    Plaintext,
    Mtls,
}

impl Security {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Mtls => "mtls",
        }
    }
}

/// What a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Unary,
    Stream,
}

impl Shape {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Stream => "stream",
        }
    }
}

/// When calls begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Load {
    /// When the one before is answered.
    Closed,
    /// At this share of what three plain channels manage at most.
    Open { of_saturation: f64 },
}

/// Cases that are compared, and under what load.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) security: Security,
    pub(super) payload: usize,
    pub(super) shape: Shape,
    pub(super) in_flight: usize,
    pub(super) threads: usize,
    pub(super) load: Load,
    pub(super) cases: Vec<&'static Case>,
    /// Whether a short run has it.
    pub(super) in_short: bool,
}

impl Set {
    /// A closed loop of unary calls on one thread.
    fn new(security: Security, payload: usize, in_flight: usize, cases: &[&str]) -> Self {
        Self {
            name: String::new(),
            security,
            payload,
            shape: Shape::Unary,
            in_flight,
            threads: 1,
            load: Load::Closed,
            cases: cases.iter().map(|name| known(name)).collect(),
            in_short: false,
        }
        .named()
    }

    fn named(mut self) -> Self {
        self.name = format!(
            "{}-{}-{}-{}",
            self.security.name(),
            self.payload,
            self.shape.name(),
            self.in_flight
        );
        if self.threads > 1 {
            self.name += &format!("-threads-{}", self.threads);
        }
        self
    }

    fn streams(mut self) -> Self {
        self.shape = Shape::Stream;
        self.named()
    }

    fn two_threads(mut self) -> Self {
        self.threads = 2;
        self.named()
    }

    fn open(mut self, percent: u32) -> Self {
        self.load = Load::Open {
            of_saturation: f64::from(percent) / 100.0,
        };
        self.name = format!("open-{percent}");
        self
    }

    fn called(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    fn also_short(mut self) -> Self {
        self.in_short = true;
        self
    }

    /// The servers that it needs.
    pub(super) const fn stage(&self) -> Key {
        Key {
            security: self.security,
            threads: self.threads,
        }
    }
}

/// A case of the list above: its name is written in this file, and a test says that it is known.
fn known(name: &str) -> &'static Case {
    CASES
        .iter()
        .find(|case| case.name == name)
        .unwrap_or(&CASES[0])
}

/// Every transport there is.
const EVERYTHING: &[&str] = &[
    "h2",
    "tonic-1",
    "tonic-x3",
    "tonic-balance",
    "tonic-xds",
    "sidestep-1",
    "sidestep-x3",
    "sidestep-both",
    "grpc-go",
    "grpc-go-xds",
    "envoy-client",
    "envoy-both",
];
const SECURED: &[&str] = &[
    "tonic-x3-plaintext",
    "tonic-x3",
    "tonic-xds",
    "sidestep-x3",
    "sidestep-both",
    "grpc-go-xds",
    "envoy-both",
];
const MESHES: &[&str] = &["tonic-x3", "tonic-xds", "sidestep-x3", "grpc-go-xds"];
const MESHES_AND_ENVOY: &[&str] = &[
    "tonic-x3",
    "tonic-xds",
    "sidestep-x3",
    "grpc-go-xds",
    "envoy-both",
];
const OURS_AND_BASE: &[&str] = &["tonic-x3", "sidestep-x3"];
const ROUTES: &[&str] = &[
    "sidestep-3-routes",
    "sidestep-1000-routes",
    "tonic-xds-3-routes",
    "tonic-xds-1000-routes",
    "grpc-go-xds-3-routes",
    "grpc-go-xds-1000-routes",
];

/// All there are. The bars that a set is for are in the specification of performance.
pub(super) fn all() -> Vec<Set> {
    use Security::{Mtls, Plaintext};
    const SMALL: usize = 128;
    const LARGE: usize = 16 * 1024;
    vec![
        Set::new(Plaintext, SMALL, 1, EVERYTHING).also_short(),
        Set::new(Plaintext, SMALL, 16, EVERYTHING).also_short(),
        Set::new(Plaintext, SMALL, 64, EVERYTHING).also_short(),
        Set::new(Plaintext, LARGE, 16, MESHES_AND_ENVOY).also_short(),
        Set::new(Plaintext, SMALL, 16, MESHES_AND_ENVOY)
            .streams()
            .also_short(),
        Set::new(Plaintext, SMALL, 64, MESHES).streams(),
        Set::new(Plaintext, LARGE, 16, MESHES).streams(),
        Set::new(Plaintext, SMALL, 64, OURS_AND_BASE).open(50),
        Set::new(Plaintext, SMALL, 64, OURS_AND_BASE)
            .open(80)
            .also_short(),
        Set::new(Plaintext, SMALL, 16, ROUTES).called("routes"),
        Set::new(Mtls, SMALL, 1, SECURED),
        Set::new(Mtls, SMALL, 16, SECURED),
        Set::new(Mtls, SMALL, 64, SECURED).also_short(),
        Set::new(Mtls, LARGE, 16, MESHES_AND_ENVOY),
        Set::new(Mtls, SMALL, 16, MESHES).streams(),
        Set::new(Plaintext, SMALL, 64, MESHES).two_threads(),
        Set::new(Mtls, SMALL, 64, MESHES).two_threads(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_is_known_and_no_set_is_there_twice() {
        let lists = [
            EVERYTHING,
            SECURED,
            MESHES,
            MESHES_AND_ENVOY,
            OURS_AND_BASE,
            ROUTES,
        ];
        for name in lists.concat() {
            assert_eq!(case(name).unwrap().name, name);
        }
        let sets = all();
        let names: BTreeSet<_> = sets.iter().map(|set| &set.name).collect();
        assert_eq!(names.len(), sets.len());
        assert!(sets.iter().all(|set| !set.cases.is_empty()));
    }

    #[test]
    fn every_case_is_in_some_set() {
        let sets = all();
        for case in CASES {
            assert!(sets.iter().any(|set| set.cases.contains(&case)), "{case:?}");
        }
    }
}
