//! `cargo xtask bench-report`: everything that is measured, beside the bars and beside peers.
//!
//! Each [part](PARTS) measures and leaves a file of JSON; the report is made of the files, so that a
//! part that was measured before need not be measured again. A part without a file is said to be
//! missing.

mod bars;
mod chart;
mod data;
mod machine;
mod memory;
mod page;
mod png;
mod push;
mod readme;
pub(crate) mod rpc;
#[cfg(test)]
mod sample;
mod statistics;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::codegen::root;
use data::{Data, Rpc, Set};

/// One thing that is measured.
struct Part {
    /// As `--only` has it; it leaves `NAME.json`.
    name: &'static str,
    /// Measures, in the short form if that is asked for, and leaves the file in [`folder`].
    measure: fn(short: bool) -> Result<()>,
}

const PARTS: [Part; 6] = [
    Part {
        name: "rpc",
        measure: rpc::measure,
    },
    Part {
        name: "counts",
        measure: counts,
    },
    Part {
        name: "push",
        measure: push::measure,
    },
    Part {
        name: "micro",
        measure: micro,
    },
    Part {
        name: "memory",
        measure: memory::measure,
    },
    Part {
        name: "footprint",
        measure: footprint,
    },
];

/// What the command line asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// Small numbers: shows that everything works, not what it costs.
    short: bool,
    /// One part only; the others are as they were.
    only: Option<String>,
    /// Measure nothing: make the report of what is there.
    again: bool,
    /// Put the figures and the pictures into the README.
    write: bool,
    /// Where the report goes, rather than to the parts' files.
    out: Option<PathBuf>,
}

impl Options {
    /// `None`: an option is not known.
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter().copied();
        while let Some(argument) = arguments.next() {
            match argument {
                "--short" => options.short = true,
                "--again" => options.again = true,
                "--write" => options.write = true,
                "--only" => {
                    let name = arguments.next()?;
                    PARTS.iter().find(|part| part.name == name)?;
                    options.only = Some(name.to_owned());
                }
                "--out" => options.out = Some(arguments.next()?.into()),
                _ => return None,
            }
        }
        Some(options)
    }

    /// The command that this is.
    fn command(&self) -> String {
        let mut command = "cargo xtask bench-report".to_owned();
        if self.short {
            command += " --short";
        }
        if let Some(only) = &self.only {
            command = format!("{command} --only {only}");
        }
        command
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    fs::create_dir_all(folder())?;
    for part in &PARTS {
        let is_wanted = options.only.as_deref().is_none_or(|only| only == part.name);
        if is_wanted && !options.again {
            measure(part, options.short)?;
        }
    }
    let data = Data::read(&folder())?;
    let out = options.out.clone().unwrap_or_else(folder);
    fs::create_dir_all(&out)?;
    let report = out.join("report.html");
    put(&report, page::page(&data, &[options.command()]).as_bytes())?;
    println!("{}", report.display());
    pictures(&data, &out)?;
    if options.write {
        write_readme(&data, &out, &options.command())?;
    }
    Ok(())
}

fn measure(part: &Part, short: bool) -> Result<()> {
    let name = part.name;
    println!("measuring {name}");
    (part.measure)(short).with_context(|| format!("measuring {name}"))
}

/// Where parts leave their files: `target/bench-report`.
pub(crate) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root().join("target"), PathBuf::from);
    target.join("bench-report")
}

/// Puts a part's file in its place.
fn leave(part: &str, value: &serde_json::Value) -> Result<()> {
    fs::create_dir_all(folder())?;
    put(
        &folder().join(format!("{part}.json")),
        format!("{value:#}\n").as_bytes(),
    )
}

fn put(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| path.display().to_string())
}

/// What `cargo xtask bench` counts. A bar that does not hold there is one here too, not a failure.
fn counts(short: bool) -> Result<()> {
    leave("counts", &said_by("bench", short)?)
}

/// What `cargo xtask footprint` finds; builds by the clock are not part of the report.
fn footprint(_short: bool) -> Result<()> {
    leave("footprint", &said_by("footprint", true)?)
}

