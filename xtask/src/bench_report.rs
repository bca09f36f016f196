//! What goes by the clock, beside peers.

pub(crate) mod rpc;
