//! `sidestep explain`: where would a call go, and why?

mod answer;

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sidestep_proto::code;

use crate::error::{self, Coded};
use crate::output::{Exit, Style};
use answer::{Answer, Outcome, Question, Share};

const EXAMPLES: &str = "\
Examples:
  sidestep explain greeter --mesh mesh.yaml
      a call of any method

  sidestep explain greeter hello.Greeter/SayHello -H x-beta=1 --mesh mesh.yaml
      a call of this method with this header

  sidestep explain greeter --as web --mesh mesh.yaml --json
      what the service `web` would experience, as JSON

Needs no server: compiles the mesh file as `serve` does, decodes it as a client does, and asks the
route table that routes real calls.

Ends with 0 if the call would be sent, 1 if it would fail or the mesh file is not right.";

/// Show where a call would go, and why: with the same code that routes real calls.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The service as callers dial it, with or without xds:///
    service: String,

    /// The method: pkg.Service/Method; left out, one that no rule names
    #[arg(value_name = "METHOD", default_value = "/")]
    method: String,

    /// A header of the call; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// The service that calls
    #[arg(long = "as", value_name = "CALLER")]
    caller: Option<String>,

    /// Mesh files, or directories of them; together they are one mesh
    #[arg(
        long,
        required = true,
        value_name = "FILE|DIR",
        env = "SIDESTEP_MESH",
        value_delimiter = ':'
    )]
    mesh: Vec<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let checked = match sidestep_server::check(&self.mesh) {
            Ok(checked) => checked,
            Err(error) => {
                let style = Style::of(&std::io::stderr());
                for diagnostic in error.diagnostics() {
                    eprintln!("{}", error::finding(style, &diagnostic));
                }
                return Ok(Exit::Failed);
            }
        };
        let question = Question {
            service: self.service.trim_start_matches("xds:///").to_owned(),
            path: format!("/{}", self.method.trim_start_matches('/')),
            headers: self.headers.into_iter().collect::<HeaderMap>(),
            caller: self.caller,
        };
        let answer = answer::find(&checked, &question)
            .map_err(|text| Coded::new(code::NO_SUCH_SERVICE, text))?;
        if self.json {
            println!("{:#}", to_json(&question, &answer));
        } else {
            print(&question, &answer, Style::of(&std::io::stdout()));
        }
        Ok(match answer.outcome {
            Outcome::Sent { .. } => Exit::Ok,
            Outcome::Fails(_) => Exit::Failed,
        })
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let name = name.parse().map_err(|e| format!("{name:?}: {e}"))?;
    let value = value.parse().map_err(|e| format!("{value:?}: {e}"))?;
    Ok((name, value))
}

fn print(question: &Question, answer: &Answer, style: Style) {
    println!("{}", style.strong(&title(question)));
    println!("  listener   {}", answer.listener);
    println!("  routes     {}", answer.routes);
    if let Some(caller) = &answer.caller {
        println!("  caller     {caller}; no rule here depends on who calls");
    }
    for rule in &answer.rules {
        let name = rule.name.as_deref().unwrap_or("(unnamed)");
        match &rule.refused {
            Some(reason) => println!("  rule       {name}: no, {reason}"),
            None => println!("  rule       {name}: {}", style.good("takes the call")),
        }
    }
    match &answer.outcome {
        Outcome::Fails(reason) => println!("  {}", style.bad(&format!("fails: {reason}"))),
        Outcome::Sent {
            shares,
            timeout,
            retry,
        } => {
            println!("  time       {timeout}");
            println!("  retries    {retry}");
            for share in shares {
                print_share(share);
            }
        }
    }
}

fn title(question: &Question) -> String {
    let method = match question.path.as_str() {
        "/" => "any method that no rule names",
        path => path,
    };
    format!("{}: {method}", question.service)
}

fn print_share(share: &Share) {
    println!(
        "  {:>6.2} %   {}: {}, {}",
        share.percent, share.cluster, share.policy, share.security
    );
    for endpoint in &share.endpoints {
        println!("             {endpoint}");
    }
}

fn to_json(question: &Question, answer: &Answer) -> Value {
    let rules: Vec<Value> = answer
        .rules
        .iter()
        .map(|rule| {
            json!({
                "name": rule.name,
                "takes_the_call": rule.refused.is_none(),
                "reason": rule.refused,
            })
        })
        .collect();
    json!({
        "service": question.service,
        "path": question.path,
        "caller": answer.caller,
        "listener": answer.listener,
        "routes": answer.routes,
        "rules": rules,
        "outcome": outcome_to_json(&answer.outcome),
    })
}

fn outcome_to_json(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Fails(reason) => json!({"sent": false, "reason": reason}),
        Outcome::Sent {
            shares,
            timeout,
            retry,
        } => json!({
            "sent": true,
            "timeout": timeout,
            "retry": retry,
            "clusters": shares.iter().map(share_to_json).collect::<Vec<_>>(),
        }),
    }
}

fn share_to_json(share: &Share) -> Value {
    json!({
        "name": share.cluster,
        "percent": share.percent,
        "policy": share.policy,
        "security": share.security,
        "endpoints": share.endpoints,
    })
}
