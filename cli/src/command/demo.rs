//! `sidestep demo`: a whole mesh in one process.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;

use crate::demo::{self, Options};
use crate::output::Exit;

const EXAMPLES: &str = "\
Examples:
  sidestep demo                          watch it; keys: space, n, 1-9, q
  sidestep demo --plain                  all scenes once, as lines and a table
  sidestep demo --plain --scene rolling  one scene
  sidestep demo --for 30s
  sidestep demo --keep ./mesh            leave mesh file, bootstraps and certificates behind

Everything runs on loopback and is real: ADS over TCP, mutual TLS, the same code as in
production. Beside the mesh, a control group makes the same calls over tonic's own balanced
channel with static addresses.

With --plain, ends with 0 only if every promise held, with 1 otherwise.";

/// See a whole mesh at work: routing, balancing, retries, and what happens when things break.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// End after this time: 30s, 2m
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    limit: Option<Duration>,

    /// Lines instead of the terminal view; the default where there is no terminal
    #[arg(long)]
    plain: bool,

    /// Play this scene only; may be given several times
    #[arg(long = "scene", value_name = "NAME", value_parser = PossibleValuesParser::new(demo::scene_names()))]
    scenes: Vec<String>,

    /// Leave mesh file, bootstraps and certificates in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Print a JSON summary (with --plain); lines go to standard error
    #[arg(long)]
    json: bool,

    /// Repeats the demo's own random choices
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Calls a second of each of the two groups
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        demo::run(Options {
            limit: self.limit,
            plain: self.plain || self.json || !std::io::stdout().is_terminal(),
            json: self.json,
            scenes: self.scenes,
            keep: self.keep,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..)),
            calls_per_second: self.rate,
        })
        .await
    }
}

/// `30s`, `2m`, `500ms`: a number needs a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let number: u64 = number
        .parse()
        .map_err(|_| "a time is a number and a unit: 30s, 2m".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "" => Err(format!("a time needs a unit: {number}s")),
        other => Err(format!("unknown unit {other:?}; there are ms, s and m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["30", "s", "", "30h", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
