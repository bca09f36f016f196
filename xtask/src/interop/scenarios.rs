//! The scenarios, a file for each group of them.

pub(super) mod affinity;
pub(super) mod aggregates;
pub(super) mod balancing;
pub(super) mod baseline;
pub(super) mod cases;
pub(super) mod envoy;
pub(super) mod istio;
pub(super) mod limits;
pub(super) mod load;
pub(super) mod machines;
pub(super) mod polyglot;
pub(super) mod routing;
pub(super) mod security;
pub(super) mod servers;
pub(super) mod skew;
pub(super) mod status;
pub(super) mod stubs;
pub(super) mod trouble;
