//! The options of `cargo xtask interop`.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, bail, ensure};

use super::cast::Cast;
use super::scenario::{self, Scenario};

/// How many scenarios are played at a time: most of their time is waiting.
const JOBS: usize = 4;

/// How the suite is to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// `NAME` or `NAME/CAST`; nothing: all.
    only: Vec<String>,
    /// Times that each is played.
    pub(super) repeat: usize,
    /// Played at a time.
    pub(super) jobs: usize,
    pub(super) full: bool,
    pub(super) json: bool,
    pub(super) write: bool,
    pub(super) list: bool,
}

impl Options {
    pub(super) fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            only: Vec::new(),
            repeat: 1,
            jobs: JOBS,
            full: false,
            json: false,
            write: false,
            list: false,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let value = arguments.next().copied();
                value.with_context(|| format!("{argument} needs a value"))
            };
            match *argument {
                "--list" => options.list = true,
                "--json" => options.json = true,
                "--full" => options.full = true,
                // Cells that this run does not play say so.
                "--write" => options.write = true,
                "--repeat" => options.repeat = number(argument, value()?)?,
                "--jobs" => options.jobs = number(argument, value()?)?,
                "--only" => options.only.push(known(value()?)?),
                other => bail!("not an option: {other}"),
            }
        }
        ensure!(
            options.only.is_empty() || !options.write,
            "--write is about all scenarios, --only about some"
        );
        Ok(options)
    }

    /// Whether the run is about everything that a run can be about.
    pub(super) fn is_whole(&self) -> bool {
        self.only.is_empty()
    }

    /// Whether this is to be played.
    pub(super) fn wants(&self, scenario: &Scenario, cast: &Cast) -> bool {
        if self.only.is_empty() {
            return (self.full && scenario.can_be_played()) || scenario.is_quick(cast);
        }
        // Who names a cast, or asks for all, is given it, whatever it takes.
        self.only.iter().any(|only| match only.split_once('/') {
            Some((name, wanted)) => name == scenario.name && wanted == cast.to_string(),
            None => {
                only == scenario.name
                    && (self.full || scenario.is_quick(cast) || !has_quick(scenario))
            }
        })
    }
}

/// A scenario of full runs only is played whole when it is named.
fn has_quick(scenario: &Scenario) -> bool {
    scenario.casts.iter().any(|cast| scenario.is_quick(cast))
}

fn number(argument: &str, value: &str) -> Result<usize> {
    let number: NonZeroUsize = value
        .parse()
        .with_context(|| format!("{argument}: not a number from 1: {value:?}"))?;
    Ok(number.get())
}

/// A name that there is.
fn known(only: &str) -> Result<String> {
    let (name, cast) = match only.split_once('/') {
        Some((name, cast)) => (name, Some(cast)),
        None => (only, None),
    };
    let scenario = scenario::all().find(|s| s.name == name);
    let scenario = scenario.with_context(|| format!("no scenario {name:?}; --list shows all"))?;
    if let Some(wanted) = cast {
        let is_cast = scenario.casts.iter().any(|c| c.to_string() == wanted);
        ensure!(is_cast, "{name} has no cast {wanted:?}; --list shows all");
    }
    Ok(only.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parsed =
            Options::parse(&["--only", "envoy-delta", "--json", "--repeat", "20"]).unwrap();
        assert_eq!(parsed.only, ["envoy-delta"]);
        assert!(parsed.json && !parsed.list && !parsed.is_whole());
        assert_eq!((parsed.repeat, parsed.jobs), (20, JOBS));
        for (arguments, expected) in [
            (&["--only"][..], "--only needs a value"),
            (&["--only", "x"], "no scenario \"x\"; --list shows all"),
            (
                &["--only", "baseline/x"],
                "baseline has no cast \"x\"; --list shows all",
            ),
            (&["--jobs", "0"], "--jobs: not a number from 1: \"0\""),
            (&["--fast"], "not an option: --fast"),
        ] {
            let error = Options::parse(arguments).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_cast_by_name_is_played_alone() {
        let options = Options::parse(&["--only", "baseline/go-ours-serve"]).unwrap();
        let wanted: Vec<String> = scenario::all()
            .flat_map(|s| s.casts.iter().map(move |c| (s, c)))
            .filter(|(s, c)| options.wants(s, c))
            .map(|(s, c)| format!("{}/{c}", s.name))
            .collect();
        assert_eq!(wanted, ["baseline/go-ours-serve"]);
    }

    #[test]
    fn what_is_written_is_about_everything() {
        assert!(Options::parse(&["--write"]).unwrap().write);
        assert!(Options::parse(&["--write", "--only", "baseline"]).is_err());
    }
}
