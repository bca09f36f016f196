//! `sidestep-interop-judge`: the corpus of resources, for judges of any language.
//!
//! `expand --out FOLDER` writes what a management server serves (`FOLDER/resources/`, in the form of
//! `sidestep-interop-mgmt`), and what a judge subscribes to and waits for (`FOLDER/plan.json`, and
//! `FOLDER/bootstrap.json` with `ADDRESS` in the server's place).
//! `judge` is our runtime's own judge: under the control plane of `GRPC_XDS_BOOTSTRAP` it subscribes
//! to everything and prints a `verdict` event for each case, as `tests/interop/go/judge` does.
//! `compare --theirs FILE --ours FILE` holds two such outputs against each other and against what is
//! recorded of grpc-go and justified in `docs/parity.md`.
//!
//! `order FILE` writes which messages `tests/interop/go/truth` is to make; `truth FILE` reads what it
//! made and tells whether anything was lost in our types.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidestep::Mesh;
use sidestep::inspect::Status;
use sidestep_interop::corpus::{self, Case, Verdict};
use sidestep_interop::truth;

/// How long the control plane may take in all.
const LIMIT: Duration = Duration::from_secs(60);

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["expand", "--out", folder] => expand(Path::new(folder)),
        ["judge"] => judge().await,
        ["compare", "--theirs", theirs, "--ours", ours] => compare(theirs, ours),
        ["order", file] => std::fs::write(file, truth::order().to_string()).map_err(Into::into),
        ["truth", file] => check_truth(file),
        _ => Err("expected: expand, judge, compare, order or truth".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(json!({"event": "error", "message": error.to_string()}));
            ExitCode::from(2)
        }
    }
}

fn say(mut event: Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    event["t_ms"] = json!(now.unwrap_or_default().as_secs_f64() * 1e3);
    println!("{event}");
}

fn expand(folder: &Path) -> Result<(), Error> {
    let cases = corpus::load(corpus::folder())?;
    let served = folder.join("resources");
    std::fs::create_dir_all(&served)?;
    let own = cases.iter().map(|case| &case.json);
    let parents = corpus::parents(&cases);
    let all: Vec<&Value> = own.chain(parents.iter().map(|(json, _)| json)).collect();
    std::fs::write(
        served.join("corpus.json"),
        json!({"resources": all}).to_string(),
    )?;
    let waited: Vec<Value> = cases
        .iter()
        .map(|case| json!({"name": case.name, "type": case.resource_type.type_url()}))
        .collect();
    let plan = json!({"targets": corpus::targets(&cases), "cases": waited});
    std::fs::write(folder.join("plan.json"), plan.to_string())?;
    let bootstrap = corpus::bootstrap("ADDRESS").to_string();
    std::fs::write(folder.join("bootstrap.json"), bootstrap)?;
    Ok(())
}

/// The verdicts in a judge's output.
fn read_verdicts(file: &str) -> Result<BTreeMap<String, Result<(), String>>, Error> {
    let text = std::fs::read_to_string(file)?;
    let mut verdicts = BTreeMap::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line)?;
        let case = event["case"].as_str().unwrap_or_default().to_owned();
        if event["event"] == "verdict" {
            let reason = event["error"].as_str().unwrap_or_default().to_owned();
            let accepted = event["accepted"] == true;
            verdicts.insert(case, if accepted { Ok(()) } else { Err(reason) });
        }
    }
    Ok(verdicts)
}

fn compare(theirs: &str, ours: &str) -> Result<(), Error> {
    let folder = corpus::folder();
    let recorded = folder.join("verdicts/grpc-go.json");
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(recorded)?)?;
    let page = std::fs::read_to_string(folder.join("../../../docs/parity.md"))?;
    let justified = corpus::differences(&page)?;
    let theirs = read_verdicts(theirs)?;
    let ours = read_verdicts(ours)?;
    let mut faults = Vec::new();
    for case in corpus::load(folder)? {
        let Some(verdict) = theirs.get(&case.name) else {
            faults.push(format!("{}: not judged by grpc-go", case.name));
            continue;
        };
        let now = Verdict::of(verdict.is_ok()).to_string();
        if recorded["verdicts"][&case.name] != now {
            let reason = verdict.as_ref().err().map_or("", String::as_str);
            faults.push(format!(
                "{}: grpc-go: {now}, not what is recorded {reason}",
                case.name
            ));
        }
    }
    let theirs = theirs
        .iter()
        .map(|(name, v)| (name.clone(), Verdict::of(v.is_ok())))
        .collect();
    faults.extend(corpus::compare(&theirs, &ours, &justified));
    match faults.is_empty() {
        true => {
            say(json!({"event": "summary", "cases": theirs.len(), "differences": justified.len()}));
            Ok(())
        }
        false => Err(faults.join("\n").into()),
    }
}

fn check_truth(file: &str) -> Result<(), Error> {
    let messages = truth::check(&std::fs::read_to_string(file)?)?;
    say(json!({"event": "summary", "messages": messages}));
    Ok(())
}

async fn judge() -> Result<(), Error> {
    let cases = corpus::load(corpus::folder())?;
    let mesh = Mesh::from_env()?;
    let targets = corpus::targets(&cases);
    let channels = targets
        .iter()
        .map(|name| mesh.channel(&format!("xds:///{name}")));
    let _channels = channels.collect::<Result<Vec<_>, _>>()?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let verdicts = verdicts(&mesh).await;
        let missing = cases.iter().find(|case| !verdicts.contains_key(&key(case)));
        match missing {
            None => return report(&cases, &verdicts),
            Some(case) if Instant::now() > deadline => {
                return Err(format!("{}: neither accepted nor refused", case.name).into());
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

type Key = (&'static str, String);

fn key(case: &Case) -> Key {
    (case.resource_type.type_url(), case.name.clone())
}

/// What the process says of its resources: the reason of each refusal.
async fn verdicts(mesh: &Mesh) -> BTreeMap<Key, Option<String>> {
    let resources = mesh.resources().await.unwrap_or_default();
    let judged = resources.into_iter().filter_map(|resource| {
        let failure = resource.failure.map(|failure| failure.details);
        let verdict = match resource.status {
            Status::Acked => None,
            Status::Nacked => Some(failure.unwrap_or_default()),
            _ => return None,
        };
        Some(((resource.resource_type.type_url(), resource.name), verdict))
    });
    judged.collect()
}

fn report(cases: &[Case], verdicts: &BTreeMap<Key, Option<String>>) -> Result<(), Error> {
    for case in cases {
        let reason = &verdicts[&key(case)];
        say(json!({
            "event": "verdict",
            "case": case.name,
            "accepted": reason.is_none(),
            "error": reason.as_deref().unwrap_or_default(),
        }));
    }
    say(json!({"event": "summary", "cases": cases.len()}));
    Ok(())
}
