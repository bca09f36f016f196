//! The public interop cases of gRPC, over a channel of ours.
//!
//! Names, procedures and sizes are those of the public description, so that the same command line
//! drives any language's client. A case is a function and a line in [`CASES`].

mod compression;
mod ending;
mod orca;
mod soak;
mod streaming;
mod unary;

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use sidestep::{Mesh, TelemetryOptions};
use tonic::{Code, Request, Status};

use crate::flags::{Flag, Flags, say, switch, upper_case, value};
use crate::framed::Framed;
use crate::process::text;
use crate::testing::test_service_client::TestServiceClient;
use crate::testing::{Payload, SimpleRequest, SimpleResponse};

/// Flags of the public interop clients. Those of other ways to credentials are known and refused.
pub const FLAGS: [Flag; 27] = [
    value("server_host"),
    value("server_port"),
    value("server_host_override"),
    value("test_case"),
    switch("use_tls"),
    switch("use_test_ca"),
    value("ca_file").later(),
    switch("use_alts").later(),
    value("alts_handshaker_service_address").later(),
    value("custom_credentials_type"),
    value("default_service_account").later(),
    value("oauth_scope").later(),
    value("service_account_key_file").later(),
    value("service_config_json").later(),
    value("google_c2p_universe_domain").later(),
    value("additional_metadata"),
    value("num_times"),
    value("num_concurrent"),
    value("soak_iterations"),
    value("soak_max_failures"),
    value("soak_per_iteration_max_acceptable_latency_ms"),
    value("soak_overall_timeout_seconds"),
    value("soak_min_time_ms_between_rpcs"),
    value("soak_request_size"),
    value("soak_response_size"),
    value("soak_num_threads"),
    crate::flags::boolean("help"),
];

/// One case.
pub type Case = for<'a> fn(&'a Stage) -> BoxFuture<'a, Result<(), String>>;

/// All cases, in the order of the public description.
pub const CASES: &[(&str, Case)] = &[
    ("empty_unary", |s| Box::pin(unary::empty(s))),
    ("cacheable_unary", |s| Box::pin(unary::cacheable(s))),
    ("large_unary", |s| Box::pin(unary::large(s))),
    ("client_compressed_unary", |s| {
        Box::pin(compression::client_unary(s))
    }),
    ("server_compressed_unary", |s| {
        Box::pin(compression::server_unary(s))
    }),
    ("client_streaming", |s| Box::pin(streaming::client(s))),
    ("client_compressed_streaming", |s| {
        Box::pin(compression::client_streaming(s))
    }),
    ("server_streaming", |s| Box::pin(streaming::server(s))),
    ("server_compressed_streaming", |s| {
        Box::pin(compression::server_streaming(s))
    }),
    ("ping_pong", |s| Box::pin(streaming::ping_pong(s))),
    ("half_duplex", |s| Box::pin(streaming::half_duplex(s))),
    ("empty_stream", |s| Box::pin(streaming::empty(s))),
    ("custom_metadata", |s| Box::pin(ending::custom_metadata(s))),
    ("status_code_and_message", |s| {
        Box::pin(ending::status_code_and_message(s))
    }),
    ("special_status_message", |s| {
        Box::pin(ending::special_status_message(s))
    }),
    ("unimplemented_method", |s| {
        Box::pin(ending::unimplemented_method(s))
    }),
    ("unimplemented_service", |s| {
        Box::pin(ending::unimplemented_service(s))
    }),
    ("cancel_after_begin", |s| {
        Box::pin(ending::cancel_after_begin(s))
    }),
    ("cancel_after_first_response", |s| {
        Box::pin(ending::cancel_after_first_response(s))
    }),
    ("timeout_on_sleeping_server", |s| {
        Box::pin(ending::timeout_on_sleeping_server(s))
    }),
    ("concurrent_large_unary", |s| {
        Box::pin(unary::concurrent_large(s))
    }),
    ("pick_first_unary", |s| Box::pin(unary::pick_first(s))),
    ("orca_per_rpc", |s| Box::pin(orca::per_rpc(s))),
    ("orca_oob", |s| Box::pin(orca::out_of_band(s))),
    ("rpc_soak", |s| Box::pin(soak::rpc(s))),
    ("channel_soak", |s| Box::pin(soak::channel(s))),
    ("long_lived_channel", |s| {
        Box::pin(soak::long_lived_channel(s))
    }),
];

