//! `/explain`: where would a call go now, and why? Asks the route table that calls read.

use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::clusters::word;
use super::page::{Context, FORMAT, Page, Query, Reply, answer};
use crate::control::Question;
use crate::explain::{self, Answer, Outcome, Share, words};
use crate::inspect::{Cluster, Connectivity, Endpoint, Process, Target};
use crate::routing::{Call, ClusterIndex};
use crate::snapshot::{Snapshot, TargetState};

/// The page.
pub(super) const PAGE: Page = Page {
    path: "/explain",
    about: "where a call would go now, and why",
    parameters: &[
        ("target", "as dialled: xds:///greeter or greeter; needed"),
        ("path", "the method: /pkg.Service/Method"),
        (
            "header",
            "a header of the call, NAME:VALUE; several are possible",
        ),
        FORMAT,
    ],
    answer: |context, query| answer(explain(context, query)),
};

async fn explain(context: Arc<Context>, query: Query) -> Result<Reply, Reply> {
    let process = context.ask(Question::Process).await?;
    let clusters = context.ask(Question::Clusters).await?;
    let target = find_target(&process, query.one("target"))?;
    let headers = query.all("header").map(header).collect::<Result<_, _>>()?;
    let path = query.one("path").unwrap_or("/");
    let path = format!("/{}", path.trim_start_matches('/'));
    let answer = find(&process, target, &clusters, &path, &headers);
    if !query.wants_json() {
        return Ok(Reply::text(answer.to_text(|_, text| text.to_owned())));
    }
    let json = serde_json::to_value(&answer)
        .map_err(|error| Reply::error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Reply::json(&json))
}

fn find_target<'a>(process: &'a Process, wanted: Option<&str>) -> Result<&'a Target, Reply> {
    let known = || {
        let names = process.targets.iter().map(|t| format!("\n  {}", t.name));
        match process.targets.is_empty() {
            true => "this process has dialled no target".to_owned(),
            false => format!("this process has dialled{}", names.collect::<String>()),
        }
    };
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        let text = format!(
            "say which: /explain?target=NAME&path=/pkg.Service/Method; {}",
            known()
        );
        return Err(Reply::error(StatusCode::BAD_REQUEST, text));
    };
    let name = wanted.trim_start_matches("xds:").trim_start_matches('/');
    let is_it = |t: &&Target| {
        [wanted, name].contains(&&*t.name) || (!name.is_empty() && *t.authority == *name)
    };
    process.targets.iter().find(is_it).ok_or_else(|| {
        let text = format!("no target {wanted:?}; {}", known());
        Reply::error(StatusCode::NOT_FOUND, text)
    })
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), Reply> {
    let bad = |reason: String| {
        let text = format!("header {text:?}: {reason}");
        Reply::error(StatusCode::BAD_REQUEST, text)
    };
    let (name, value) = text
        .split_once([':', '='])
        .ok_or_else(|| bad("expected NAME:VALUE".to_owned()))?;
    let name = HeaderName::from_str(name.trim()).map_err(|error| bad(error.to_string()))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| bad(error.to_string()))?;
    Ok((name, value))
}

fn find(
    process: &Process,
    target: &Target,
    clusters: &[Cluster],
    path: &str,
    headers: &HeaderMap,
) -> Answer {
    let server = process.control_plane.as_ref().map(|plane| &plane.server);
    let listener = match server {
        Some(server) if !target.authority.is_empty() => format!("{} from {server}", target.name),
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
    let explanation = snapshot.routes.explain(&Call {
        authority: &target.authority,
        path,
        headers,
        random: 0,
        hash: 0,
    });
    let host = explanation.virtual_host.unwrap_or("none");
    answer.routes = match &*target.routes {
        "" => "every call goes the same way".to_owned(),
        routes => format!("{routes}, virtual host {host}"),
    };
    answer.rules = explain::rules(&explanation);
    answer.outcome = explain::outcome(&target.name, &explanation, |index, percent| {
        share(snapshot, index, percent, clusters)
    });
    answer
}

fn share(snapshot: &Snapshot, index: ClusterIndex, percent: f64, clusters: &[Cluster]) -> Share {
    let name = snapshot.cluster(index).name();
    let cluster = clusters.iter().find(|cluster| *cluster.name == **name);
    Share {
        name: name.to_string(),
        percent,
        policy: cluster
            .and_then(|cluster| cluster.policy)
            .map_or("policy not known yet", words::policy)
            .to_owned(),
        security: cluster.map_or_else(String::new, |cluster| cluster.security.clone()),
        state: cluster.map(state),
        failing: cluster.is_some_and(|cluster| {
            matches!(cluster.connectivity, Connectivity::TransientFailure(_))
        }),
        endpoints: cluster.map_or_else(Vec::new, |cluster| {
            cluster.endpoints.iter().map(endpoint).collect()
        }),
    }
}

fn state(cluster: &Cluster) -> String {
    let calls = match cluster.max_requests {
        u32::MAX => format!("{} calls in flight", cluster.in_flight),
        max => format!("{} of {max} calls in flight", cluster.in_flight),
    };
    match (&cluster.connectivity, &cluster.error) {
        // The endpoints below say why.
        (Connectivity::TransientFailure(_), None) if !cluster.endpoints.is_empty() => {
            format!("TRANSIENT_FAILURE: calls fail, {calls}")
        }
        (Connectivity::TransientFailure(failure), _) => {
            format!("TRANSIENT_FAILURE: calls fail: {}; {calls}", failure.0)
        }
        (connectivity, Some(error)) => format!("{}, but {error}; {calls}", word(connectivity)),
        (connectivity, None) => format!("{}, {calls}", word(connectivity)),
    }
}

fn endpoint(endpoint: &Endpoint) -> String {
    let mut text = endpoint.address();
    text.push_str(&words::place(&endpoint.locality, endpoint.weight));
    if endpoint.priority != 0 {
        text.push_str(&format!(", priority {}", endpoint.priority));
    }
    let state = match &endpoint.connectivity {
        None => format!("not used: its health is {}", words::health(endpoint.health)),
        Some(Connectivity::TransientFailure(failure)) => {
            format!("TRANSIENT_FAILURE: {}", failure.0)
        }
        Some(connectivity) => {
            let calls = endpoint.in_flight;
            format!("{}, {calls} in flight", word(connectivity))
        }
    };
    format!("{text}: {state}")
}
