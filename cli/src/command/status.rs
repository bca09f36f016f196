//! `sidestep status`: who runs what.

mod process;
mod sources;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidestep_proto::code;
use sidestep_proto::wire::operations::{
    ClientStatus, StatusRequest, StatusResponse, TypeStatus, type_status::State,
};
use sidestep_server::OPERATIONS_STATUS;

use crate::dial::{Security, chain, dial};
use crate::error;
use crate::output::{Cell, Exit, Style, table};

/// A server that answers at all answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  sidestep status
  sidestep status --server unix:/run/sidestep.sock
  sidestep status --server mesh.example:18000 --ca ca.pem --cert web.pem --key web.key
  sidestep status --process 127.0.0.1:9901
  sidestep status --json | jq '.clients[] | select(.types[].state == \"NACKED\")'

Columns: CDS clusters, EDS endpoints, LDS listeners, RDS routes. In each:
  SYNCED n    the client runs revision n
  PENDING n   revision n was sent, the client has not answered yet
  NACKED n    the client refused revision n and keeps what it had; the reason follows below
  NEVER-SENT  the client asked, nothing has been sent yet
  -           the client has not asked

With --process, one process is asked what it runs: the admin endpoint that it opens by
mesh.admin(\"127.0.0.1:9901\"), or any gRPC process with client status discovery (CSDS). Shown are
its resources, and the clusters and endpoints that it calls.

SOURCE lists the living sources of endpoints (`dns`, `targets`): AGE is the time since the source
last told its list; one that fails keeps the last, and what is wrong follows.

Ends with 0 if all is well, 3 if the server or the process cannot be reached, 4 if a client refused
its configuration, the newest edit was refused or a source of endpoints fails; with --process, 4 if
the process is not ready, one of its resources is refused, missing or late, or none of the
endpoints of a cluster can be reached.";

/// Show who is connected, which revision each process runs, and what was refused.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The server to ask: HOST:PORT or unix:/PATH
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:18000",
        env = "SIDESTEP_SERVER"
    )]
    server: String,

    /// Ask this process instead: HOST:PORT or unix:/PATH of its admin endpoint
    #[arg(long, value_name = "ADDR")]
    process: Option<String>,

    #[command(flatten)]
    security: Security,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        if let Some(process) = &self.process {
            return Ok(process::run(process, self.json).await);
        }
        let status = match tokio::time::timeout(PATIENCE, ask(&self.server, &self.security)).await {
            Ok(Ok(status)) => status,
            Ok(Err(reason)) => return Ok(unreachable(&self.server, &reason)),
            Err(_) => return Ok(unreachable(&self.server, "no answer within 5 s")),
        };
        if self.json {
            println!("{:#}", to_json(&status));
        } else {
            print!("{}", to_text(&status, Style::of(&std::io::stdout())));
        }
        Ok(verdict(&status))
    }
}

fn unreachable(server: &str, reason: &str) -> Exit {
    let style = Style::of(&std::io::stderr());
    let text = format!("no answer from {server}: {reason}");
    let code = code::NO_ANSWER;
    eprintln!("{}", error::shown(style, code, &text, code.hint()));
    Exit::Unreachable
}

async fn ask(server: &str, security: &Security) -> Result<StatusResponse, String> {
    let channel = dial(server, security).await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| chain(&error))?;
    let codec = tonic_prost::ProstCodec::<StatusRequest, StatusResponse>::default();
    let path = http::uri::PathAndQuery::from_static(OPERATIONS_STATUS);
    let request = tonic::Request::new(StatusRequest {});
    match grpc.unary(request, path, codec).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(chain(&status)),
    }
}

fn verdict(status: &StatusResponse) -> Exit {
    let refused = status.refusal.is_some()
        || status.sources.iter().any(|source| !source.error.is_empty())
        || status
            .clients
            .iter()
            .flat_map(|client| &client.types)
            .any(|of_type| of_type.state() == State::Nacked);
    if refused { Exit::Partial } else { Exit::Ok }
}

