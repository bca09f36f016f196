//! `/explain`: where would a call go now, and why? Asks the route table that calls read.

use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::page::{Context, FORMAT, Page, Query, Reply, answer};
use crate::inspect::{Process, Target};

/// The page.
pub(super) const PAGE: Page = Page {
    path: "/explain",
    about: "where a call would go now, and why",
    parameters: &[
        ("target", "as dialled: xds:///greeter or greeter; needed"),
        ("path", "the method: /pkg.Service/Method"),
        (
            "header",
            "a header of the call, NAME:VALUE; several are possible",
        ),
        FORMAT,
    ],
    answer: |context, query| answer(explain(context, query)),
};

async fn explain(context: Arc<Context>, query: Query) -> Result<Reply, Reply> {
    let known = context.known().await?;
    let target = find_target(&known.process, query.one("target"))?;
    let headers = query.all("header").map(header).collect::<Result<_, _>>()?;
    let path = query.one("path").unwrap_or("/");
    let path = format!("/{}", path.trim_start_matches('/'));
    let answer = known.explain(target, &path, &headers);
    if !query.wants_json() {
        return Ok(Reply::text(answer.to_text(|_, text| text.to_owned())));
    }
    let json = serde_json::to_value(&answer)
        .map_err(|error| Reply::error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Reply::json(&json))
}

fn find_target<'a>(process: &'a Process, wanted: Option<&str>) -> Result<&'a Target, Reply> {
    let known = || {
        let names = process.targets.iter().map(|t| format!("\n  {}", t.name));
        match process.targets.is_empty() {
            true => "this process has dialled no target".to_owned(),
            false => format!("this process has dialled{}", names.collect::<String>()),
        }
    };
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        let text = format!(
            "say which: /explain?target=NAME&path=/pkg.Service/Method; {}",
            known()
        );
        return Err(Reply::error(StatusCode::BAD_REQUEST, text));
    };
    let name = wanted.trim_start_matches("xds:").trim_start_matches('/');
    let is_it = |t: &&Target| {
        [wanted, name].contains(&&*t.name) || (!name.is_empty() && *t.authority == *name)
    };
    process.targets.iter().find(is_it).ok_or_else(|| {
        let text = format!("no target {wanted:?}; {}", known());
        Reply::error(StatusCode::NOT_FOUND, text)
    })
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), Reply> {
    let bad = |reason: String| {
        let text = format!("header {text:?}: {reason}");
        Reply::error(StatusCode::BAD_REQUEST, text)
    };
    let (name, value) = text
        .split_once([':', '='])
        .ok_or_else(|| bad("expected NAME:VALUE".to_owned()))?;
    let name = HeaderName::from_str(name.trim()).map_err(|error| bad(error.to_string()))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| bad(error.to_string()))?;
    Ok((name, value))
}
