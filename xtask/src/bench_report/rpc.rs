//! Whole calls beside peers: clients of one shape over our channel, tonic, tonic-xds, grpc-go and
//! Envoy, against the same servers; `benches/README.md` has the method.
//!
//! ```text
//!   sets ──> stage (servers, control plane, sidecars) ──> run (one client) ──> target/bench-report/rpc.json
//! ```
//!
//! Within a set, all cases run one after the other in each round, so that a round's ratios are of
//! the same minute of the machine. Every process ends with its [`Process`](crate::interop::Process),
//! also on an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::codegen::root;

mod envoy;
mod memory;
mod output;
mod peers;
mod processor;
mod run;
mod sets;
mod stage;

use output::{CaseRounds, Report, SetRounds};
use peers::Peers;
use run::{Round, Size};
use sets::{Load, Set};
use stage::Stage;

/// How much is run.
struct Extent {
    rounds: usize,
    /// How long the counted calls of one run take.
    run: Duration,
    /// The same for an open loop, whose tail is the question.
    open_run: Duration,
}

const FULL: Extent = Extent {
    rounds: 21,
    run: Duration::from_millis(350),
    open_run: Duration::from_millis(800),
};

const SHORT: Extent = Extent {
    rounds: 5,
    run: Duration::from_millis(250),
    open_run: Duration::from_millis(500),
};

/// The set whose cases are given the memory of a connection.
const WITH_MEMORY: &str = "plaintext-128-unary-16";

/// What the command line asks for.
#[derive(Default)]
pub(crate) struct Options {
    /// Fewer rounds of fewer sets.
    short: bool,
    /// Fewer rounds than that.
    rounds: Option<usize>,
    /// These cases only, if there are any.
    only: Vec<String>,
    /// These sets only, if there are any, whether a short run has them or not.
    sets: Vec<String>,
}

