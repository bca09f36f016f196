//! The service that both programs serve and call, as tonic generated it.

#[allow(clippy::all, reason = "generated")]
pub mod hello {
    include!("../../examples/src/generated/hello.rs");
}

use std::pin::Pin;

use hello::greeter_server::Greeter;
use hello::{HelloReply, HelloRequest};
use tonic::codegen::tokio_stream::{Stream, empty};
use tonic::{Request, Response, Status, Streaming};

/// Greets.
pub struct Greeting;

#[tonic::async_trait]
impl Greeter for Greeting {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply {
            message: format!("hello, {}", request.into_inner().name),
            server: String::new(),
        }))
    }

    type ChatStream = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

    async fn chat(
        &self,
        _request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        Ok(Response::new(Box::pin(empty())))
    }
}
