//! What the end-to-end tests share; the service that they call is that of the interop programs.

pub mod admin;
pub mod events;
pub mod fixture;
pub mod hostile;
pub mod kinds;
pub mod load;
pub mod name_server;
pub mod peer;
pub mod places;
pub mod raw;
pub mod scripted;
