//! What the interop client is asked to do, and the calls it makes of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use sidestep::{Authority, Channel};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{KeyAndValueRef, MetadataKey, MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::cookies::Jar;
use crate::flags::{Flags, upper_case};
use crate::testing::{
    Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse,
};

/// A method of `grpc.testing.TestService`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Nothing there, nothing back.
    Empty,
    /// One payload each way.
    Unary,
    /// One request, several payloads back.
    StreamingOutput,
}

impl Method {
    const ALL: [Self; 3] = [Self::Empty, Self::Unary, Self::StreamingOutput];

    /// As the service names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "EmptyCall",
            Self::Unary => "UnaryCall",
            Self::StreamingOutput => "StreamingOutputCall",
        }
    }
}

/// What is the same for every call of a run.
#[derive(Debug, Clone)]
pub struct Calls {
    /// Which method.
    pub method: Method,
    /// Answers asked of `StreamingOutputCall`.
    pub stream_messages: usize,
    /// Bytes of payload: both ways of unary calls, per message of streams.
    pub payload_size: usize,
    /// Deadline per call.
    pub timeout: Option<Duration>,
    /// Request metadata, before `{i}` is filled in.
    pub metadata: Vec<(String, String)>,
    /// `:authority` override.
    pub authority: Option<Authority>,
    /// Whether events carry the metadata that came back.
    pub print_metadata: bool,
    /// Where cookies are kept, if they are.
    pub jar: Option<Arc<Mutex<Jar>>>,
}

impl Calls {
    /// Reads them from the flags.
    ///
    /// # Errors
    /// A value that does not parse.
    pub fn from_flags(flags: &Flags) -> Result<Self, String> {
        let method = flags.text("method").unwrap_or("UnaryCall");
        let known = Method::ALL.into_iter().find(|m| m.name() == method);
        let authority = flags.text("authority").map(str::parse).transpose();
        let timeout = flags.number("timeout-ms", 10_000)?;
        Ok(Self {
            method: known.ok_or_else(|| format!("--method: no method {method:?}"))?,
            stream_messages: flags.number("stream-messages", 3)?,
            payload_size: flags.number("payload-size", 0)?,
            timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
            metadata: flags
                .all("metadata")
                .iter()
                .map(|text| pair(text))
                .collect::<Result<_, _>>()?,
            authority: authority
                .map_err(|e| format!("--authority: {e}"))?
                .map(Authority),
            print_metadata: flags.is_set("print-metadata"),
            jar: flags.is_set("cookie-jar").then(Arc::default),
        })
    }

    /// Makes call `i`.
    pub async fn call(&self, channel: Channel, i: u64) -> Outcome {
        let size = i32::try_from(self.payload_size).unwrap_or(i32::MAX);
        let payload = (size > 0).then(|| Payload {
            body: vec![0; self.payload_size],
            ..Payload::default()
        });
        match self.method {
            Method::Empty => {
                let nothing = |_: &Empty| String::new();
                self.exchange(channel, i, Empty {}, nothing).await
            }
            Method::Unary => {
                let request = SimpleRequest {
                    fill_server_id: true,
                    response_size: size,
                    payload,
                    ..SimpleRequest::default()
                };
                let id = |answer: &SimpleResponse| answer.server_id.clone();
                self.exchange(channel, i, request, id).await
            }
            Method::StreamingOutput => {
                let wanted = ResponseParameters {
                    size,
                    ..ResponseParameters::default()
                };
                let request = StreamingOutputCallRequest {
                    response_parameters: vec![wanted; self.stream_messages],
                    payload,
                    ..StreamingOutputCallRequest::default()
                };
                let nothing = |_: &StreamingOutputCallResponse| String::new();
                self.exchange(channel, i, request, nothing).await
            }
        }
    }

