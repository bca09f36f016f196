//! `sidestep status --process`: what one process runs.

use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Value, json};
use sidestep_proto::wire::status::{
    ClientConfig, ClientResourceStatus, client_config::GenericXdsConfig,
};

use super::{seconds, short_type};
use crate::output::{Cell, Exit, Style, table};
use crate::process::{Process, no_answer};

/// What was found.
struct Found {
    /// More than one where a process has several xDS clients, as other languages' have.
    clients: Vec<ClientConfig>,
    /// The pages that only ours have.
    ready: Option<Value>,
    clusters: Option<Value>,
}

/// Asks, prints, and says whether all is well.
pub(super) async fn run(address: &str, json: bool) -> Exit {
    let found = match ask(address).await {
        Ok(found) => found,
        Err(reason) => {
            no_answer(address, &reason);
            return Exit::Unreachable;
        }
    };
    if json {
        println!("{:#}", to_json(&found));
    } else {
        let style = Style::of(&std::io::stdout());
        print!("{}", to_text(&found, style, SystemTime::now()));
    }
    verdict(&found)
}

async fn ask(address: &str) -> Result<Found, String> {
    let process = Process::dial(address).await?;
    let clients = process.client_status().await?.config;
    Ok(Found {
        clients,
        ready: page(&process, "/ready?format=json").await,
        clusters: page(&process, "/clusters?format=json").await,
    })
}

/// `None` where a process has no such page.
async fn page(process: &Process, path: &str) -> Option<Value> {
    let (status, body) = process.page(path).await.ok()?;
    let is_there = matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE);
    serde_json::from_str(&body).ok().filter(|_| is_there)
}

fn resources(found: &Found) -> impl Iterator<Item = &GenericXdsConfig> {
    found.clients.iter().flat_map(|c| &c.generic_xds_configs)
}

/// A resource that was asked for only just is no trouble yet.
fn is_well(resource: &GenericXdsConfig) -> bool {
    use ClientResourceStatus::{Acked, Requested};
    matches!(resource.client_status(), Acked | Requested)
}

fn verdict(found: &Found) -> Exit {
    let ready = found.ready.as_ref().is_none_or(|r| r["ready"] == true);
    let clusters = found.clusters.as_ref().map(|c| &c["cluster_statuses"]);
    let mut clusters = clusters.and_then(Value::as_array).into_iter().flatten();
    let reachable = clusters.all(|c| c["connectivity"] != "TRANSIENT_FAILURE");
    if ready && reachable && resources(found).all(is_well) {
        Exit::Ok
    } else {
        Exit::Partial
    }
}

fn to_text(found: &Found, style: Style, now: SystemTime) -> String {
    let mut out = head(found, style);
    if resources(found).next().is_some() {
        out.push('\n');
        let heading = ["TYPE", "NAME", "STATUS", "VERSION", "UPDATED"];
        let mut rows = vec![
            heading
                .map(|text| Cell::painted(text, Style::strong))
                .into(),
        ];
        rows.extend(resources(found).map(|r| resource_row(r, now)));
        out.push_str(&table(style, &rows));
    }
    for resource in resources(found) {
        if let Some(error) = &resource.error_state {
            let name = format!("{} {}", short_type(&resource.type_url), resource.name);
            let kept = match resource.version_info.as_str() {
                "" => "nothing of it is in use".to_owned(),
                version => format!("version {version} stays in use"),
            };
            let word = style.bad(resource.client_status().as_str_name());
            let details = error.details.replace('\n', "\n  ");
            out.push_str(&format!("\n{word} {name} ({kept}):\n  {details}\n"));
        }
    }
    let clusters = found.clusters.as_ref().map(|c| &c["cluster_statuses"]);
    let clusters = clusters.and_then(Value::as_array).filter(|c| !c.is_empty());
    if let Some(clusters) = clusters {
        out.push('\n');
        out.push_str(&cluster_table(clusters, style));
    }
    out
}

fn head(found: &Found, style: Style) -> String {
    let mut out = String::new();
    for client in &found.clients {
        let node = client.node.clone().unwrap_or_default();
        let scope = match client.client_scope.as_str() {
            "" => String::new(),
            scope => format!(", for {scope}"),
        };
        let agent = match node.user_agent_name.as_str() {
            "" => String::new(),
            agent => format!(", {agent}"),
        };
        let (id, cluster) = (or_dash(&node.id), or_dash(&node.cluster));
        out.push_str(&format!("process {id} ({cluster}){agent}{scope}\n"));
    }
    if found.clients.is_empty() {
        out.push_str("a process without a control plane\n");
    }
    let Some(ready) = &found.ready else {
        return out;
    };
    let state = ready["state"].as_str().unwrap_or_default();
    let is_ready = ready["ready"] == true;
    let painted = match is_ready {
        true => style.good(state),
        false => style.bad(state),
    };
    out.push_str(&format!("state {painted}\n"));
    let plane = &ready["control_plane"];
    if let Some(server) = plane["server"].as_str() {
        let state = match (&plane["connected"], plane["problem"].as_str()) {
            (Value::Bool(true), _) => style.good("connected"),
            (_, Some(problem)) => style.odd(&format!("not connected: {problem}")),
            _ => style.odd("not connected"),
        };
        out.push_str(&format!("control plane {server}: {state}\n"));
    }
    for reason in ready["reasons"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}\n", reason.as_str().unwrap_or_default()));
    }
    out
}

