//! What is measured beside peers, each part into a file of its own in `target/bench-report`.

pub(crate) mod memory;
