//! What the binary `sidestep` does besides serving: everything that a verb can do without a
//! terminal is a function here, so that tests and programs can do it too.
//!
//! [`certificates`] is `sidestep cert dev`, [`bootstrap`] is `sidestep bootstrap`,
//! [`doctor`] is `sidestep doctor`.

pub mod bootstrap;
pub mod certificates;
pub mod doctor;
pub mod files;
pub mod x509;
