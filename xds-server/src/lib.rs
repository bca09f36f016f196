//! Sidestep's xDS management server as a library: the mesh file, its compiler, the snapshot store and the ADS service.

pub mod compile;
pub mod model;
mod native;
mod nearest;
