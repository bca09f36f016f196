//! The public interop service, as our servers answer it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use sidestep::PeerIdentity;
use sidestep::orca::LoadRecorder;
use tokio::sync::OwnedMutexGuard;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::behavior::{self, Step};
use crate::flags::say;
use crate::testing::test_service_server::{TestService, TestServiceServer};
use crate::testing::{
    EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse, TestOrcaReport,
};
use crate::wire::{Asked, Wire};

/// How a server misbehaves on purpose.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Fail the first so many calls of the process.
    pub fail_first: u64,
    /// Fail calls whose `grpc-previous-rpc-attempts` is below this.
    pub fail_attempts_below: u64,
    /// Share of calls to fail, in percent; fractions count.
    pub fail_percent: f64,
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
            fail_percent: 0.0,
            code: Code::Unavailable,
            delay: Duration::ZERO,
        }
    }
}

/// What a server says of its load.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// The server's own, which callers may set by `orca_oob_report`.
    pub server: LoadRecorder,
    /// Whether calls say anything of it.
    pub with_calls: bool,
    /// Named metrics of each call.
    pub named: Vec<(String, f64)>,
    /// Held by the stream that has set the server's load last.
    pub(crate) taken: Arc<tokio::sync::Mutex<()>>,
}

/// Answers `grpc.testing.TestService`.
#[derive(Debug, Clone)]
pub struct Testing {
    id: Arc<str>,
    server_id: Arc<str>,
    faults: Arc<Faults>,
    calls: Arc<AtomicU64>,
    load: Load,
    logs: bool,
}

impl Testing {
    /// A server that says `id` in its answers.
    #[must_use]
    pub fn new(id: &str, faults: Faults) -> Self {
        Self {
            id: id.into(),
            server_id: id.into(),
            faults: Arc::new(faults),
            calls: Arc::default(),
            load: Load::default(),
            logs: false,
        }
    }

    /// Says this as its `server_id`, and the other as its host's name.
    #[must_use]
    pub fn with_server_id(mut self, id: &str) -> Self {
        self.server_id = id.into();
        self
    }

    /// Says this of its load, where a layer of `sidestep::orca` sends it.
    #[must_use]
    pub fn with_load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    /// Prints an `rpc` event at the start of each call.
    #[must_use]
    pub fn logging(mut self) -> Self {
        self.logs = true;
        self
    }

    /// The whole service: with what lies below the generated code.
    #[must_use]
    pub fn into_service(self) -> Wire<TestServiceServer<Self>> {
        Wire(TestServiceServer::new(self).max_decoding_message_size(usize::MAX))
    }

    /// Calls begun so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Counts and logs a call, and fails or delays it as its turn or its caller wants.
    async fn begin<T>(
        &self,
        method: &'static str,
        request: &Request<T>,
    ) -> Result<Arrival, Status> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let arrival = Arrival::of(&self.id, request);
        if self.logs {
            say("rpc", arrival.event(n + 1, method));
        }
        if let Some(recorder) = self.recorder(request) {
            for (name, value) in &self.load.named {
                recorder.named_metric(name, *value);
            }
        }
        if !self.faults.delay.is_zero() {
            tokio::time::sleep(self.faults.delay).await;
        }
        let unlucky = fastrand::f64() * 100.0 < self.faults.fail_percent;
        let early = arrival.attempts < self.faults.fail_attempts_below;
        if n < self.faults.fail_first || early || unlucky {
            let text = format!("{} fails on purpose", self.id);
            return Err(arrival.failure(Status::new(self.faults.code, text)));
        }
        self.behave(&arrival)
            .await
            .map_err(|s| arrival.failure(s))?;
        Ok(arrival)
    }

    /// Where the load of a call is written, if calls say anything of it.
    fn recorder<'r, T>(&self, request: &'r Request<T>) -> Option<&'r LoadRecorder> {
        let recorder = request.extensions().get();
        recorder.filter(|_| self.load.with_calls)
    }

    /// Does what the caller's `rpc-behavior` says.
    async fn behave(&self, arrival: &Arrival) -> Result<(), Status> {
        for list in arrival.texts("rpc-behavior") {
            let steps = behavior::steps(list, &self.id).map_err(Status::invalid_argument)?;
            for step in steps {
                match step {
                    Step::Sleep(time) => tokio::time::sleep(time).await,
                    Step::KeepOpen => std::future::pending().await,
                    Step::SucceedOnAttempt(n) if n != arrival.attempts => {}
                    Step::SucceedOnAttempt(_) | Step::Answer(Code::Ok) => return Ok(()),
                    Step::Answer(code) => {
                        let text = format!("{} was told so by rpc-behavior", self.id);
                        return Err(Status::new(code, text));
                    }
                }
            }
        }
        Ok(())
    }

    fn unary(
        &self,
        arrival: &Arrival,
        request: Request<SimpleRequest>,
    ) -> Result<SimpleResponse, Status> {
        let recorder = self.recorder(&request).cloned();
        let request = request.into_inner();
        asked_for(request.response_status.as_ref()).map_err(|s| arrival.failure(s))?;
        if let (Some(recorder), Some(wanted)) = (recorder, &request.orca_per_query_report) {
            record(&recorder, wanted);
        }
        let server_id = match request.fill_server_id {
            true => self.server_id.to_string(),
            false => String::new(),
        };
        Ok(SimpleResponse {
            payload: Some(payload(request.response_size).map_err(|s| arrival.failure(s))?),
            server_id,
            hostname: self.id.to_string(),
            ..SimpleResponse::default()
        })
    }

    fn outputs(&self, requests: Requests) -> Outputs {
        let outputs = Answering {
            requests,
            pending: VecDeque::new(),
            load: self.load.clone(),
            taken: None,
        };
        Box::pin(stream::try_unfold(outputs, async |mut outputs| {
            let next = outputs.next().await?;
            Ok(next.map(|answer| (answer, outputs)))
        }))
    }
}

