//! Where a call would go, and why: the answer of the route table that routes real calls, in words.
//!
//! `sidestep explain` asks a mesh file, the admin endpoint's `/explain` asks a running process; both
//! answer with an [`Answer`].

mod candidate;
pub(crate) mod process;
pub mod words;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

pub use candidate::Candidate;

use crate::routing::{Action, ClusterIndex, Criteria, Explanation, Forward, Tried};

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The name that is dialled.
    pub service: String,
    /// `/package.Service/Method`; `/` stands for any method that no rule names.
    pub path: String,
    /// Who calls, if that was said.
    pub caller: Option<String>,
    /// The listener, and where it comes from.
    pub listener: String,
    /// The route configuration and the virtual host in it.
    pub routes: String,
    /// The rules that were tried, in order.
    pub rules: Vec<Rule>,
    /// Where the call goes.
    pub outcome: Outcome,
}

/// A rule and whether it takes the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Whether it does.
    pub takes_the_call: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// Where a call goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "OutcomeFields", into = "OutcomeFields")]
pub enum Outcome {
    /// To one of these.
    Sent {
        /// How long it may take, in words.
        timeout: String,
        /// Whether it is tried again, in words.
        retry: String,
        /// What keeps it at the endpoint of its session, in words; `None` where there are no
        /// sessions.
        session: Option<String>,
        /// The clusters among which is drawn.
        clusters: Vec<Share>,
    },
    /// Nowhere, and why.
    Fails(String),
}

/// A cluster and its share of such calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Of a hundred calls.
    pub percent: f64,
    /// How an endpoint is picked.
    pub policy: String,
    /// How the connection is secured; may be empty.
    pub security: String,
    /// The subset of its endpoints that the calls meet, in words; `None` where it has no subsets
    /// and the route asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// How it is doing, where a running process is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Whether calls to it fail now, where a running process is asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failing: bool,
    /// The endpoints, with what sets them apart, and which of them get no calls.
    pub endpoints: Vec<Candidate>,
}

/// [`Outcome`] as JSON has it.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(default)]
struct OutcomeFields {
    sent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clusters: Option<Vec<Share>>,
}

impl From<OutcomeFields> for Outcome {
    fn from(fields: OutcomeFields) -> Self {
        if !fields.sent {
            return Self::Fails(fields.reason.unwrap_or_default());
        }
        Self::Sent {
            timeout: fields.timeout.unwrap_or_default(),
            retry: fields.retry.unwrap_or_default(),
            session: fields.session,
            clusters: fields.clusters.unwrap_or_default(),
        }
    }
}

impl From<Outcome> for OutcomeFields {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Fails(reason) => Self {
                reason: Some(reason),
                ..Self::default()
            },
            Outcome::Sent {
                timeout,
                retry,
                session,
                clusters,
            } => Self {
                sent: true,
                timeout: Some(timeout),
                retry: Some(retry),
                session,
                clusters: Some(clusters),
                ..Self::default()
            },
        }
    }
}

/// How a part of the text is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// A heading.
    Strong,
    /// In order.
    Good,
    /// Wrong.
    Bad,
}

impl Outcome {
    /// Whether no call goes through: there is no way, or each cluster on it is failing.
    #[must_use]
    pub fn fails(&self) -> bool {
        match self {
            Self::Fails(_) => true,
            Self::Sent { clusters, .. } => clusters.iter().all(|share| share.failing),
        }
    }
}

