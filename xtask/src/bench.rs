//! `cargo xtask bench`: what a call costs, against the bars.
//!
//! Instructions (callgrind) and allocations (memcheck) are the same on every machine to about one
//! percent, so they gate; times are shown.

mod balancing;
mod calls;
mod micro;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::codegen::root;

/// Whose calls are timed.
const TIMED: [&str; 5] = ["sidestep", "tonic", "h2", "metrics", "opentelemetry"];

/// What the command line asks for.
#[derive(Default)]
pub(crate) struct Options {
    /// Counts only, no clocks.
    short: bool,
    /// Picks and lists of endpoints only, no calls.
    picks: bool,
    /// Routes only, no calls.
    micro: bool,
    /// Also time a cold build.
    build: bool,
    json: bool,
}

impl Options {
    /// `None`: an option is not known.
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        for argument in arguments {
            match *argument {
                "--short" => options.short = true,
                "--picks" => options.picks = true,
                "--micro" => options.micro = true,
                "--build" => options.build = true,
                "--json" => options.json = true,
                _ => return None,
            }
        }
        Some(options)
    }
}

impl Options {
    /// What is to be built: each takes a while to link.
    fn programs(&self) -> &'static [&'static str] {
        match (self.picks, self.micro) {
            (true, false) => &["pick"],
            (false, true) => &["route"],
            (true, true) => &["pick", "route"],
            (false, false) if self.short => &["call", "pick", "route"],
            (false, false) => &["call", "pick", "route", "config_change"],
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut build = vec!["build", "--release", "-p", "sidestep-benches", "--locked"];
    for program in options.programs() {
        build.extend(["--bin", program]);
    }
    crate::check::cargo(&build)?;
    // Each of the two is all there is if it is asked for by name.
    let parts = |of: bool, other: bool| of || !other;
    let balancing = parts(options.picks, options.micro)
        .then(|| balancing::Costs::measure(options.short))
        .transpose()?;
    let routes = parts(options.micro, options.picks)
        .then(|| micro::Routes::measure(options.short))
        .transpose()?;
    let calls = (!options.picks && !options.micro)
        .then(|| calls::Costs::measure(options.short))
        .transpose()?;
    let mut faults = Vec::new();
    faults.extend(balancing.iter().flat_map(balancing::Costs::faults));
    faults.extend(routes.iter().flat_map(micro::Routes::faults));
    if let Some(calls) = &calls {
        faults.extend(calls.faults()?);
    }
    if options.json {
        let mut report = calls.as_ref().map_or_else(no_calls, calls::Costs::report);
        report["faults"] = json!(faults);
        if let Some(balancing) = &balancing {
            report["balancing"] = balancing.report();
        }
        if let Some(routes) = &routes {
            report["routes"] = routes.report();
        }
        println!("{report:#}");
    } else {
        if let Some(calls) = &calls {
            calls.print();
        }
        balancing.iter().for_each(balancing::Costs::print);
        routes.iter().for_each(micro::Routes::print);
    }
    if !options.short && !options.picks && !options.micro {
        time(&["config_change"])?;
        for case in TIMED {
            time(&["call", "run", "--calls", "60000", "--case", case])?;
        }
    }
    if options.build {
        cold_build()?;
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

fn no_calls() -> Value {
    json!({ "cases": [] })
}

/// What single steps cost, as JSON: for the report.
pub(crate) fn micro(short: bool) -> Result<Value> {
    crate::check::cargo(&["build", "--release", "-p", "sidestep-benches", "--locked"])?;
    micro::report(short)
}

fn per_time((few, many): (u32, u32), total: impl Fn(u32) -> Result<u64>) -> Result<f64> {
    let difference = total(many)?.saturating_sub(total(few)?);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    Ok(difference as f64 / f64::from(many - few))
}

/// The number, with or without separators, that follows `label`.
fn number_after(text: &str, label: &str) -> Result<u64> {
    let rest = text.split_once(label).map(|(_, rest)| rest.trim_start());
    let digits: String = rest
        .unwrap_or_default()
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == ',')
        .filter(char::is_ascii_digit)
        .collect();
    digits
        .parse()
        .with_context(|| format!("no number after {label:?} in {text:?}"))
}

/// Where a bench is built to.
pub(crate) fn program(name: &str) -> PathBuf {
    target().join("release").join(name)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a program that measures by the clock and prints what it finds.
fn time(command: &[&str]) -> Result<()> {
    let (name, arguments) = command.split_first().context("a program")?;
    let status = Command::new(program(name)).args(arguments).status()?;
    ensure!(status.success(), "{name} failed");
    Ok(())
}

/// Builds the demo with nothing built before; downloads are not part of it.
fn cold_build() -> Result<()> {
    crate::check::cargo(&["fetch", "--locked"])?;
    let fresh = target().join("cold");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    let start = Instant::now();
    let status = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--offline", "--target-dir"])
        .arg(&fresh)
        .current_dir(root())
        .status()?;
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&fresh)?;
    if !status.success() {
        bail!("cargo build failed");
    }
    println!("cold `cargo build`: {seconds:.0} s");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_valgrinds_numbers() {
        let said = "==1== Collected : 24216417\n==2==   total heap usage: 63,188 allocs, 7 frees";
        assert_eq!(number_after(said, "Collected :").unwrap(), 24_216_417);
        assert_eq!(number_after(said, "total heap usage:").unwrap(), 63_188);
        assert!(number_after(said, "in use:").is_err());
    }

    #[test]
    fn options_are_known_or_refused() {
        let options = Options::parse(&["--short", "--json"]).unwrap();
        assert!(options.short && options.json && !options.build);
        assert!(Options::parse(&["--long"]).is_none());
    }
}
