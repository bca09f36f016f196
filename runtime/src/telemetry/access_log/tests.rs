//! Formats by table: what they write of a call, and how they are refused.

use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use super::format::{Fact, FormatFault};
use super::record::Captured;
use super::*;

fn known(fact: Fact<'_>) -> Option<String> {
    match fact {
        Fact::Variable("POD") => Some("greeter-7".to_owned()),
        Fact::Variable(_) => None,
        Fact::HostName => Some("host-1".to_owned()),
    }
}

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let all = all.iter().map(|(name, value)| {
        let value = HeaderValue::from_str(value).unwrap();
        (HeaderName::from_static(name), value)
    });
    all.collect()
}

/// A call as it would be recorded for a log with these headers.
fn record(wanted: &Headers) -> Record {
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_460_751_420_310);
    let uri = Uri::from_static("/pkg.Greeter/SayHello");
    let mut record = Record::new(Side::Client, start, Method::POST, uri);
    let request = headers(&[("user-agent", "grpc-rust/1"), ("x-request-id", "cc21d9b0")]);
    record.request = Captured::take(&wanted.request, &request);
    record.response = Captured::take(&wanted.response, &headers(&[("server", "tonic")]));
    record.trailers = Captured::take(&wanted.trailers, &headers(&[("grpc-message", "none left")]));
    record.authority = Some("greeter".to_owned());
    record.duration = Duration::from_micros(226_999);
    record.answered = Some(Duration::from_millis(100));
    record.response_code = 200;
    record.grpc_status = Some(8);
    record.received = 154;
    record.sent = 20;
    record.attempts = 2;
    record.host = Some("10.0.2.1:80".into());
    record.cluster = Some("greeter/v1".into());
    record.route = Some("default".into());
    record.remote = Some("[::1]:4711".parse().unwrap());
    record.flags = Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
    record
}

fn line(format: &Format) -> String {
    let mut out = String::new();
    format.shape.write(&record(&format.headers), &mut out);
    out
}

fn text(format: &str) -> String {
    line(&AccessLog::read_text(format, &known).unwrap())
}

#[test]
fn operators_table() {
    for (format, expected) in [
        (
            "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(:SCHEME)%",
            "POST /pkg.Greeter/SayHello greeter -",
        ),
        ("%REQ(User-Agent)%", "grpc-rust/1"),
        ("%REQ(X-MISSING?X-REQUEST-ID)%", "cc21d9b0"),
        (
            "%REQ(X-REQUEST-ID?USER-AGENT):4%|%REQ(X-MISSING)%",
            "cc21|-",
        ),
        ("%RESP(SERVER)% %TRAILER(grpc-message)%", "tonic none left"),
        (
            "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "200 URX UpstreamRetryLimitExceeded",
        ),
        ("%BYTES_RECEIVED% %BYTES_SENT% %DURATION%", "154 20 226"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "100 126"),
        (
            "%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %ROUTE_NAME%",
            "10.0.2.1:80 greeter/v1 default",
        ),
        (
            "%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%",
            "10.0.2.1 80",
        ),
        (
            "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%",
            "ResourceExhausted RESOURCE_EXHAUSTED 8",
        ),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %PROTOCOL%", "2 HTTP/2"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
            "[::1]:4711 ::1",
        ),
        (
            "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_PEER_URI_SAN%",
            "- -",
        ),
        (
            "%START_TIME% %START_TIME(%s.%3f)%",
            "2016-04-15T20:17:00.310Z 1460751420.310",
        ),
        (
            "%HOSTNAME% %ENVIRONMENT(POD)% %ENVIRONMENT(NONE)%",
            "host-1 greeter-7 -",
        ),
        ("100%% of %RESPONSE_CODE%%%", "100% of 200%"),
        ("plain", "plain"),
    ] {
        assert_eq!(text(format), format!("{expected}\n"), "{format}");
    }
}

