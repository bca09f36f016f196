//! Load reports: what clients tell of the traffic that they send (LRS).
//!
//! A client that is told to (`Cluster.lrs_server`) opens a stream beside its ADS stream, says who
//! it is, hears how often to report on which clusters, and reports. This module is pure; the stream
//! itself is in `api/lrs.rs`.

use std::sync::Arc;
use std::time::Duration;

use sidestep_proto::wire::core::Node;
use sidestep_proto::wire::load_stats::{ClusterStats, LoadStatsRequest, LoadStatsResponse};

/// Who says so can be asked for all clusters at once; everybody else needs a list.
const SEND_ALL_CLUSTERS: &str = "envoy.lrs.supports_send_all_clusters";

/// Hears what clients report. Called on the stream's own task: must not block.
pub trait LoadObserver: Send + Sync + 'static {
    /// Something happened on a stream of `client`.
    fn observe(&self, client: &LoadClient, event: LoadEvent<'_>);
}

/// Who reports.
#[derive(Debug, Clone)]
pub struct LoadClient {
    /// Of its stream; unique within this server's life.
    pub id: u64,
    /// Where the stream comes from: `127.0.0.1:49152`, or `unix` for a Unix socket.
    pub peer: String,
    /// Who it says it is.
    pub node: Node,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum LoadEvent<'a> {
    /// The client has opened a stream and said who it is.
    Opened,
    /// It has sent a report: the numbers of each cluster since its last one. Never empty.
    Reported(&'a [ClusterStats]),
    /// The stream is over.
    Closed,
}

/// Asks clients for load reports on all clusters. A server that is given none does not offer the
/// service, so clients that were told to report find it unimplemented.
#[derive(Clone)]
pub struct LoadReporting {
    interval: Duration,
    observer: Arc<dyn LoadObserver>,
}

impl LoadReporting {
    /// A report each `interval`, at least 1 ms, from each client; `observer` hears them all.
    #[must_use]
    pub fn new(interval: Duration, observer: Arc<dyn LoadObserver>) -> Self {
        Self {
            interval: interval.max(Duration::from_millis(1)),
            observer,
        }
    }
}

/// One stream, as far as it needs no socket.
pub(crate) struct LoadSession {
    id: u64,
    peer: String,
    reporting: LoadReporting,
    /// Known from the first request on.
    client: Option<LoadClient>,
    /// The clusters last asked for; `None`: not asked yet.
    asked: Option<Vec<String>>,
}

impl LoadSession {
    pub(crate) fn new(id: u64, peer: String, reporting: LoadReporting) -> Self {
        Self {
            id,
            peer,
            reporting,
            client: None,
            asked: None,
        }
    }

    /// Takes a report. The first request is one, too, although clients have nothing to report yet.
    pub(crate) fn receive(&mut self, request: LoadStatsRequest) {
        let client = match &mut self.client {
            Some(client) => client,
            none => {
                let client = none.insert(LoadClient {
                    id: self.id,
                    peer: std::mem::take(&mut self.peer),
                    node: request.node.unwrap_or_default(),
                });
                self.reporting.observer.observe(client, LoadEvent::Opened);
                client
            }
        };
        if !request.cluster_stats.is_empty() {
            let event = LoadEvent::Reported(&request.cluster_stats);
            self.reporting.observer.observe(client, event);
        }
    }

    /// What the client has to be told now, if anything. `clusters` are the names of all there are.
    pub(crate) fn ask<'a>(
        &mut self,
        clusters: impl Iterator<Item = &'a str>,
    ) -> Option<LoadStatsResponse> {
        let features = &self.client.as_ref()?.node.client_features;
        let send_all_clusters = features.iter().any(|f| f == SEND_ALL_CLUSTERS);
        let clusters: Vec<String> = match send_all_clusters {
            true => Vec::new(),
            false => clusters.map(str::to_owned).collect(),
        };
        if self.asked.as_ref() == Some(&clusters) {
            return None;
        }
        self.asked = Some(clusters.clone());
        Some(LoadStatsResponse {
            clusters,
            send_all_clusters,
            // No interval that anybody sets overflows; the longest there is stands for one that does.
            load_reporting_interval: Some(self.reporting.interval.try_into().unwrap_or(
                prost_types::Duration {
                    seconds: i64::MAX,
                    nanos: 0,
                },
            )),
            report_endpoint_granularity: false,
        })
    }
}

