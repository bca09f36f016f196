//! The way of a configuration from the mesh file to the processes, and of a call from the client
//! to a server, with the names, revisions and counts of one run.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::mesh::{CALLS, HEADER, Run};
use super::svg::{Canvas, MONO, SANS};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 452.0;
/// The upper edges of the two ways that a call can take.
const ROWS: [f64; 2] = [298.0, 358.0];
const ROW: f64 = 46.0;
/// What the configuration passes is in one colour, what calls pass in another.
const CONFIG: &str = "#8250df";
const CALL: &str = "#0969da";
/// The types as columns of the status, with where each begins.
const TYPES: [(&str, f64); 4] = [
    ("CDS", 598.0),
    ("EDS", 668.0),
    ("LDS", 738.0),
    ("RDS", 808.0),
];

/// The picture.
pub(super) fn draw(run: &Run) -> Result<String> {
    let mut canvas = Canvas::new(WIDTH, HEIGHT);
    let frame = r##"rx="12" fill="#ffffff" stroke="#d0d7de""##;
    canvas.rect([0.5, 0.5, WIDTH - 1.0, HEIGHT - 1.0], frame);
    mesh_file(&mut canvas, &run.mesh_file);
    control_plane(&mut canvas, run)?;
    streams(&mut canvas, &run.status)?;
    let ways = [
        Way::new(run, 0, &format!("with {}", HEADER.replace('=', ": ")))?,
        Way::new(run, 1, "without it")?,
    ];
    processes(&mut canvas, &ways);
    for (way, top) in ways.iter().zip(ROWS) {
        way.draw(&mut canvas, top);
    }
    canvas.text(24.0, 439.0, r#"class="note""#, &caption(&run.status));
    let style = format!(
        "text{{font:12px {SANS};fill:#1f2328}}.m{{font:11px {MONO};white-space:pre}}\
         .t{{font-weight:600;font-size:13px}}.note{{fill:#59636e;font-size:11px}}\
         .ok{{fill:#1a7f37}}.call{{fill:{CALL};font-weight:600}}.config{{fill:{CONFIG}}}"
    );
    let heads = head("config", CONFIG) + &head("call", CALL);
    let title = "From the mesh file to a call: control plane, ADS streams, client, servers";
    Ok(canvas.finish(title, &style, &heads))
}

fn head(id: &str, colour: &str) -> String {
    format!(
        r#"<marker id="{id}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0,0L8,4L0,8Z" fill="{colour}"/></marker>"#
    )
}

fn caption(status: &Value) -> String {
    let revision = text(&status["revision"]);
    format!(
        "A real run: revision {revision}, {CALLS} calls, four processes. Made by cargo xtask pictures."
    )
}

/// From the service's endpoints on: what the client's ways come from.
fn mesh_file(canvas: &mut Canvas, file: &str) {
    card(canvas, [24.0, 24.0, 300.0, 136.0], "#fff8c5", "#d4a72c");
    canvas.text(36.0, 44.0, r#"class="t""#, "mesh file");
    canvas.text(312.0, 44.0, r#"class="m" text-anchor="end""#, "mesh.yaml");
    for (index, line) in excerpt(file).iter().enumerate() {
        canvas.text(
            36.0,
            63.0 + 14.5 * index as f64,
            r#"class="m" xml:space="preserve""#,
            line,
        );
    }
    config_line(canvas, "M326,92H411", false);
    canvas.text(
        368.0,
        84.0,
        r#"class="config" text-anchor="middle""#,
        "every edit",
    );
}

/// The lines from `versions:` on, without comments and without the indent that they share.
fn excerpt(file: &str) -> Vec<&str> {
    let lines = file
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("versions:"));
    lines
        .map(|line| line.split(" #").next().unwrap_or(line).trim_end())
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect()
}

fn control_plane(canvas: &mut Canvas, run: &Run) -> Result<()> {
    card(canvas, [414.0, 24.0, 462.0, 136.0], "#fbefff", CONFIG);
    canvas.text(426.0, 44.0, r#"class="t""#, "control plane");
    let command = format!("sidestep serve, {}", run.control_plane);
    canvas.text(864.0, 44.0, r#"class="m" text-anchor="end""#, &command);
    let state = format!(
        "revision {}: {}",
        text(&run.status["revision"]),
        text(&run.status["summary"])
    );
    canvas.text(426.0, 64.0, "", &state);
    canvas.text(426.0, 90.0, r#"class="note""#, "sidestep status");
    for (name, x) in TYPES {
        canvas.text(x, 90.0, r#"class="note""#, name);
    }
    for (index, client) in clients(&run.status)?.iter().enumerate() {
        let y = 109.0 + 18.0 * index as f64;
        canvas.text(426.0, y, r#"class="m""#, text(&client["node_id"]));
        for (name, x) in TYPES {
            match of_type(client, name) {
                Some(of_type) => {
                    let state = format!(
                        "{} {}",
                        text(&of_type["state"]),
                        text(&of_type["acked_revision"])
                    );
                    canvas.text(x, y, r#"class="m ok""#, &state);
                }
                None => canvas.text(x, y, r#"class="m""#, "-"),
            }
        }
    }
    Ok(())
}

/// The client first, as it stands first below.
fn clients(status: &Value) -> Result<Vec<&Value>> {
    let mut clients: Vec<&Value> = status["clients"]
        .as_array()
        .context("clients")?
        .iter()
        .collect();
    clients.sort_by_key(|client| {
        (
            text(&client["node_cluster"]) != "web",
            text(&client["node_id"]),
        )
    });
    ensure!(clients.len() == 3, "three processes were started");
    Ok(clients)
}

fn of_type<'a>(client: &'a Value, name: &str) -> Option<&'a Value> {
    let types = client["types"].as_array()?;
    types.iter().find(|of_type| of_type["type"] == name)
}

fn streams(canvas: &mut Canvas, status: &Value) -> Result<()> {
    let clients = clients(status)?;
    config_line(canvas, "M450,163V219", true);
    let what = format!("ADS stream, {}: {}", variant(clients[0]), types(clients[0]));
    canvas.text(438.0, 187.0, r#"class="config" text-anchor="end""#, &what);
    canvas.text(
        438.0,
        203.0,
        r#"class="note" text-anchor="end""#,
        "one for all channels of the process",
    );
    config_line(canvas, "M722,163V219", true);
    config_line(canvas, "M794,163V219", true);
    let what = format!(
        "ADS streams, {}: {}",
        variant(clients[1]),
        types(clients[1])
    );
    canvas.text(710.0, 187.0, r#"class="config" text-anchor="end""#, &what);
    canvas.text(
        710.0,
        203.0,
        r#"class="note" text-anchor="end""#,
        "one for each server process",
    );
    Ok(())
}

/// The types that a process asked for.
fn types(client: &Value) -> String {
    let asked = TYPES
        .iter()
        .filter(|(name, _)| of_type(client, name).is_some());
    asked.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

/// The frames around the ways: the client's process, the servers'.
fn processes(canvas: &mut Canvas, ways: &[Way; 2]) {
    card(canvas, [24.0, 222.0, 466.0, 196.0], "#ddf4ff", CALL);
    canvas.text(36.0, 243.0, r#"class="t""#, "client process");
    canvas.text(
        478.0,
        243.0,
        r#"class="m" text-anchor="end""#,
        "split-client",
    );
    canvas.text(
        36.0,
        264.0,
        r#"class="m""#,
        "mesh.channel(\"xds:///greeter\")",
    );
    for (x, name) in [
        (36.0, "route"),
        (192.0, "cluster"),
        (348.0, "endpoint picker"),
    ] {
        canvas.text(x, 289.0, r#"class="note""#, name);
    }
    card(canvas, [640.0, 222.0, 236.0, 196.0], "#dafbe1", "#1a7f37");
    canvas.text(652.0, 243.0, r#"class="t""#, "server processes");
    canvas.text(
        864.0,
        243.0,
        r#"class="m" text-anchor="end""#,
        "hello-server",
    );
    let small = r#"class="m" style="font-size:10px""#;
    canvas.text(652.0, 264.0, small, &ways[0].identity);
    canvas.text(652.0, 289.0, r#"class="note""#, "endpoint, node");
}

/// What becomes of one kind of call.
#[derive(Debug)]
struct Way {
    rule: String,
    call: String,
    cluster: String,
    percent: String,
    policy: String,
    endpoint: String,
    security: String,
    /// Who the server must be.
    identity: String,
    /// The node that listens there.
    node: String,
    answers: String,
}

impl Way {
    fn new(run: &Run, index: usize, call: &str) -> Result<Self> {
        let explanation = &run.explanations[index];
        let rules = explanation["rules"].as_array().context("rules")?;
        let rule = rules.iter().find(|rule| rule["takes_the_call"] == true);
        let cluster = &explanation["outcome"]["clusters"][0];
        let share = cluster["percent"].as_f64().context("a share")?;
        let endpoint = text(&cluster["endpoints"][0]["address"]);
        let (security, identity) = text(&cluster["security"])
            .split_once(", the server must be ")
            .context("an authenticated server")?;
        let answers = run.answers.get(endpoint);
        let answers = answers.with_context(|| format!("no call was answered by {endpoint}"))?;
        Ok(Self {
            rule: text(&rule.context("a rule that takes the call")?["name"]).to_owned(),
            call: call.to_owned(),
            cluster: text(&cluster["name"]).to_owned(),
            percent: format!("{share:.0} % of them"),
            policy: text(&cluster["policy"]).to_owned(),
            endpoint: endpoint.to_owned(),
            security: security.to_owned(),
            identity: identity.to_owned(),
            node: server_at(&run.status, endpoint)?.to_owned(),
            answers: format!("{answers} calls"),
        })
    }

    fn draw(&self, canvas: &mut Canvas, top: f64) {
        let middle = top + ROW / 2.0;
        let steps = [
            (36.0, 130.0, &self.rule, &self.call),
            (192.0, 130.0, &self.cluster, &self.percent),
            (348.0, 130.0, &self.endpoint, &self.policy),
            (652.0, 212.0, &self.endpoint, &self.node),
        ];
        for (x, width, name, note) in steps {
            card(canvas, [x, top, width, ROW], "#ffffff", "#d0d7de");
            canvas.text(x + 10.0, top + 19.0, r#"class="m""#, name);
            canvas.text(x + 10.0, top + 36.0, r#"class="note""#, note);
        }
        for (from, to) in [(166.0, 190.0), (322.0, 346.0), (478.0, 649.0)] {
            let line = format!("M{from},{middle}H{to}");
            let attributes =
                format!(r#"stroke="{CALL}" stroke-width="1.5" marker-end="url(#call)""#);
            canvas.path(&line, &attributes);
        }
        let centred = r#"class="call" text-anchor="middle""#;
        canvas.text(
            565.0,
            middle - 8.0,
            centred,
            &format!("h2, {}", self.security),
        );
        canvas.text(565.0, middle + 17.0, centred, &self.answers);
    }
}

/// The node that asked for the listener of this address.
fn server_at<'a>(status: &'a Value, address: &str) -> Result<&'a str> {
    let listens = |client: &&Value| {
        let names = of_type(client, "LDS").and_then(|of_type| of_type["names"].as_array());
        let mut names = names.into_iter().flatten();
        names.any(|name| text(name).ends_with(&format!("={address}")))
    };
    let client = clients(status)?.into_iter().find(listens);
    let client = client.with_context(|| format!("no process listens on {address}"))?;
    Ok(text(&client["node_id"]))
}

/// How the stream sends resources, in full.
fn variant(client: &Value) -> &str {
    match text(&client["variant"]) {
        "sotw" => "state of the world",
        other => other,
    }
}

fn card(canvas: &mut Canvas, shape: [f64; 4], fill: &str, stroke: &str) {
    canvas.rect(shape, &format!(r#"rx="7" fill="{fill}" stroke="{stroke}""#));
}

/// A line that configuration takes; both ways where it is acknowledged.
fn config_line(canvas: &mut Canvas, d: &str, acknowledged: bool) {
    let start = if acknowledged {
        r#" marker-start="url(#config)""#
    } else {
        ""
    };
    let attributes = format!(
        r#"stroke="{CONFIG}" stroke-width="1.5" fill="none" marker-end="url(#config)"{start}"#
    );
    canvas.path(d, &attributes);
}

/// The text of a JSON string; nothing for everything else.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use serde_json::json;

    fn explanation(rule: &str, cluster: &str, endpoint: &str) -> Value {
        json!({
            "rules": [
                {"name": "other", "takes_the_call": false},
                {"name": rule, "takes_the_call": true},
            ],
            "outcome": {"clusters": [{
                "name": cluster, "percent": 100.0, "policy": "round robin",
                "security": "mutual TLS, the server must be spiffe://d/sa/s",
                "endpoints": [{"address": endpoint}],
            }]},
        })
    }

    fn run() -> Run {
        let client = |id: &str, cluster: &str, name: &str| {
            let types = [json!({
                "type": "LDS", "state": "SYNCED", "acked_revision": "7", "names": [name],
            })];
            json!({"node_id": id, "node_cluster": cluster, "variant": "sotw", "types": types})
        };
        Run {
            mesh_file: "mesh: v1\n    versions: {a: b}   # why\n    routes:\n      - x\n".into(),
            control_plane: "127.0.0.1:9".into(),
            status: json!({
                "revision": "7",
                "summary": "2 services",
                "clients": [client("s-1", "s", "l=h:1"), client("c", "web", "s"), client("s-2", "s", "l=h:2")],
            }),
            explanations: [
                explanation("beta", "s/new", "h:2"),
                explanation("main", "s/old", "h:1"),
            ],
            answers: BTreeMap::from([("h:1".to_owned(), 150), ("h:2".to_owned(), 50)]),
        }
    }

    #[test]
    fn the_picture_says_what_was_seen() {
        let svg = draw(&run()).expect("draws");
        for said in [
            "127.0.0.1:9",
            "revision 7: 2 services",
            ">SYNCED 7<",
            ">c<",
            ">s-1<",
            ">s-2<",
            ">beta<",
            ">main<",
            ">s/new<",
            ">s/old<",
            ">50 calls<",
            ">150 calls<",
            "spiffe://d/sa/s",
            "with x-beta: 1",
            "state of the world: LDS",
            "100 % of them",
        ] {
            assert!(svg.contains(said), "{said}");
        }
        assert!(!svg.contains("why"), "comments stay in the file");
    }

    #[test]
    fn a_server_that_answered_nothing_is_an_error() {
        let mut run = run();
        run.answers.remove("h:2");
        let error = draw(&run).expect_err("a way without an answer");
        assert_eq!(error.to_string(), "no call was answered by h:2");
    }

    #[test]
    fn excerpts_are_moved_to_the_left() {
        assert_eq!(
            excerpt(&run().mesh_file),
            ["versions: {a: b}", "routes:", "  - x"]
        );
    }
}
