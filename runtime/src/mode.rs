//! The operator's switch between the mesh and plain connections: `SIDESTEP_MODE`.
//!
//! It is never thrown by the program itself: no failure of the control plane, of a certificate or
//! of an endpoint leads out of the mesh.

use std::ffi::OsString;

use crate::mesh::BuildError;

/// The variable that the operator sets.
const VARIABLE: &str = "SIDESTEP_MODE";

/// Whether calls and servers go by the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// By the mesh's configuration. `SIDESTEP_MODE` unset, empty or `mesh`.
    #[default]
    Mesh,
    /// Around it: channels go where their [`or_direct`](crate::Channel::or_direct) says, servers
    /// that said [`or_direct_plaintext`](crate::Server::or_direct_plaintext) serve on their
    /// address, and no bootstrap is read. `SIDESTEP_MODE=direct`.
    Direct,
}

impl Mode {
    /// Asks an environment: `lookup` answers for a variable's name.
    ///
    /// # Errors
    /// The value is neither of the two.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, BuildError> {
        let value = lookup(VARIABLE).unwrap_or_default();
        match value.to_str() {
            Some("" | "mesh") => Ok(Self::Mesh),
            Some("direct") => Ok(Self::Direct),
            _ => Err(BuildError::Mode {
                value: value.to_string_lossy().into_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Option<&str>) -> Result<Mode, String> {
        let lookup = |name: &str| {
            assert_eq!(name, "SIDESTEP_MODE");
            value.map(OsString::from)
        };
        Mode::from_lookup(lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn the_values() {
        assert_eq!(read(None), Ok(Mode::Mesh));
        assert_eq!(read(Some("")), Ok(Mode::Mesh));
        assert_eq!(read(Some("mesh")), Ok(Mode::Mesh));
        assert_eq!(read(Some("direct")), Ok(Mode::Direct));
    }

    #[test]
    fn anything_else_is_refused_with_what_is_allowed() {
        for value in ["Direct", "off", "direct "] {
            let error = read(Some(value)).expect_err("refused");
            for part in ["SIDESTEP_MODE", value, "`mesh`", "`direct`"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}
