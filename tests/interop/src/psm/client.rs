//! The client: calls at a constant rate, told what to call while it runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use sidestep::{Channel, Mesh};
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;

use super::stats::{Ended, Stats};
use crate::client::{Calls, Method, Outcome};
use crate::flags::{Flag, Flags, boolean, say, switch, upper_case, value};
use crate::process::{self, terminated, text};
use crate::testing::client_configure_request::RpcType;
use crate::testing::load_balancer_stats_service_server::{
    LoadBalancerStatsService, LoadBalancerStatsServiceServer,
};
use crate::testing::xds_update_client_configure_service_server::{
    XdsUpdateClientConfigureService, XdsUpdateClientConfigureServiceServer,
};
use crate::testing::{
    ClientConfigureRequest, ClientConfigureResponse, LoadBalancerAccumulatedStatsRequest,
    LoadBalancerAccumulatedStatsResponse, LoadBalancerStatsRequest, LoadBalancerStatsResponse,
};

/// The usual flags. `secure_mode` changes nothing: our channels follow the security that xDS
/// configures in any case.
pub const FLAGS: [Flag; 16] = [
    value("server"),
    value("num_channels"),
    value("qps"),
    value("rpc"),
    value("metadata"),
    value("rpc_timeout_sec"),
    value("expect_status"),
    switch("fail_on_failed_rpc"),
    switch("print_response"),
    switch("log_rpc_start_and_end"),
    switch("secure_mode"),
    value("stats_port"),
    value("stats_host"),
    value("request_payload_size").later(),
    switch("enable_csm_observability").later(),
    boolean("help"),
];

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Empty,
    Unary,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        self.method().name()
    }

    pub(super) const fn upper_case(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY_CALL",
            Self::Unary => "UNARY_CALL",
        }
    }

    const fn method(self) -> Method {
        match self {
            Self::Empty => Method::Empty,
            Self::Unary => Method::Unary,
        }
    }

    fn named(name: &str) -> Result<Self, String> {
        let all = [Self::Empty, Self::Unary];
        let known = all.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| format!("{name:?} is neither EmptyCall nor UnaryCall"))
    }

    const fn of(wire: RpcType) -> Self {
        match wire {
            RpcType::EmptyCall => Self::Empty,
            RpcType::UnaryCall => Self::Unary,
        }
    }
}

/// What is called at each tick.
#[derive(Debug, Clone)]
struct Orders {
    kinds: Vec<Kind>,
    metadata: Vec<(Kind, String, String)>,
    timeout: Duration,
}

impl Orders {
    fn from_flags(flags: &Flags) -> Result<Self, String> {
        let list = |name: &str, default: &str| -> Vec<String> {
            let text = flags.text(name).unwrap_or(default);
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            items.map(str::to_owned).collect()
        };
        let kinds = list("rpc", "UnaryCall");
        let kinds = kinds
            .iter()
            .map(|name| Kind::named(name).map_err(|e| format!("--rpc: {e}")));
        let metadata = list("metadata", "").into_iter().map(|item| {
            let mut parts = item.splitn(3, ':');
            let mut next = || {
                parts
                    .next()
                    .ok_or(format!("--metadata: {item:?} is not RPC:key:value"))
            };
            let kind = Kind::named(next()?).map_err(|e| format!("--metadata: {e}"))?;
            Ok((kind, next()?.to_ascii_lowercase(), next()?.to_owned()))
        });
        Ok(Self {
            kinds: kinds.collect::<Result<_, _>>()?,
            metadata: metadata.collect::<Result<_, String>>()?,
            timeout: Duration::from_secs(flags.number("rpc_timeout_sec", 20)?),
        })
    }

