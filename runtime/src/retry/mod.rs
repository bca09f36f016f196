//! Trying a call again: when, after how long, and with what body.

pub mod replay;
