//! The demo's mesh file: the one thing by which a scene changes the world.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// The trust domain of every certificate of the demo.
pub(super) const TRUST_DOMAIN: &str = "demo.local";

/// What the file says, as far as scenes change it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MeshFile {
    /// The endpoints that take calls.
    pub(super) endpoints: Vec<Endpoint>,
    /// Percent to v1 and to v2; `None`: all endpoints alike.
    pub(super) split: Option<[u32; 2]>,
    /// Against backends that do not answer; `None`: only the usual time-out.
    pub(super) guard: Option<Guard>,
}

/// What keeps calls from waiting for a backend that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard {
    /// How long a call may take.
    pub(super) timeout: Duration,
    /// How many calls may wait at once.
    pub(super) outstanding: u64,
    /// Failures in a row after which a backend is left out.
    pub(super) failures: u32,
    /// For how long, the first time.
    pub(super) ejection: Duration,
}

impl Guard {
    /// For so many calls a second: what one backend of three gets until its first calls have
    /// timed out fits.
    pub(super) fn for_rate(calls_per_second: u32) -> Self {
        Self {
            timeout: Duration::from_millis(250),
            outstanding: u64::from((calls_per_second / 2).max(50)),
            failures: 5,
            ejection: Duration::from_millis(500),
        }
    }
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
        let _ = self.guard(&mut out);
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

    fn guard(&self, out: &mut String) -> std::fmt::Result {
        let Some(guard) = &self.guard else {
            return Ok(());
        };
        let ejection = guard.ejection.as_millis();
        writeln!(
            out,
            "    limits: {{max_outstanding_per_client: {}}}",
            guard.outstanding
        )?;
        writeln!(out, "    outlier_detection:")?;
        writeln!(out, "      consecutive_failures: {}", guard.failures)?;
        writeln!(out, "      base_ejection_time: {ejection}ms")?;
        writeln!(out, "      max_ejection_time: {}ms", 2 * ejection)
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
        let timeout = self.guard.map_or(USUAL, |guard| guard.timeout);
        writeln!(out, "        timeout: {timeout:?}")?;
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

/// How long a call may take where no [`Guard`] says less.
const USUAL: Duration = Duration::from_secs(5);

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
            for guard in [None, Some(Guard::for_rate(250))] {
                accepted(&MeshFile {
                    endpoints: endpoints(),
                    split,
                    guard,
                });
            }
        }
        accepted(&MeshFile::default());
    }

    #[test]
    fn a_split_names_both_versions() {
        let file = MeshFile {
            endpoints: endpoints(),
            split: Some([90, 10]),
            guard: None,
        };
        assert!(file.render().contains("to: {stable: 90, canary: 10}"));
    }
}