#[test]
fn envoys_default_line() {
    assert_eq!(
        text(DEFAULT_FORMAT),
        "[2016-04-15T20:17:00.310Z] \"POST /pkg.Greeter/SayHello HTTP/2\" 200 URX 154 20 226 - \"-\" \
         \"grpc-rust/1\" \"cc21d9b0\" \"greeter\" \"10.0.2.1:80\"\n"
    );
    // Nor may the public constructors of the defaults ever fail.
    _ = (AccessLog::default_text(), AccessLog::default_json());
}

#[test]
fn a_call_of_which_nothing_is_known_is_all_dashes() {
    let format = AccessLog::read_text(DEFAULT_FORMAT, &known).unwrap();
    let start = SystemTime::UNIX_EPOCH;
    let record = Record::new(Side::Server, start, Method::GET, Uri::from_static("/"));
    let mut out = String::new();
    format.shape.write(&record, &mut out);
    assert_eq!(
        out,
        "[1970-01-01T00:00:00.000Z] \"GET / HTTP/2\" 0 - 0 0 0 - \"-\" \"-\" \"-\" \"-\" \"-\"\n"
    );
}

#[test]
fn json_keeps_types_and_order() {
    let format = r#"{"code": "%RESPONSE_CODE%", "took": "%DURATION% ms", "missing": "%REQ(X)%",
        "deep": {"list": ["%UPSTREAM_HOST%", 7, true]}, "quoted": "\"%REQ(:PATH)%\" %REQ(X)%"}"#;
    let written = line(&AccessLog::read_json(format, &known).unwrap());
    assert_eq!(
        written,
        "{\"code\":200,\"took\":\"226 ms\",\"missing\":null,\
         \"deep\":{\"list\":[\"10.0.2.1:80\",7,true]},\"quoted\":\"\\\"/pkg.Greeter/SayHello\\\" -\"}\n"
    );
    let default = line(&AccessLog::read_json(DEFAULT_JSON, &known).unwrap());
    let default: serde_json::Value = serde_json::from_str(&default).unwrap();
    assert_eq!(default["grpc_status"], 8);
    assert_eq!(default["response_flags"], "URX");
    assert_eq!(default["x_forwarded_for"], serde_json::Value::Null);
}

