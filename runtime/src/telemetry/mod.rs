//! What can be seen of a running mesh.

pub mod access_log;
pub mod trace_context;
