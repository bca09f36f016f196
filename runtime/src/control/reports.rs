//! Load reports beside calls (ORCA, gRFC A51): one stream on each endpoint's own connection, where
//! a policy asks for it. Rim.
//!
//! An endpoint without the service is not asked again on that connection. A stream that breaks off
//! is opened again after a pause, which grows until a report arrives.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Uri};
use http_body_util::{BodyExt as _, Empty};
use prost::Message as _;
use sidestep_proto::wire::orca::OrcaLoadReportRequest;
use tokio::task::JoinHandle;

use crate::balancer::Load;
use crate::channel::{deadline, status};
use crate::retry::backoff;
use crate::subchannel::state::Backoff;
use crate::subchannel::{Connection, Incoming, RequestBody};

const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

/// Longer ones are no reports.
const LONGEST_REPORT: usize = 64 * 1024;

/// Whom reports are asked of, and for whom.
pub(super) struct Source {
    pub(super) cluster: Arc<str>,
    /// Its first address, for people, and the authority where there is no host name.
    pub(super) endpoint: Arc<str>,
    /// May be empty.
    pub(super) hostname: Arc<str>,
    pub(super) load: Arc<Load>,
    pub(super) backoff: Backoff,
}

/// The stream of one endpoint; most have none.
#[derive(Default)]
pub(super) struct Reports(Option<Box<Stream>>);

struct Stream {
    period: Duration,
    connection: Connection,
    task: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reports {
    /// Opens, replaces or closes the stream by what policies ask for and how the endpoint is
    /// connected now.
    pub(super) fn follow(
        &mut self,
        connection: Option<&Connection>,
        asked: Option<Duration>,
        source: impl FnOnce() -> Source,
    ) {
        let wanted = connection.zip(asked);
        let fits = |stream: &Stream| {
            wanted.is_some_and(|(connection, period)| {
                stream.period == period && stream.connection.is_same(connection)
            })
        };
        if self.0.as_deref().is_some_and(fits) {
            return;
        }
        // What is held of the connection of before would keep it open.
        self.0 = wanted.map(|(connection, period)| {
            Box::new(Stream {
                period,
                connection: connection.clone(),
                task: tokio::spawn(run(source(), connection.clone(), period)),
            })
        });
    }
}

/// Why a stream ended.
enum End {
    /// The endpoint does not have the service.
    Unimplemented,
    Broken(String),
}

async fn run(source: Source, connection: Connection, period: Duration) {
    let mut failures = 0;
    while !connection.draining() {
        let mut heard = false;
        let end = stream(&source, &connection, period, &mut heard).await;
        let (cluster, endpoint) = (&*source.cluster, &*source.endpoint);
        match end {
            End::Unimplemented => {
                tracing::warn!(
                    target: "sidestep::connection", cluster, endpoint,
                    "no load reports: the endpoint does not have the service"
                );
                return;
            }
            End::Broken(reason) => {
                tracing::debug!(
                    target: "sidestep::connection", cluster, endpoint, reason,
                    "load reports broke off"
                );
            }
        }
        failures = if heard { 1 } else { failures + 1 };
        let Backoff { first, longest } = source.backoff;
        let pause = backoff::delay(first, longest, failures, fastrand::u64(..));
        tokio::time::sleep(pause).await;
    }
}

/// Reads one stream to its end.
async fn stream(
    source: &Source,
    connection: &Connection,
    period: Duration,
    heard: &mut bool,
) -> End {
    let request = match request(source, connection, period) {
        Ok(request) => request,
        Err(error) => return End::Broken(error.to_string()),
    };
    let response = match connection.send::<Empty<Bytes>>(request).await {
        Ok(response) => response,
        Err(error) => return End::Broken(error.to_string()),
    };
    let (head, body) = response.into_parts();
    if let Some(code) = status::code_of_head(head.status, &head.headers) {
        return ended(code);
    }
    read(source, body, heard).await
}

fn request(
    source: &Source,
    connection: &Connection,
    period: Duration,
) -> Result<http::Request<RequestBody<Empty<Bytes>>>, http::Error> {
    let asked = OrcaLoadReportRequest {
        report_interval: prost_types::Duration::try_from(period).ok(),
        ..OrcaLoadReportRequest::default()
    };
    let message = asked.encode_to_vec();
    let mut frame = vec![0];
    // A duration is a few bytes.
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    let name = match &*source.hostname {
        "" => &*source.endpoint,
        name => name,
    };
    // The path of a socket is none.
    let authority = Authority::try_from(name);
    let uri = Uri::builder()
        .scheme(connection.scheme().clone())
        .authority(authority.unwrap_or_else(|_| Authority::from_static("localhost")))
        .path_and_query(PathAndQuery::from_static(METHOD))
        .build()?;
    http::Request::post(uri)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(RequestBody::Whole(Some(frame.into())))
}

async fn read(source: &Source, mut body: Incoming, heard: &mut bool) -> End {
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return End::Broken(error.to_string()),
        };
        if let Some(trailers) = frame.trailers_ref() {
            return ended(status::code_of_headers(trailers).unwrap_or(status::UNKNOWN));
        }
        buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
        loop {
            match message(&mut buffer) {
                Ok(None) => break,
                Ok(Some(report)) => {
                    *heard = true;
                    source.load.reported(deadline::now(), &report);
                }
                Err(wrong) => return End::Broken(wrong.to_owned()),
            }
        }
    }
    ended(status::UNKNOWN)
}

/// Takes a whole message off the front, if there is one.
fn message(buffer: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let Some((head, rest)) = buffer.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 {
        return Err("a compressed report, which was not asked for");
    }
    if length > LONGEST_REPORT {
        return Err("a report of more than 64 KiB");
    }
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn ended(code: u32) -> End {
    match code {
        status::UNIMPLEMENTED => End::Unimplemented,
        code => End::Broken(format!("ended with gRPC status {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_off_whole_and_one_by_one() {
        let mut buffer = BytesMut::new();
        let frames = [0, 0, 0, 0, 2, b'h', b'i', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let mut found = Vec::new();
        for byte in frames.into_iter().chain([b'x']) {
            buffer.extend_from_slice(&[byte]);
            found.extend(message(&mut buffer).unwrap());
        }
        assert_eq!(found, [&b"hi"[..], b"", b"x"]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_no_report_ends_the_stream() {
        for (frame, expected) in [
            ([1, 0, 0, 0, 0], "compressed"),
            ([0, 0, 1, 0, 1], "more than 64 KiB"),
        ] {
            let mut buffer = BytesMut::from(&frame[..]);
            let wrong = message(&mut buffer).expect_err("is none");
            assert!(wrong.contains(expected), "{wrong}");
        }
    }
}
