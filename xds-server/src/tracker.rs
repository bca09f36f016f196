//! Who is connected, and which revision each of them runs.
//!
//! An observer like any other; the operations API and `sidestep status` read it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sidestep_proto::ads::Variant;
use sidestep_proto::wire::core::{Node, node::UserAgentVersionType};

use crate::observer::{StreamEvent, StreamInfo, StreamObserver};

/// Everyone who is connected.
#[derive(Debug, Default)]
pub struct Tracker {
    clients: Mutex<BTreeMap<u64, Client>>,
}

/// One open ADS stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// `node.id`; empty until the first request.
    pub node_id: String,
    /// `node.cluster`: the service that the process is.
    pub node_cluster: String,
    /// Name and version of the implementation.
    pub user_agent: String,
    /// Where the stream comes from.
    pub peer: String,
    /// The protocol variant.
    pub variant: Variant,
    /// When the stream was opened.
    pub connected_at: SystemTime,
    /// By type URL, what it has asked for and how far it has got.
    pub types: BTreeMap<String, Progress>,
}

/// How far one client has got with one resource type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The names subscribed; `*` stands for all there are.
    pub names: Vec<String>,
    /// The newest response.
    pub sent: Option<Sent>,
    /// The revision accepted last.
    pub acked: Option<u64>,
    /// The revision refused last, and the client's words. Cleared by the next ACK.
    pub nacked: Option<(u64, String)>,
    /// When any of this last changed.
    pub updated_at: SystemTime,
}

/// A response, as far as progress is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The revision it was made from.
    pub revision: u64,
    /// What the verdict will refer to.
    pub nonce: String,
    /// Whether the verdict is in.
    pub answered: bool,
}

/// The states that an operator tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing has been sent yet.
    NeverSent,
    /// The verdict on the newest response is outstanding.
    Pending,
    /// The client accepted the newest response.
    Synced,
    /// The client refused the newest response and keeps what it accepted before.
    Nacked,
}

impl Progress {
    fn new(now: SystemTime) -> Self {
        Self {
            names: Vec::new(),
            sent: None,
            acked: None,
            nacked: None,
            updated_at: now,
        }
    }

    /// The progress in a word.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.sent {
            None if self.acked.is_some() => State::Synced,
            None => State::NeverSent,
            Some(sent) if !sent.answered => State::Pending,
            Some(_) if self.nacked.is_some() => State::Nacked,
            Some(_) => State::Synced,
        }
    }

    /// Takes the verdict on the response with this nonce. A verdict on an older one tells nothing
    /// about the newest.
    fn answer(&mut self, nonce: &str) -> Option<u64> {
        let sent = self.sent.as_mut().filter(|sent| sent.nonce == nonce)?;
        sent.answered = true;
        Some(sent.revision)
    }
}

