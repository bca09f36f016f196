//! Does the control plane answer, is it well, and what time does it have?

use std::time::SystemTime;

use http::uri::PathAndQuery;
use sidestep_proto::bootstrap::Bootstrap;
use sidestep_proto::wire::operations::{
    ClientStatus, StatusRequest, StatusResponse, type_status::State as TypeState,
};
use sidestep_server::OPERATIONS_STATUS;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::dial::{Link, broken_off_hint, dial};
use super::{Group, PATIENCE, Report, State, chain, sources, span};

const GROUP: Group = Group::ControlPlane;

/// A connection to the first server that answers.
pub(super) async fn check(bootstrap: &Bootstrap, report: &mut Report) -> Option<Link> {
    let mut good = None;
    let only = bootstrap.servers.len() == 1;
    for server in &bootstrap.servers {
        match dial(server).await {
            Ok(link) => {
                let how = if link.encrypted { "TLS" } else { "plaintext" };
                report.good(GROUP, format!("{}: connected by {how}", server.uri));
                if good.is_none() {
                    good = Some((server.uri.clone(), link));
                }
            }
            Err(refusal) => {
                let state = match (only, refusal.nobody) {
                    (true, true) => State::Unreachable,
                    (true, false) => State::Failed,
                    (false, _) => State::Warning,
                };
                let says = format!("{}: {}", server.uri, refusal.reason);
                report.add(GROUP, state, says).hint = Some(refusal.hint.to_owned());
            }
        }
    }
    let Some((uri, link)) = good else {
        if !only {
            let none = report.add(GROUP, State::Unreachable, "none of the servers answers");
            none.hint = Some("see each of them above".to_owned());
        }
        return None;
    };
    health(&uri, &link, report).await;
    Some(link)
}

async fn health(uri: &str, link: &Link, report: &mut Report) {
    let mut grpc = Grpc::new(link.single.clone());
    let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
    let path = PathAndQuery::from_static(OPERATIONS_STATUS);
    let asked = grpc.unary(tonic::Request::new(StatusRequest {}), path, codec);
    match timeout(PATIENCE, asked).await {
        Ok(Ok(response)) => judge(uri, response.get_ref(), report),
        Ok(Err(status)) if status.code() == Code::Unimplemented => report.skip(
            GROUP,
            format!("{uri}: not a server of Sidestep, so its own view is not known"),
        ),
        Ok(Err(status)) => broken(uri, &status, link, report),
        Err(_) => report.fail(
            GROUP,
            format!("{uri}: no answer within 5 s"),
            "it takes connections and does not answer: is it overloaded, or something else?",
        ),
    }
}

fn broken(uri: &str, status: &Status, link: &Link, report: &mut Report) {
    report.fail(
        GROUP,
        format!("{uri}: {}", chain(status)),
        broken_off_hint(link.encrypted),
    );
}

/// What the server says about itself and its clients.
fn judge(uri: &str, status: &StatusResponse, report: &mut Report) {
    report.good(
        GROUP,
        format!("{uri}: revision {}, {}", status.revision, status.summary),
    );
    if let Some(refusal) = &status.refusal {
        let first = refusal.errors.first().map_or("", String::as_str);
        let more = refusal.errors.len().saturating_sub(1);
        let says = format!("{uri}: the newest edit was refused: {first} (and {more} more)");
        report.add(GROUP, State::Partial, says).hint =
            Some("correct the mesh file; `sidestep check` shows every fault".to_owned());
    }
    sources::check(uri, &status.sources, SystemTime::now(), report);
    let nacked: Vec<&ClientStatus> = status
        .clients
        .iter()
        .filter(|client| client.types.iter().any(|t| t.state() == TypeState::Nacked))
        .collect();
    for client in &nacked {
        let reason = client.types.iter().find(|t| t.state() == TypeState::Nacked);
        let reason = reason.map_or("", |t| t.nack_error.as_str());
        let says = format!(
            "{uri}: {} ({}) refused its configuration: {reason}",
            client.node_id, client.peer
        );
        report.add(GROUP, State::Partial, says).hint =
            Some("it keeps what it had; `sidestep status` shows which revision".to_owned());
    }
    if nacked.is_empty() {
        let count = status.clients.len();
        report.good(
            GROUP,
            format!("{uri}: {count} clients connected, none refused anything"),
        );
    }
}

/// How far the clocks may be apart before certificates of one machine are not yet valid on
/// another; and from where on something is wrong.
const SKEW: [u64; 2] = [30, 300];

/// Compares this machine's time with the `date` of an answer, which is in whole seconds.
pub(super) fn clock(here: SystemTime, there: SystemTime, report: &mut Report) {
    let (word, apart) = match here.duration_since(there) {
        Ok(ahead) => ("ahead of", ahead),
        Err(behind) => ("behind", behind.duration()),
    };
    let says = match apart.as_secs() {
        0..=1 => "this machine's clock and the control plane's agree".to_owned(),
        _ => format!(
            "this machine's clock is {} {word} the control plane's",
            span(apart)
        ),
    };
    let hint = "let both follow a time server (chrony, systemd-timesyncd); certificates are judged by the clock";
    match apart.as_secs() {
        seconds if seconds > SKEW[1] => report.fail(Group::Clock, says, hint),
        seconds if seconds > SKEW[0] => report.warn(Group::Clock, says, hint),
        _ => report.good(Group::Clock, says),
    }
}
