//! The one binary, `sidestep`.
fn main() {}