impl Answer {
    /// The answer as text; `paint` may colour what stands out.
    #[must_use]
    pub fn to_text(&self, paint: impl Fn(Tone, &str) -> String) -> String {
        let method = match self.path.as_str() {
            "/" => "any method that no rule names",
            path => path,
        };
        let title = format!("{}: {method}", self.service);
        let mut out = format!("{}\n", paint(Tone::Strong, &title));
        let mut line = |text: String| {
            // Cannot fail: the target is a string.
            let _ = writeln!(out, "  {text}");
        };
        line(format!("listener   {}", self.listener));
        line(format!("routes     {}", self.routes));
        if let Some(caller) = &self.caller {
            line(format!(
                "caller     {caller}; no rule here depends on who calls"
            ));
        }
        for rule in &self.rules {
            let name = rule.name.as_deref().unwrap_or("(unnamed)");
            line(match &rule.reason {
                Some(reason) => format!("rule       {name}: no, {reason}"),
                None => format!("rule       {name}: {}", paint(Tone::Good, "takes the call")),
            });
        }
        match &self.outcome {
            Outcome::Fails(reason) => line(paint(Tone::Bad, &format!("fails: {reason}"))),
            Outcome::Sent {
                timeout,
                retry,
                session,
                clusters,
            } => {
                line(format!("time       {timeout}"));
                line(format!("retries    {retry}"));
                if let Some(session) = session {
                    line(format!("session    {session}"));
                }
                for share in clusters {
                    share.lines(&paint).into_iter().for_each(&mut line);
                }
            }
        }
        out
    }
}

impl Share {
    fn lines(&self, paint: &impl Fn(Tone, &str) -> String) -> Vec<String> {
        let details = [self.policy.as_str(), self.security.as_str()]
            .into_iter()
            .chain(self.state.as_deref())
            .filter(|text| !text.is_empty());
        let details = details.collect::<Vec<_>>().join(", ");
        let mut lines = vec![format!(
            "{:>6.2} %   {}: {details}",
            self.percent, self.name
        )];
        lines.extend(
            self.subset
                .iter()
                .map(|subset| format!("           {subset}")),
        );
        let endpoints = self.endpoints.iter();
        lines.extend(endpoints.map(|endpoint| format!("           {}", endpoint.line(paint))));
        lines
    }
}

/// The rules that were tried.
#[must_use]
pub fn rules(explanation: &Explanation<'_>) -> Vec<Rule> {
    explanation.tried.iter().map(Rule::from).collect()
}

impl From<&Tried<'_>> for Rule {
    fn from(tried: &Tried<'_>) -> Self {
        let seen = || match &tried.seen {
            Some(value) => format!(" (it is {value:?})"),
            None => String::new(),
        };
        let mismatch = tried.mismatch.as_ref();
        Self {
            name: (!tried.name.is_empty()).then(|| tried.name.to_owned()),
            takes_the_call: mismatch.is_none(),
            reason: mismatch.map(|mismatch| format!("{mismatch}{}", seen())),
        }
    }
}

/// What becomes of a call to `name`. `share` tells of a cluster, its share of a hundred calls, and
/// what those ask of its endpoints.
pub fn outcome(
    name: &str,
    explanation: &Explanation<'_>,
    share: impl FnMut(ClusterIndex, f64, Option<&Criteria>) -> Share,
) -> Outcome {
    match (explanation.virtual_host, explanation.route) {
        (None, _) => Outcome::Fails(format!("no virtual host takes {name:?}")),
        (_, None) => Outcome::Fails("no rule takes the call".to_owned()),
        (_, Some(route)) => match &route.action {
            Action::Forward(forward) => Outcome::Sent {
                timeout: words::timeout(forward.timeout),
                retry: words::retry(forward.retry.as_deref()),
                session: session(forward),
                clusters: shares(forward, share),
            },
            Action::NonForwarding => Outcome::Fails("the rule is for servers".to_owned()),
            Action::Unsupported => {
                Outcome::Fails("the rule does something that gRPC cannot do".to_owned())
            }
        },
    }
}

