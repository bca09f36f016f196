//! From the events of calls to records.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{CONTENT_TYPE, HOST, HeaderMap};
use http::{Method, StatusCode};

use super::flags::Flags;
use super::record::{Captured, Record, Side};
use super::{Log, Scheme};
use crate::channel::{Authority, CallError};
use crate::telemetry::{
    AttemptEnd, AttemptKind, CallSink, ClientEnd, ClientEvents, ClientStart, Picked, Refusal,
    ServerEnd, ServerEvents, ServerStart,
};

/// Follows the calls for a log.
#[derive(Debug)]
pub(crate) struct AccessLogSink(pub(crate) Arc<Log>);

impl CallSink for AccessLogSink {
    fn client_call(&self, start: &ClientStart<'_>) -> Option<Box<dyn ClientEvents>> {
        let log = &self.0;
        if !log.wants(Side::Client) {
            return None;
        }
        // gRPC has no other method, and a channel's requests are made before they have one.
        let mut record = begin(log, Side::Client, start.headers, start.uri.clone());
        let own = start.extensions.get::<Authority>();
        record.authority = Some(match own {
            Some(own) => own.0.as_str().to_owned(),
            None => start.authority.to_owned(),
        });
        Some(Box::new(Call::new(log, record, start.at, start.headers)))
    }

    fn server_call(&self, start: &mut ServerStart<'_>) -> Option<Box<dyn ServerEvents>> {
        let log = &self.0;
        if !log.wants(Side::Server) {
            return None;
        }
        let mut record = begin(log, Side::Server, start.headers, start.uri.clone());
        record.method = start.method.clone();
        let host = || start.headers.get(HOST)?.to_str().ok();
        let authority = start.uri.authority().map(http::uri::Authority::as_str);
        record.authority = authority.or_else(host).map(str::to_owned);
        record.remote = start.connection.remote_addr();
        record.local = start.connection.local_addr();
        record.scheme = Some(Scheme::of(start.connection.is_tls()));
        record.peer = start.connection.identity().cloned();
        Some(Box::new(Call::new(log, record, start.at, start.headers)))
    }
}

fn begin(log: &Log, side: Side, headers: &HeaderMap, uri: http::Uri) -> Record {
    let mut record = Record::new(side, SystemTime::now(), Method::POST, uri);
    record.request = Captured::take(&log.headers().request, headers);
    record
}

/// A call of which a line will tell.
struct Call {
    log: Arc<Log>,
    /// Taken at the end.
    record: Option<Box<Record>>,
    began: Instant,
    grpc: bool,
}

impl Call {
    fn new(log: &Arc<Log>, record: Record, began: Instant, headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE);
        Self {
            log: Arc::clone(log),
            record: Some(Box::new(record)),
            began,
            grpc: kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")),
        }
    }

    fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        if let Some(record) = &mut self.record {
            record.response_code = status.as_u16();
            record.response = Captured::take(&self.log.headers().response, headers);
            record.answered = Some(self.began.elapsed());
        }
    }

    /// Hands the record to the writer.
    fn end(&mut self, at: Instant, code: u32, how: &How<'_>) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        record.duration = at.saturating_duration_since(self.began);
        record.grpc_status = self.grpc.then_some(code);
        record.flags = how.flags;
        record.details = Some(how.details);
        if let Some(trailers) = how.trailers {
            record.trailers = Captured::take(&self.log.headers().trailers, trailers);
        }
        self.log.push(record);
    }
}

/// How a call ended, in Envoy's words.
struct How<'a> {
    flags: Flags,
    details: &'static str,
    trailers: Option<&'a HeaderMap>,
}

impl How<'_> {
    const GONE: (Flags, &'static str) = (
        Flags::DOWNSTREAM_CONNECTION_TERMINATION,
        "downstream_remote_disconnect",
    );
}

impl ClientEvents for Call {
    fn routed(&mut self, route: &str, _waited: bool) {
        if let Some(record) = &mut self.record {
            record.route = (!route.is_empty()).then(|| route.into());
        }
    }

    fn attempt_started(&mut self, _at: Instant, _kind: AttemptKind) {
        if let Some(record) = &mut self.record {
            record.attempts += 1;
        }
    }

    fn picked(&mut self, pick: &Picked<'_>, headers: &mut HeaderMap) {
        if let Some(record) = &mut self.record {
            record.host = Some(Arc::clone(pick.endpoint));
            record.cluster = Some(pick.backend.service().into());
            // As they go out: with the trace context, the attempt, the deadline of before.
            record.request = Captured::take(&self.log.headers().request, headers);
        }
    }

    fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.head(status, headers);
    }

    fn attempt_ended(&mut self, end: &AttemptEnd<'_>) {
        if let Some(record) = &mut self.record {
            // The application is downstream: what it sent was received here.
            (record.received, record.sent) = (end.body_sent, end.body_received);
        }
    }

    fn ended(&mut self, end: &ClientEnd<'_>) {
        let (mut flags, details) = match end.error {
            Some(CallError::NoEndpoint { .. }) if end.unreachable => (
                Flags::UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{remote_connection_failure}",
            ),
            Some(error) => Flags::of(error),
            None if end.dropped => How::GONE,
            None => (Flags::NONE, "via_upstream"),
        };
        if end.exhausted {
            flags = flags.with(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
        if let (Some(error), Some(record)) = (end.error, &mut self.record) {
            record.failure = Some(error.to_string());
            // The channel answers a gRPC call itself, as a proxy does: 200 and a status.
            if self.grpc && record.response_code == 0 {
                record.response_code = 200;
            }
        }
        let trailers = end.trailers;
        let how = How {
            flags,
            details,
            trailers,
        };
        self.end(end.at, end.code, &how);
    }
}

impl ServerEvents for Call {
    fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.head(status, headers);
    }

    fn ended(&mut self, end: &ServerEnd<'_>) {
        if let Some(record) = &mut self.record {
            (record.received, record.sent) = (end.body_received, end.body_sent);
        }
        let (flags, details) = match end.refusal {
            Some(Refusal::NoRoute) => (Flags::NO_ROUTE_FOUND, "route_not_found"),
            Some(Refusal::Malformed) => (Flags::DOWNSTREAM_PROTOCOL_ERROR, "invalid_timeout"),
            Some(Refusal::Deadline) => (Flags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout"),
            None if end.dropped => How::GONE,
            None => (Flags::NONE, "via_upstream"),
        };
        let how = How {
            flags,
            details,
            trailers: end.trailers,
        };
        self.end(end.at, end.code, &how);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::AccessLog;
    use super::*;
    use crate::server::ConnectInfo;

    /// The line of a server's call that ended so.
    fn line(refusal: Option<Refusal>, code: u32, dropped: bool, answered: bool) -> String {
        let (sender, lines) = mpsc::channel();
        let format = "%REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% %GRPC_STATUS_NUMBER% \
            %BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_CODE_DETAILS%";
        let log = AccessLog::text(format).unwrap();
        let log = log.to_callback(move |line| sender.send(line.to_owned()).unwrap());
        let sink = AccessLogSink(log.start().unwrap());
        let at = Instant::now();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
        let mut call = sink
            .server_call(&mut ServerStart {
                at,
                method: &Method::POST,
                uri: &http::Uri::from_static("/s/m"),
                headers: &headers,
                extensions: &mut http::Extensions::new(),
                connection: &ConnectInfo::new(None),
            })
            .unwrap();
        if answered {
            call.answered(StatusCode::OK, &HeaderMap::new());
        }
        call.ended(&ServerEnd {
            at,
            code,
            message: None,
            sent: 1,
            received: 2,
            body_sent: 6,
            body_received: 7,
            sent_messages: &[],
            received_messages: &[],
            trailers: None,
            refusal,
            dropped,
        });
        drop((call, sink));
        lines.recv().unwrap().trim_end().to_owned()
    }

    #[test]
    fn what_a_server_refuses_has_its_flag() {
        for (refusal, code, dropped, answered, expected) in [
            (None, 0, false, true, "200 - 0 7 6 via_upstream"),
            (None, 5, false, true, "200 - 5 7 6 via_upstream"),
            (
                Some(Refusal::NoRoute),
                14,
                false,
                true,
                "200 NR 14 7 6 route_not_found",
            ),
            (
                Some(Refusal::Malformed),
                13,
                false,
                true,
                "200 DPE 13 7 6 invalid_timeout",
            ),
            (
                Some(Refusal::Deadline),
                4,
                false,
                true,
                "200 UT 4 7 6 response_timeout",
            ),
            (
                None,
                1,
                true,
                false,
                "0 DC 1 7 6 downstream_remote_disconnect",
            ),
        ] {
            let line = line(refusal, code, dropped, answered);
            assert_eq!(line, format!("POST {expected}"), "{refusal:?}");
        }
    }
}