    /// Every method goes as a stream of answers: that keeps headers and trailers apart.
    async fn exchange<Q, A>(
        &self,
        channel: Channel,
        i: u64,
        message: Q,
        server_id: impl Fn(&A) -> String,
    ) -> Outcome
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut outcome = Outcome::default();
        let result = self
            .stream(channel, i, message, &mut outcome, server_id)
            .await;
        if let Err(status) = result {
            outcome.code = status.code();
            status.message().clone_into(&mut outcome.message);
            outcome.trailers = readable(status.metadata());
            if outcome.headers.is_empty() {
                // A status alone: its headers came as trailers.
                self.keep_cookies(status.metadata());
            }
        }
        let named = |map: &BTreeMap<String, String>| map.get("hostname").cloned();
        if outcome.server.is_empty() {
            let name = named(&outcome.headers).or_else(|| named(&outcome.trailers));
            outcome.server = name.unwrap_or_default();
        }
        outcome
    }

    async fn stream<Q, A>(
        &self,
        channel: Channel,
        i: u64,
        message: Q,
        outcome: &mut Outcome,
        server_id: impl Fn(&A) -> String,
    ) -> Result<(), Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let request = self.request(i, message)?;
        let path = PathAndQuery::try_from(self.path());
        let path = path.map_err(|e| Status::internal(e.to_string()))?;
        let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        // Our channel is always ready: calls are routed, then wait.
        let codec = ProstCodec::<Q, A>::default();
        let response = grpc.server_streaming(request, path, codec).await?;
        self.keep_cookies(response.metadata());
        outcome.headers = readable(response.metadata());
        let mut answers = response.into_inner();
        while let Some(answer) = answers.message().await? {
            outcome.messages += 1;
            outcome.server = server_id(&answer);
        }
        if let Some(trailers) = answers.trailers().await? {
            outcome.trailers = readable(&trailers);
        }
        Ok(())
    }

    fn path(&self) -> String {
        format!("/grpc.testing.TestService/{}", self.method.name())
    }

    fn jar(&self) -> Option<MutexGuard<'_, Jar>> {
        let jar = self.jar.as_ref()?;
        Some(jar.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep_cookies(&self, metadata: &MetadataMap) {
        if let Some(mut jar) = self.jar() {
            let all = metadata.get_all("set-cookie").iter();
            all.filter_map(|value| value.to_str().ok())
                .for_each(|cookie| jar.keep(cookie, Instant::now()));
        }
    }

    fn cookies(&self) -> Option<String> {
        self.jar()?.header(&self.path(), Instant::now())
    }

    fn request<Q>(&self, i: u64, message: Q) -> Result<Request<Q>, Status> {
        let bad = |key: &str| Status::invalid_argument(format!("--metadata: {key:?} is not valid"));
        let mut request = Request::new(message);
        for (key, template) in &self.metadata {
            let value = filled(template, i);
            let map = request.metadata_mut();
            if key.ends_with("-bin") {
                let key = MetadataKey::from_bytes(key.as_bytes()).map_err(|_| bad(key))?;
                map.append_bin(key, MetadataValue::from_bytes(value.as_bytes()));
            } else {
                let name = MetadataKey::from_bytes(key.as_bytes()).map_err(|_| bad(key))?;
                map.append(name, value.parse().map_err(|_| bad(key))?);
            }
        }
        if let Some(cookies) = self.cookies() {
            let value = cookies.parse().map_err(|_| bad("cookie"))?;
            request.metadata_mut().append("cookie", value);
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        if let Some(authority) = &self.authority {
            request.extensions_mut().insert(authority.clone());
        }
        Ok(request)
    }
}

/// What became of one call.
#[derive(Debug)]
pub struct Outcome {
    /// Its status.
    pub code: Code,
    /// The status's text.
    pub message: String,
    /// Who answered, as it says itself; empty if nobody did.
    pub server: String,
    /// Answers received.
    pub messages: u64,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) trailers: BTreeMap<String, String>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            code: Code::Ok,
            message: String::new(),
            server: String::new(),
            messages: 0,
            headers: BTreeMap::new(),
            trailers: BTreeMap::new(),
        }
    }
}

