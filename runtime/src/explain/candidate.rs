//! Where a call to a cluster may go, and which endpoints get none, with the reason.

use serde::{Deserialize, Serialize};
use sidestep_proto::resource::{self, Locality};

use super::{Tone, words};
use crate::inspect;

/// An endpoint, and whether calls go there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its first address; or, in words, where endpoints come from.
    pub address: String,
    /// What sets it apart: zone, weight, priority, the share of its locality. May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// Whether calls may go there now; `None` where no running process is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_calls: Option<bool>,
    /// How it is doing, or why it gets no calls; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Candidate {
    /// Of an endpoint that a resource names: whether it can be reached is not known.
    #[must_use]
    pub fn of_resource(endpoint: &resource::Endpoint, locality: &Locality) -> Self {
        let address = endpoint.addresses.first();
        let usable = endpoint.health.is_usable();
        Self {
            address: address.map(ToString::to_string).unwrap_or_default(),
            place: match words::place(locality, endpoint.weight) {
                place if endpoint.labels.is_empty() => place,
                place if place.is_empty() => endpoint.labels.to_string(),
                place => format!("{place}, {}", endpoint.labels),
            },
            takes_calls: (!usable).then_some(false),
            reason: match usable {
                true => String::new(),
                false => format!("its health is {}", words::health(endpoint.health)),
            },
        }
    }

    /// Of an endpoint that a process knows.
    pub(super) fn of_process(endpoint: &inspect::Endpoint) -> Self {
        let excluded = endpoint.excluded();
        Self {
            address: endpoint.address(),
            place: place(endpoint),
            takes_calls: Some(excluded.is_none()),
            reason: excluded.unwrap_or_else(|| {
                let state = endpoint
                    .connectivity
                    .as_ref()
                    .map_or("", words::connectivity);
                format!("{state}, {} in flight", endpoint.in_flight)
            }),
        }
    }

    /// Of a cluster of an aggregate; `cluster` says how it is doing if calls go there.
    pub(super) fn of_leaf(leaf: &inspect::Leaf, cluster: Option<String>) -> Self {
        let state = leaf.connectivity.as_ref();
        let state = state.map(|state| words::connectivity(state).to_owned());
        let parts = [Some(leaf.why.clone()), cluster.or(state)];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        Self {
            address: leaf.name.clone(),
            place: String::new(),
            takes_calls: Some(leaf.takes_calls),
            reason: parts.join("; "),
        }
    }

    /// Something that is told in words.
    #[must_use]
    pub fn in_words(text: impl Into<String>) -> Self {
        Self {
            address: text.into(),
            ..Self::default()
        }
    }

    pub(super) fn line(&self, paint: &impl Fn(Tone, &str) -> String) -> String {
        let mut text = self.address.clone();
        for part in [&self.place].into_iter().filter(|part| !part.is_empty()) {
            text.push_str(", ");
            text.push_str(part);
        }
        match self.takes_calls {
            Some(false) => {
                text.push_str(": ");
                text.push_str(&paint(Tone::Bad, "not a candidate"));
                text.push_str(": ");
            }
            _ if self.reason.is_empty() => {}
            _ => text.push_str(": "),
        }
        text.push_str(&self.reason);
        text
    }
}

/// What sets an endpoint of a process apart.
fn place(endpoint: &inspect::Endpoint) -> String {
    let configured = f64::from(endpoint.weight);
    let mut parts = vec![words::place(&endpoint.locality, endpoint.weight)];
    if (endpoint.current_weight - configured).abs() > f64::EPSILON {
        parts.push(format!("weight {:.2} now", endpoint.current_weight));
    }
    if endpoint.priority != 0 {
        parts.push(format!("priority {}", endpoint.priority));
    }
    if !endpoint.health.is_usable() && endpoint.connectivity.is_some() {
        let health = words::health(endpoint.health);
        parts.push(format!("{health}, but too few others are left"));
    }
    if let Some(share) = endpoint.locality_share.filter(|share| *share < 1.0) {
        parts.push(format!("its locality gets {:.0} % of calls", share * 100.0));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}
