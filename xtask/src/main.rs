//! Recurring work.
fn main() {}