impl Outcome {
    /// Of a call that was given up because the process ends.
    #[must_use]
    pub fn cut() -> Self {
        Self {
            code: Code::Cancelled,
            message: "given up: the client was told to end".to_owned(),
            ..Self::default()
        }
    }

    /// The fields of the `rpc` event that the call itself decides.
    #[must_use]
    pub fn fields(&self, print_metadata: bool) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value| _ = fields.insert(name.to_owned(), value);
        put("code", json!(upper_case(self.code)));
        put("server", json!(self.server));
        put("messages", json!(self.messages));
        if self.code != Code::Ok {
            put("message", json!(self.message));
        }
        if print_metadata {
            put("headers", json!(self.headers));
            put("trailers", json!(self.trailers));
        }
        fields
    }
}

/// Metadata as text; values of `-bin` keys in the base64 in which they travel, several values of a
/// key as a list.
fn readable(metadata: &MetadataMap) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for entry in metadata.iter() {
        let (key, bytes) = match entry {
            KeyAndValueRef::Ascii(key, value) => (key.to_string(), value.as_encoded_bytes()),
            KeyAndValueRef::Binary(key, value) => (key.to_string(), value.as_encoded_bytes()),
        };
        let text = String::from_utf8_lossy(bytes);
        map.entry(key)
            .and_modify(|list: &mut String| {
                list.push_str(", ");
                list.push_str(&text);
            })
            .or_insert_with(|| text.into_owned());
    }
    map
}

/// `k:v`; only the first colon splits.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once(':')
        .ok_or_else(|| format!("--metadata: {text:?} is not key:value"))?;
    Ok((key.to_ascii_lowercase(), value.to_owned()))
}

/// Fills in `{i}`, the call's index, and `{i%N}`, its remainder. What else is in braces stays.
fn filled(template: &str, i: u64) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let Some(close) = rest.find('}') else { break };
        match index(&rest[1..close], i) {
            Some(number) => out.push_str(&number.to_string()),
            None => out.push_str(&rest[..=close]),
        }
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out
}

fn index(inside: &str, i: u64) -> Option<u64> {
    match inside.strip_prefix('i')? {
        "" => Some(i),
        remainder => i.checked_rem(remainder.strip_prefix('%')?.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::CLIENT;

    fn calls(arguments: &[&str]) -> Result<Calls, String> {
        let arguments = arguments.iter().map(ToString::to_string);
        Calls::from_flags(&Flags::parse(&CLIENT, arguments)?)
    }

    #[test]
    fn metadata_carries_the_index_of_the_call() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{i}", "7"),
            ("user-{i%3}-{i}", "user-1-7"),
            ("{i%0} {x} {i", "{i%0} {x} {i"),
        ] {
            assert_eq!(filled(template, 7), expected);
        }
        let calls = calls(&["--metadata", "X-User:a:{i}", "--metadata=b-bin:c"]).unwrap();
        let request = calls.request(4, ()).unwrap();
        assert_eq!(request.metadata().get("x-user").unwrap(), "a:4");
        let binary = request.metadata().get_bin("b-bin").unwrap();
        assert_eq!(binary.to_bytes().unwrap().as_ref(), b"c");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (arguments, expected) in [
            (&["--method", "Sing"][..], "--method: no method \"Sing\""),
            (&["--metadata", "x"], "--metadata: \"x\" is not key:value"),
        ] {
            assert_eq!(calls(arguments).unwrap_err(), expected);
        }
        assert!(calls(&["--authority", "a b"]).is_err());
    }

    #[test]
    fn no_deadline_is_asked_for_with_zero() {
        assert_eq!(calls(&["--timeout-ms", "0"]).unwrap().timeout, None);
        let usual = calls(&[]).unwrap().timeout;
        assert_eq!(usual, Some(Duration::from_secs(10)));
    }
}