fn resource_row(resource: &GenericXdsConfig, now: SystemTime) -> Vec<Cell> {
    let status = resource.client_status();
    let paint = match status {
        ClientResourceStatus::Acked => Style::good,
        ClientResourceStatus::Requested => Style::odd,
        _ => Style::bad,
    };
    let updated = resource.last_updated.as_ref();
    let updated = updated.and_then(|at| SystemTime::try_from(*at).ok());
    let age = updated.and_then(|at| now.duration_since(at).ok());
    vec![
        Cell::plain(short_type(&resource.type_url)),
        Cell::plain(&resource.name),
        Cell::painted(status.as_str_name(), paint),
        Cell::plain(or_dash(&resource.version_info)),
        Cell::plain(age.map_or_else(|| "-".to_owned(), |age| ago(age.as_secs()))),
    ]
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn cluster_table(clusters: &[Value], style: Style) -> String {
    let heading = [
        "CLUSTER",
        "ENDPOINT",
        "ZONE",
        "PRIORITY",
        "WEIGHT",
        "STATE",
        "CALLS",
        "LAST ERROR",
    ];
    let mut rows = vec![
        heading
            .map(|text| Cell::painted(text, Style::strong))
            .into(),
    ];
    for cluster in clusters {
        let limit = &cluster["circuit_breakers"]["thresholds"][0];
        let calls = match limit["max_requests"].as_u64() {
            Some(max) if max < u64::from(u32::MAX) => format!("{}/{max}", limit["rq_active"]),
            _ => limit["rq_active"].to_string(),
        };
        rows.push(vec![
            Cell::plain(text(&cluster["name"])),
            Cell::plain(text(&cluster["lb_policy"])),
            Cell::plain(""),
            Cell::plain(""),
            Cell::plain(""),
            state_cell(&cluster["connectivity"]),
            Cell::plain(calls),
            Cell::plain(cluster["error"].as_str().unwrap_or_default()),
        ]);
        let hosts = cluster["host_statuses"].as_array();
        rows.extend(hosts.into_iter().flatten().map(host_row));
    }
    table(style, &rows)
}

fn host_row(host: &Value) -> Vec<Cell> {
    let health = text(&host["health_status"]["eds_health_status"]);
    let state = match text(&host["connectivity"]) {
        "NOT_USED" => Cell::painted(health, Style::odd),
        _ => state_cell(&host["connectivity"]),
    };
    vec![
        Cell::plain(""),
        Cell::plain(address(&host["address"])),
        Cell::plain(or_dash(text(&host["locality"]["zone"]))),
        Cell::plain(host["priority"].to_string()),
        Cell::plain(host["weight"].to_string()),
        state,
        Cell::plain(text(&host["stats"][0]["value"])),
        Cell::plain(text(&host["last_error"]["reason"])),
    ]
}

fn address(address: &Value) -> String {
    let socket = &address["socket_address"];
    match (socket["address"].as_str(), socket["port_value"].as_u64()) {
        (Some(ip), Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
        (Some(ip), Some(port)) => format!("{ip}:{port}"),
        _ => format!("unix:{}", text(&address["pipe"]["path"])),
    }
}

fn state_cell(word: &Value) -> Cell {
    let word = text(word);
    let paint = match word {
        "READY" => Style::good,
        "TRANSIENT_FAILURE" => Style::bad,
        _ => Style::odd,
    };
    Cell::painted(word, paint)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn to_json(found: &Found) -> Value {
    let resources = resources(found).map(|resource| {
        json!({
            "type": short_type(&resource.type_url),
            "type_url": resource.type_url,
            "name": resource.name,
            "status": resource.client_status().as_str_name(),
            "version": resource.version_info,
            "updated_at": seconds(resource.last_updated.as_ref()),
            "error": resource.error_state.as_ref().map(|error| json!({
                "details": error.details,
                "version": error.version_info,
                "at": seconds(error.last_update_attempt.as_ref()),
            })),
        })
    });
    let nodes = found.clients.iter().map(|client| {
        let node = client.node.clone().unwrap_or_default();
        json!({"id": node.id, "cluster": node.cluster, "scope": client.client_scope})
    });
    json!({
        "nodes": nodes.collect::<Vec<_>>(),
        "ready": found.ready,
        "resources": resources.collect::<Vec<_>>(),
        "clusters": found.clusters.as_ref().map(|c| &c["cluster_statuses"]),
    })
}

#[cfg(test)]
mod tests {
    use sidestep_proto::wire::status::UpdateFailureState;

    use super::super::TYPES;
    use super::super::tests::plain;
    use super::*;

    fn found(status: ClientResourceStatus) -> Found {
        let error = (status == ClientResourceStatus::Nacked).then(|| UpdateFailureState {
            details: "Cluster \"c\": no".into(),
            ..UpdateFailureState::default()
        });
        Found {
            clients: vec![ClientConfig {
                generic_xds_configs: vec![GenericXdsConfig {
                    type_url: TYPES[0].1.into(),
                    name: "c".into(),
                    version_info: "7".into(),
                    client_status: status.into(),
                    last_updated: Some(prost_types::Timestamp::default()),
                    error_state: error,
                    ..GenericXdsConfig::default()
                }],
                ..ClientConfig::default()
            }],
            ready: None,
            clusters: None,
        }
    }

    #[test]
    fn a_process_of_another_kind_is_shown_too() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(300);
        let well = found(ClientResourceStatus::Acked);
        assert_eq!(
            to_text(&well, plain(), now),
            "process - (-)\n\n\
             TYPE  NAME  STATUS  VERSION  UPDATED\n\
             CDS   c     ACKED   7        5 min ago\n"
        );
        assert_eq!(verdict(&well), Exit::Ok);
        let refused = found(ClientResourceStatus::Nacked);
        let text = to_text(&refused, plain(), now);
        let reason = "NACKED CDS c (version 7 stays in use):\n  Cluster \"c\": no\n";
        assert!(text.ends_with(reason), "{text}");
        assert_eq!(verdict(&refused), Exit::Partial);
    }
}
