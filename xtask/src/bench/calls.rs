//! What a call costs, by case: `call` under callgrind and memcheck, and the bars that it meets.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{number_after, per_time, program};
use crate::codegen::root;

/// One load, and who carries it.
struct Case {
    name: &'static str,
    /// As `call client` takes them.
    flags: &'static [&'static str],
    /// Measured at its server, which is this one.
    server: Option<&'static str>,
    /// The same load carried by tonic alone.
    tonic: &'static str,
    /// Also where there is no time for all.
    short: bool,
}

impl Case {
    const fn new(name: &'static str, tonic: &'static str, flags: &'static [&'static str]) -> Self {
        Self {
            name,
            flags,
            server: None,
            tonic,
            short: false,
        }
    }

    const fn in_short(self) -> Self {
        Self {
            short: true,
            ..self
        }
    }

    /// Measured at a server of its own, under the same client.
    const fn at_server(self, stack: &'static str) -> Self {
        Self {
            server: Some(stack),
            ..self
        }
    }
}

/// Unary, 128 B each way, 16 in flight, to three endpoints in plaintext, unless the flags say
/// otherwise.
const CASES: &[Case] = &[
    Case::new("sidestep", "tonic", &["--case", "sidestep"]).in_short(),
    Case::new("tonic", "tonic", &["--case", "tonic"]).in_short(),
    Case::new("h2", "tonic", &["--case", "h2"]).in_short(),
    Case::new("retry", "tonic", &["--case", "retry"]).in_short(),
    Case::new("metrics", "tonic", &["--case", "metrics"]).in_short(),
    Case::new("full", "tonic", &["--case", "full"]).in_short(),
    Case::new("server", "tonic-server", &["--case", "tonic"])
        .at_server("sidestep")
        .in_short(),
    Case::new("tonic-server", "tonic-server", &["--case", "tonic"])
        .at_server("tonic")
        .in_short(),
    Case::new("opentelemetry", "tonic", &["--case", "opentelemetry"]),
    Case::new("one", "tonic-one", &["--in-flight", "1"]),
    Case::new(
        "tonic-one",
        "tonic-one",
        &["--case", "tonic", "--in-flight", "1"],
    ),
    Case::new("16k", "tonic-16k", &["--payload", "16384"]),
    Case::new(
        "tonic-16k",
        "tonic-16k",
        &["--case", "tonic", "--payload", "16384"],
    ),
    Case::new("mtls", "tonic-mtls", &["--mtls"]),
    Case::new("tonic-mtls", "tonic-mtls", &["--case", "tonic", "--mtls"]),
    Case::new(
        "mtls-16k",
        "tonic-mtls-16k",
        &["--mtls", "--payload", "16384"],
    ),
    Case::new(
        "tonic-mtls-16k",
        "tonic-mtls-16k",
        &["--case", "tonic", "--mtls", "--payload", "16384"],
    ),
    Case::new("stream", "tonic-stream", &["--stream"]),
    Case::new(
        "tonic-stream",
        "tonic-stream",
        &["--case", "tonic", "--stream"],
    ),
];

/// Calls of the few and the many whose difference is taken: start-up falls out.
const INSTRUCTION_RUNS: (u32, u32) = (500, 3_500);
const ALLOCATION_RUNS: (u32, u32) = (2_000, 6_000);

