//! The interop server, from its flags to its end.

use std::time::Duration;

use serde_json::json;
use sidestep::orca::{CallReports, LoadRecorder, ServerReports};
use sidestep::{Mesh, ServerMode};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::flags::{Flags, SERVER, code_named, open_admin, say};
use crate::process::{GRACE, Terminated, terminated, text};
use crate::service::{Faults, Load, Testing};

/// Runs it.
///
/// # Errors
/// What is wrong with its flags, its bootstrap or its port.
pub async fn serve() -> Result<(), String> {
    let flags = Flags::of_process(&SERVER)?;
    let plan = Plan::from_flags(&flags)?;
    let mesh = match plan.mode {
        Mode::Xds => Mesh::from_env(),
        Mode::Plain => Mesh::builder().build(),
    };
    let mesh = mesh.map_err(text)?;
    let admin = open_admin(&mesh, &flags)?;
    let terminated = terminated()?;
    let routes = plan.routes().await;
    let ready = |addr: &str| {
        let mut event = json!({ "addr": addr, "id": plan.id, "mode": plan.mode.name() });
        if let Some(admin) = &admin {
            event["admin"] = json!(admin);
        }
        say("ready", event);
    };
    let cut = terminated.clone().cut();
    tokio::select! {
        ended = plan.run(&mesh, routes, terminated, ready) => ended,
        () = cut => Ok(()),
    }
}

/// Who says which Listener it serves by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Xds,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Xds => "xds",
        }
    }
}

/// What the flags ask for.
struct Plan {
    listen: String,
    id: String,
    mode: Mode,
    testing: Testing,
    orca: Orca,
    serving: ServingStatus,
}

impl Plan {
    fn from_flags(flags: &Flags) -> Result<Self, String> {
        let id = flags.text("id").unwrap_or("server");
        let mode = match flags.text("mode").unwrap_or("plain") {
            "plain" => Mode::Plain,
            "xds" => Mode::Xds,
            other => return Err(format!("--mode: {other:?} is neither plain nor xds")),
        };
        let orca = Orca::from_flags(flags)?;
        let testing = Testing::new(id, faults(flags)?).with_load(orca.load.clone());
        Ok(Self {
            listen: flags.text("listen").unwrap_or("127.0.0.1:0").to_owned(),
            id: id.to_owned(),
            mode,
            testing: match flags.is_set("log-rpcs") {
                true => testing.logging(),
                false => testing,
            },
            orca,
            serving: match flags.is_set("not-serving") {
                true => ServingStatus::NotServing,
                false => ServingStatus::Serving,
            },
        })
    }

    async fn routes(&self) -> Routes {
        let (reporter, health) = tonic_health::server::health_reporter();
        report(&reporter, self.serving).await;
        let routes = Routes::new(self.testing.clone().into_service()).add_service(health);
        match self.orca.beside_calls {
            None => routes,
            Some(interval) => {
                let reports = ServerReports::new(self.orca.load.server.clone());
                routes.add_service(reports.min_interval(interval))
            }
        }
    }

    async fn run(
        &self,
        mesh: &Mesh,
        routes: Routes,
        terminated: Terminated,
        ready: impl Fn(&str),
    ) -> Result<(), String> {
        // Where nobody says anything, nothing is sent.
        let layer = match self.orca.load.with_calls {
            true => CallReports::new().with_server(self.orca.load.server.clone()),
            false => CallReports::new(),
        };
        match self.mode {
            Mode::Plain => {
                let socket = tokio::net::TcpListener::bind(&self.listen).await;
                let socket =
                    socket.map_err(|e| format!("cannot listen on {}: {e}", self.listen))?;
                ready(&socket.local_addr().map_err(text)?.to_string());
                let incoming = tonic::transport::server::TcpIncoming::from(socket);
                let server = tonic::transport::Server::builder().layer(layer);
                let mut server = server.max_concurrent_streams(STREAMS);
                let serving = server.add_routes(routes).serve_with_incoming_shutdown(
                    incoming.with_nodelay(Some(true)),
                    terminated.wait(),
                );
                serving.await.map_err(text)
            }
            Mode::Xds => {
                let server = mesh
                    .server(self.listen.as_str())
                    .on_mode_change(|address, mode| tell(&address.to_string(), mode))
                    .options(|options| {
                        options.max_concurrent_streams = STREAMS;
                        options.drain_grace = GRACE;
                    })
                    // With or without `--xds-creds`: security that xDS asks for is never left out,
                    // and plaintext is taken where it asks for none.
                    .plaintext_where_unsecured();
                let bound = server
                    .add_routes(routes)
                    .layer(layer)
                    .bind()
                    .map_err(text)?;
                ready(&bound.address().to_string());
                bound
                    .serve_with_shutdown(terminated.wait())
                    .await
                    .map_err(text)
            }
        }
    }
}

