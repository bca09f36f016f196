//! `sidestep help`: of a verb, or of an error's code.

use clap::CommandFactory as _;
use serde_json::{Value, json};
use sidestep_proto::code::{self, Code, Entry};

use crate::error::Coded;
use crate::output::{Cell, Exit, Style, table};
use crate::pages;

const EXAMPLES: &str = "\
Examples:
  sidestep help serve            what `serve` does, with examples
  sidestep help SX0205           what this error means, and what to do about it
  sidestep help --list           all error codes
  sidestep help --list --json | jq -r '.[].code'

Every error ends with its code, in brackets. The pages are part of this binary and stand in
docs/errors as well.";

/// Explain a verb, or the code of an error
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A verb, or a code as in SX0205; left out, everything in short
    #[arg(value_name = "VERB|CODE")]
    topic: Option<String>,

    /// List all error codes
    #[arg(long, conflicts_with = "topic")]
    list: bool,

    /// Print JSON: for codes
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        if self.list {
            self.print_list();
            return Ok(Exit::Ok);
        }
        let Some(topic) = self.topic.as_deref() else {
            return print_verb(None);
        };
        match topic.parse::<Code>() {
            Ok(code) => {
                self.print_page(code);
                Ok(Exit::Ok)
            }
            Err(_) if looks_like_a_code(topic) => {
                let text = format!("there is no error code {topic}");
                Err(Coded::new(code::NO_SUCH_CODE, text).into())
            }
            Err(_) => print_verb(Some(topic)),
        }
    }

    fn print_list(&self) {
        if self.json {
            let all: Vec<Value> = code::ALL.iter().map(entry_as_json).collect();
            println!("{:#}", Value::from(all));
            return;
        }
        let style = Style::of(&std::io::stdout());
        let mut rows = vec![
            ["CODE", "ERROR"]
                .map(|t| Cell::painted(t, Style::strong))
                .into(),
        ];
        for entry in code::ALL {
            rows.push(vec![
                Cell::plain(entry.code.to_string()),
                Cell::plain(entry.what),
            ]);
        }
        print!("{}", table(style, &rows));
    }

    fn print_page(&self, code: Code) {
        let page = pages::find(code).unwrap_or_default();
        if !self.json {
            print!("{page}");
            return;
        }
        let entry = code::ALL.iter().find(|entry| entry.code == code);
        if let Some(mut answer) = entry.map(entry_as_json) {
            answer["page"] = json!(page);
            println!("{answer:#}");
        }
    }
}

fn entry_as_json(entry: &Entry) -> Value {
    json!({"code": entry.code, "what": entry.what, "hint": entry.hint})
}

fn looks_like_a_code(topic: &str) -> bool {
    let upper = topic.to_ascii_uppercase();
    let digits = upper.strip_prefix("SX").unwrap_or(&upper);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn print_verb(verb: Option<&str>) -> anyhow::Result<Exit> {
    let mut root = crate::Arguments::command();
    root.build();
    let command = match verb {
        None => Some(&mut root),
        Some(verb) => root.find_subcommand_mut(verb),
    };
    let Some(command) = command else {
        let verb = verb.unwrap_or_default();
        let text = format!("{verb:?} is neither a verb nor an error code");
        return Err(Coded::new(code::NO_SUCH_CODE, text).into());
    };
    // If nobody reads any more, there is nobody to tell.
    let _ = command.print_long_help();
    Ok(Exit::Ok)
}
