//! The support matrix: feature by peer. Each cell is what was played, or why nothing was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cast::{COLUMNS, Column};
use super::engine::Outcome;
use super::feature::{FEATURES, Feature};
use super::install::{Installed, UNKNOWN};
use super::peer::{Client, Plane, Server};
use super::reasons::{is_ours_alone, reason};
use super::report::peers;
use super::scenario;

/// What stands in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Yes,
    Fails,
    /// Played by `--full` alone, which this run was not.
    InFullRuns,
    /// Why not.
    No(&'static str),
}

/// The matrix of one run of the suite.
pub(super) struct Matrix {
    cells: BTreeMap<(Feature, Column), Cell>,
    /// Columns with the versions that were played.
    heads: Vec<(Column, String)>,
}

impl Matrix {
    pub(super) fn new(installed: &Installed, outcomes: &[Outcome]) -> Self {
        let mut cells = planned();
        for Outcome { run, result, .. } in outcomes {
            for key in keys(run.scenario.features, Column::of(run.cast)) {
                let cell = cells.entry(key).or_insert(Cell::Yes);
                *cell = match (&result, &cell) {
                    (Err(_), _) | (_, Cell::Fails) => Cell::Fails,
                    _ => Cell::Yes,
                };
            }
        }
        let heads = COLUMNS.iter().map(|column| {
            let version = column.peer().map(|peer| installed.version(peer));
            // Of who was not installed there is none.
            let version = version.filter(|version| *version != UNKNOWN);
            let version = version.map_or_else(String::new, |version| format!(" {version}"));
            (*column, version)
        });
        Self {
            cells,
            heads: heads.collect(),
        }
    }

    /// The tables and their notes.
    pub(super) fn markdown(&self) -> String {
        let mut notes = Vec::new();
        let mut text = String::new();
        let ours = |column: &Column| !matches!(column, Column::TheirClient(_));
        text += "Our client calls servers of, and our programs are configured by:\n\n";
        text += &self.table(ours, &mut notes);
        text += "\nUnder our control plane, calling our servers, clients of:\n\n";
        text += &self.table(|column| !ours(column), &mut notes);
        text.push('\n');
        for (number, note) in notes.iter().enumerate() {
            // Writing to a string cannot fail.
            _ = writeln!(text, "{}. {note}", number + 1);
        }
        text
    }

    fn table(&self, wanted: impl Fn(&Column) -> bool, notes: &mut Vec<&'static str>) -> String {
        let heads: Vec<_> = self.heads.iter().filter(|(c, _)| wanted(c)).collect();
        let mut table = String::from("| |");
        for (column, version) in &heads {
            _ = write!(table, " {column}{version} |");
        }
        table += "\n| --- |";
        table += &" --- |".repeat(heads.len());
        table.push('\n');
        for feature in FEATURES {
            _ = write!(table, "| {} |", feature.title());
            for (column, _) in &heads {
                _ = write!(table, " {} |", self.cell(*feature, *column, notes));
            }
            table.push('\n');
        }
        table
    }

    fn cell(&self, feature: Feature, column: Column, notes: &mut Vec<&'static str>) -> String {
        match self.cells.get(&(feature, column)) {
            Some(Cell::Yes) => "yes".to_owned(),
            Some(Cell::Fails) => "**fails**".to_owned(),
            Some(Cell::InFullRuns) => "`--full`".to_owned(),
            Some(Cell::No(words)) => {
                let known = notes.iter().position(|note| note == words);
                let place = known.unwrap_or_else(|| {
                    notes.push(words);
                    notes.len() - 1
                });
                let short = words.split(':').next().unwrap_or(words);
                format!("{short} ({})", place + 1)
            }
            // A test sees to it that there is none.
            None => "?".to_owned(),
        }
    }
}

/// A peer of the short table: as a client, as a server, as a control plane.
struct Opposite {
    columns: &'static [Column],
}

/// The columns of the short table.
const OPPOSITES: &[Opposite] = &[
    Opposite {
        columns: &[
            Column::TheirClient(Client::Go),
            Column::OurClient(Server::Go),
        ],
    },
    Opposite {
        columns: &[
            Column::TheirClient(Client::Python),
            Column::OurClient(Server::Python),
        ],
    },
    Opposite {
        columns: &[
            Column::TheirClient(Client::Node),
            Column::OurClient(Server::Node),
        ],
    },
    Opposite {
        columns: &[
            Column::TheirClient(Client::Java),
            Column::OurClient(Server::Java),
        ],
    },
    Opposite {
        columns: &[
            Column::TheirClient(Client::Envoy),
            Column::OurClient(Server::Envoy),
        ],
    },
    Opposite {
        columns: &[Column::Under(Plane::GoControlPlane)],
    },
    Opposite {
        columns: &[Column::Under(Plane::Istio)],
    },
];

