//! The answer of a running process: the route table that calls read, and the state of each
//! endpoint as the control task knows it.

use http::HeaderMap;

use super::{Answer, Candidate, Outcome, Share, words};
use crate::control::{Asker, Question};
use crate::inspect::{Cluster, Connectivity, Leaf, Process, Target};
use crate::routing::{Call, ClusterIndex};
use crate::snapshot::{self, Snapshot, TargetState};

/// What is known of a process at one moment.
pub(crate) struct Known {
    /// The process as a whole.
    pub(crate) process: Process,
    clusters: Vec<Cluster>,
}

impl Known {
    /// Asks for it; `None` once the mesh has ended.
    pub(crate) async fn ask(asker: &Asker) -> Option<Self> {
        Some(Self {
            process: asker.ask(Question::Process).await?,
            clusters: asker.ask(Question::Clusters).await?,
        })
    }

    /// What a channel that dialled `target` reads.
    pub(crate) fn target(&self, target: &snapshot::Target, authority: &str) -> Target {
        let mut targets = self.process.targets.iter();
        let known = targets.find(|t| *t.name == *target.name() && *t.authority == *authority);
        // A direct target has neither.
        let names = known.map(|known| (known.authority.clone(), known.routes.clone()));
        let (authority, routes) = names.unwrap_or_default();
        Target {
            name: target.name().into(),
            authority,
            routes,
            state: target.load_full(),
            unresolved: known.and_then(|known| known.unresolved.clone()),
        }
    }

    /// What becomes of a call to `target`.
    pub(crate) fn explain(&self, target: &Target, path: &str, headers: &HeaderMap) -> Answer {
        let server = self.process.control_plane.as_ref();
        let listener = match server.map(|plane| &plane.server) {
            Some(server) if !target.authority.is_empty() => {
                format!("{} from {server}", target.name)
            }
            _ => format!("{}, without a control plane", target.name),
        };
        let mut answer = Answer {
            service: target.name.to_string(),
            path: path.to_owned(),
            caller: None,
            listener,
            routes: "none".to_owned(),
            rules: Vec::new(),
            outcome: Outcome::Fails(target.problem().unwrap_or_default()),
        };
        let TargetState::Ready(snapshot) = &*target.state else {
            return answer;
        };
        let call = Call {
            authority: &target.authority,
            path,
            headers,
            random: 0,
            hash: 0,
            session: None,
            subset: None,
        };
        let explanation = snapshot.routes.explain(&call);
        let host = explanation.virtual_host.unwrap_or("none");
        answer.routes = match &*target.routes {
            "" => "every call goes the same way".to_owned(),
            routes => format!("{routes}, virtual host {host}"),
        };
        answer.rules = super::rules(&explanation);
        answer.outcome = super::outcome(&target.name, &explanation, |index, percent, subset| {
            let call = Call { subset, ..call };
            Share {
                subset: self::subset(snapshot.cluster(index), &call),
                ..self.share(snapshot, index, percent)
            }
        });
        answer
    }

    fn share(&self, snapshot: &Snapshot, index: ClusterIndex, percent: f64) -> Share {
        let name = snapshot.cluster(index).name();
        let cluster = self.cluster(name);
        let state = cluster.map(|cluster| &cluster.connectivity);
        Share {
            name: name.to_string(),
            percent,
            policy: cluster.map_or_else(|| "policy not known yet".to_owned(), policy),
            security: cluster.map_or_else(String::new, security),
            subset: None,
            state: cluster.map(self::state),
            failing: matches!(state, Some(Connectivity::TransientFailure(_))),
            endpoints: cluster.map_or_else(Vec::new, |cluster| {
                let leaves = cluster.leaves.iter().flat_map(|leaf| self.leaf(leaf));
                let endpoints = cluster.endpoints.iter().map(Candidate::of_process);
                leaves.chain(endpoints).collect()
            }),
        }
    }

    fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| *cluster.name == *name)
    }

    /// A leaf of an aggregate and, if it takes the calls, its endpoints.
    fn leaf(&self, leaf: &Leaf) -> Vec<Candidate> {
        let cluster = self.cluster(&leaf.name).filter(|_| leaf.takes_calls);
        let mut candidates = vec![Candidate::of_leaf(leaf, cluster.map(in_words))];
        let endpoints = cluster.into_iter().flat_map(|cluster| &cluster.endpoints);
        candidates.extend(endpoints.map(|endpoint| {
            let mut candidate = Candidate::of_process(endpoint);
            let of = format!("of {}", leaf.name);
            candidate.place = match candidate.place.is_empty() {
                true => of,
                false => format!("{of}, {}", candidate.place),
            };
            candidate
        }));
        candidates
    }
}

/// The subset that a call meets; of an aggregate, in the leaf that takes it.
fn subset(cluster: &snapshot::Cluster, call: &Call<'_>) -> Option<String> {
    let published = cluster.published();
    let met = match &published.leaf {
        Some(leaf) => leaf.published().picker.explain(call),
        None => published.picker.explain(call),
    };
    met.or_else(|| Some(words::no_subsets(call.subset?)))
}

/// What an aggregate goes by is its leaves'.
fn policy(cluster: &Cluster) -> String {
    match (cluster.leaves.len(), &cluster.policy) {
        (0, None) => "policy not known yet".to_owned(),
        (0, Some(policy)) => words::policy_tree(policy),
        (count, _) => words::aggregate(count),
    }
}

fn security(cluster: &Cluster) -> String {
    match cluster.leaves.is_empty() {
        true => cluster.security.clone(),
        false => String::new(),
    }
}

/// Policy, security and state.
fn in_words(cluster: &Cluster) -> String {
    let parts = [policy(cluster), security(cluster), state(cluster)];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

fn state(cluster: &Cluster) -> String {
    if !cluster.leaves.is_empty() {
        return words::connectivity(&cluster.connectivity).to_owned();
    }
    let mut calls = match cluster.max_requests {
        u32::MAX => format!("{} calls in flight", cluster.in_flight),
        max => format!("{} of {max} calls in flight", cluster.in_flight),
    };
    for (category, share) in &cluster.drops {
        let percent = f64::from(*share) / 10_000.0;
        calls.push_str(&format!(", {percent} % dropped for {category:?}"));
    }
    let word = words::connectivity(&cluster.connectivity);
    match (&cluster.connectivity, &cluster.error) {
        // The endpoints below say why.
        (Connectivity::TransientFailure(_), None) if !cluster.endpoints.is_empty() => {
            format!("{word}: calls fail, {calls}")
        }
        (Connectivity::TransientFailure(failure), _) => {
            format!("{word}: calls fail: {}; {calls}", failure.0)
        }
        (_, Some(error)) => format!("{word}, but {error}; {calls}"),
        (_, None) => format!("{word}, {calls}"),
    }
}
