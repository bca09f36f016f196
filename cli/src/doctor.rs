//! What is wrong here? Checks of everything that a process of the mesh needs, from its bootstrap
//! file to one real call.
//!
//! ```text
//!   Subject ─> bootstrap ─> certificates ─> ports ─> control plane ─> subscription ─> call
//!                                    │  a group of findings each  │
//!                                    └────────────> Report <──────┘
//! ```
//!
//! What can be decided without the network is pure: it takes the time and the files' contents. A
//! group that cannot be checked because an earlier one failed says so, and is no failure itself.

mod ads;
mod bootstrap;
mod call;
mod certificates;
mod control_plane;
mod dial;
mod ports;
mod sources;

use std::time::{Duration, SystemTime};

use sidestep_server::model::Mesh;

pub use bootstrap::Origin;
pub use call::Target;

/// Everything here answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whose health is asked for.
#[derive(Debug)]
pub struct Subject {
    /// Where its bootstrap comes from.
    pub origin: Origin,
    /// The mesh file, if it is at hand: names, identities and addresses are compared with it.
    pub mesh: Option<Mesh>,
    /// Addresses that it is going to listen on.
    pub listen: Vec<std::net::SocketAddr>,
    /// A call to make.
    pub call: Option<Target>,
    /// The time by this machine's clock.
    pub now: SystemTime,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// In order.
    Good,
    /// Could not be checked, or does not apply.
    Skipped,
    /// Works, but not for long, or not as it was meant.
    Warning,
    /// Works for some: a client refused its configuration, or the newest edit was refused.
    Partial,
    /// Does not work.
    Failed,
    /// The control plane does not answer.
    Unreachable,
}

impl State {
    /// `ok`, `skip`, `warn` or `fail`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Skipped => "skip",
            Self::Warning | Self::Partial => "warn",
            Self::Failed | Self::Unreachable => "fail",
        }
    }
}

/// The groups of checks, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The bootstrap file.
    Bootstrap,
    /// Certificates and keys.
    Certificates,
    /// Ports of this machine and of endpoints.
    Ports,
    /// The control plane's connection and its health.
    ControlPlane,
    /// The clock, against the control plane's.
    Clock,
    /// One real ADS subscription.
    Subscription,
    /// One real call.
    Call,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Bootstrap,
        Self::Certificates,
        Self::Ports,
        Self::ControlPlane,
        Self::Clock,
        Self::Subscription,
        Self::Call,
    ];

    /// For people and scripts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Certificates => "certificates",
            Self::Ports => "ports",
            Self::ControlPlane => "control plane",
            Self::Clock => "clock",
            Self::Subscription => "subscription",
            Self::Call => "call",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it belongs.
    pub group: Group,
    /// How it ended.
    pub state: State,
    /// What was found, with names.
    pub says: String,
    /// What to do; there for everything that is not in order.
    pub hint: Option<String>,
}

/// Everything found, in the order of the checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// All findings.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst of all.
    #[must_use]
    pub fn worst(&self) -> State {
        let states = self.findings.iter().map(|finding| finding.state);
        states.max().unwrap_or(State::Good)
    }

    /// Those of a group.
    pub fn of(&self, group: Group) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |f| f.group == group)
    }

    fn add(&mut self, group: Group, state: State, says: impl Into<String>) -> &mut Finding {
        self.findings.push(Finding {
            group,
            state,
            says: says.into(),
            hint: None,
        });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    fn good(&mut self, group: Group, says: impl Into<String>) {
        self.add(group, State::Good, says);
    }

    fn skip(&mut self, group: Group, says: impl Into<String>) {
        self.add(group, State::Skipped, says);
    }

    fn warn(&mut self, group: Group, says: impl Into<String>, hint: impl Into<String>) {
        self.add(group, State::Warning, says).hint = Some(hint.into());
    }

    fn fail(&mut self, group: Group, says: impl Into<String>, hint: impl Into<String>) {
        self.add(group, State::Failed, says).hint = Some(hint.into());
    }
}

/// Makes all checks.
pub async fn examine(subject: &Subject) -> Report {
    let mut report = Report::default();
    let bootstrap = bootstrap::check(&subject.origin, subject.mesh.as_ref(), &mut report);
    if let Some(bootstrap) = &bootstrap {
        certificates::check(bootstrap, subject, &mut report);
    }
    ports::check(subject, &mut report).await;
    let Some(bootstrap) = bootstrap else {
        for group in [
            Group::ControlPlane,
            Group::Clock,
            Group::Subscription,
            Group::Call,
        ] {
            report.skip(group, "needs a bootstrap");
        }
        return report;
    };
    match control_plane::check(&bootstrap, &mut report).await {
        Some(link) => ads::check(&bootstrap, subject, &link, &mut report).await,
        None => {
            report.skip(Group::Clock, "there is no clock to compare with");
            report.skip(Group::Subscription, "needs the control plane");
        }
    }
    match &subject.call {
        Some(target) => call::check(&bootstrap, target, &mut report).await,
        None => report.skip(Group::Call, "none asked for; --call TARGET makes one"),
    }
    report
}

/// `3 days`, `2 h`, `5 min`, `7 s`.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
