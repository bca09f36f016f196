//! End-to-end tests through the public Channel and Server, with a live control plane.
