//! `/ready`: may this process be sent traffic?

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::page::{Context, FORMAT, Page, Query, Reply, answer};
use crate::control::Question;
use crate::inspect::{ControlPlane, Process};

/// The page.
pub(super) const PAGE: Page = Page {
    path: "/ready",
    about: "200 LIVE once every target has its configuration and every server serves; else 503 \
            and why",
    parameters: &[FORMAT],
    answer: |context, query| answer(ready(context, query)),
};

async fn ready(context: Arc<Context>, query: Query) -> Result<Reply, Reply> {
    let process = context.ask(Question::Process).await?;
    let reasons = process.unready();
    let reply = match query.wants_json() {
        true => Reply::json(&to_json(&process)),
        false => Reply::text(to_text(&reasons)),
    };
    Ok(match reasons.is_empty() {
        true => reply,
        false => reply.with_status(StatusCode::SERVICE_UNAVAILABLE),
    })
}

/// Envoy's word for it.
pub(super) fn state(process: &Process) -> &'static str {
    match process.unready().is_empty() {
        true => "LIVE",
        false => "INITIALIZING",
    }
}

fn to_text(reasons: &[String]) -> String {
    if reasons.is_empty() {
        return "LIVE\n".to_owned();
    }
    let mut out = "INITIALIZING\n".to_owned();
    for reason in reasons {
        out.push_str(&format!("{reason}\n"));
    }
    out
}

fn plane(plane: &ControlPlane) -> Value {
    json!({
        "server": plane.server,
        "authorities": plane.authorities,
        "connected": plane.connected,
        "problem": plane.problem,
    })
}

fn to_json(process: &Process) -> Value {
    let targets = process.targets.iter().map(|target| {
        let problem = target.problem();
        json!({
            "name": &*target.name,
            "authority": &*target.authority,
            "ready": problem.is_none(),
            "problem": problem,
        })
    });
    let servers = process.servers.iter().map(|server| {
        json!({
            "listener": &*server.listener,
            "serving": server.problem.is_none(),
            "problem": server.problem,
        })
    });
    let reasons = process.unready();
    json!({
        "state": state(process),
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "node": process.node.as_ref().map(|node| json!({
            "id": node.id,
            "cluster": node.cluster,
        })),
        "control_plane": process.control_plane.as_ref().map(plane),
        "control_planes": process.control_planes.iter().map(plane).collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
        "servers": servers.collect::<Vec<_>>(),
    })
}
