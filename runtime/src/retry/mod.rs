//! Trying a call again: whether, after how long, and with what body.

pub(crate) mod backoff;
pub(crate) mod policy;
pub mod replay;
