//! What servers see.