/// What keeps the calls of a route at the endpoint of their session.
fn session(forward: &Forward) -> Option<String> {
    let rules = forward.sessions.as_deref()?;
    let mut words: Vec<String> = Vec::new();
    for rule in rules {
        let state = rule.as_ref().map(|rule| rule.state());
        let word = state.map_or_else(|| "none".to_owned(), words::session);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    Some(words.join(", or "))
}

fn shares(
    forward: &Forward,
    mut share: impl FnMut(ClusterIndex, f64, Option<&Criteria>) -> Share,
) -> Vec<Share> {
    let sum = forward.clusters.last().map_or(1, |(upto, _)| *upto);
    let mut before = 0;
    let each = forward
        .clusters
        .iter()
        .enumerate()
        .map(|(i, (upto, cluster))| {
            let weight = upto - std::mem::replace(&mut before, *upto);
            #[allow(
                clippy::cast_precision_loss,
                reason = "weights fit into 32 bits, and a share is for people"
            )]
            let percent = weight as f64 * 100.0 / sum as f64;
            let asked = forward
                .subsets
                .as_ref()
                .and_then(|all| all.get(i)?.as_deref());
            share(*cluster, percent, asked)
        });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outcome: Outcome) -> Answer {
        Answer {
            service: "greeter".into(),
            path: "/a.B/C".into(),
            caller: None,
            listener: "greeter".into(),
            routes: "r, virtual host v".into(),
            rules: vec![
                Rule {
                    name: Some("beta".into()),
                    takes_the_call: false,
                    reason: Some("header \"x\" is not \"1\"".into()),
                },
                Rule {
                    name: None,
                    takes_the_call: true,
                    reason: None,
                },
            ],
            outcome,
        }
    }

    fn sent() -> Outcome {
        Outcome::Sent {
            timeout: "at most 1s".into(),
            retry: "none".into(),
            session: Some("by a cookie".into()),
            clusters: vec![Share {
                name: "greeter@v1".into(),
                percent: 90.0,
                policy: "round robin".into(),
                security: String::new(),
                subset: Some("subset {stage=canary}".into()),
                state: Some("ready".into()),
                failing: false,
                endpoints: vec![
                    Candidate {
                        address: "127.0.0.1:1".into(),
                        place: "zone a".into(),
                        takes_calls: Some(true),
                        reason: "READY, 0 in flight".into(),
                    },
                    Candidate {
                        address: "127.0.0.1:2".into(),
                        takes_calls: Some(false),
                        reason: "its health is DRAINING".into(),
                        ..Candidate::default()
                    },
                    Candidate::in_words("127.0.0.1:3"),
                ],
            }],
        }
    }

    #[test]
    fn text_has_every_step() {
        assert_eq!(
            answer(sent()).to_text(|_, text| text.to_owned()),
            "greeter: /a.B/C\n\
             \x20 listener   greeter\n\
             \x20 routes     r, virtual host v\n\
             \x20 rule       beta: no, header \"x\" is not \"1\"\n\
             \x20 rule       (unnamed): takes the call\n\
             \x20 time       at most 1s\n\
             \x20 retries    none\n\
             \x20 session    by a cookie\n\
             \x20  90.00 %   greeter@v1: round robin, ready\n\
             \x20            subset {stage=canary}\n\
             \x20            127.0.0.1:1, zone a: READY, 0 in flight\n\
             \x20            127.0.0.1:2: not a candidate: its health is DRAINING\n\
             \x20            127.0.0.1:3\n"
        );
    }

    #[test]
    fn a_call_fails_if_every_way_does() {
        assert!(Outcome::Fails(String::new()).fails());
        let mut outcome = sent();
        assert!(!outcome.fails());
        if let Outcome::Sent { clusters, .. } = &mut outcome {
            clusters[0].failing = true;
        }
        assert!(outcome.fails());
    }

    #[test]
    fn json_comes_back_as_it_was() {
        for outcome in [sent(), Outcome::Fails("no rule takes the call".into())] {
            let answer = answer(outcome);
            let json = serde_json::to_value(&answer).unwrap();
            assert_eq!(
                json["outcome"]["sent"],
                json["outcome"]["timeout"].is_string()
            );
            assert_eq!(serde_json::from_value::<Answer>(json).unwrap(), answer);
        }
    }
}
