//! Whether, when and with what a failed call is tried again.

pub mod backoff;
pub mod policy;
