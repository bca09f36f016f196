//! Where configuration comes from.

pub(crate) mod ads;