impl Matrix {
    /// One table for both directions, of what is played with others at all.
    pub(super) fn short(&self) -> String {
        let mut table = String::from("| |");
        for opposite in OPPOSITES {
            let column = opposite.columns[0];
            let head = self.heads.iter().find(|(c, _)| *c == column);
            let version = head.map_or("", |(_, version)| version);
            _ = write!(table, " {column}{version} |");
        }
        table += "\n| --- |";
        table += &" --- |".repeat(OPPOSITES.len());
        table.push('\n');
        let (shown, later): (Vec<Feature>, Vec<Feature>) = FEATURES
            .iter()
            .copied()
            .filter(|f| !is_ours_alone(*f))
            .partition(|f| self.is_played(*f));
        for feature in shown {
            _ = write!(table, "| {} |", feature.title());
            for opposite in OPPOSITES {
                _ = write!(table, " {} |", self.both(feature, opposite.columns));
            }
            table.push('\n');
        }
        let later: Vec<&str> = later.iter().map(|feature| feature.title()).collect();
        _ = write!(
            table,
            "\n*As client*: theirs, under our control plane, calling our server. *As server*: theirs, called by\n\
             our client. Every combination, and why the rest is not played: [docs/interop.md](docs/interop.md).\n\n\
             To come: {}.\n",
            later.join("; ")
        );
        table
    }

    fn is_played(&self, feature: Feature) -> bool {
        let mut columns = OPPOSITES.iter().flat_map(|opposite| opposite.columns);
        columns.any(|column| self.cells.get(&(feature, *column)) == Some(&Cell::Yes))
    }

    /// The cells of a peer's two directions as one.
    fn both(&self, feature: Feature, columns: &[Column]) -> &'static str {
        let cell = |column: &Column| self.cells.get(&(feature, *column));
        let played: Vec<&Column> = columns
            .iter()
            .filter(|column| cell(column) == Some(&Cell::Yes))
            .collect();
        match played.as_slice() {
            all if all.len() == columns.len() => "yes",
            [Column::TheirClient(_)] => "as client",
            [_] => "as server",
            _ => match columns.first().and_then(cell) {
                Some(Cell::No(words)) => words.split(':').next().unwrap_or(words),
                _ => "to come",
            },
        }
    }
}

/// The cells as they are before anything is played.
fn planned() -> BTreeMap<(Feature, Column), Cell> {
    let mut cells = BTreeMap::new();
    for feature in FEATURES {
        for column in COLUMNS {
            if let Some(words) = reason(*feature, *column) {
                cells.insert((*feature, *column), Cell::No(words));
            }
        }
    }
    for scenario in scenario::all().filter(|scenario| scenario.can_be_played()) {
        for cast in scenario.casts {
            for key in keys(scenario.features, Column::of(*cast)) {
                cells.insert(key, Cell::InFullRuns);
            }
        }
    }
    cells
}

fn keys(features: &[Feature], columns: Vec<Column>) -> impl Iterator<Item = (Feature, Column)> {
    features
        .iter()
        .flat_map(move |feature| columns.clone().into_iter().map(|column| (*feature, column)))
}

/// Every run as a row.
fn runs(installed: &Installed, outcomes: &[Outcome]) -> String {
    let mut rows: Vec<String> = outcomes
        .iter()
        .map(|Outcome { run, .. }| {
            let (scenario, cast) = (run.scenario, run.cast);
            let peers = peers(installed, run);
            format!("| `{}` | `{cast}` | {peers} |", scenario.name)
        })
        .collect();
    rows.sort();
    rows.dedup();
    format!(
        "| scenario | cast | peers |\n| --- | --- | --- |\n{}\n",
        rows.join("\n")
    )
}

/// What each scenario is.
fn scenarios() -> String {
    let mut table = "| scenario | what happens |\n| --- | --- |\n".to_owned();
    for scenario in scenario::all() {
        _ = writeln!(table, "| `{}` | {} |", scenario.name, scenario.about);
    }
    table
}

/// Writes the README's table and the page.
pub(super) fn write(
    root: &Path,
    installed: &Installed,
    matrix: &Matrix,
    outcomes: &[Outcome],
) -> Result<()> {
    let page = root.join("docs/interop.md");
    fs::create_dir_all(page.parent().context("it is in a folder")?)?;
    let text = format!(
        "# Real peers\n\n\
         Written by `cargo xtask interop --write`, after a run in which everything passed. The\n\
         suite installs its peers itself: it needs Rust, Python 3, Go, Node and Java.\n\n\
         ## What works with whom\n\n{}\n\
         ## The scenarios\n\n{}\n\
         ## What was played\n\n\
         A cast is client, server and control plane.\n\n{}\n\
         `cargo xtask interop --only NAME/CAST` plays one; every peer's log and configuration is then in\n\
         `target/interop/logs/NAME/CAST`.\n",
        matrix.markdown(),
        scenarios(),
        runs(installed, outcomes),
    );
    fs::write(page, text)?;
    let readme = root.join("README.md");
    let text = fs::read_to_string(&readme)?;
    Ok(fs::write(readme, between(&text, &matrix.short())?)?)
}

const BEGIN: &str = "<!-- interop matrix -->";
const END: &str = "<!-- /interop matrix -->";

/// The text with this between its markers.
fn between(text: &str, matrix: &str) -> Result<String> {
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("README.md has no {BEGIN}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("README.md has no {END}"))?;
    Ok(format!("{before}{BEGIN}\n{matrix}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_played_or_has_a_reason() {
        let cells = planned();
        for feature in FEATURES {
            for column in COLUMNS {
                let cell = cells.get(&(*feature, *column));
                assert!(cell.is_some(), "{feature:?} with {column:?}");
            }
        }
    }

    #[test]
    fn the_matrix_goes_between_the_markers() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = between(&text, "| new |\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n| new |\n{END}\nb\n"));
        assert_eq!(between(&new, "| new |\n").unwrap(), new);
        assert!(between("nothing", "x").is_err());
    }
}
