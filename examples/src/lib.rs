//! Small programs on the mesh, one idea each, and the service that they share.

/// The greeter: stubs generated from `protos/hello.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::use_self,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
pub mod hello {
    include!("generated/hello.rs");
}

use hello::greeter_server::Greeter;
use hello::{HelloReply, HelloRequest};
use std::pin::Pin;
use tonic::{Request, Response, Status, Streaming};

/// Greets, and says which server it is.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Comes back in every answer.
    pub server: String,
}

type Replies = Pin<Box<dyn futures_core::Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Greeting {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(self.greet(&request.into_inner())))
    }

    type ChatStream = Replies;

    async fn chat(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let greeting = self.clone();
        let names = request.into_inner();
        let replies =
            futures_util::stream::unfold((greeting, names), |(greeting, mut names)| async {
                match names.message().await {
                    Ok(Some(name)) => Some((Ok(greeting.greet(&name)), (greeting, names))),
                    Ok(None) => None,
                    Err(status) => Some((Err(status), (greeting, names))),
                }
            });
        Ok(Response::new(Box::pin(replies)))
    }
}

impl Greeting {
    fn greet(&self, request: &HelloRequest) -> HelloReply {
        HelloReply {
            message: format!("hello, {}", request.name),
            server: self.server.clone(),
        }
    }
}