/// Calls that one connection may have open: load is what these servers are for.
const STREAMS: u32 = 10_000;

fn tell(address: &str, mode: &ServerMode) {
    let (mode, error) = match mode {
        ServerMode::Serving => ("SERVING", None),
        ServerMode::NotServing { reason } => ("NOT_SERVING", Some(reason)),
    };
    let event = json!({ "mode": mode, "addr": address, "error": error });
    say("serving_mode", event);
}

/// Health, of the server as a whole and of its service.
pub async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for service in ["", "grpc.testing.TestService"] {
        reporter.set_service_status(service, status).await;
    }
}

/// Whether and how load is reported.
struct Orca {
    beside_calls: Option<Duration>,
    load: Load,
}

impl Orca {
    fn from_flags(flags: &Flags) -> Result<Self, String> {
        let (with_calls, beside) = match flags.text("orca").unwrap_or("none") {
            "none" => (false, false),
            "per-request" => (true, false),
            "oob" => (false, true),
            "both" => (true, true),
            other => {
                let kinds = "none, per-request, oob nor both";
                return Err(format!("--orca: {other:?} is neither {kinds}"));
            }
        };
        let server = LoadRecorder::new();
        server.cpu_utilization(number(flags, "orca-cpu", 0.0)?);
        server.application_utilization(number(flags, "orca-app", 0.0)?);
        server.queries_per_second(number(flags, "orca-qps", 100.0)?);
        server.errors_per_second(number(flags, "orca-eps", 0.0)?);
        let named = flags.all("orca-named").iter();
        let interval = Duration::from_millis(flags.number("orca-oob-ms", 1000)?);
        Ok(Self {
            beside_calls: beside.then_some(interval),
            load: Load {
                with_calls,
                server,
                named: named
                    .map(|text| named_metric(text))
                    .collect::<Result<_, _>>()?,
                ..Load::default()
            },
        })
    }
}

fn number(flags: &Flags, name: &str, default: f64) -> Result<f64, String> {
    match flags.number(name, default)? {
        value if value >= 0.0 && f64::is_finite(value) => Ok(value),
        value => Err(format!("--{name}: {value} is no load: give 0 or more")),
    }
}

fn named_metric(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("--orca-named: {text:?} is not name=value"))?;
    let value = value
        .parse()
        .map_err(|_| format!("--orca-named: {value:?} is not a number"))?;
    Ok((name.to_owned(), value))
}

fn faults(flags: &Flags) -> Result<Faults, String> {
    let code = flags.text("fail-code").unwrap_or("UNAVAILABLE");
    let percent = number(flags, "fail-percent", 0.0)?;
    if percent > 100.0 {
        return Err(format!("--fail-percent: {percent} is more than all"));
    }
    Ok(Faults {
        fail_first: flags.number("fail-first", 0)?,
        fail_attempts_below: flags.number("fail-attempts-below", 0)?,
        fail_percent: percent,
        code: code_named(code).ok_or_else(|| format!("--fail-code: no status {code:?}"))?,
        delay: Duration::from_millis(flags.number("delay-ms", 0)?),
    })
}
