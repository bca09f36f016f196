//! The demo's mesh file: the one thing by which a scene changes the world.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// The trust domain of every certificate of the demo.
pub(super) const TRUST_DOMAIN: &str = "demo.local";

/// What the file says, as far as scenes change it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MeshFile {
    /// The endpoints that take calls.
    pub(super) endpoints: Vec<Endpoint>,
    /// Percent to v1 and to v2; `None`: all endpoints alike.
    pub(super) split: Option<[u32; 2]>,
}

/// A line of `endpoints.static`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) version: &'static str,
}

impl MeshFile {
    /// The text of the file.
    pub(super) fn render(&self) -> String {
        let mut out = format!(
            "mesh: v1\n\
             trust_domain: {TRUST_DOMAIN}\n\
             defaults:\n  \
               mtls: strict                # SPIFFE certificates on both sides\n\
             services:\n  \
               client: {{}}\n  \
               greeter:\n"
        );
        // Writing to a string cannot fail.
        let _ = self.endpoints(&mut out);
        let _ = self.routes(&mut out);
        out
    }

    fn endpoints(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "    endpoints:")?;
        if self.endpoints.is_empty() {
            return writeln!(out, "      static: []");
        }
        writeln!(out, "      static:")?;
        for Endpoint { address, version } in &self.endpoints {
            writeln!(
                out,
                "        - {{address: \"{address}\", version: {version}}}"
            )?;
        }
        Ok(())
    }

    fn routes(&self, out: &mut String) -> std::fmt::Result {
        if self.split.is_some() {
            writeln!(out, "    versions: {{stable: v1, canary: v2}}")?;
        }
        writeln!(out, "    routes:")?;
        writeln!(out, "      - name: main")?;
        if let Some([stable, canary]) = self.split {
            writeln!(out, "        to: {{stable: {stable}, canary: {canary}}}")?;
        }
        writeln!(out, "        timeout: 5s")?;
        writeln!(
            out,
            "        # SayHello may be repeated; that is for a route to say."
        )?;
        writeln!(
            out,
            "        retry: {{max_attempts: {MAX_ATTEMPTS}, on: [unavailable]}}"
        )
    }
}

/// How often a call is tried at most, the first try included.
pub(super) const MAX_ATTEMPTS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(file: &MeshFile) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mesh.yaml");
        std::fs::write(&path, file.render()).expect("writes");
        let checked = sidestep_server::check(&[path]);
        assert!(checked.is_ok(), "{:?}\n{}", checked.err(), file.render());
    }

    fn endpoints() -> Vec<Endpoint> {
        [("127.0.0.1:1", "v1"), ("127.0.0.1:2", "v2")]
            .map(|(address, version)| Endpoint {
                address: address.parse().expect("an address"),
                version,
            })
            .to_vec()
    }

    #[test]
    fn every_form_is_a_valid_mesh_file() {
        for split in [None, Some([90, 10]), Some([50, 50])] {
            accepted(&MeshFile {
                endpoints: endpoints(),
                split,
            });
        }
        accepted(&MeshFile::default());
    }

    #[test]
    fn a_split_names_both_versions() {
        let file = MeshFile {
            endpoints: endpoints(),
            split: Some([90, 10]),
        };
        assert!(file.render().contains("to: {stable: 90, canary: 10}"));
    }
}
