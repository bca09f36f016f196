//! `sidestep man`: the help texts as manual pages.

use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::output::Exit;

const EXAMPLES: &str = "\
Examples:
  sidestep man | man -l -
  sidestep man --out ~/.local/share/man/man1    one page a verb: man sidestep-serve";

/// Print the manual page, or write one for each verb
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Write all pages into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let command = crate::Arguments::command().disable_help_subcommand(true);
        match self.out {
            None => {
                let mut page = Vec::new();
                Man::new(command).render(&mut page)?;
                super::print_whole(&mut io::stdout(), &page)?;
            }
            Some(directory) => std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(command, &directory))
                .with_context(|| format!("cannot write to {}", directory.display()))?,
        }
        Ok(Exit::Ok)
    }
}