/// What a server sees of a call before its messages.
struct Arrival {
    id: Arc<str>,
    headers: HeaderMap,
    attempts: u64,
    deadline: Option<Duration>,
    authority: String,
    peer_san: Option<String>,
}

impl Arrival {
    fn of<T>(id: &Arc<str>, request: &Request<T>) -> Self {
        let headers = request.metadata().clone().into_headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let attempts = text("grpc-previous-rpc-attempts").and_then(|n| n.parse().ok());
        let deadline = text("grpc-timeout").and_then(timeout);
        let asked = request.extensions().get::<Asked>();
        let identity = request.extensions().get::<PeerIdentity>();
        Self {
            id: id.clone(),
            attempts: attempts.unwrap_or(0),
            deadline,
            authority: asked.map(|asked| asked.0.clone()).unwrap_or_default(),
            peer_san: identity.and_then(|identity| identity.uri_sans.first().cloned()),
            headers,
        }
    }

    fn event(&self, n: u64, method: &str) -> serde_json::Value {
        json!({
            "n": n,
            "method": method,
            "attempts": self.attempts,
            "deadline_ms": self.special(":deadline-ms").unwrap_or_default(),
            "authority": self.authority,
            "peer_san": self.peer_san.as_deref().unwrap_or_default(),
        })
    }

    fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        let all = self.headers.get_all(name).iter();
        all.filter_map(|value| value.to_str().ok())
    }

    /// What no metadata says.
    fn special(&self, key: &str) -> Option<String> {
        match key {
            ":authority" => Some(self.authority.clone()),
            ":deadline-ms" => Some(self.deadline?.as_millis().to_string()),
            ":attempts" => Some(self.attempts.to_string()),
            ":peer-san" => self.peer_san.clone(),
            _ => None,
        }
    }

    /// Metadata of every answer to this call, failures included: who answers, and the echoes asked
    /// for.
    fn introduction(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &str, value: &HeaderValue| {
            if let Ok(name) = name.parse::<http::HeaderName>() {
                headers.append(name, value.clone());
            }
        };
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            put("hostname", &id);
        }
        let keys = self.texts("x-echo").flat_map(|list| list.split(','));
        for key in keys.map(|key| key.trim().to_ascii_lowercase()) {
            let name = format!("echo-{}", key.trim_start_matches(':'));
            if key.starts_with(':') {
                let value = self.special(&key).and_then(|value| value.parse().ok());
                value.iter().for_each(|value| put(&name, value));
            } else if let Ok(key) = key.parse::<http::HeaderName>() {
                let values = self.headers.get_all(key).iter();
                values.for_each(|value| put(&name, value));
            }
        }
        headers
    }

    fn answer<T>(&self, message: T) -> Response<T> {
        let introduction = MetadataMap::from_headers(self.introduction());
        Response::from_parts(introduction, message, http::Extensions::default())
    }

    fn failure(&self, mut status: Status) -> Status {
        *status.metadata_mut() = MetadataMap::from_headers(self.introduction());
        status
    }
}

