//! The living sources of endpoints, as `sidestep status` shows them.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sidestep_proto::wire::operations::EndpointSourceStatus;

use crate::output::{Cell, Style, table};

/// A table, and what is wrong below it; nothing where there are no sources.
pub(super) fn to_text(sources: &[EndpointSourceStatus], now: SystemTime, style: Style) -> String {
    if sources.is_empty() {
        return String::new();
    }
    let heading = ["SOURCE", "SERVICES", "ENDPOINTS", "AGE", "STATE"];
    let heading = heading.map(|text| Cell::painted(text, Style::strong));
    let mut rows = vec![Vec::from(heading)];
    rows.extend(sources.iter().map(|source| row(source, now)));
    let mut out = table(style, &rows);
    for source in sources.iter().filter(|source| !source.error.is_empty()) {
        let (kind, locator, error) = (&source.kind, &source.locator, &source.error);
        out.push_str(&format!(
            "{} {kind} {locator}: {error}\n",
            style.bad("FAILS")
        ));
    }
    out.push('\n');
    out
}

fn row(source: &EndpointSourceStatus, now: SystemTime) -> Vec<Cell> {
    let state = match (source.error.is_empty(), source.told_at.is_some()) {
        (true, true) => Cell::painted("OK", Style::good),
        (true, false) => Cell::painted("WAITING", Style::odd),
        (false, _) => Cell::painted("FAILS", Style::bad),
    };
    vec![
        Cell::plain(format!("{} {}", source.kind, source.locator)),
        Cell::plain(source.services.join(",")),
        Cell::plain(source.endpoints.to_string()),
        Cell::plain(age(source, now).map_or_else(|| "never".to_owned(), in_words)),
        state,
    ]
}

fn age(source: &EndpointSourceStatus, now: SystemTime) -> Option<Duration> {
    let told_at = SystemTime::try_from(source.told_at?).ok()?;
    // Clocks of two machines differ: nothing is younger than now.
    Some(now.duration_since(told_at).unwrap_or_default())
}

/// `4s`, `3m`, `2h`, `5d`: the two largest digits are enough to know whether to worry.
fn in_words(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn to_json(sources: &[EndpointSourceStatus], now: SystemTime) -> Vec<Value> {
    let each = sources.iter().map(|source| {
        json!({
            "kind": source.kind,
            "locator": source.locator,
            "services": source.services,
            "endpoints": source.endpoints,
            "told_at": super::seconds(source.told_at.as_ref()),
            "age_s": age(source, now).map(|age| age.as_secs_f64()),
            "error": (!source.error.is_empty()).then_some(&source.error),
        })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn source(locator: &str, told_at: Option<u64>, error: &str) -> EndpointSourceStatus {
        EndpointSourceStatus {
            kind: "dns".to_owned(),
            locator: locator.to_owned(),
            services: vec!["greeter".to_owned()],
            endpoints: 2,
            told_at: told_at.map(|seconds| at(seconds).into()),
            error: error.to_owned(),
        }
    }

    /// A pipe: never coloured.
    fn plain() -> Style {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        Style::of(&std::os::fd::OwnedFd::from(reader))
    }

    #[test]
    fn a_source_shows_its_age_and_what_is_wrong() {
        let sources = [
            source("a:1", Some(990), ""),
            source("b:1", Some(100), "no"),
            source("c:1", None, ""),
        ];
        assert_eq!(
            to_text(&sources, at(1000), plain()),
            "SOURCE   SERVICES  ENDPOINTS  AGE    STATE\n\
             dns a:1  greeter   2          10s    OK\n\
             dns b:1  greeter   2          15m    FAILS\n\
             dns c:1  greeter   2          never  WAITING\n\
             FAILS dns b:1: no\n\n"
        );
        let json = to_json(&sources, at(1000));
        assert_eq!(json[1]["age_s"], 900.0);
        assert_eq!(json[1]["error"], "no");
        assert_eq!(json[2]["age_s"], Value::Null);
        assert_eq!(to_text(&[], at(1000), plain()), "");
    }

    #[test]
    fn ages_in_words() {
        for (seconds, words) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7199, "119m"),
            (7200, "2h"),
            (172_800, "2d"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
    }
}
