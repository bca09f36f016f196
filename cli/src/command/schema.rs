//! `sidestep schema`: the mesh file's JSON Schema, for editors.

use sidestep_server::model;

use crate::output::Exit;

const EXAMPLES: &str = "\
Examples:
  sidestep schema > mesh.schema.json

Begin a mesh file with this line, and editors complete its keys and mark what is wrong:
  # yaml-language-server: $schema=./mesh.schema.json

It knows keys, types and ranges. What one part of a file says about another, only
`sidestep check` can tell.";

/// Print the mesh file's JSON Schema, for editors
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {}

impl Arguments {
    #[allow(clippy::unused_self, reason = "verbs look alike")]
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        println!("{}", serde_json::to_string_pretty(&model::schema())?);
        Ok(Exit::Ok)
    }
}