/// The types in the order of the columns.
const TYPES: [(&str, &str); 4] = [
    ("CDS", "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
    (
        "EDS",
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    ),
    (
        "LDS",
        "type.googleapis.com/envoy.config.listener.v3.Listener",
    ),
    (
        "RDS",
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    ),
];

fn short_type(type_url: &str) -> &str {
    TYPES
        .iter()
        .find(|(_, url)| *url == type_url)
        .map_or(type_url, |(short, _)| short)
}

fn to_text(status: &StatusResponse, style: Style) -> String {
    let mut out = format!("revision {}: {}\n", status.revision, status.summary);
    if let Some(refusal) = &status.refusal {
        out.push_str(&style.bad("the newest edit was refused:"));
        out.push('\n');
        for line in &refusal.errors {
            out.push_str(&format!("  {line}\n"));
        }
    }
    out.push('\n');
    out.push_str(&sources::to_text(&status.sources, SystemTime::now(), style));
    if status.clients.is_empty() {
        out.push_str("no client is connected\n");
        return out;
    }
    let heading = ["CLIENT", "SERVICE", "AGENT", "PEER", "STREAM"]
        .into_iter()
        .chain(TYPES.map(|(short, _)| short));
    let mut rows = vec![
        heading
            .map(|text| Cell::painted(text, Style::strong))
            .collect::<Vec<_>>(),
    ];
    rows.extend(status.clients.iter().map(row));
    out.push_str(&table(style, &rows));
    for client in &status.clients {
        for of_type in &client.types {
            if of_type.state() == State::Nacked {
                out.push_str(&refused(client, of_type, style));
            }
        }
    }
    out
}

fn row(client: &ClientStatus) -> Vec<Cell> {
    let mut cells: Vec<Cell> = [
        &client.node_id,
        &client.node_cluster,
        &client.user_agent,
        &client.peer,
        &client.variant,
    ]
    .map(|text| Cell::plain(if text.is_empty() { "-" } else { text }))
    .into();
    for (_, url) in TYPES {
        let of_type = client.types.iter().find(|t| t.type_url == url);
        cells.push(of_type.map_or_else(|| Cell::plain("-"), state_cell));
    }
    cells
}

fn state_cell(of_type: &TypeStatus) -> Cell {
    let word = word(of_type.state());
    match of_type.state() {
        State::Synced => Cell::painted(format!("{word} {}", of_type.acked_revision), Style::good),
        State::Pending => Cell::painted(format!("{word} {}", of_type.sent_revision), Style::odd),
        State::Nacked => Cell::painted(format!("{word} {}", of_type.nacked_revision), Style::bad),
        State::NeverSent | State::Unspecified => Cell::painted(word, Style::odd),
    }
}

fn refused(client: &ClientStatus, of_type: &TypeStatus, style: Style) -> String {
    let kept = if of_type.acked_revision.is_empty() {
        "it has none yet".to_owned()
    } else {
        format!("it keeps revision {}", of_type.acked_revision)
    };
    format!(
        "\n{} {} refused revision {} of {} ({kept}):\n  {}\n",
        style.bad("NACK"),
        client.node_id,
        of_type.nacked_revision,
        short_type(&of_type.type_url),
        of_type.nack_error.replace('\n', "\n  ")
    )
}

fn word(state: State) -> &'static str {
    match state {
        State::Unspecified => "UNKNOWN",
        State::NeverSent => "NEVER-SENT",
        State::Pending => "PENDING",
        State::Synced => "SYNCED",
        State::Nacked => "NACKED",
    }
}

fn to_json(status: &StatusResponse) -> Value {
    json!({
        "revision": status.revision,
        "summary": status.summary,
        "refusal": status.refusal.as_ref().map(|refusal| json!({
            "at": seconds(refusal.at.as_ref()),
            "errors": refusal.errors,
        })),
        "sources": sources::to_json(&status.sources, SystemTime::now()),
        "clients": status.clients.iter().map(client_to_json).collect::<Vec<_>>(),
    })
}

