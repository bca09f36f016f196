//! The README's section on performance: written by a run, so that it never says what was not
//! measured.

use anyhow::{Context as _, Result};

use super::bars::{BARS, Bar, Reading};
use super::data::Data;
use super::machine;
use super::page::number;

const BEGIN: &str = "<!-- bench-report:begin -->";
const END: &str = "<!-- bench-report:end -->";

/// Pictures below the table, in `docs/`, and what they show.
pub(super) const PICTURES: [(&str, &str); 2] = [
    (
        "latency.png",
        "Latency by percentile of a meshed call and of its peers",
    ),
    (
        "cpu.png",
        "CPU of a call: client, proxies and server, of each peer",
    ),
];

/// The README with this run's figures between its markers.
///
/// # Errors
/// The markers are missing.
pub(super) fn with_figures(readme: &str, data: &Data, command: &str) -> Result<String> {
    let (before, rest) = readme
        .split_once(BEGIN)
        .with_context(|| format!("no {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no {END}"))?;
    Ok(format!(
        "{before}{BEGIN}\n{}{END}{after}",
        section(data, command)
    ))
}

fn section(data: &Data, command: &str) -> String {
    let mut text = format!("By `{command}` on {}:\n\n", machine::in_words(data));
    text += "| | | | measured | 95 % | bar | |\n|---|---|---|---|---|---|---|\n";
    text.extend(BARS.iter().map(|bar| rows(bar, &bar.readings(data))));
    let missing = BARS.iter().filter(|bar| {
        let mut readings = bar.readings(data).into_iter();
        readings.all(|reading| reading.measured.is_none())
    });
    let missing: Vec<_> = missing.map(|bar| bar.number.to_string()).collect();
    if !missing.is_empty() {
        text += &format!("\nNot measured in this run: bars {}.\n", missing.join(", "));
    }
    if data.rpc.as_ref().is_some_and(|rpc| !rpc.sets.is_empty()) {
        for (file, what) in PICTURES {
            text += &format!("\n![{what}](docs/{file})\n");
        }
    }
    text
}

/// A bar's lines of the table, without what was not measured; its name stands in the first.
fn rows(bar: &Bar, readings: &[Reading]) -> String {
    let mut lines = String::new();
    for reading in readings {
        let (Some(measured), Some(verdict)) = (reading.measured, reading.verdict()) else {
            continue;
        };
        let at = |value| number(value, reading.unit);
        let interval = measured.interval;
        let interval = interval.map_or_else(String::new, |(low, high)| {
            format!("{} – {}", at(low), at(high))
        });
        let name = match lines.is_empty() {
            true => format!("{} | {}", bar.number, bar.what),
            false => " | ".to_owned(),
        };
        lines += &format!(
            "| {name} | {} | {} | {interval} | ≤ {} | {verdict} |\n",
            reading.place,
            at(measured.median),
            at(reading.bar),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn figures_go_between_the_markers_and_nothing_else_changes() {
        let readme = format!("before\n{BEGIN}\nold figures\n{END}\nafter\n");
        let data = sample::data();
        let new = with_figures(&readme, &data, "cargo xtask bench-report").unwrap();
        assert!(new.starts_with(&format!(
            "before\n{BEGIN}\nBy `cargo xtask bench-report` on "
        )));
        assert!(new.ends_with(&format!("{END}\nafter\n")));
        assert!(!new.contains("old figures"));
        assert!(new.contains("| 43,582 |"), "{new}");
        assert!(new.contains("docs/latency.png") && new.contains("docs/cpu.png"));
        assert!(
            new.contains("Not measured in this run: bars 2, 5, 7, 9,"),
            "{new}"
        );
        let again = with_figures(&new, &data, "cargo xtask bench-report").unwrap();
        assert_eq!(again, new);
        assert!(with_figures("no markers", &data, "").is_err());
    }

    #[test]
    fn the_readme_has_its_markers() {
        let readme = std::fs::read_to_string(crate::codegen::root().join("README.md")).unwrap();
        with_figures(&readme, &sample::data(), "cargo xtask bench-report").unwrap();
    }
}