    fn calls(&self, kind: Kind) -> Calls {
        let metadata = self.metadata.iter().filter(|(of, ..)| *of == kind);
        Calls {
            method: kind.method(),
            stream_messages: 0,
            payload_size: 0,
            timeout: Some(self.timeout),
            // Not ours to fill in: braces stay what they are.
            metadata: metadata
                .map(|(_, key, value)| (key.clone(), value.clone()))
                .collect(),
            authority: None,
            print_metadata: false,
            jar: None,
        }
    }
}

/// What all channels and both services share.
struct Shared {
    orders: Mutex<Orders>,
    usual_timeout: Duration,
    stats: Mutex<Stats>,
    expected: Code,
    fails_on_failure: bool,
    logs: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn from_flags(flags: &Flags) -> Result<Self, String> {
        let orders = Orders::from_flags(flags)?;
        let expected = flags.text("expect_status").unwrap_or("OK");
        let expected = crate::flags::code_named(expected)
            .ok_or_else(|| format!("--expect_status: no status {expected:?}"))?;
        Ok(Self {
            usual_timeout: orders.timeout,
            orders: Mutex::new(orders),
            stats: Mutex::default(),
            expected,
            fails_on_failure: flags.is_set("fail_on_failed_rpc"),
            logs: flags.is_set("print_response") || flags.is_set("log_rpc_start_and_end"),
        })
    }

    /// Calls as ordered, one of each kind at each tick, for ever.
    async fn call_on(self: Arc<Self>, channel: Channel, period: Duration) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            ticks.tick().await;
            let orders = lock(&self.orders).clone();
            for kind in &orders.kinds {
                let call = orders.calls(*kind);
                tokio::spawn(Arc::clone(&self).call(call, *kind, channel.clone()));
            }
        }
    }

    async fn call(self: Arc<Self>, calls: Calls, kind: Kind, channel: Channel) {
        let number = lock(&self.stats).begin(kind);
        let outcome = calls.call(channel, number).await;
        let peer = outcome.headers.get("hostname").unwrap_or(&outcome.server);
        let ended = Ended {
            kind,
            code: outcome.code,
            peer: (!peer.is_empty()).then_some(peer),
            initial: &outcome.headers,
            trailing: &outcome.trailers,
        };
        lock(&self.stats).end(number, &ended);
        if self.logs {
            self.log(number, kind, &outcome);
        }
        if self.fails_on_failure && outcome.code != self.expected {
            self.log(number, kind, &outcome);
            std::process::exit(1);
        }
    }

    fn log(&self, number: u64, kind: Kind, outcome: &Outcome) {
        let mut fields = outcome.fields(false);
        fields.insert("i".to_owned(), json!(number));
        fields.insert("method".to_owned(), json!(kind.name()));
        fields.insert("expected".to_owned(), json!(upper_case(self.expected)));
        say("rpc", fields.into());
    }
}

/// The services.
#[derive(Clone)]
struct Driven(Arc<Shared>);

#[tonic::async_trait]
impl LoadBalancerStatsService for Driven {
    async fn get_client_stats(
        &self,
        request: Request<LoadBalancerStatsRequest>,
    ) -> Result<Response<LoadBalancerStatsResponse>, Status> {
        let request = request.into_inner();
        let count = u64::try_from(request.num_rpcs).unwrap_or(0);
        let patience = u64::try_from(request.timeout_sec).unwrap_or(0);
        let (watcher, told) = lock(&self.0.stats).watch(count, request.metadata_keys);
        if count > 0 {
            // Late or not: what was found is told.
            let _ = tokio::time::timeout(Duration::from_secs(patience), told).await;
        }
        Ok(Response::new(lock(&self.0.stats).stop(watcher)))
    }

    async fn get_client_accumulated_stats(
        &self,
        _: Request<LoadBalancerAccumulatedStatsRequest>,
    ) -> Result<Response<LoadBalancerAccumulatedStatsResponse>, Status> {
        Ok(Response::new(lock(&self.0.stats).accumulated()))
    }
}