#[test]
fn bad_formats_are_refused_with_their_place() {
    use FormatFault as F;
    let name = |name: &str| name.to_owned();
    let unknown = |wrong: &str, nearest| F::UnknownOperator {
        name: wrong.to_owned(),
        nearest,
    };
    for (format, column, fault) in [
        (
            "%RESPONSE_FLAG%",
            2,
            unknown("RESPONSE_FLAG", Some("RESPONSE_FLAGS")),
        ),
        ("ä %duration%", 4, unknown("duration", Some("DURATION"))),
        ("%ZZZZZZZZ%", 2, unknown("ZZZZZZZZ", None)),
        (
            "ok %CONNECTION_ID%",
            5,
            F::UnsupportedOperator {
                name: name("CONNECTION_ID"),
            },
        ),
        ("%DURATION", 1, F::Unclosed),
        ("50%", 3, F::Unclosed),
        (
            "%REQ(:PATH%",
            5,
            F::UnclosedArgument {
                operator: name("REQ"),
            },
        ),
        (
            "100% of it",
            5,
            F::Malformed {
                found: name(" of it"),
            },
        ),
        ("%DURATION:x%", 10, F::Malformed { found: name(":x%") }),
        (
            "%REQ%",
            2,
            F::NoArgument {
                operator: name("REQ"),
                example: "%REQ(:PATH)%",
            },
        ),
        (
            "%DURATION(ms)%",
            11,
            F::Argument {
                operator: name("DURATION"),
                argument: name("ms"),
            },
        ),
        ("%REQ(a b)%", 6, F::HeaderName { name: name("a b") }),
        ("%REQ()%", 6, F::HeaderName { name: name("") }),
        (
            "%REQ(x?:STATUS)%",
            8,
            F::PseudoHeader {
                name: name(":STATUS"),
            },
        ),
        (
            "%RESP(:PATH)%",
            7,
            F::PseudoHeader {
                name: name(":PATH"),
            },
        ),
        (
            "%START_TIME(%Y%Q)%",
            15,
            F::TimeSpecifier {
                specifier: name("%Q"),
            },
        ),
        (
            "%GRPC_STATUS(HEX)%",
            14,
            F::StatusStyle { style: name("HEX") },
        ),
    ] {
        let error = AccessLog::read_text(format, &known).unwrap_err();
        assert_eq!(error.fault, fault, "{format}");
        assert_eq!(
            (error.place.key.as_str(), error.place.column),
            ("", column),
            "{format}"
        );
    }
    let error = AccessLog::read_json(r#"{"a": {"b": ["x", "%NOPE%"]}}"#, &known).unwrap_err();
    assert_eq!((error.place.key.as_str(), error.place.column), ("a.b.1", 2));
    for broken in ["{\"a\": ", "[1]", "7"] {
        let error = AccessLog::read_json(broken, &known).unwrap_err();
        assert!(matches!(error.fault, F::Json { .. }), "{broken}: {error}");
    }
}

#[test]
fn an_error_says_what_to_write_instead() {
    let error = AccessLog::text("[%START_TIME%] %UPSTREM_HOST%").unwrap_err();
    assert_eq!(
        error.to_string(),
        "access log format, column 17: no operator %UPSTREM_HOST%; did you mean %UPSTREAM_HOST%?"
    );
}

#[test]
fn the_environment_turns_it_on() {
    let log = |value: Option<&str>| {
        let value = value.map(str::to_owned);
        AccessLog::from_lookup(move |name| {
            let asked = (name == VARIABLE).then(|| value.clone());
            asked.flatten().map(Into::into)
        })
    };
    for nothing in [None, Some(""), Some("off"), Some(" off ")] {
        assert!(log(nothing).unwrap().is_none(), "{nothing:?}");
    }
    let shape = |value| match log(Some(value)).unwrap().unwrap().format.shape {
        Shape::Text(_) => "text",
        Shape::Json(_) => "json",
    };
    for (value, expected) in [
        ("text", "text"),
        ("json", "json"),
        ("%DURATION%", "text"),
        ("{\"a\": \"%DURATION%\"}", "json"),
    ] {
        assert_eq!(shape(value), expected, "{value}");
    }
    assert!(matches!(
        log(Some("%NOPE%")),
        Err(AccessLogError::Format(_))
    ));
}

#[test]
fn the_environment_may_name_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let lookup = |name: &str| match name {
        VARIABLE => Some("%REQ(:METHOD)%".into()),
        PATH_VARIABLE => Some(path.clone().into_os_string()),
        _ => None,
    };
    let log = AccessLog::from_lookup(lookup)
        .unwrap()
        .unwrap()
        .start()
        .unwrap();
    log.push(Box::new(record(&Headers::default())));
    drop(log);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "POST\n");
    let nowhere = |name: &str| match name {
        VARIABLE => Some("text".into()),
        _ => Some("/nowhere/at/all".into()),
    };
    assert!(matches!(
        AccessLog::from_lookup(nowhere),
        Err(AccessLogError::File { .. })
    ));
}

#[test]
fn a_slow_sink_costs_lines_and_never_time() {
    let (begun, busy) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let (written, lines) = mpsc::channel();
    let log = AccessLog::text("%REQ(:METHOD)%")
        .unwrap()
        .room(2)
        .to_callback(move |line| {
            begun.send(()).unwrap();
            _ = wait.recv();
            written.send(line.to_owned()).unwrap();
        })
        .start()
        .unwrap();
    let push = || log.push(Box::new(record(&Headers::default())));
    push();
    busy.recv().unwrap();
    // The thread holds one line, two more find room.
    for _ in 0..5 {
        push();
    }
    assert_eq!(log.dropped(), 3);
    drop(go);
    drop(log);
    assert_eq!(lines.iter().collect::<Vec<_>>(), ["POST\n"; 3]);
}

#[test]
fn sides_can_be_chosen() {
    let log = AccessLog::default_text()
        .only(Side::Server)
        .to_writer(io::sink());
    let log = log.start().unwrap();
    assert!(log.wants(Side::Server) && !log.wants(Side::Client));
}
