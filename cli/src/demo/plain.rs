//! The demo as lines of text: for files, for CI, and before and after the terminal view.

use std::time::Duration;

use tokio::sync::mpsc;

use super::scene::Verdict;
use super::summary;
use super::world::{News, World};
use crate::output::Style;

/// Prints what happens until it ends. Answers the verdicts.
pub(super) async fn watch(voice: Voice, mut news: mpsc::UnboundedReceiver<News>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    while let Some(heard) = news.recv().await {
        match heard {
            News::End => break,
            News::Verdict(verdict) => {
                voice.verdict(&verdict);
                verdicts.push(*verdict);
            }
            heard => voice.tell(&heard),
        }
    }
    verdicts
}

/// Prints.
#[derive(Clone, Copy)]
pub(super) struct Voice {
    style: Style,
    json: bool,
}

impl Voice {
    pub(super) fn new(json: bool) -> Self {
        let style = if json {
            Style::of(&std::io::stderr())
        } else {
            Style::of(&std::io::stdout())
        };
        Self { style, json }
    }

    /// With `--json`, standard output carries the summary alone.
    fn line(self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    pub(super) fn banner(self, world: &World, seed: u64) {
        for line in banner(world, seed) {
            self.line(&line);
        }
    }

    fn tell(self, news: &News) {
        match news {
            News::Scene(scene) => {
                self.line("");
                self.line(&format!(
                    "{}: {}",
                    self.style.strong(scene.name),
                    scene.title
                ));
                self.line(&format!("  promise  {}", scene.promise));
            }
            News::Said(at, text) => self.line(&format!("  {}  {text}", clock(*at))),
            News::Verdict(_) | News::End => {}
        }
    }

    fn verdict(self, verdict: &Verdict) {
        for claim in &verdict.claims {
            let mark = if claim.held {
                self.style.good("kept   ")
            } else {
                self.style.bad("BROKEN ")
            };
            self.line(&format!("  {mark}  {}", claim.text));
        }
        let Verdict { mesh, control, .. } = verdict;
        self.line(&format!(
            "  mesh     {} failed, {} retried of {}",
            mesh.failures(),
            mesh.retried,
            mesh.calls()
        ));
        self.line(&format!(
            "  control  {} failed of {}",
            control.failures(),
            control.calls()
        ));
    }

    pub(super) fn summary(self, seed: u64, verdicts: &[Verdict]) {
        self.line("");
        if verdicts.is_empty() {
            self.line("no scene came to its end: nothing was judged");
        } else {
            self.line(summary::as_table(self.style, verdicts).trim_end());
        }
        if self.json {
            println!("{:#}", summary::as_json(seed, verdicts));
        }
    }
}

/// The first lines: where everything is, so that others can join.
pub(super) fn banner(world: &World, seed: u64) -> Vec<String> {
    let address = world.control_plane.address();
    let root = world.directory.root().display();
    let backends: Vec<String> = world
        .backends
        .iter()
        .filter_map(|it| Some(format!("{} ({}) {}", it.name, it.version, it.address()?)))
        .collect();
    vec![
        "a mesh in one process: control plane, three backends, callers; and a control group over \
         tonic's own channel"
            .to_owned(),
        format!("  control plane  {address}   (sidestep status --server {address})"),
        format!("  backends       {}", backends.join(", ")),
        format!("  mesh file      {root}/mesh.yaml"),
        format!("  your client    GRPC_XDS_BOOTSTRAP={root}/client.json, target xds:///greeter"),
        format!("  seed           {seed}"),
    ]
}

/// `12.3 s` since the start, right-aligned.
pub(super) fn clock(since: Duration) -> String {
    format!("{:>5.1} s", since.as_secs_f64())
}
