//! The commands of the README's "Mesh your own service", and how they are run elsewhere than on
//! the reader's machine: on free ports, and with files in a folder of their own.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The section that is run.
const HEADING: &str = "## Mesh your own service";

/// One command as the README has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// Variables set for it.
    pub(super) variables: Vec<(String, String)>,
    /// The program and its arguments.
    pub(super) words: Vec<String>,
}

impl Shown {
    fn parse(line: &str) -> Result<Self> {
        ensure!(
            !line.contains(['"', '\'', '$', '|', '&', ';', '<', '>', '`', '*']),
            "this script does not read the shell of {line:?}"
        );
        let mut variables = Vec::new();
        let mut words = Vec::new();
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) if words.is_empty() => {
                    variables.push((name.to_owned(), value.to_owned()));
                }
                _ => words.push(word.to_owned()),
            }
        }
        ensure!(!words.is_empty(), "no program in {line:?}");
        Ok(Self { variables, words })
    }

    /// Whether all of these stand in it, as words.
    pub(super) fn has(&self, words: &[&str]) -> bool {
        words
            .iter()
            .all(|w| self.words.iter().any(|word| word == w))
    }

    /// As it would be typed.
    pub(super) fn line(&self) -> String {
        let variables = self.variables.iter().map(|(n, v)| format!("{n}={v}"));
        let words = self.words.iter().cloned();
        variables.chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// All commands of the section, in order.
pub(super) fn commands(readme: &str) -> Result<Vec<Shown>> {
    let section = readme
        .split_once(&format!("\n{HEADING}\n"))
        .with_context(|| format!("README.md has no {HEADING:?}"))?
        .1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut commands = Vec::new();
    // Every second piece is inside a fence; one with a language is no command.
    for block in section.split("```").skip(1).step_by(2) {
        let Some(block) = block.strip_prefix('\n') else {
            continue;
        };
        let lines = block.replace("\\\n", " ");
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            commands.push(Shown::parse(line)?);
        }
    }
    Ok(commands)
}

/// Ports and folders of the README, and what stands for them here.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    folders: Vec<(String, String)>,
    addresses: BTreeMap<String, String>,
}

/// What a port in the README follows.
const HOST: &str = "127.0.0.1:";

impl Elsewhere {
    /// Has a folder of the README mean another.
    pub(super) fn folder(&mut self, shown: &str, here: &Path) {
        let here = here.display().to_string();
        self.folders.push((shown.to_owned(), here));
    }

    /// A free port for every loopback port in this text that has none yet.
    pub(super) fn ports_of(&mut self, text: &str) -> Result<()> {
        for (at, _) in text.match_indices(HOST) {
            let shown = address_at(&text[at..]);
            if !self.addresses.contains_key(shown) {
                self.addresses.insert(shown.to_owned(), free_address()?);
            }
        }
        Ok(())
    }

    /// The text with its addresses replaced, in one pass: one that is put in may look like another
    /// one of the README.
    pub(super) fn text(&self, mut text: &str) -> String {
        let mut out = String::new();
        while let Some(at) = text.find(HOST) {
            let shown = address_at(&text[at..]);
            out.push_str(&text[..at]);
            out.push_str(self.addresses.get(shown).map_or(shown, String::as_str));
            text = &text[at + shown.len()..];
        }
        out + text
    }

    /// The command with everything replaced.
    pub(super) fn command(&self, shown: &Shown) -> Shown {
        let variables = shown.variables.iter();
        Shown {
            variables: variables
                .map(|(name, value)| (name.clone(), self.word(value)))
                .collect(),
            words: shown.words.iter().map(|word| self.word(word)).collect(),
        }
    }

    fn word(&self, word: &str) -> String {
        for (shown, here) in &self.folders {
            match word.strip_prefix(shown.as_str()) {
                Some("") => return here.clone(),
                Some(rest) if rest.starts_with('/') => return format!("{here}{rest}"),
                _ => {}
            }
        }
        self.text(word)
    }
}

/// The address that a text begins with.
fn address_at(text: &str) -> &str {
    let digits = text[HOST.len()..].bytes();
    let digits = digits.take_while(u8::is_ascii_digit).count();
    &text[..HOST.len() + digits]
}

/// An address that nobody listens on. Somebody may take it before it is used: then the program
/// that was to listen there says so.
pub(super) fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# x\n\n## Mesh your own service\n\n```diff\n- a\n```\n\n```\nA=b cargo run \\\n  -- serve f --listen 127.0.0.1:18000\n\ncargo test\n```\n\n## Next\n\n```\nnot this\n```\n";

    #[test]
    fn only_the_commands_of_the_section_are_read() {
        let commands = commands(README).unwrap();
        let lines: Vec<_> = commands.iter().map(Shown::line).collect();
        assert_eq!(
            lines,
            [
                "A=b cargo run -- serve f --listen 127.0.0.1:18000",
                "cargo test"
            ]
        );
        assert!(commands[0].has(&["serve"]) && !commands[1].has(&["serve"]));
        assert!(super::commands("# x\n").is_err());
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        assert!(Shown::parse("a | b").is_err());
        assert!(Shown::parse("A=b").is_err());
    }

    #[test]
    fn ports_and_folders_are_replaced_alike_everywhere() {
        let mut elsewhere = Elsewhere::default();
        elsewhere.folder("certs", Path::new("/tmp/x/certs"));
        elsewhere
            .ports_of("127.0.0.1:18000, 127.0.0.1:1800")
            .unwrap();
        let [a, b] = ["127.0.0.1:18000", "x=127.0.0.1:18000;"].map(|t| elsewhere.text(t));
        assert_eq!(b, format!("x={a};"));
        assert_ne!(a, "127.0.0.1:18000");
        assert_ne!(a, elsewhere.text("127.0.0.1:1800"));
        assert_eq!(elsewhere.text("127.0.0.1:1"), "127.0.0.1:1");
        let shown = Shown::parse("A=certs/a run --certs certs certsx").unwrap();
        assert_eq!(
            elsewhere.command(&shown).line(),
            "A=/tmp/x/certs/a run --certs /tmp/x/certs certsx"
        );
    }
}
