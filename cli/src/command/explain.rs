//! `sidestep explain`: where would a call go, and why?

mod answer;

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sidestep::explain::{Answer, Tone};
use sidestep_proto::code;

use crate::error::{self, Coded};
use crate::output::{Exit, Style};
use crate::process::{Process, no_answer, parameter};
use answer::Question;

const EXAMPLES: &str = "\
Examples:
  sidestep explain greeter --mesh mesh.yaml
      a call of any method

  sidestep explain greeter hello.Greeter/SayHello -H x-beta=1 --mesh mesh.yaml
      a call of this method with this header

  sidestep explain greeter --as web --mesh mesh.yaml --json
      what the service `web` would experience, as JSON

  sidestep explain xds:///greeter hello.Greeter/SayHello --process 127.0.0.1:9901
      the same call made by a running process now, with the state of each endpoint

With --process, the process is asked at its admin endpoint, mesh.admin(\"127.0.0.1:9901\"). Without it,
no server is needed: compiles the mesh file as `serve` does, decodes it as a client does, and asks the
route table that routes real calls.

Ends with 0 if the call would be sent, 1 if it would fail or the mesh file is not right, 3 if the
process cannot be reached.";

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
        required_unless_present = "process",
        value_name = "FILE|DIR",
        env = "SIDESTEP_MESH",
        value_delimiter = ':'
    )]
    mesh: Vec<PathBuf>,

    /// Ask this process: HOST:PORT or unix:/PATH of its admin endpoint
    #[arg(long, value_name = "ADDR", conflicts_with = "caller")]
    process: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        if let Some(process) = &self.process {
            return self.ask(process).await;
        }
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
        print(&answer, self.json)
    }
}

impl Arguments {
    async fn ask(&self, address: &str) -> anyhow::Result<Exit> {
        let asked = async { Process::dial(address).await?.page(&self.page()).await };
        let (status, body) = match asked.await {
            Ok(answer) => answer,
            Err(reason) => {
                no_answer(address, &reason);
                return Ok(Exit::Unreachable);
            }
        };
        if status != StatusCode::OK {
            anyhow::bail!("{}", body.trim_end());
        }
        print(&serde_json::from_str(&body)?, self.json)
    }

    fn page(&self) -> String {
        let mut page = format!(
            "/explain?format=json&{}&{}",
            parameter("target", &self.service),
            parameter("path", &self.method)
        );
        for (name, value) in &self.headers {
            // Whatever was typed on a command line is text.
            let value = String::from_utf8_lossy(value.as_bytes());
            page.push('&');
            page.push_str(&parameter("header", &format!("{name}:{value}")));
        }
        page
    }
}

fn print(answer: &Answer, json: bool) -> anyhow::Result<Exit> {
    if json {
        println!("{:#}", serde_json::to_value(answer)?);
    } else {
        let style = Style::of(&std::io::stdout());
        let text = answer.to_text(|tone, text| match tone {
            Tone::Strong => style.strong(text),
            Tone::Good => style.good(text),
            Tone::Bad => style.bad(text),
        });
        print!("{text}");
    }
    Ok(match answer.outcome.fails() {
        false => Exit::Ok,
        true => Exit::Failed,
    })
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let name = name.parse().map_err(|e| format!("{name:?}: {e}"))?;
    let value = value.parse().map_err(|e| format!("{value:?}: {e}"))?;
    Ok((name, value))
}