impl Tracker {
    /// Everyone who is connected now, in the order of connecting.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.lock().values().cloned().collect()
    }

    /// Takes note of an event that happened at `now`.
    fn record(&self, now: SystemTime, stream: &StreamInfo, event: StreamEvent<'_>) {
        let mut clients = self.lock();
        match event {
            StreamEvent::Opened => {
                clients.insert(stream.id, Client::new(now, stream));
            }
            StreamEvent::Closed { .. } => {
                clients.remove(&stream.id);
            }
            _ => {
                if let Some(client) = clients.get_mut(&stream.id) {
                    client.record(now, event);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamObserver for Tracker {
    fn observe(&self, stream: &StreamInfo, event: StreamEvent<'_>) {
        self.record(SystemTime::now(), stream, event);
    }
}

impl Client {
    fn new(now: SystemTime, stream: &StreamInfo) -> Self {
        Self {
            node_id: String::new(),
            node_cluster: String::new(),
            user_agent: String::new(),
            peer: stream.peer.clone(),
            variant: stream.variant,
            connected_at: now,
            types: BTreeMap::new(),
        }
    }

    fn record(&mut self, now: SystemTime, event: StreamEvent<'_>) {
        match event {
            StreamEvent::Identified(node) => self.identify(node),
            StreamEvent::Requested { type_url, names } => {
                self.progress(now, type_url).names = names.to_vec();
            }
            StreamEvent::Responded {
                type_url,
                nonce,
                revision,
                ..
            } => {
                self.progress(now, type_url).sent = Some(Sent {
                    revision,
                    nonce: nonce.to_owned(),
                    answered: false,
                });
            }
            StreamEvent::Resumed {
                type_url, revision, ..
            } => self.progress(now, type_url).acked = Some(revision),
            StreamEvent::Acked {
                type_url, nonce, ..
            } => {
                let progress = self.progress(now, type_url);
                if let Some(revision) = progress.answer(nonce) {
                    progress.acked = Some(revision);
                    progress.nacked = None;
                }
            }
            StreamEvent::Nacked {
                type_url,
                nonce,
                message,
                ..
            } => {
                let progress = self.progress(now, type_url);
                if let Some(revision) = progress.answer(nonce) {
                    progress.nacked = Some((revision, message.to_owned()));
                }
            }
            // Handled by the tracker itself, or told again by what comes of it.
            StreamEvent::Opened
            | StreamEvent::Received(_)
            | StreamEvent::Settled { .. }
            | StreamEvent::Closed { .. } => {}
        }
    }

    fn progress(&mut self, now: SystemTime, type_url: &str) -> &mut Progress {
        let progress = self
            .types
            .entry(type_url.to_owned())
            .or_insert_with(|| Progress::new(now));
        progress.updated_at = now;
        progress
    }

    fn identify(&mut self, node: &Node) {
        self.node_id.clone_from(&node.id);
        self.node_cluster.clone_from(&node.cluster);
        self.user_agent = user_agent(node);
    }
}

fn user_agent(node: &Node) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
            .unwrap_or_default(),
        None => String::new(),
    };
    format!("{} {version}", node.user_agent_name)
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn stream() -> StreamInfo {
        StreamInfo {
            id: 7,
            peer: "127.0.0.1:1".to_owned(),
            variant: Variant::Delta,
        }
    }

    fn responded(nonce: &'static str, revision: u64) -> StreamEvent<'static> {
        StreamEvent::Responded {
            type_url: CDS,
            version: "v",
            nonce,
            count: 1,
            revision,
        }
    }

    fn acked(nonce: &'static str) -> StreamEvent<'static> {
        StreamEvent::Acked {
            type_url: CDS,
            version: "v",
            nonce,
        }
    }

    fn nacked(nonce: &'static str, message: &'static str) -> StreamEvent<'static> {
        StreamEvent::Nacked {
            type_url: CDS,
            version: "v",
            nonce,
            message,
        }
    }

    fn tracker(events: &[StreamEvent<'_>]) -> Tracker {
        let tracker = Tracker::default();
        tracker.record(at(1), &stream(), StreamEvent::Opened);
        for event in events {
            tracker.record(at(2), &stream(), *event);
        }
        tracker
    }

    fn progress(events: &[StreamEvent<'_>]) -> Progress {
        tracker(events).clients()[0].types[CDS].clone()
    }

    #[test]
    fn the_state_follows_the_newest_response() {
        let names = ["a".to_owned()];
        let requested = StreamEvent::Requested {
            type_url: CDS,
            names: &names,
        };
        let resumed = StreamEvent::Resumed {
            type_url: CDS,
            version: "v",
            revision: 1,
        };
        let cases: [(&[StreamEvent<'_>], State); 7] = [
            (&[requested], State::NeverSent),
            (&[requested, resumed], State::Synced),
            (&[requested, responded("1", 1)], State::Pending),
            (&[requested, responded("1", 1), acked("1")], State::Synced),
            (
                &[requested, responded("1", 1), nacked("1", "no")],
                State::Nacked,
            ),
            (
                &[responded("1", 1), nacked("1", "no"), responded("2", 2)],
                State::Pending,
            ),
            (
                &[responded("1", 1), responded("2", 2), acked("1")],
                State::Pending,
            ),
        ];
        for (events, expected) in cases {
            assert_eq!(progress(events).state(), expected, "{events:?}");
        }
    }

    #[test]
    fn a_nack_keeps_what_was_accepted_and_says_why() {
        let progress = progress(&[
            responded("1", 1),
            acked("1"),
            responded("2", 2),
            nacked("2", "Cluster \"c\": lb_policy is not supported"),
        ]);
        assert_eq!(progress.acked, Some(1));
        assert_eq!(
            progress.nacked,
            Some((2, "Cluster \"c\": lb_policy is not supported".to_owned()))
        );
    }

    #[test]
    fn an_ack_ends_the_refusal() {
        let progress = progress(&[
            responded("1", 1),
            nacked("1", "no"),
            responded("2", 2),
            acked("2"),
        ]);
        assert_eq!(progress.nacked, None);
        assert_eq!(progress.state(), State::Synced);
    }

    #[test]
    fn clients_come_and_go() {
        let node = Node {
            id: "n1".to_owned(),
            cluster: "web".to_owned(),
            user_agent_name: "sidestep".to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
                "0.1.0".to_owned(),
            )),
            ..Node::default()
        };
        let tracker = tracker(&[StreamEvent::Identified(&node)]);
        let client = &tracker.clients()[0];
        assert_eq!(client.node_id, "n1");
        assert_eq!(client.node_cluster, "web");
        assert_eq!(client.user_agent, "sidestep 0.1.0");
        assert_eq!(client.connected_at, at(1));
        tracker.record(at(3), &stream(), StreamEvent::Closed { reason: "done" });
        assert!(tracker.clients().is_empty());
    }
}
