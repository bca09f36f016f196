//! The gRPC xDS bootstrap file, parsed.