fn client_to_json(client: &ClientStatus) -> Value {
    json!({
        "node_id": client.node_id,
        "node_cluster": client.node_cluster,
        "user_agent": client.user_agent,
        "peer": client.peer,
        "variant": client.variant,
        "connected_at": seconds(client.connected_at.as_ref()),
        "types": client.types.iter().map(type_to_json).collect::<Vec<_>>(),
    })
}

fn type_to_json(of_type: &TypeStatus) -> Value {
    json!({
        "type": short_type(&of_type.type_url),
        "type_url": of_type.type_url,
        "state": word(of_type.state()),
        "sent_revision": of_type.sent_revision,
        "acked_revision": of_type.acked_revision,
        "nacked_revision": of_type.nacked_revision,
        "nack_error": of_type.nack_error,
        "names": of_type.names,
        "updated_at": seconds(of_type.updated_at.as_ref()),
    })
}

/// Seconds since 1970, UTC.
fn seconds(timestamp: Option<&prost_types::Timestamp>) -> Option<f64> {
    let time = SystemTime::try_from(*timestamp?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidestep_proto::wire::operations::Refusal;

    fn of_type(index: usize, state: State) -> TypeStatus {
        TypeStatus {
            type_url: TYPES[index].1.to_owned(),
            state: state.into(),
            sent_revision: "3".to_owned(),
            acked_revision: "2".to_owned(),
            ..TypeStatus::default()
        }
    }

    fn status(types: Vec<TypeStatus>) -> StatusResponse {
        StatusResponse {
            revision: "3".to_owned(),
            summary: "1 service, 1 endpoint".to_owned(),
            refusal: None,
            sources: Vec::new(),
            clients: vec![ClientStatus {
                node_id: "web-1".to_owned(),
                node_cluster: "web".to_owned(),
                peer: "127.0.0.1:4242".to_owned(),
                variant: "delta".to_owned(),
                types,
                ..ClientStatus::default()
            }],
        }
    }

    /// A pipe: never coloured.
    pub(super) fn plain() -> Style {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        Style::of(&std::os::fd::OwnedFd::from(reader))
    }

    #[test]
    fn each_type_has_its_column() {
        let status = status(vec![
            of_type(0, State::Synced),
            of_type(1, State::Pending),
            of_type(3, State::NeverSent),
        ]);
        assert_eq!(
            to_text(&status, plain()),
            "revision 3: 1 service, 1 endpoint\n\n\
             CLIENT  SERVICE  AGENT  PEER            STREAM  CDS       EDS        LDS  RDS\n\
             web-1   web      -      127.0.0.1:4242  delta   SYNCED 2  PENDING 3  -    NEVER-SENT\n"
        );
        assert_eq!(verdict(&status), Exit::Ok);
    }

    #[test]
    fn a_nack_shows_its_reason_and_what_is_kept() {
        let nacked = TypeStatus {
            nacked_revision: "3".to_owned(),
            nack_error: "Listener \"l\": no".to_owned(),
            ..of_type(2, State::Nacked)
        };
        let status = status(vec![nacked]);
        let text = to_text(&status, plain());
        let expected =
            "\nNACK web-1 refused revision 3 of LDS (it keeps revision 2):\n  Listener \"l\": no\n";
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(verdict(&status), Exit::Partial);
        assert_eq!(
            to_json(&status)["clients"][0]["types"][0]["state"],
            "NACKED"
        );
    }

    #[test]
    fn a_refused_edit_comes_first() {
        let status = StatusResponse {
            refusal: Some(Refusal {
                at: None,
                errors: vec!["mesh.yaml:1:1: no".to_owned()],
            }),
            ..StatusResponse::default()
        };
        let text = to_text(&status, plain());
        assert!(
            text.contains("the newest edit was refused:\n  mesh.yaml:1:1: no\n"),
            "{text}"
        );
        assert!(text.ends_with("no client is connected\n"), "{text}");
        assert_eq!(verdict(&status), Exit::Partial);
    }
}