impl Options {
    /// `None`: an option is not known.
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--short" => options.short = true,
                "--rounds" => options.rounds = Some(arguments.next()?.parse().ok()?),
                "--only" => options.only = names(arguments.next()?),
                "--sets" => options.sets = names(arguments.next()?),
                _ => return None,
            }
        }
        Some(options)
    }

    /// The sets to run, with the cases to run.
    fn sets(&self) -> Result<Vec<Set>> {
        let mut sets = sets::all();
        for name in &self.sets {
            let known = || sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>();
            let is_known = sets.iter().any(|set| set.name == *name);
            ensure!(is_known, "no set {name}; there are {}", known().join(", "));
        }
        match self.sets.as_slice() {
            [] => sets.retain(|set| set.in_short || !self.short),
            chosen => sets.retain(|set| chosen.contains(&set.name)),
        }
        for name in &self.only {
            sets::case(name)?;
        }
        if !self.only.is_empty() {
            for set in &mut sets {
                set.cases
                    .retain(|case| self.only.iter().any(|name| name == case.name));
            }
        }
        sets.retain(|set| !set.cases.is_empty());
        ensure!(!sets.is_empty(), "no set has these cases");
        Ok(sets)
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

/// Installs the peers, makes the calls and writes `target/bench-report/rpc.json`.
pub(crate) fn measure(short: bool) -> Result<()> {
    run(&Options {
        short,
        ..Options::default()
    })
}

/// The same, with a choice.
pub(crate) fn run(options: &Options) -> Result<()> {
    let sets = options.sets()?;
    let mut extent = if options.short { SHORT } else { FULL };
    extent.rounds = options.rounds.unwrap_or(extent.rounds).max(1);
    let folder = root().join("target/bench-report");
    let logs = fresh(folder.join("logs"))?;
    println!("building the programs and installing the peers");
    let peers = Peers::install(&sets)?;
    let mut report = Report::new(&peers, extent.rounds)?;
    let mut progress = Progress::new(&sets, extent.rounds);
    for (key, sets) in stages(sets) {
        let stage = Stage::start(&peers, key, &sets, &logs)?;
        for set in &sets {
            report
                .sets
                .push(measure_set(&stage, set, &extent, &mut progress)?);
            // What was measured is not lost if a later set fails.
            report.write(&folder.join("rpc.json"))?;
        }
    }
    attach_memory(&peers, &mut report, &logs)?;
    report.write(&folder.join("rpc.json"))?;
    println!("wrote {}", folder.join("rpc.json").display());
    let failed = report.failed();
    ensure!(
        failed == 0,
        "{failed} calls failed; rpc.json says of which cases"
    );
    Ok(())
}

/// Sets that need the same servers, one after the other.
fn stages(sets: Vec<Set>) -> BTreeMap<stage::Key, Vec<Set>> {
    let mut stages: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for set in sets {
        stages.entry(set.stage()).or_default().push(set);
    }
    stages
}

fn fresh(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

fn measure_set(
    stage: &Stage<'_>,
    set: &Set,
    extent: &Extent,
    progress: &mut Progress,
) -> Result<SetRounds> {
    progress.set(&set.name);
    let sizes = sizes(stage, set, extent)?;
    let mut cases: Vec<CaseRounds> = set.cases.iter().map(|case| CaseRounds::new(case)).collect();
    for round in 0..extent.rounds {
        for (case, size) in cases.iter_mut().zip(&sizes) {
            case.rounds.push(tried_twice(stage, set, case.name, size)?);
            progress.ran();
        }
        progress.round(round + 1);
    }
    let rate = sizes.first().and_then(|size| size.rate);
    Ok(SetRounds::new(set, rate, cases))
}

/// How many calls each case makes in a run, by a first run that does not count.
fn sizes(stage: &Stage<'_>, set: &Set, extent: &Extent) -> Result<Vec<Size>> {
    if let Load::Open { of_saturation } = set.load {
        let rate = of_saturation * saturation(stage, set)?;
        let size = Size::open(rate, extent.open_run);
        return Ok(vec![size; set.cases.len()]);
    }
    let sizes = set.cases.iter().map(|case| {
        let first = tried_twice(stage, set, case.name, &Size::first(set.in_flight))?;
        Ok(Size::closed(&first, extent.run, set.in_flight))
    });
    sizes.collect()
}

/// Calls per second that three plain channels make at most.
fn saturation(stage: &Stage<'_>, set: &Set) -> Result<f64> {
    let closed = Set {
        in_flight: 64,
        load: Load::Closed,
        ..set.clone()
    };
    let size = Size::calls(10_000);
    let mut rates = Vec::new();
    for _ in 0..3 {
        rates.push(tried_twice(stage, &closed, "tonic-x3", &size)?.rate());
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[1])
}

/// A run that fails once may have met a busy machine.
fn tried_twice(stage: &Stage<'_>, set: &Set, case: &str, size: &Size) -> Result<Round> {
    let case = sets::case(case)?;
    let first = run::once(stage, set, case, size);
    let second = first.or_else(|fault| {
        println!("  again, for {} failed: {fault:#}", case.name);
        run::once(stage, set, case, size)
    });
    second.with_context(|| format!("{}, {}", set.name, case.name))
}

fn attach_memory(peers: &Peers, report: &mut Report, logs: &std::path::Path) -> Result<()> {
    let Some(set) = report.sets.iter_mut().find(|set| set.name == WITH_MEMORY) else {
        return Ok(());
    };
    println!("memory of a connection");
    memory::attach(peers, &mut set.cases, logs)
}

/// Says how far the work is, and how long it will take.
struct Progress {
    started: Instant,
    ran: usize,
    runs: usize,
    sets: (usize, usize),
    rounds: usize,
}

impl Progress {
    fn new(sets: &[Set], rounds: usize) -> Self {
        let cases: usize = sets.iter().map(|set| set.cases.len()).sum();
        Self {
            started: Instant::now(),
            ran: 0,
            runs: cases * rounds,
            sets: (0, sets.len()),
            rounds,
        }
    }

    fn set(&mut self, name: &str) {
        self.sets.0 += 1;
        println!("{name}: set {} of {}", self.sets.0, self.sets.1);
    }

    fn ran(&mut self) {
        self.ran += 1;
    }

    /// Every seventh round, and the last.
    fn round(&self, round: usize) {
        if round.is_multiple_of(7) || round == self.rounds {
            let left = remaining(self.started.elapsed(), self.ran, self.runs);
            let seconds = left.as_secs();
            println!(
                "  round {round} of {}, about {} min {:02} s left of all",
                self.rounds,
                seconds / 60,
                seconds % 60
            );
        }
    }
}

/// The rest takes as long for each run as those that are done.
fn remaining(elapsed: Duration, ran: usize, runs: usize) -> Duration {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let share = runs.saturating_sub(ran) as f64 / ran.max(1) as f64;
    elapsed.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_or_refused() {
        let options = Options::parse(&["--short", "--only", "h2,tonic-1", "--rounds", "2"]);
        let options = options.unwrap();
        assert!(options.short && options.only == ["h2", "tonic-1"]);
        assert_eq!(options.rounds, Some(2));
        assert!(Options::parse(&["--only"]).is_none());
        assert!(Options::parse(&["--long"]).is_none());
    }

    #[test]
    fn a_choice_keeps_what_was_chosen() {
        let parsed = |arguments: &[&str]| Options::parse(arguments).unwrap().sets();
        let sets = parsed(&["--sets", "open-50", "--only", "sidestep-x3"]).unwrap();
        assert_eq!(sets.len(), 1);
        assert_eq!(sets[0].cases.len(), 1);
        assert!(parsed(&["--sets", "none"]).is_err());
        assert!(parsed(&["--only", "none"]).is_err());
        assert!(parsed(&["--sets", "open-50", "--only", "h2"]).is_err());
        let all = parsed(&[]).unwrap();
        let short = parsed(&["--short"]).unwrap();
        assert!(short.len() < all.len());
        assert!(all.iter().any(|set| set.name == WITH_MEMORY));
    }

    #[test]
    fn what_remains_takes_as_long_as_what_was() {
        let minute = Duration::from_secs(60);
        assert_eq!(remaining(minute, 10, 30), 2 * minute);
        assert_eq!(remaining(minute, 30, 30), Duration::ZERO);
    }
}