/// Cases about ways to credentials that no mesh of ours uses.
pub const CREDENTIAL_CASES: [&str; 6] = [
    "compute_engine_creds",
    "jwt_token_creds",
    "oauth2_auth_token",
    "per_rpc_creds",
    "google_default_credentials",
    "compute_engine_channel_credentials",
];

/// Plays the cases that the flags name; an event for each. Whether all passed.
///
/// # Errors
/// What is wrong with the flags or the target.
pub async fn play() -> Result<bool, String> {
    let flags = Flags::of_process(&FLAGS)?;
    let names = flags.text("test_case").unwrap_or("large_unary");
    let cases = chosen(names)?;
    let stage = Stage::new(flags)?;
    let mut all_passed = true;
    for _ in 0..stage.flags.number("num_times", 1u32)? {
        for (name, case) in &cases {
            let outcome = tokio::time::timeout(PATIENCE, case(&stage)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("took more than {PATIENCE:?}")));
            all_passed &= outcome.is_ok();
            let mut event = json!({ "case": name, "ok": outcome.is_ok() });
            if let Err(message) = outcome {
                event["message"] = json!(message);
            }
            say("case", event);
        }
    }
    Ok(all_passed)
}

/// No case may take longer.
const PATIENCE: Duration = Duration::from_secs(300);

fn chosen(names: &str) -> Result<Vec<(&'static str, Case)>, String> {
    if names == "all" {
        return Ok(CASES.to_vec());
    }
    let case = |name: &str| {
        if CREDENTIAL_CASES.contains(&name) {
            return Err(format!("not supported yet: --test_case={name}"));
        }
        let known = CASES.iter().find(|(known, _)| *known == name);
        known
            .copied()
            .ok_or_else(|| format!("--test_case: no case {name:?}"))
    };
    names.split(',').map(case).collect()
}

/// Where cases are played.
pub struct Stage {
    flags: Flags,
    target: String,
    mesh: Mesh,
    line: Framed,
}

impl Stage {
    fn new(flags: Flags) -> Result<Self, String> {
        let target = target(&flags)?;
        let (mesh, line) = open(&target, &flags)?;
        Ok(Self {
            flags,
            target,
            mesh,
            line,
        })
    }

    fn client(&self) -> Client {
        client(self.line.clone())
    }

    /// A client with connections of its own.
    fn another_client(&self) -> Result<(Mesh, Client), String> {
        let (mesh, line) = open(&self.target, &self.flags)?;
        Ok((mesh, client(line)))
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        self.flags.number(name, default)
    }

