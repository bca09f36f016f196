//! The public interop service, as our servers answer it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::testing::test_service_server::TestService;
use crate::testing::{
    EchoStatus, Empty, Payload, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
    StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
};

/// How a server misbehaves on purpose.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Fail the first so many calls of the process.
    pub fail_first: u64,
    /// Fail calls whose `grpc-previous-rpc-attempts` is below this.
    pub fail_attempts_below: u64,
    /// Share of calls to fail, in percent.
    pub fail_percent: u8,
    /// Status of those failures.
    pub code: Code,
    /// Wait before each answer.
    pub delay: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            fail_first: 0,
            fail_attempts_below: 0,
            fail_percent: 0,
            code: Code::Unavailable,
            delay: Duration::ZERO,
        }
    }
}

/// Answers `grpc.testing.TestService`.
#[derive(Debug, Clone)]
pub struct Testing {
    id: Arc<str>,
    faults: Arc<Faults>,
    calls: Arc<AtomicU64>,
}

impl Testing {
    /// A server that says `id` in its answers.
    #[must_use]
    pub fn new(id: &str, faults: Faults) -> Self {
        Self {
            id: id.into(),
            faults: Arc::new(faults),
            calls: Arc::default(),
        }
    }

    /// Calls begun so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Counts a call, and fails or delays it if it is that call's turn.
    async fn begin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        if !self.faults.delay.is_zero() {
            tokio::time::sleep(self.faults.delay).await;
        }
        let attempts = request.metadata().get("grpc-previous-rpc-attempts");
        let attempts = attempts
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .unwrap_or(0u64);
        let unlucky = fastrand::u8(0..100) < self.faults.fail_percent;
        if n < self.faults.fail_first || attempts < self.faults.fail_attempts_below || unlucky {
            return Err(Status::new(
                self.faults.code,
                format!("{} fails on purpose", self.id),
            ));
        }
        Ok(())
    }

    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Ok(id) = self.id.parse() {
            response.metadata_mut().insert("hostname", id);
        }
        response
    }
}

fn payload(size: i32) -> Option<Payload> {
    Some(Payload {
        body: vec![0; usize::try_from(size).unwrap_or(0)],
        ..Payload::default()
    })
}

fn asked_for(status: Option<&EchoStatus>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 => {
            Err(Status::new(Code::from(status.code), status.message.clone()))
        }
        _ => Ok(()),
    }
}

type Outputs = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

fn outputs(
    request: &StreamingOutputCallRequest,
) -> Vec<Result<StreamingOutputCallResponse, Status>> {
    let sizes = request
        .response_parameters
        .iter()
        .map(|parameters| parameters.size);
    let mut outputs: Vec<_> = sizes
        .map(|size| {
            Ok(StreamingOutputCallResponse {
                payload: payload(size),
            })
        })
        .collect();
    outputs.extend(asked_for(request.response_status.as_ref()).err().map(Err));
    outputs
}

#[tonic::async_trait]
impl TestService for Testing {
    async fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.begin(&request).await?;
        Ok(self.answer(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.begin(&request).await?;
        let request = request.into_inner();
        asked_for(request.response_status.as_ref())?;
        let server_id = if request.fill_server_id {
            self.id.to_string()
        } else {
            String::new()
        };
        Ok(self.answer(SimpleResponse {
            payload: payload(request.response_size),
            server_id,
            hostname: self.id.to_string(),
            ..SimpleResponse::default()
        }))
    }

    type StreamingOutputCallStream = Outputs;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Outputs>, Status> {
        self.begin(&request).await?;
        Ok(self.answer(Box::pin(futures_util::stream::iter(outputs(
            request.get_ref(),
        )))))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        self.begin(&request).await?;
        let mut messages = request.into_inner();
        let mut size = 0;
        while let Some(message) = messages.message().await? {
            size += message.payload.map_or(0, |payload| payload.body.len());
        }
        let aggregated_payload_size = i32::try_from(size).unwrap_or(i32::MAX);
        Ok(self.answer(StreamingInputCallResponse {
            aggregated_payload_size,
        }))
    }

    type FullDuplexCallStream = Outputs;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Outputs>, Status> {
        self.begin(&request).await?;
        let answers = request.into_inner().map(|request| match request {
            Ok(request) => futures_util::stream::iter(outputs(&request)),
            Err(status) => futures_util::stream::iter(vec![Err(status)]),
        });
        Ok(self.answer(Box::pin(answers.flatten())))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(
            "UnimplementedCall is not implemented, as its name says",
        ))
    }
}
