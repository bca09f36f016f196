//! The programs: packages, seconds, bytes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::codegen::root;

/// One of the two programs of `benches/footprint`, built.
pub(super) struct Built {
    pub(super) program: PathBuf,
    /// Normal dependencies, itself included.
    pub(super) packages: f64,
    /// Of the stripped release binary.
    pub(super) mib: f64,
    /// Of a build with nothing built before; downloads are not part of it.
    pub(super) seconds: Option<f64>,
}

impl Built {
    /// Builds `footprint-NAME`; unless `short`, from nothing and by the clock.
    pub(super) fn new(name: &str, short: bool) -> Result<Self> {
        let package = format!("footprint-{name}");
        let packages = packages(&package)?;
        let target = root().join("target/footprint");
        let (target, seconds) = if short {
            let target = target.join("warm");
            build(&package, &target)?;
            (target, None)
        } else {
            let target = target.join(name);
            if target.exists() {
                std::fs::remove_dir_all(&target)?;
            }
            cargo(&["fetch"])?;
            let start = Instant::now();
            build(&package, &target)?;
            (target, Some(start.elapsed().as_secs_f64()))
        };
        let program = target.join("release").join(package);
        let bytes = std::fs::metadata(&program)
            .with_context(|| program.display().to_string())?
            .len();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let mib = bytes as f64 / f64::from(1 << 20);
        Ok(Self {
            program,
            packages,
            mib,
            seconds,
        })
    }
}

fn build(package: &str, target: &Path) -> Result<()> {
    let folder = target.display().to_string();
    let arguments = ["build", "--release", "--offline"];
    cargo(&[&arguments[..], &["-p", package, "--target-dir", &folder]].concat()).map(drop)
}

fn packages(package: &str) -> Result<f64> {
    let tree = cargo(&["tree", "-p", package, "-e", "normal", "--prefix", "none"])?;
    let mut packages: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.strip_suffix(" (*)").or(Some(line)))
        .collect();
    packages.sort_unstable();
    packages.dedup();
    let count = u32::try_from(packages.len())?;
    Ok(f64::from(count))
}

/// Runs cargo in the programs' workspace; what it says is only of interest if it fails. Without
/// `--locked`: a dependency that the runtime gains has to enter that lock file too, and the count
/// of packages is what watches over it.
fn cargo(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root().join("benches/footprint"))
        .output()
        .context("cargo")?;
    ensure!(
        output.status.success(),
        "cargo {} in benches/footprint: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
