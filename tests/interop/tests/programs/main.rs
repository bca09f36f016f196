//! The interop programs, each run as others run it: every flag, every event.

mod cases;
mod client;
mod program;
mod psm;
mod server;
mod status;
