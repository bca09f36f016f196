//! The program under test: started, watched, told.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

/// Far more than anything takes; only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. It is killed when this is dropped.
pub(crate) struct Program {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    /// Everything it has said.
    pub(crate) events: Vec<Value>,
    /// How far `next` has looked.
    seen: usize,
    pub(crate) address: String,
}

impl Program {
    /// Starts it with flags, and waits for nothing.
    pub(crate) fn launch(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sidestep-interop-mgmt"))
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the program is built");
        let stdout = child.stdout.take().expect("piped");
        let (line, lines) = mpsc::unbounded_channel();
        // Read at all times: a program whose output nobody takes stands still.
        tokio::spawn(async move {
            let mut output = BufReader::new(stdout).lines();
            while let Ok(Some(text)) = output.next_line().await {
                _ = line.send(text);
            }
        });
        Self {
            lines,
            child,
            events: Vec::new(),
            seen: 0,
            address: String::new(),
        }
    }

    /// Starts it on this folder and port; it is ready then.
    pub(crate) async fn start(folder: &Path, listen: &str) -> Self {
        let folder = format!("--resources={}", folder.display());
        let mut program = Self::launch(&["--listen", listen, &folder]);
        let ready = program.next("ready").await;
        program.address = text(&ready, "addr").to_owned();
        program
    }

    /// The next event of this name, in the order in which they were said.
    pub(crate) async fn next(&mut self, name: &str) -> Value {
        self.find(|event| event["event"] == name).await
    }

    /// The next event with these fields, among others.
    pub(crate) async fn expect(&mut self, fields: Value) -> Value {
        let fields = fields.as_object().expect("fields").clone();
        self.find(|event| fields.iter().all(|(key, value)| event[key] == *value))
            .await
    }

    /// The next event like this.
    pub(crate) async fn find(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            while let Some(event) = self.events.get(self.seen) {
                self.seen += 1;
                if is(event) {
                    return event.clone();
                }
            }
            assert!(self.read().await, "it ended: {:#?}", self.events);
        }
    }

    /// Reads one more event; false at the end.
    async fn read(&mut self) -> bool {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        let Ok(line) = line else {
            panic!("nothing more is said: {:#?}", self.events);
        };
        let Some(line) = line else {
            return false;
        };
        let event: Value = serde_json::from_str(&line).expect("a JSON object per line");
        assert!(event["t_ms"].as_f64().is_some_and(|t| t > 1e12), "{event}");
        self.events.push(event);
        true
    }

    /// Looks at everything again that was said.
    pub(crate) fn rewind(&mut self) {
        self.seen = 0;
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([name, &id]).status().await;
        assert!(sent.expect("kill is there").success());
    }

    /// Sends SIGHUP and waits for the verdict.
    pub(crate) async fn reload(&mut self) -> Value {
        self.signal("-HUP").await;
        self.next("reload").await
    }

    /// Kills it as a crash would.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Waits for its end, and reads the rest of what it says.
    pub(crate) async fn end(&mut self, within: Duration) -> ExitStatus {
        let end = async {
            while self.read().await {}
            self.child.wait().await.expect("a child of ours")
        };
        tokio::time::timeout(within, end).await.expect("it ends")
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        let endpoint = endpoint.expect("an address");
        endpoint.connect().await.expect("somebody listens")
    }
}

pub(crate) fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_else(|| panic!("{event}"))
}

/// Writes a file of resources.
pub(crate) fn write(folder: &Path, file: &str, resources: &[Value]) {
    let text = json!({ "resources": resources }).to_string();
    std::fs::write(folder.join(file), text).expect("writes");
}

const DOMAIN: &str = "type.googleapis.com";

pub(crate) fn url(name: &str) -> String {
    let package = match name {
        "Listener" => "envoy.config.listener.v3",
        "RouteConfiguration" => "envoy.config.route.v3",
        "Cluster" => "envoy.config.cluster.v3",
        "ClusterLoadAssignment" => "envoy.config.endpoint.v3",
        "Secret" => "envoy.extensions.transport_sockets.tls.v3",
        other => panic!("{other}"),
    };
    format!("{DOMAIN}/{package}.{name}")
}

/// What a channel to `name` needs but for its cluster: calls go to `cluster`.
pub(crate) fn routes(name: &str, cluster: &str) -> [Value; 2] {
    let hcm = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "envoy.extensions.filters.http.router.v3.Router";
    [
        json!({
            "@type": url("Listener"),
            "name": name,
            "api_listener": {"api_listener": {
                "@type": format!("{DOMAIN}/{hcm}"),
                "rds": {"route_config_name": format!("{name}-routes"), "config_source": {"ads": {}}},
                "http_filters": [{"name": "router",
                    "typed_config": {"@type": format!("{DOMAIN}/{router}")}}],
            }},
        }),
        json!({
            "@type": url("RouteConfiguration"),
            "name": format!("{name}-routes"),
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": ""}, "route": {"cluster": cluster}}]}],
        }),
    ]
}

/// A cluster and its endpoints.
pub(crate) fn cluster(name: &str, addresses: &[&str]) -> [Value; 2] {
    let endpoints = addresses.iter().map(|address| {
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let port: u16 = port.parse().expect("a port");
        json!({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}})
    });
    let endpoints: Vec<_> = endpoints.collect();
    [
        json!({
            "@type": url("Cluster"),
            "name": name,
            "type": "EDS",
            "edsClusterConfig": {"edsConfig": {"ads": {}}},
        }),
        json!({
            "@type": url("ClusterLoadAssignment"),
            "clusterName": name,
            "endpoints": [{"locality": {"region": "r"}, "load_balancing_weight": 1,
                "lb_endpoints": endpoints}],
        }),
    ]
}

/// Everything for a channel to `name`.
pub(crate) fn service(name: &str, addresses: &[&str]) -> Vec<Value> {
    let mut resources = routes(name, name).to_vec();
    resources.extend(cluster(name, addresses));
    resources
}
