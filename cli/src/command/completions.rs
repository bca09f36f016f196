//! `sidestep completions`: what shells complete.

use std::io;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::output::Exit;

const EXAMPLES: &str = "\
Examples:
  bash:  source <(sidestep completions bash)
  zsh:   sidestep completions zsh > \"${fpath[1]}/_sidestep\"
  fish:  sidestep completions fish > ~/.config/fish/completions/sidestep.fish";

/// Print what a shell needs to complete the verbs and their flags
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Which shell
    shell: Shell,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let mut command = crate::Arguments::command();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "sidestep", &mut script);
        super::print_whole(&mut io::stdout(), &script)?;
        Ok(Exit::Ok)
    }
}
