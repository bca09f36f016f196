//! `cargo xtask bench`: what a call costs, against the bars.
//!
//! Instructions (callgrind) and allocations (memcheck) are the same on every machine to about one
//! percent, so they gate; times are shown.

mod balancing;
mod micro;

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::codegen::root;

/// What makes the calls, as `call --case` says it. The second is the base of the ratios.
const CASES: [&str; 5] = ["sidestep", "tonic", "h2", "metrics", "opentelemetry"];

/// Calls of the short and the long run whose difference is taken: start-up falls out.
const INSTRUCTION_RUNS: (u32, u32) = (500, 3_500);
const ALLOCATION_RUNS: (u32, u32) = (2_000, 6_000);

/// Most that a call of ours may cost, and what is aimed at next.
const INSTRUCTIONS: Bar = Bar {
    gate: 46_000.0,
    aim: 41_000.0,
};
const ALLOCATIONS: Bar = Bar {
    gate: 27.0,
    aim: 24.0,
};

/// Most that a call with telemetry on may cost, in instructions of one with it off.
const METRICS_OF_OFF: f64 = 1.10;

#[derive(Clone, Copy)]
struct Bar {
    gate: f64,
    aim: f64,
}

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

/// What a call costs its client.
struct Cost {
    case: &'static str,
    instructions: f64,
    allocations: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            case,
            instructions,
            allocations,
        } = self;
        write!(f, "{case:<14}{instructions:>14.0}{allocations:>13.1}")
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut build = vec!["build", "--release", "-p", "sidestep-benches", "--locked"];
    if options.picks {
        build.extend(["--bin", "pick"]);
    }
    if options.micro {
        build.extend(["--bin", "route"]);
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
    let costs = match options.picks || options.micro {
        true => Vec::new(),
        false => costs()?,
    };
    let mut faults = Vec::new();
    faults.extend(balancing.iter().flat_map(balancing::Costs::faults));
    faults.extend(routes.iter().flat_map(micro::Routes::faults));
    if !costs.is_empty() {
        faults.extend(self::faults(&costs)?);
    }
    if options.json {
        let mut report = report(&costs, &faults);
        if let Some(balancing) = &balancing {
            report["balancing"] = balancing.report();
        }
        if let Some(routes) = &routes {
            report["routes"] = routes.report();
        }
        println!("{report:#}");
    } else {
        if !costs.is_empty() {
            print(&costs);
        }
        balancing.iter().for_each(balancing::Costs::print);
        routes.iter().for_each(micro::Routes::print);
    }
    if !options.short && !options.picks && !options.micro {
        time(&["config_change"])?;
        for case in CASES {
            time(&["call", "run", "--calls", "60000", "--case", case])?;
        }
    }
    if options.build {
        cold_build()?;
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// What single steps cost, as JSON: for the report.
pub(crate) fn micro(short: bool) -> Result<Value> {
    crate::check::cargo(&["build", "--release", "-p", "sidestep-benches", "--locked"])?;
    micro::report(short)
}

fn costs() -> Result<Vec<Cost>> {
    let lab = Lab::start()?;
    let cost = |case| -> Result<Cost> {
        Ok(Cost {
            case,
            instructions: per_time(INSTRUCTION_RUNS, |calls| lab.instructions(case, calls))?,
            allocations: per_time(ALLOCATION_RUNS, |calls| lab.allocations(case, calls))?,
        })
    };
    CASES.into_iter().map(cost).collect()
}

fn per_time((few, many): (u32, u32), total: impl Fn(u32) -> Result<u64>) -> Result<f64> {
    let difference = total(many)?.saturating_sub(total(few)?);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    Ok(difference as f64 / f64::from(many - few))
}

/// The servers and the control plane, in a process that is not counted.
struct Lab {
    process: Child,
    addresses: String,
}

impl Lab {
    fn start() -> Result<Self> {
        let mut process = Command::new(program("call"))
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("call serve")?;
        let output = process.stdout.take().context("its output is piped")?;
        let mut addresses = String::new();
        BufReader::new(output).read_line(&mut addresses)?;
        Ok(Self {
            process,
            addresses: addresses.trim().to_owned(),
        })
    }

    fn instructions(&self, case: &str, calls: u32) -> Result<u64> {
        let flags = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
        number_after(&self.valgrind(&flags, case, calls)?, "Collected :")
    }

    fn allocations(&self, case: &str, calls: u32) -> Result<u64> {
        let flags = [
            "--tool=memcheck",
            "--leak-check=no",
            "--undef-value-errors=no",
        ];
        number_after(&self.valgrind(&flags, case, calls)?, "total heap usage:")
    }

    /// What valgrind says of a client that makes `calls` calls.
    fn valgrind(&self, flags: &[&str], case: &str, calls: u32) -> Result<String> {
        let calls = calls.to_string();
        let output = Command::new("valgrind")
            .args(flags)
            .arg(program("call"))
            .args(["client", "--case", case, "--calls", &calls])
            .args(["--lab", &self.addresses])
            .output()
            .context("valgrind (is it installed?)")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{case}: {said}");
        Ok(said)
    }
}

impl Drop for Lab {
    /// The process ends with its input; if it has ended already there is nothing to do.
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
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

pub(crate) fn program(name: &str) -> PathBuf {
    target().join("release").join(name)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Bars that do not hold, and costs above the baseline.
fn faults(costs: &[Cost]) -> Result<Vec<String>> {
    let baseline = baseline(&root().join("benches/baseline.json"))?;
    let tolerance = baseline["tolerance"].as_f64().context("tolerance")?;
    let ours = &costs[0];
    let mut faults = Vec::new();
    for (what, value, bar) in [
        ("instructions", ours.instructions, INSTRUCTIONS),
        ("allocations", ours.allocations, ALLOCATIONS),
    ] {
        if value > bar.gate {
            faults.push(format!("{value:.1} {what} a call, the bar is {}", bar.gate));
        }
        let known = baseline[what].as_f64().context(what)?;
        if value > known * (1.0 + tolerance) {
            faults.push(format!("{value:.1} {what} a call, the baseline is {known}"));
        }
    }
    let observed = costs.iter().find(|cost| cost.case == "metrics");
    let ratio = observed.context("metrics")?.instructions / ours.instructions;
    if ratio > METRICS_OF_OFF {
        faults.push(format!(
            "telemetry makes a call {ratio:.3} times as dear, the bar is {METRICS_OF_OFF}"
        ));
    }
    Ok(faults)
}

fn baseline(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

fn report(costs: &[Cost], faults: &[String]) -> Value {
    let cases = costs.iter().map(|cost| {
        json!({
            "case": cost.case,
            "instructions": cost.instructions,
            "allocations": cost.allocations,
            "instructions_of_tonic": cost.instructions / costs[1].instructions,
            "instructions_of_sidestep": cost.instructions / costs[0].instructions,
        })
    });
    json!({ "cases": cases.collect::<Vec<_>>(), "faults": faults })
}

fn print(costs: &[Cost]) {
    println!("a unary call's client, 128 B, 16 in flight, 3 endpoints");
    println!(
        "{:<14}{:>14}{:>13}{:>10}{:>13}",
        "", "instructions", "allocations", "of tonic", "of sidestep"
    );
    for cost in costs {
        let of = |other: &Cost| cost.instructions / other.instructions;
        println!("{cost}{:>10.2}{:>13.3}", of(&costs[1]), of(&costs[0]));
    }
    println!(
        "{:<14}{:>14}{:>13}",
        "bar", INSTRUCTIONS.gate, ALLOCATIONS.gate
    );
    println!(
        "{:<14}{:>14}{:>13}",
        "aim", INSTRUCTIONS.aim, ALLOCATIONS.aim
    );
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
