//! The interop client: calls `grpc.testing.TestService` through one channel. Its flags and events
//! are a contract that others drive it by.
//!
//! `--creds insecure` and `--creds xds` are the same here: a channel of ours follows the security
//! that xDS asks for in any case, and both allow plaintext where it asks for none.

use sidestep_interop::{process, run};

#[tokio::main]
async fn main() {
    process::run(run::run()).await;
}
