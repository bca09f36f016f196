//! Where the figures come from: the machine, and the versions of everything.

use std::fs;
use std::process::Command;

use super::data::Data;

/// Names and values, to be shown.
pub(super) fn describe(data: &Data) -> Vec<(String, String)> {
    let mut lines = vec![
        ("processor".to_owned(), processor()),
        ("kernel".to_owned(), read("/proc/sys/kernel/osrelease")),
        ("memory".to_owned(), memory()),
        ("Rust".to_owned(), said("rustc", &["--version"])),
        ("valgrind".to_owned(), said("valgrind", &["--version"])),
        (
            "commit".to_owned(),
            said("git", &["rev-parse", "--short", "HEAD"]),
        ),
    ];
    let rpc = data.rpc.iter().map(|rpc| &rpc.versions);
    let push = data.push.iter().map(|push| &push.versions);
    for (name, version) in rpc.chain(push).flatten() {
        let version = version
            .as_str()
            .map_or_else(|| version.to_string(), str::to_owned);
        let line = (name.clone(), version);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.retain(|(_, value)| !value.is_empty());
    lines
}

/// The same in a line, for a README.
pub(super) fn in_words(data: &Data) -> String {
    let lines = describe(data).into_iter();
    let shown = lines.filter(|(name, _)| name != "commit");
    let words = shown.map(|(name, value)| match &*name {
        "processor" | "memory" => value,
        _ if value
            .to_lowercase()
            .starts_with(&name.to_lowercase()[..4.min(name.len())]) =>
        {
            value
        }
        _ => format!("{name} {value}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let text = read("/proc/cpuinfo");
    let mut lines = text.lines().filter(|line| line.starts_with("model name"));
    let name = lines.next().and_then(|line| line.split_once(':'));
    let name = name.map_or("processor", |(_, name)| name.trim());
    format!("{cores} cores of {name}")
}

fn memory() -> String {
    let text = read("/proc/meminfo");
    let kib = text
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| format!("{} GiB", (kib + (1 << 19)) >> 20))
        .unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The first line that a program prints; nothing, if it is not there.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
