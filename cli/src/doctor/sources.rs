//! The living sources of endpoints that the control plane asks: how old is what each has told?

use std::time::SystemTime;

use sidestep_proto::wire::operations::EndpointSourceStatus;

use super::{Group, Report, State, span};

/// One line for each source. One that fails keeps its last list, which gets older.
pub(super) fn check(
    uri: &str,
    sources: &[EndpointSourceStatus],
    now: SystemTime,
    report: &mut Report,
) {
    for source in sources {
        let told_at = source.told_at.and_then(|at| SystemTime::try_from(at).ok());
        // Clocks of two machines differ: nothing is younger than now.
        let age = told_at.map(|at| now.duration_since(at).unwrap_or_default());
        let age = age.map_or_else(
            || "never told".to_owned(),
            |age| format!("told {} ago", span(age)),
        );
        let (kind, locator) = (&source.kind, &source.locator);
        let says = format!(
            "{uri}: {kind} {locator}: {} endpoints, {age}",
            source.endpoints
        );
        if source.error.is_empty() && told_at.is_some() {
            report.good(Group::ControlPlane, says);
            continue;
        }
        let why = match source.error.as_str() {
            "" => "no answer yet",
            error => error,
        };
        let state = State::Partial;
        report
            .add(Group::ControlPlane, state, format!("{says}; {why}"))
            .hint = Some(
            "the last list stays in use until the source tells a new one: repair the source"
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_source_that_fails_is_partly_in_order() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let well = EndpointSourceStatus {
            kind: "dns".to_owned(),
            locator: "a.b:1".to_owned(),
            endpoints: 2,
            told_at: Some(at(990).into()),
            ..EndpointSourceStatus::default()
        };
        let failing = EndpointSourceStatus {
            error: "the name a.b does not exist".to_owned(),
            ..well.clone()
        };
        let silent = EndpointSourceStatus {
            told_at: None,
            ..well.clone()
        };
        let mut report = Report::default();
        check("server", &[well, failing, silent], at(1000), &mut report);
        let found: Vec<(State, &str)> = report
            .findings
            .iter()
            .map(|finding| (finding.state, finding.says.as_str()))
            .collect();
        let told = format!("told {} ago", span(Duration::from_secs(10)));
        let line = format!("server: dns a.b:1: 2 endpoints, {told}");
        let failing = format!("{line}; the name a.b does not exist");
        let silent = "server: dns a.b:1: 2 endpoints, never told; no answer yet";
        let expected = [
            (State::Good, line.as_str()),
            (State::Partial, &failing),
            (State::Partial, silent),
        ];
        assert_eq!(found, expected);
    }
}