impl Drop for LoadSession {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            self.reporting.observer.observe(client, LoadEvent::Closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl LoadObserver for Heard {
        fn observe(&self, client: &LoadClient, event: LoadEvent<'_>) {
            let LoadClient { id, peer, node } = client;
            let line = match event {
                LoadEvent::Opened => format!("{id} {peer} {} opened", node.id),
                LoadEvent::Reported(stats) => format!("{id} reported {}", stats[0].cluster_name),
                LoadEvent::Closed => format!("{id} closed"),
            };
            self.0.lock().expect("no panic").push(line);
        }
    }

    fn session(interval: Duration) -> (LoadSession, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        let reporting = LoadReporting::new(interval, Arc::clone(&heard) as Arc<dyn LoadObserver>);
        (LoadSession::new(7, "here".to_owned(), reporting), heard)
    }

    fn hello(features: &[&str]) -> LoadStatsRequest {
        LoadStatsRequest {
            node: Some(Node {
                id: "n".to_owned(),
                client_features: features.iter().map(ToString::to_string).collect(),
                ..Node::default()
            }),
            ..LoadStatsRequest::default()
        }
    }

    #[test]
    fn who_can_is_asked_once_for_all_clusters() {
        let (mut session, _) = session(Duration::from_millis(1500));
        assert_eq!(session.ask(["a"].into_iter()), None, "nobody is there yet");
        session.receive(hello(&["x", SEND_ALL_CLUSTERS]));
        let asked = session.ask(["a"].into_iter()).expect("asked");
        assert!(asked.send_all_clusters && asked.clusters.is_empty());
        let interval = asked.load_reporting_interval.expect("an interval");
        assert_eq!((interval.seconds, interval.nanos), (1, 500_000_000));
        assert_eq!(session.ask(["a", "b"].into_iter()), None);
    }

    #[test]
    fn who_cannot_is_asked_for_the_clusters_that_there_are() {
        let (mut session, _) = session(Duration::ZERO);
        session.receive(hello(&[]));
        let first = session.ask(["a"].into_iter()).expect("asked");
        assert!(!first.send_all_clusters);
        assert_eq!(first.clusters, ["a"]);
        let shortest = first.load_reporting_interval.expect("an interval");
        assert_eq!(shortest.nanos, 1_000_000);
        assert_eq!(session.ask(["a"].into_iter()), None);
        let second = session.ask(["a", "b"].into_iter()).expect("asked again");
        assert_eq!(second.clusters, ["a", "b"]);
    }

    #[test]
    fn reports_are_handed_on_and_empty_ones_are_not() {
        let (mut session, heard) = session(Duration::from_secs(1));
        session.receive(hello(&[]));
        session.receive(LoadStatsRequest::default());
        session.receive(LoadStatsRequest {
            cluster_stats: vec![ClusterStats {
                cluster_name: "c".to_owned(),
                ..ClusterStats::default()
            }],
            ..LoadStatsRequest::default()
        });
        drop(session);
        let heard = heard.0.lock().expect("no panic");
        assert_eq!(*heard, ["7 here n opened", "7 reported c", "7 closed"]);
    }

    #[test]
    fn a_stream_on_which_nobody_spoke_is_not_told_of() {
        let (session, heard) = session(Duration::from_secs(1));
        drop(session);
        assert!(heard.0.lock().expect("no panic").is_empty());
    }
}
