//! The scenarios, a file for each group of them.

pub(super) mod baseline;
pub(super) mod envoy;
pub(super) mod machines;
pub(super) mod status;
pub(super) mod stubs;
