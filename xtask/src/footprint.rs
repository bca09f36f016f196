//! `cargo xtask footprint`: what Sidestep adds to a service over tonic and rustls.
//!
//! `benches/footprint` holds the same small service twice. Packages, size and memory hold on any
//! machine and gate; seconds are shown.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

mod build;
mod memory;

use build::Built;
use memory::Memory;

/// Most that may be added, above what is measured by so much that a compiler's next version or a
/// dependency's next release does not trip it.
const PACKAGES: f64 = 60.0;
const MIB: f64 = 7.5;
/// Of Envoy's memory, what the mesh may add to a process that holds the same configuration, and
/// what is aimed at.
const OF_ENVOY: f64 = 0.24;
const OF_ENVOY_AIM: f64 = 0.1;

/// What the command line asks for.
#[derive(Default)]
pub(crate) struct Options {
    /// No cold builds.
    short: bool,
    /// Fail if a bar does not hold.
    check: bool,
    json: bool,
}

impl Options {
    /// `None`: an option is not known.
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        for argument in arguments {
            match *argument {
                "--short" => options.short = true,
                "--check" => options.check = true,
                "--json" => options.json = true,
                _ => return None,
            }
        }
        Some(options)
    }
}

/// One measure of both programs.
struct Figure {
    what: &'static str,
    plain: f64,
    meshed: f64,
    /// The most that `meshed - plain` may be.
    bar: Option<f64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let plain = Built::new("plain", options.short)?;
    let meshed = Built::new("meshed", options.short)?;
    let memory = Memory::measure(&plain, &meshed)?;
    let figures = figures(&plain, &meshed);
    let faults = faults(&figures, &memory);
    if options.json {
        println!("{:#}", report(&figures, &memory, &faults));
    } else {
        print(&figures);
        println!("\n{memory}");
        println!("bar {OF_ENVOY} where there is no connection, aim {OF_ENVOY_AIM}");
    }
    ensure!(faults.is_empty() || !options.check, "{}", faults.join("; "));
    Ok(())
}

fn figures(plain: &Built, meshed: &Built) -> Vec<Figure> {
    let mut figures = vec![
        Figure {
            what: "packages",
            plain: plain.packages,
            meshed: meshed.packages,
            bar: Some(PACKAGES),
        },
        Figure {
            what: "MiB, release, stripped",
            plain: plain.mib,
            meshed: meshed.mib,
            bar: Some(MIB),
        },
    ];
    if let (Some(plain), Some(meshed)) = (plain.seconds, meshed.seconds) {
        figures.push(Figure {
            what: "seconds, cold release build",
            plain,
            meshed,
            bar: None,
        });
    }
    figures
}

fn faults(figures: &[Figure], memory: &Memory) -> Vec<String> {
    let mut faults = Vec::new();
    for figure in figures {
        let added = figure.meshed - figure.plain;
        if let Some(bar) = figure.bar.filter(|bar| added > *bar) {
            faults.push(format!("{added:.1} more {}, the bar is {bar}", figure.what));
        }
    }
    for state in &memory.states {
        let share = state.of_envoy(memory.plain);
        if state.gates && share > OF_ENVOY {
            faults.push(format!(
                "{}: the mesh adds {share:.3} of Envoy's memory, the bar is {OF_ENVOY}",
                state.what
            ));
        }
    }
    faults
}

fn report(figures: &[Figure], memory: &Memory, faults: &[String]) -> Value {
    let rows = figures.iter().map(|figure| {
        json!({
            "what": figure.what,
            "plain": figure.plain,
            "meshed": figure.meshed,
            "added": figure.meshed - figure.plain,
            "bar": figure.bar,
        })
    });
    json!({"figures": rows.collect::<Vec<_>>(), "memory": memory.report(), "faults": faults})
}

fn print(figures: &[Figure]) {
    println!("a service over tonic and rustls, and the same on the mesh\n");
    println!(
        "{:<30}{:>10}{:>10}{:>10}{:>8}",
        "", "plain", "meshed", "added", "bar"
    );
    for figure in figures {
        let Figure {
            what,
            plain,
            meshed,
            bar,
        } = figure;
        let added = meshed - plain;
        let bar = bar.map_or_else(|| "-".to_owned(), |bar| bar.to_string());
        println!("{what:<30}{plain:>10.1}{meshed:>10.1}{added:>10.1}{bar:>8}");
    }
}

#[cfg(test)]
mod tests {
    use super::memory::State;
    use super::*;

    #[test]
    fn what_is_above_its_bar_is_a_fault() {
        let figure = |meshed| Figure {
            what: "packages",
            plain: 70.0,
            meshed,
            bar: Some(PACKAGES),
        };
        let memory = |meshed| Memory {
            plain: 5.0,
            states: vec![State {
                what: "configured",
                gates: true,
                meshed,
                envoy: 100.0,
            }],
        };
        let (most, share) = (70.0 + PACKAGES, 5.0 + 100.0 * OF_ENVOY);
        assert!(faults(&[figure(most)], &memory(share - 0.1)).is_empty());
        assert_eq!(faults(&[figure(most + 1.0)], &memory(share + 0.1)).len(), 2);
    }
}