/// What a bar bounds.
enum Bound {
    Instructions,
    Allocations,
    /// Instructions in those of another case.
    Of(&'static str),
    /// Instructions beyond those of another case.
    Above(&'static str),
}

/// Most that a case may cost, and what is aimed at.
struct Bar {
    case: &'static str,
    bound: Bound,
    gate: f64,
    aim: f64,
}

const fn bar(case: &'static str, bound: Bound, gate: f64, aim: f64) -> Bar {
    Bar {
        case,
        bound,
        gate,
        aim,
    }
}

const BARS: &[Bar] = &[
    bar("sidestep", Bound::Instructions, 44_700.0, 41_000.0),
    bar("sidestep", Bound::Allocations, 24.0, 20.0),
    bar("full", Bound::Instructions, 48_000.0, 43_000.0),
    bar("retry", Bound::Of("sidestep"), 1.10, 1.05),
    bar("metrics", Bound::Of("sidestep"), 1.10, 1.05),
    bar("server", Bound::Above("tonic-server"), 2_000.0, 0.0),
    bar("16k", Bound::Of("tonic-16k"), 0.94, 0.90),
    bar("mtls", Bound::Of("tonic-mtls"), 0.82, 0.80),
];

/// What a call costs in one case.
struct Cost {
    case: &'static Case,
    instructions: f64,
    allocations: f64,
}

/// What calls cost.
pub(super) struct Costs(Vec<Cost>);

impl Costs {
    pub(super) fn measure(short: bool) -> Result<Self> {
        let lab = Process::start(&["serve"])?;
        let cases = CASES.iter().filter(|case| case.short || !short);
        let cost = |case: &'static Case| -> Result<Cost> {
            let callgrind = |calls| {
                let flags = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
                number_after(&lab.valgrind(&flags, case, calls)?, "Collected :")
            };
            let memcheck = |calls| {
                let flags = [
                    "--tool=memcheck",
                    "--leak-check=no",
                    "--undef-value-errors=no",
                ];
                number_after(&lab.valgrind(&flags, case, calls)?, "total heap usage:")
            };
            Ok(Cost {
                case,
                instructions: per_time(INSTRUCTION_RUNS, callgrind)?,
                allocations: per_time(ALLOCATION_RUNS, memcheck)?,
            })
        };
        Ok(Self(cases.map(cost).collect::<Result<_>>()?))
    }

    /// Bars that do not hold, and costs above the baseline.
    pub(super) fn faults(&self) -> Result<Vec<String>> {
        let mut faults = self.above_baseline()?;
        for bar in BARS {
            if let Some(value) = self.value(bar)
                && value > bar.gate
            {
                faults.push(format!("{}: {}", bar.in_words(), bar.judge(value)));
            }
        }
        Ok(faults)
    }

    pub(super) fn report(&self) -> Value {
        let cases = self.0.iter().map(|cost| {
            json!({
                "case": cost.case.name,
                "instructions": cost.instructions,
                "allocations": cost.allocations,
                "instructions_of_tonic": self.ratio(cost, cost.case.tonic),
                "instructions_of_sidestep": self.ratio(cost, "sidestep"),
            })
        });
        let bars = BARS.iter().filter_map(|bar| {
            let value = self.value(bar)?;
            Some(json!({
                "bar": bar.in_words(),
                "case": bar.case,
                "value": value,
                "gate": bar.gate,
                "aim": bar.aim,
                "holds": value <= bar.gate,
            }))
        });
        json!({ "cases": cases.collect::<Vec<_>>(), "bars": bars.collect::<Vec<_>>() })
    }

    pub(super) fn print(&self) {
        println!(
            "a call, 128 B each way, 16 in flight, 3 endpoints unless the name says otherwise"
        );
        println!(
            "{:<16}{:>14}{:>13}{:>10}",
            "", "instructions", "allocations", "of tonic"
        );
        for cost in &self.0 {
            let of_tonic = self.ratio(cost, cost.case.tonic).unwrap_or(f64::NAN);
            println!(
                "{:<16}{:>14.0}{:>13.1}{of_tonic:>10.3}",
                cost.case.name, cost.instructions, cost.allocations
            );
        }
        for bar in BARS {
            if let Some(value) = self.value(bar) {
                println!("{}: {}", bar.in_words(), bar.judge(value));
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Cost> {
        self.0.iter().find(|cost| cost.case.name == name)
    }

    fn ratio(&self, cost: &Cost, other: &str) -> Option<f64> {
        Some(cost.instructions / self.find(other)?.instructions)
    }

    /// `None`: it was not measured.
    fn value(&self, bar: &Bar) -> Option<f64> {
        let cost = self.find(bar.case)?;
        match bar.bound {
            Bound::Instructions => Some(cost.instructions),
            Bound::Allocations => Some(cost.allocations),
            Bound::Of(other) => self.ratio(cost, other),
            Bound::Above(other) => Some(cost.instructions - self.find(other)?.instructions),
        }
    }

    fn above_baseline(&self) -> Result<Vec<String>> {
        let baseline = Baseline::read(&root().join("benches/baseline.json"))?;
        let mut faults = Vec::new();
        for cost in &self.0 {
            let name = cost.case.name;
            let Some([instructions, allocations, tolerance]) = baseline.of(name)? else {
                continue;
            };
            for (what, value, known) in [
                ("instructions", cost.instructions, instructions),
                ("allocations", cost.allocations, allocations),
            ] {
                if value > known * (1.0 + tolerance) {
                    faults.push(format!(
                        "{name}: {value:.1} {what}, the baseline is {known}"
                    ));
                }
            }
        }
        Ok(faults)
    }
}

impl Bar {
    fn in_words(&self) -> String {
        let case = self.case;
        match self.bound {
            Bound::Instructions => format!("{case}, instructions"),
            Bound::Allocations => format!("{case}, allocations"),
            Bound::Of(other) => format!("{case}, instructions of {other}'s"),
            Bound::Above(other) => format!("{case}, instructions above {other}'s"),
        }
    }

    fn judge(&self, value: f64) -> String {
        let Self { gate, aim, .. } = self;
        let verdict = if value <= *aim {
            "meets the aim"
        } else if value <= *gate {
            "holds"
        } else {
            "does not hold"
        };
        match self.bound {
            Bound::Of(_) => format!("{value:.3}, bar {gate}, aim {aim}: {verdict}"),
            _ => format!("{value:.1}, bar {gate}, aim {aim}: {verdict}"),
        }
    }
}

/// What each case came to when it was last written down, and how far off it may be.
struct Baseline(BTreeMap<String, Value>);

impl Baseline {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    /// Instructions, allocations, and the share of both that they may be above it. `None`: nobody
    /// has written it down yet, and the case is only shown.
    fn of(&self, case: &str) -> Result<Option<[f64; 3]>> {
        let Some(known) = self.0.get(case) else {
            return Ok(None);
        };
        let number = |key: &str| {
            let number = known[key].as_f64();
            number.with_context(|| format!("baseline of {case}: {key}"))
        };
        Ok(Some([
            number("instructions")?,
            number("allocations")?,
            number("tolerance")?,
        ]))
    }
}

/// Servers, in a process that lives as long as this.
struct Process {
    child: Child,
    /// What it said about where they are: what clients are told.
    place: String,
}

impl Process {
    /// `call` with these arguments.
    fn start(arguments: &[&str]) -> Result<Self> {
        Self::spawn(Command::new(program("call")).args(arguments))
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let output = child.stdout.take().context("its output is piped")?;
        let mut place = String::new();
        BufReader::new(output).read_line(&mut place)?;
        Ok(Self {
            child,
            place: place.trim().to_owned(),
        })
    }

    /// What valgrind says of a client, or of a server, through which `calls` calls go.
    fn valgrind(&self, flags: &[&str], case: &Case, calls: u32) -> Result<String> {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(flags).arg(program("call"));
        match case.server {
            None => said(client(&mut valgrind, case, calls, &self.place), case),
            Some(stack) => {
                valgrind.args(["server", "--stack", stack, "--lab", &self.place]);
                let mut server = Self::spawn(valgrind.stderr(Stdio::piped()))?;
                let mut call = Command::new(program("call"));
                said(client(&mut call, case, calls, &server.place), case)?;
                server.ended()
            }
        }
    }

    /// Has it end, and returns what it said.
    fn ended(&mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let mut said = String::new();
        if let Some(errors) = &mut self.child.stderr {
            std::io::Read::read_to_string(errors, &mut said)?;
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "{said}");
        Ok(said)
    }
}

impl Drop for Process {
    /// The process ends with its input; if it has ended already there is nothing to do.
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn client<'a>(command: &'a mut Command, case: &Case, calls: u32, place: &str) -> &'a mut Command {
    command
        .arg("client")
        .args(case.flags)
        .args(["--calls", &calls.to_string(), "--lab", place])
}

/// Runs it to its end.
fn said(command: &mut Command, case: &Case) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} (is valgrind installed?)"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {said}", case.name);
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(all: &[(&str, f64)]) -> Costs {
        let cost = |(name, instructions): &(&str, f64)| Cost {
            case: CASES.iter().find(|case| case.name == *name).unwrap(),
            instructions: *instructions,
            allocations: 1.0,
        };
        Costs(all.iter().map(cost).collect())
    }