    /// How many calls have ended with this status, as the channel counts them.
    fn ended_with(&self, code: Code) -> u64 {
        let label = format!("grpc_status=\"{}\"", upper_case(code));
        let text = self.mesh.telemetry().prometheus_text();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("grpc_client_call_duration_seconds_count"));
        lines
            .filter(|line| line.contains(&label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

type Client = TestServiceClient<Framed>;

fn client(line: Framed) -> Client {
    TestServiceClient::new(line).max_decoding_message_size(usize::MAX)
}

fn open(target: &str, flags: &Flags) -> Result<(Mesh, Framed), String> {
    let set = |name| std::env::var_os(name).is_some();
    let builder = Mesh::builder().plaintext_where_unsecured();
    let mut builder = builder.telemetry(TelemetryOptions::default());
    if set("GRPC_XDS_BOOTSTRAP") || set("GRPC_XDS_BOOTSTRAP_CONFIG") {
        builder = builder.from_env().map_err(text)?;
    }
    let mesh = builder.build().map_err(text)?;
    let mut channel = mesh.channel(target).map_err(text)?;
    if let Some(authority) = flags.text("server_host_override") {
        let authority = authority.parse();
        let authority = authority.map_err(|e| format!("--server_host_override: {e}"))?;
        channel = channel.authority(authority);
    }
    let always = flags.text("additional_metadata").unwrap_or_default();
    let line = Framed::new(channel.wait_for_ready(true), metadata(always)?);
    Ok((mesh, line))
}

/// `host:port`; the host alone, which may be a whole target, if the port is 0.
fn target(flags: &Flags) -> Result<String, String> {
    let host = flags.text("server_host").unwrap_or("localhost");
    let xds = host.starts_with("xds:");
    match flags
        .text("custom_credentials_type")
        .unwrap_or("INSECURE_CREDENTIALS")
    {
        "INSECURE_CREDENTIALS" | "insecure_credentials" | "xds" | "XDS_CREDENTIALS" => {}
        other => {
            return Err(format!(
                "not supported yet: --custom_credentials_type={other}"
            ));
        }
    }
    if (flags.is_set("use_tls") || flags.is_set("use_test_ca")) && !xds {
        let why = "a direct target has no TLS; an xds: target has what xDS configures";
        return Err(format!("not supported yet: --use_tls: {why}"));
    }
    let port = if xds { 0 } else { 10_000 };
    Ok(match flags.number("server_port", port)? {
        0u16 => host.to_owned(),
        port if host.contains(':') && !host.starts_with('[') && !host.contains("//") => {
            format!("[{host}]:{port}")
        }
        port => format!("{host}:{port}"),
    })
}

/// `key:value;key:value`.
fn metadata(list: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for pair in list.split(';').filter(|pair| !pair.is_empty()) {
        let bad = || format!("--additional_metadata: {pair:?} is not key:value");
        let (key, value) = pair.split_once(':').ok_or_else(bad)?;
        let key: HeaderName = key.to_ascii_lowercase().parse().map_err(|_| bad())?;
        let value: HeaderValue = value.parse().map_err(|_| bad())?;
        headers.append(key, value);
    }
    Ok(headers)
}

const LARGE_REQUEST: usize = 271_828;
const LARGE_RESPONSE: i32 = 314_159;

fn zeros(size: usize) -> Option<Payload> {
    Some(Payload {
        body: vec![0; size],
        ..Payload::default()
    })
}

fn large_request() -> SimpleRequest {
    SimpleRequest {
        response_size: LARGE_RESPONSE,
        payload: zeros(LARGE_REQUEST),
        ..SimpleRequest::default()
    }
}

fn check_large(answer: &SimpleResponse) -> Result<(), String> {
    let size = answer
        .payload
        .as_ref()
        .map_or(0, |payload| payload.body.len());
    wanted(
        "bytes of payload",
        size,
        usize::try_from(LARGE_RESPONSE).unwrap_or(0),
    )
}

fn wanted<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), String> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{what}: {found:?}, not {wanted:?}")),
    }
}

fn failed(status: Status) -> String {
    format!("{}: {}", upper_case(status.code()), status.message())
}

/// The status of a call that must not succeed.
fn status_of<T>(outcome: Result<T, Status>) -> Result<Status, String> {
    match outcome {
        Ok(_) => Err("the call succeeded".to_owned()),
        Err(status) => Ok(status),
    }
}

fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        Flags::parse(&FLAGS, arguments.iter().map(ToString::to_string)).unwrap()
    }

    #[test]
    fn targets_are_made_as_the_public_clients_make_them() {
        for (arguments, wanted) in [
            (&[][..], "localhost:10000"),
            (&["--server_host=::1", "--server_port=5"], "[::1]:5"),
            (&["--server_host=xds:///a"], "xds:///a"),
            (
                &["--server_host=xds:///a", "--server_port=0", "--use_tls"],
                "xds:///a",
            ),
            (&["--server_host=dns:///a", "--server_port=7"], "dns:///a:7"),
        ] {
            assert_eq!(target(&flags(arguments)).unwrap(), wanted);
        }
        let refused = target(&flags(&["--use_tls=true"])).unwrap_err();
        assert!(
            refused.starts_with("not supported yet: --use_tls"),
            "{refused}"
        );
    }

    #[test]
    fn metadata_may_hold_all_but_semicolons() {
        let headers = metadata("a:b:c;D-bin:AQ==").unwrap();
        assert_eq!(
            (&headers["a"], &headers["d-bin"]),
            (&"b:c".parse().unwrap(), &"AQ==".parse().unwrap())
        );
        assert!(metadata("nothing").is_err());
    }

    #[test]
    fn what_is_not_there_is_said() {
        for name in CREDENTIAL_CASES {
            let refused = chosen(name).unwrap_err();
            assert_eq!(refused, format!("not supported yet: --test_case={name}"));
        }
        assert!(chosen("dance").is_err());
        assert_eq!(chosen("empty_unary,large_unary").unwrap().len(), 2);
        let later: Vec<_> = FLAGS
            .iter()
            .filter(|f| !f.supported)
            .map(|f| f.name)
            .collect();
        assert_eq!(
            later,
            [
                "ca_file",
                "use_alts",
                "alts_handshaker_service_address",
                "default_service_account",
                "oauth_scope",
                "service_account_key_file",
                "service_config_json",
                "google_c2p_universe_domain",
            ]
        );
    }
}
