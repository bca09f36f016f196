//! The client that the public suite for proxyless meshes drives, by its usual flags.

use sidestep_interop::{process, psm};

#[tokio::main]
async fn main() {
    process::run(psm::client::run()).await;
}
