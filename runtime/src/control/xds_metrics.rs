//! `grpc.xds_client.*` (gRFC A78, with A88's further cache states).
//!
//! One ADS client serves all targets and servers of a process, so `grpc.target` is [`TARGET`] in
//! all of them, not the name of a channel's target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sidestep_proto::ads::{ClientStream, Event, Known, Status, Updates};
use sidestep_proto::bootstrap::Server;
use sidestep_proto::resource::ResourceType;

use crate::telemetry::Telemetry;
use crate::telemetry::instruments::{
    XDS_CLIENT_CONNECTED, XDS_CLIENT_RESOURCE_UPDATES_INVALID, XDS_CLIENT_RESOURCE_UPDATES_VALID,
    XDS_CLIENT_RESOURCES, XDS_CLIENT_SERVER_FAILURE,
};

/// The label `grpc.target` of a client that serves the whole process.
const TARGET: &str = "#process";

/// The authority of names that are not `xdstp:` names.
const OLD: &str = "#old";

/// What was told last, so that only differences are told.
#[derive(Debug)]
pub(super) struct XdsMetrics {
    telemetry: Arc<Telemetry>,
    /// By server and type.
    updates: BTreeMap<(usize, ResourceType), Updates>,
    /// Servers that failed after they worked, or before they ever did.
    failed: BTreeSet<usize>,
    resources: BTreeMap<Series, i64>,
    /// Whether `resources` may be out of date.
    stale: bool,
}

/// Authority, cache state and type.
type Series = (String, &'static str, ResourceType);

impl XdsMetrics {
    pub(super) fn new(telemetry: Arc<Telemetry>) -> Self {
        Self {
            telemetry,
            updates: BTreeMap::new(),
            failed: BTreeSet::new(),
            resources: BTreeMap::new(),
            stale: false,
        }
    }

    /// Names were subscribed or unsubscribed.
    pub(super) fn names_changed(&mut self) {
        self.stale = true;
    }

    /// A server is not needed any more: it is neither connected nor lost.
    pub(super) fn disconnected(&mut self, server: usize, servers: &[Server]) {
        self.failed.remove(&server);
        if let Some(server) = servers.get(server) {
            let labels = [TARGET, &server.uri];
            // Exporters keep the last value they were told.
            self.telemetry.set(&XDS_CLIENT_CONNECTED, &labels, 0);
            self.telemetry.forget(&XDS_CLIENT_CONNECTED, &labels);
        }
    }

    /// Takes in what the machine says.
    pub(super) fn heard(&mut self, event: &Event, servers: &[Server], machine: &ClientStream) {
        self.stale = true;
        match event {
            Event::Accepted {
                server,
                resource_type,
                ..
            }
            | Event::Rejected {
                server,
                resource_type,
                ..
            } => {
                let Some(uri) = servers.get(*server).map(|server| &server.uri) else {
                    return;
                };
                self.failed.remove(server);
                let labels = [TARGET, uri];
                self.telemetry.set(&XDS_CLIENT_CONNECTED, &labels, 1);
                let updates = machine.updates(*server, *resource_type);
                self.count((*server, *resource_type), uri, updates);
            }
            Event::StreamDown {
                server,
                had_response: false,
                ..
            } => {
                let Some(uri) = servers.get(*server).map(|server| &server.uri) else {
                    return;
                };
                self.telemetry.set(&XDS_CLIENT_CONNECTED, &[TARGET, uri], 0);
                if self.failed.insert(*server) {
                    let labels = [TARGET, uri];
                    self.telemetry.add(&XDS_CLIENT_SERVER_FAILURE, &labels, 1);
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, key: (usize, ResourceType), server: &str, now: Updates) {
        let before = self.updates.insert(key, now).unwrap_or_default();
        let labels = [TARGET, server, type_name(key.1)];
        for (instrument, more) in [
            (&XDS_CLIENT_RESOURCE_UPDATES_VALID, now.valid - before.valid),
            (
                &XDS_CLIENT_RESOURCE_UPDATES_INVALID,
                now.invalid - before.invalid,
            ),
        ] {
            // Zero, too: a series that is there from the beginning can be alerted on.
            let more = i64::try_from(more).unwrap_or(i64::MAX);
            self.telemetry.add(instrument, &labels, more);
        }
    }

    /// Counts the resources by state, if somebody may look at it and something has changed: it
    /// goes over all of them.
    pub(super) fn settle(&mut self, machine: &ClientStream) {
        if !self.telemetry.on() || !std::mem::take(&mut self.stale) {
            return;
        }
        let mut now: BTreeMap<Series, i64> = BTreeMap::new();
        for known in machine.resources() {
            *now.entry(series(&known)).or_default() += 1;
        }
        for (series, count) in &now {
            if self.resources.get(series) != Some(count) {
                self.with_labels(series, |telemetry, labels| {
                    telemetry.set(&XDS_CLIENT_RESOURCES, labels, *count);
                });
            }
        }
        for series in self.resources.keys().filter(|key| !now.contains_key(*key)) {
            self.with_labels(series, |telemetry, labels| {
                // Exporters keep the last value they were told.
                telemetry.set(&XDS_CLIENT_RESOURCES, labels, 0);
                telemetry.forget(&XDS_CLIENT_RESOURCES, labels);
            });
        }
        self.resources = now;
    }

    fn with_labels(&self, series: &Series, tell: impl FnOnce(&Telemetry, &[&str])) {
        let (authority, state, resource_type) = series;
        let labels = [TARGET, authority, state, type_name(*resource_type)];
        tell(&self.telemetry, &labels);
    }
}

fn series(known: &Known<'_>) -> Series {
    let state = cache_state(known.status(), known.content.is_some());
    (authority(known.name).to_owned(), state, known.resource_type)
}

fn cache_state(status: Status, cached: bool) -> &'static str {
    match (status, cached) {
        (Status::Requested, _) => "requested",
        (Status::Acked, _) => "acked",
        (Status::Timeout, _) => "timeout",
        (Status::DoesNotExist, false) => "does_not_exist",
        (Status::DoesNotExist, true) => "does_not_exist_but_cached",
        (Status::Nacked, false) => "nacked",
        (Status::Nacked, true) => "nacked_but_cached",
        (Status::ReceivedError, false) => "received_error",
        (Status::ReceivedError, true) => "received_error_but_cached",
    }
}

fn authority(name: &str) -> &str {
    let new_style = name.strip_prefix("xdstp://");
    new_style.map_or(OLD, |rest| rest.split('/').next().unwrap_or_default())
}

fn type_name(resource_type: ResourceType) -> &'static str {
    let url = resource_type.type_url();
    url.rsplit('/').next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_grfc() {
        assert_eq!(authority("greeter"), "#old");
        assert_eq!(
            authority("xdstp://traffic.example/a.B/c"),
            "traffic.example"
        );
        assert_eq!(authority("xdstp:///a.B/c"), "");
        assert_eq!(
            type_name(ResourceType::Listener),
            "envoy.config.listener.v3.Listener"
        );
        let mut states: Vec<_> = Status::ALL
            .into_iter()
            .flat_map(|status| [false, true].map(|cached| cache_state(status, cached)))
            .collect();
        states.sort_unstable();
        states.dedup();
        assert_eq!(states.len(), 9, "{states:?}");
    }
}
