//! What the interop service does below its generated code: compression message by message, echoes in
//! trailers, and the `:authority`, which handlers do not see.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::frames::{Frames, Message, Plan, names_gzip};
use crate::testing::{
    BoolValue, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest,
};

/// Metadata that comes back as initial metadata.
pub const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
/// Metadata that comes back as trailing metadata.
pub const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// Request extension: the `:authority` that the caller wrote.
#[derive(Debug, Clone)]
pub struct Asked(pub String);

/// The service, with its wire in view.
#[derive(Debug, Clone)]
pub struct Wire<S>(pub S);

impl<S: NamedService> NamedService for Wire<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Wire<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let exchange = Exchange::of(&mut request);
        let plan = exchange.plan.clone();
        let method = Method::of(request.uri().path());
        let request = request.map(|body| {
            Body::new(Frames::new(body, move |message| {
                let message_was_compressed = message.compressed;
                let message = message.plain()?;
                method.check(&message, message_was_compressed, &plan)?;
                Ok(message)
            }))
        });
        let answer = self.0.call(request);
        Box::pin(async move { Ok(exchange.finish(answer.await?)) })
    }
}

/// What the answer must know of the request.
struct Exchange {
    initial: Vec<HeaderValue>,
    trailing: Vec<HeaderValue>,
    gzip: bool,
    plan: Arc<Mutex<Plan>>,
}

impl Exchange {
    fn of(request: &mut Request<Body>) -> Self {
        let host = || request.headers().get(HOST)?.to_str().ok();
        let asked = request.uri().authority().map(http::uri::Authority::as_str);
        let asked = Asked(asked.or_else(host).unwrap_or_default().to_owned());
        request.extensions_mut().insert(asked);
        let headers = request.headers_mut();
        if headers.get("grpc-encoding").is_some_and(|e| e == "gzip") {
            headers.remove("grpc-encoding");
        }
        let all = |name| headers.get_all(name).iter().cloned().collect();
        Self {
            initial: all(ECHO_INITIAL),
            trailing: all(ECHO_TRAILING),
            gzip: names_gzip(headers, "grpc-accept-encoding"),
            plan: Arc::default(),
        }
    }

    fn finish(self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        for value in self.initial {
            headers.append(ECHO_INITIAL, value);
        }
        let accepted = HeaderValue::from_static("identity,gzip");
        headers.insert("grpc-accept-encoding", accepted);
        let mut trailers = HeaderMap::new();
        for value in self.trailing {
            trailers.append(ECHO_TRAILING, value);
        }
        if headers.contains_key("grpc-status") {
            headers.extend(trailers);
            return response;
        }
        let plan = self.plan;
        let gzip = self.gzip && lock(&plan).any();
        if gzip {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        response.map(|body| {
            let frames = Frames::new(body, move |message| {
                Ok(match gzip {
                    true => lock(&plan).apply(message),
                    false => message,
                })
            });
            Body::new(frames.with_trailers(trailers))
        })
    }
}

fn lock(plan: &Mutex<Plan>) -> std::sync::MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The methods whose requests speak of compression.
#[derive(Debug, Clone, Copy)]
enum Method {
    Unary,
    StreamingInput,
    StreamingOutput,
    Other,
}

impl Method {
    fn of(path: &str) -> Self {
        match path.rsplit('/').next() {
            Some("UnaryCall") => Self::Unary,
            Some("StreamingInputCall") => Self::StreamingInput,
            Some("StreamingOutputCall" | "FullDuplexCall" | "HalfDuplexCall") => {
                Self::StreamingOutput
            }
            _ => Self::Other,
        }
    }

    /// Refuses a message that was to come compressed and did not, and notes which answers are to go
    /// compressed.
    fn check(self, message: &Message, compressed: bool, plan: &Mutex<Plan>) -> Result<(), Status> {
        let bytes = message.bytes.clone();
        let broken = |error: prost::DecodeError| Status::internal(error.to_string());
        let expected = match self {
            Self::Unary => {
                let request = SimpleRequest::decode(bytes).map_err(broken)?;
                lock(plan).add(is_true(request.response_compressed.as_ref()));
                request.expect_compressed
            }
            Self::StreamingInput => {
                let request = StreamingInputCallRequest::decode(bytes).map_err(broken)?;
                request.expect_compressed
            }
            Self::StreamingOutput => {
                let request = StreamingOutputCallRequest::decode(bytes).map_err(broken)?;
                let wanted = |p: &ResponseParameters| is_true(p.compressed.as_ref());
                let mut plan = lock(plan);
                request
                    .response_parameters
                    .iter()
                    .for_each(|p| plan.add(wanted(p)));
                None
            }
            Self::Other => None,
        };
        match is_true(expected.as_ref()) && !compressed {
            true => Err(Status::invalid_argument(
                "the message was to come compressed, and did not",
            )),
            false => Ok(()),
        }
    }
}

fn is_true(value: Option<&BoolValue>) -> bool {
    value.is_some_and(|value| value.value)
}
