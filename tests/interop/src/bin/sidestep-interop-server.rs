//! The interop server: answers `grpc.testing.TestService`, plain or meshed. Its flags and events
//! are a contract that others drive it by.

use sidestep_interop::{process, server};

#[tokio::main]
async fn main() {
    process::run(server::serve()).await;
}
