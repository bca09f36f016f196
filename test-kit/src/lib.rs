//! A whole mesh inside a `#[tokio::test]`, from the text of a mesh file.
//!
//! ```
//! # use sidestep_examples::Greeting;
//! # use sidestep_examples::hello::HelloRequest;
//! # use sidestep_examples::hello::greeter_client::GreeterClient;
//! # use sidestep_examples::hello::greeter_server::GreeterServer;
//! use sidestep_test::TestMesh;
//!
//! const MESH: &str = "
//! mesh: v1
//! services:
//!   web: {}
//!   greeter:
//!     routes:
//!       - retry: {max_attempts: 3, on: [unavailable]}
//! ";
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A control plane on a free port, and two backends of the service under test.
//! let mesh = TestMesh::start(MESH).await?;
//! let greeting = |server: &str| GreeterServer::new(Greeting { server: server.into() });
//! let one = mesh.serve("greeter", greeting("one")).await?;
//! let two = mesh.serve("greeter", greeting("two")).await?;
//!
//! // A client as the service `web` has it.
//! let mut greeter = GreeterClient::new(mesh.channel_as("web", "xds:///greeter")?);
//!
//! // One backend dies, the other fails every second call: the mesh's retries hide both.
//! one.kill().await;
//! two.fail(0.5);
//! for _ in 0..10 {
//!     let request = HelloRequest { name: "you".into() };
//!     greeter.say_hello(request).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | to | say |
//! |---|---|
//! | let a share of calls fail | `backend.fail(0.2)`, `backend.fail_with(1.0, Code::Internal)` |
//! | answer late, or never | `backend.slow(duration)`, `backend.hang()` |
//! | end all that | `backend.heal()` |
//! | crash, and come back | `backend.kill().await`, `backend.revive().await?` |
//! | leave in good order | `backend.remove().await?` |
//! | change the mesh | `mesh.push(text)?.applied().await?` |
//! | lose the control plane | `mesh.cut_control_plane().await`, `mesh.restore_control_plane().await?` |
//! | wait without a sleep | [`eventually`] |
//! | let time cost nothing | [`TestMesh::in_memory`] under `#[tokio::test(start_paused = true)]` |
//!
//! No port is fixed, no step waits longer than [`PATIENCE`], and two meshes never meet. The
//! building blocks ([`ControlPlane`], [`Served`], [`Authority`], [`bootstrap`], [`quick`]) are for
//! tests of meshes that are wrong on purpose.

mod authority;
mod backend;
mod error;
mod fault;
mod file;
mod mesh;
mod pipe;
mod plane;
mod served;
mod wait;

pub use authority::Authority;
pub use backend::{Backend, BackendBuilder};
pub use error::Error;
pub use mesh::{LISTENER_TEMPLATE, Push, TestMesh, bootstrap, quick};
pub use plane::ControlPlane;
pub use served::{Served, Stop};
pub use wait::{PATIENCE, eventually};