/// The JSON of another verb.
fn said_by(verb: &str, short: bool) -> Result<serde_json::Value> {
    let output = Command::new(std::env::current_exe()?)
        .args([verb, "--json"])
        .args(short.then_some("--short"))
        .current_dir(root())
        .stderr(std::process::Stdio::inherit())
        .output()?;
    json_in(&String::from_utf8_lossy(&output.stdout))
}

/// Single steps, counted.
fn micro(short: bool) -> Result<()> {
    leave("micro", &crate::bench::micro(short)?)
}

/// The object in what a command says; other lines may come before and after it.
fn json_in(said: &str) -> Result<serde_json::Value> {
    let start = said.find("\n{").map(|at| at + 1);
    let start = start.or_else(|| said.starts_with('{').then_some(0));
    let start = start.with_context(|| format!("no JSON in {said:?}"))?;
    let mut values = serde_json::Deserializer::from_str(&said[start..]).into_iter();
    values.next().context("no JSON")?.map_err(Into::into)
}

/// The README's pictures, of the first of the usual sets that was measured.
fn pictures(data: &Data, out: &Path) -> Result<()> {
    let Some(set) = data.rpc.as_ref().and_then(shown) else {
        println!("no pictures: calls were not measured");
        return Ok(());
    };
    let drawn = [
        chart::latency(set, &chart::PRINT),
        chart::cpu(set, &chart::PRINT),
    ];
    for ((name, _), svg) in readme::PICTURES.into_iter().zip(drawn) {
        let svg = svg.with_context(|| format!("{name}: no case has figures"))?;
        let path = out.join(name);
        put(&path, &png::paint(&svg)?)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The set that a reader wants first.
fn shown(rpc: &Rpc) -> Option<&Set> {
    let usual = [16, 64, 1].into_iter();
    let mut usual = usual.filter_map(|in_flight| rpc.closed("plaintext", 128, in_flight));
    usual.next().or_else(|| rpc.sets.first())
}

/// Puts the figures into the README and the pictures beside the others.
fn write_readme(data: &Data, out: &Path, command: &str) -> Result<()> {
    if command.contains("--short") {
        bail!("--write is for a whole run: a short one measures too little to be told");
    }
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path)?;
    put(
        &path,
        readme::with_figures(&readme, data, command)?.as_bytes(),
    )?;
    if data.rpc.is_some() {
        for (name, _) in readme::PICTURES {
            let picture = out.join(name);
            ensure!(picture.exists(), "{} is not there", picture.display());
            fs::copy(picture, root().join("docs").join(name))?;
        }
    }
    println!("{}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_known_or_refused() {
        let options = Options::parse(&["--short", "--only", "push", "--out", "there"]).unwrap();
        assert_eq!(
            options.command(),
            "cargo xtask bench-report --short --only push"
        );
        assert_eq!(options.out.as_deref(), Some(Path::new("there")));
        assert_eq!(Options::parse(&[]), Some(Options::default()));
        for refused in [&["--only"][..], &["--only", "other"], &["--long"]] {
            assert_eq!(Options::parse(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn json_is_found_behind_what_a_command_says_first() {
        assert_eq!(
            json_in("+ cargo build\n{\"a\": 1}\n").unwrap(),
            json!({"a": 1})
        );
        assert_eq!(json_in("{}\ntonic: 1 calls/s\n").unwrap(), json!({}));
        assert!(json_in("+ cargo build\n").is_err());
    }

    #[test]
    fn the_pictures_are_painted_from_a_run() {
        let out = tempfile::tempdir().unwrap();
        pictures(&sample::data(), out.path()).unwrap();
        for (name, _) in readme::PICTURES {
            let picture = fs::read(out.path().join(name)).unwrap();
            assert!(
                picture.starts_with(b"\x89PNG") && picture.len() > 10_000,
                "{name}"
            );
        }
        pictures(&Data::default(), out.path()).unwrap();
    }
}