#[tonic::async_trait]
impl XdsUpdateClientConfigureService for Driven {
    async fn configure(
        &self,
        request: Request<ClientConfigureRequest>,
    ) -> Result<Response<ClientConfigureResponse>, Status> {
        let request = request.into_inner();
        let metadata = request.metadata.iter();
        let orders = Orders {
            kinds: request.types().map(Kind::of).collect(),
            metadata: metadata
                .map(|m| {
                    (
                        Kind::of(m.r#type()),
                        m.key.to_ascii_lowercase(),
                        m.value.clone(),
                    )
                })
                .collect(),
            timeout: match u64::try_from(request.timeout_sec).unwrap_or(0) {
                0 => self.0.usual_timeout,
                seconds => Duration::from_secs(seconds),
            },
        };
        *lock(&self.0.orders) = orders;
        Ok(Response::new(ClientConfigureResponse {}))
    }
}

/// Runs it until it is told to end.
///
/// # Errors
/// What is wrong with its flags, its bootstrap, its target or its port.
pub async fn run() -> Result<(), String> {
    let flags = Flags::of_process(&FLAGS)?;
    let shared = Arc::new(Shared::from_flags(&flags)?);
    let qps: f64 = flags.number("qps", 1.0)?;
    let period = Duration::try_from_secs_f64(1.0 / qps)
        .ok()
        .filter(|period| !period.is_zero());
    let period = period.ok_or("--qps: give a rate above 0")?;
    let mesh = process::mesh()?;
    let target = flags.text("server").unwrap_or("localhost:8080");
    let host = flags.text("stats_host").unwrap_or("0.0.0.0");
    let port: u16 = flags.number("stats_port", 50052)?;
    let socket = tokio::net::TcpListener::bind((host, port)).await;
    let socket = socket.map_err(|error| format!("cannot listen on {host}:{port}: {error}"))?;
    let terminated = terminated()?;
    say(
        "ready",
        json!({ "stats": socket.local_addr().map_err(text)?.to_string() }),
    );
    for _ in 0..flags.number("num_channels", 1u32)? {
        let channel = mesh.channel(target).map_err(text)?;
        tokio::spawn(Arc::clone(&shared).call_on(channel, period));
    }
    tokio::select! {
        ended = serve(&mesh, shared, socket) => ended,
        () = terminated.wait() => Ok(()),
    }
}

async fn serve(
    mesh: &Mesh,
    shared: Arc<Shared>,
    socket: tokio::net::TcpListener,
) -> Result<(), String> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", ServingStatus::Serving)
        .await;
    let driven = Driven(shared);
    let server = tonic::transport::Server::builder()
        .add_service(LoadBalancerStatsServiceServer::new(driven.clone()))
        .add_service(XdsUpdateClientConfigureServiceServer::new(driven))
        .add_service(mesh.client_status())
        .add_service(health);
    let incoming = tonic::transport::server::TcpIncoming::from(socket);
    server.serve_with_incoming(incoming).await.map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_from_the_flags() {
        let parse = |arguments: &[&str]| {
            let flags = Flags::parse(&FLAGS, arguments.iter().map(ToString::to_string));
            Orders::from_flags(&flags.unwrap())
        };
        let metadata = "--metadata=EmptyCall:K:a:b,UnaryCall:rpc-behavior:sleep-4";
        let orders =
            parse(&["--rpc=EmptyCall,UnaryCall", metadata, "--rpc_timeout_sec=7"]).unwrap();
        assert_eq!(orders.kinds, [Kind::Empty, Kind::Unary]);
        let empty = orders.calls(Kind::Empty);
        assert_eq!(empty.metadata, [("k".to_owned(), "a:b".to_owned())]);
        assert_eq!(empty.timeout, Some(Duration::from_secs(7)));
        assert_eq!(parse(&[]).unwrap().kinds, [Kind::Unary]);
        assert!(parse(&["--rpc=Sing"]).is_err() && parse(&["--metadata=EmptyCall:a"]).is_err());
    }
}