/// `1999m`, `2S` and so on.
fn timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn payload(size: i32) -> Result<Payload, Status> {
    let size = usize::try_from(size)
        .map_err(|_negative| Status::invalid_argument(format!("a payload of {size} bytes")))?;
    Ok(Payload {
        body: vec![0; size],
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

fn record(recorder: &LoadRecorder, wanted: &TestOrcaReport) {
    recorder.cpu_utilization(wanted.cpu_utilization);
    recorder.memory_utilization(wanted.memory_utilization);
    for (name, cost) in &wanted.request_cost {
        recorder.request_cost(name, *cost);
    }
    for (name, share) in &wanted.utilization {
        recorder.utilization(name, *share);
    }
}

type Outputs = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;
type Requests = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallRequest, Status>> + Send>>;

/// A stream of answers to a stream of requests.
struct Answering {
    requests: Requests,
    pending: VecDeque<ResponseParameters>,
    load: Load,
    taken: Option<OwnedMutexGuard<()>>,
}

impl Answering {
    async fn next(&mut self) -> Result<Option<StreamingOutputCallResponse>, Status> {
        loop {
            if let Some(wanted) = self.pending.pop_front() {
                let interval = u64::try_from(wanted.interval_us).unwrap_or(0);
                if interval > 0 {
                    tokio::time::sleep(Duration::from_micros(interval)).await;
                }
                let payload = Some(payload(wanted.size)?);
                return Ok(Some(StreamingOutputCallResponse { payload }));
            }
            let Some(request) = self.requests.next().await.transpose()? else {
                return Ok(None);
            };
            asked_for(request.response_status.as_ref())?;
            if let Some(wanted) = &request.orca_oob_report {
                self.report(wanted).await;
            }
            self.pending.extend(request.response_parameters);
        }
    }

    /// Sets the server's load; whoever has set it keeps it to the end of its stream.
    async fn report(&mut self, wanted: &TestOrcaReport) {
        if self.taken.is_none() {
            self.taken = Some(self.load.taken.clone().lock_owned().await);
        }
        record(&self.load.server, wanted);
    }
}

#[tonic::async_trait]
impl TestService for Testing {
    async fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        let arrival = self.begin("EmptyCall", &request).await?;
        Ok(arrival.answer(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        let arrival = self.begin("UnaryCall", &request).await?;
        Ok(arrival.answer(self.unary(&arrival, request)?))
    }

    /// As a unary call, with the answer that caches are allowed to keep: the same for the same
    /// request.
    async fn cacheable_unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        let arrival = self.begin("CacheableUnaryCall", &request).await?;
        let body = request.into_inner().payload;
        let mut response = arrival.answer(SimpleResponse {
            payload: body,
            ..SimpleResponse::default()
        });
        let cached = "max-age=60, public".parse();
        let cached = cached.map_err(|_| Status::internal("a constant"))?;
        response.metadata_mut().insert("cache-control", cached);
        Ok(response)
    }

    type StreamingOutputCallStream = Outputs;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Outputs>, Status> {
        let arrival = self.begin("StreamingOutputCall", &request).await?;
        // The status that is asked for comes after the answers here.
        let mut request = request.into_inner();
        let status = asked_for(request.response_status.take().as_ref());
        let answers = self.outputs(stream::iter([Ok(request)]).boxed());
        let end = stream::iter(status.err().map(Err));
        Ok(arrival.answer(answers.chain(end).boxed()))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let arrival = self.begin("StreamingInputCall", &request).await?;
        let mut messages = request.into_inner();
        let mut size = 0;
        while let Some(message) = messages.message().await? {
            size += message.payload.map_or(0, |payload| payload.body.len());
        }
        let aggregated_payload_size = i32::try_from(size).unwrap_or(i32::MAX);
        Ok(arrival.answer(StreamingInputCallResponse {
            aggregated_payload_size,
        }))
    }

    type FullDuplexCallStream = Outputs;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Outputs>, Status> {
        let arrival = self.begin("FullDuplexCall", &request).await?;
        Ok(arrival.answer(self.outputs(request.into_inner().boxed())))
    }

    type HalfDuplexCallStream = Outputs;

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Outputs>, Status> {
        let arrival = self.begin("HalfDuplexCall", &request).await?;
        let mut messages = request.into_inner();
        let mut all = Vec::new();
        while let Some(message) = messages.message().await? {
            all.push(Ok(message));
        }
        Ok(arrival.answer(self.outputs(stream::iter(all).boxed())))
    }

    async fn unimplemented_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        let arrival = self.begin("UnimplementedCall", &request).await?;
        Err(arrival.failure(Status::unimplemented(
            "UnimplementedCall is not implemented, as its name says",
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_in_every_unit() {
        for (text, milliseconds) in [
            ("1999m", 1999),
            ("2S", 2000),
            ("1M", 60_000),
            ("1H", 3_600_000),
            ("5000u", 5),
            ("7000000n", 7),
        ] {
            assert_eq!(timeout(text), Some(Duration::from_millis(milliseconds)));
        }
        for wrong in ["", "m", "5", "5x", "-1S", "5\u{e9}"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }
}
