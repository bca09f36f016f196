//! What the interop management server tells of its streams: each event of the observers as one of
//! the contract's.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};
use sidestep_proto::ads::{Request, Variant};
use sidestep_proto::wire::load_stats::{ClusterStats, UpstreamLocalityStats};
use sidestep_server::{
    LoadClient, LoadEvent, LoadObserver, StreamEvent, StreamInfo, StreamObserver,
};

use crate::flags::{Flag, boolean, say, value};

/// Flags of the interop management server.
pub const MGMT: [Flag; 3] = [value("listen"), value("resources"), boolean("help")];

/// An event of the contract: its name and its other fields.
pub type Event = (&'static str, Value);

/// Prints what happens on all streams.
#[derive(Debug, Default)]
pub struct Narrator(Mutex<Streams>);

impl StreamObserver for Narrator {
    fn observe(&self, stream: &StreamInfo, event: StreamEvent<'_>) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Printed under the lock: the order of lines is that of events.
        if let Some((name, fields)) = streams.tell(stream, event) {
            say(name, fields);
        }
    }
}

impl LoadObserver for Narrator {
    fn observe(&self, client: &LoadClient, event: LoadEvent<'_>) {
        let node = &client.node;
        match event {
            LoadEvent::Opened => say(
                "lrs_open",
                json!({ "node": node.id, "features": node.client_features }),
            ),
            LoadEvent::Reported(clusters) => {
                for stats in clusters {
                    say("lrs", load(&node.id, stats));
                }
            }
            _ => {}
        }
    }
}

/// The open streams, as far as their later events repeat what was said earlier.
#[derive(Debug, Default)]
pub struct Streams(HashMap<u64, Stream>);

#[derive(Debug, Default)]
struct Stream {
    node: String,
    /// By type URL, nonce and version of the last response.
    sent: HashMap<String, (String, String)>,
}

impl Streams {
    /// The contract's event for what happened; `None` where it has none.
    pub fn tell(&mut self, info: &StreamInfo, event: StreamEvent<'_>) -> Option<Event> {
        let kind = kind(info.variant);
        match event {
            StreamEvent::Opened => {
                self.0.insert(info.id, Stream::default());
                let fields = json!({ "stream": info.id, "kind": kind });
                Some(("stream_open", fields))
            }
            StreamEvent::Received(request) => {
                let stream = self.0.entry(info.id).or_default();
                let (name, mut fields) = stream.request(request);
                fields.insert("stream".to_owned(), json!(info.id));
                fields.insert("kind".to_owned(), json!(kind));
                Some((name, Value::Object(fields)))
            }
            StreamEvent::Responded {
                type_url,
                version,
                nonce,
                count,
                ..
            } => {
                let sent = (nonce.to_owned(), version.to_owned());
                let stream = self.0.entry(info.id).or_default();
                stream.sent.insert(type_url.to_owned(), sent);
                let fields = json!({
                    "stream": info.id, "kind": kind, "type": short(type_url),
                    "version": version, "nonce": nonce, "count": count,
                });
                Some(("response", fields))
            }
            StreamEvent::Closed { .. } => {
                self.0.remove(&info.id);
                let fields = json!({ "stream": info.id, "kind": kind });
                Some(("stream_close", fields))
            }
            _ => None,
        }
    }
}

impl Stream {
    fn request(&mut self, request: &Request) -> (&'static str, Map<String, Value>) {
        if let Some(node) = request.node() {
            self.node.clone_from(&node.id);
        }
        let name = match (request.error_detail(), request.nonce()) {
            (Some(_), _) => "nack",
            (None, "") => "request",
            (None, _) => "ack",
        };
        let mut fields = Map::new();
        let mut put = |name: &str, value| _ = fields.insert(name.to_owned(), value);
        put("node", json!(self.node));
        put("type", json!(short(request.type_url())));
        put("version", json!(self.version(request)));
        put("nonce", json!(request.nonce()));
        put("names", request.names().collect());
        if request.unsubscribed().next().is_some() {
            put("unsubscribed", request.unsubscribed().collect());
        }
        if let Some(error) = request.error_detail() {
            put("error", json!(error.message));
        }
        (name, fields)
    }

    /// As the request says; a delta request does not, so there it is that of the response that it
    /// answers.
    fn version<'a>(&'a self, request: &'a Request) -> &'a str {
        let answered = || {
            let (nonce, version) = self.sent.get(request.type_url())?;
            (nonce == request.nonce()).then_some(version.as_str())
        };
        match request.variant() {
            Variant::StateOfTheWorld => request.version(),
            Variant::Delta => answered().unwrap_or_default(),
        }
    }
}

fn kind(variant: Variant) -> &'static str {
    match variant {
        Variant::StateOfTheWorld => "sotw",
        Variant::Delta => "delta",
    }
}

/// The last part of a type URL.
fn short(type_url: &str) -> &str {
    type_url.rsplit(['.', '/']).next().unwrap_or_default()
}

/// The fields of an `lrs` event: one cluster of one report.
#[must_use]
pub fn load(node: &str, stats: &ClusterStats) -> Value {
    let drops = stats.dropped_requests.iter();
    let drops: BTreeMap<_, _> = drops.map(|d| (&d.category, d.dropped_count)).collect();
    let localities = stats.upstream_locality_stats.iter().map(locality);
    json!({
        "node": node,
        "cluster": stats.cluster_name,
        "eds": stats.cluster_service_name,
        "localities": localities.collect::<Vec<_>>(),
        "drops": drops,
        "total_drops": stats.total_dropped_requests,
        "interval_ms": stats.load_report_interval.map_or(0, |interval| {
            interval.seconds * 1000 + i64::from(interval.nanos / 1_000_000)
        }),
    })
}

fn locality(stats: &UpstreamLocalityStats) -> Value {
    let at = stats.locality.clone().unwrap_or_default();
    let value = |n: u64, total: f64| json!({ "n": n, "total": total });
    let unnamed = [
        ("cpu_utilization", &stats.cpu_utilization),
        ("mem_utilization", &stats.mem_utilization),
        ("application_utilization", &stats.application_utilization),
    ];
    let mut metrics = Map::new();
    for (name, metric) in unnamed {
        if let Some(m) = metric {
            let value = value(m.num_requests_finished_with_metric, m.total_metric_value);
            metrics.insert(name.to_owned(), value);
        }
    }
    for m in &stats.load_metric_stats {
        let value = value(m.num_requests_finished_with_metric, m.total_metric_value);
        metrics.insert(m.metric_name.clone(), value);
    }
    json!({
        "region": at.region,
        "zone": at.zone,
        "sub_zone": at.sub_zone,
        "success": stats.total_successful_requests,
        "error": stats.total_error_requests,
        "issued": stats.total_issued_requests,
        "in_progress": stats.total_requests_in_progress,
        "metrics": metrics,
    })
}