    #[test]
    fn every_name_that_a_case_a_bar_or_the_baseline_mentions_is_a_case() {
        let known = |name: &str| CASES.iter().any(|case| case.name == name);
        let baseline = Baseline::read(&root().join("benches/baseline.json")).unwrap();
        for case in CASES {
            assert!(known(case.tonic), "{}", case.tonic);
            baseline.of(case.name).unwrap();
        }
        for case in baseline.0.keys() {
            assert!(known(case), "{case}");
        }
        for bar in BARS {
            assert!(known(bar.case), "{}", bar.case);
            if let Bound::Of(other) | Bound::Above(other) = bar.bound {
                assert!(known(other), "{other}");
            }
            assert!(bar.aim <= bar.gate, "{}", bar.in_words());
        }
    }

    #[test]
    fn bars_compare_with_what_they_name() {
        let costs = costs(&[
            ("sidestep", 40_000.0),
            ("retry", 60_000.0),
            ("server", 51_000.0),
            ("tonic-server", 48_000.0),
        ]);
        let value = |case: &str| costs.value(BARS.iter().rfind(|bar| bar.case == case).unwrap());
        assert_eq!(value("retry"), Some(1.5));
        assert_eq!(value("server"), Some(3_000.0));
        assert_eq!(value("16k"), None, "it was not measured");
        let report = costs.report();
        assert_eq!(report["cases"][1]["instructions_of_sidestep"], 1.5);
        assert_eq!(report["bars"][2]["holds"], false);
    }
}
