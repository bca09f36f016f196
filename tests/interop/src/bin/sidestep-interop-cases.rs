//! The public interop cases of gRPC over a channel of ours, by the public flags: `--server_host`,
//! `--server_port`, `--test_case` (a name, several with commas, or `all`) and so on. Exit status 0 if
//! all passed, 1 if not, 2 for a bad call.

use sidestep_interop::cases;
use sidestep_interop::flags::refuse;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match cases::play().await {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(message) => refuse(&message),
    }
}
