//! What a page is: a path, what it is for, and an answer.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::control::{Asker, Question};
use crate::explain::process::Known;
use crate::telemetry::Telemetry;

/// A page.
pub(super) struct Page {
    /// Where it is.
    pub(super) path: &'static str,
    /// What it is for, in a line.
    pub(super) about: &'static str,
    /// Its query parameters, and what each does.
    pub(super) parameters: &'static [(&'static str, &'static str)],
    /// Answers.
    pub(super) answer: fn(Arc<Context>, Query) -> BoxFuture<'static, Reply>,
}

/// The parameter that most pages have.
pub(super) const FORMAT: (&str, &str) = ("format", "json, or text");

/// What pages answer from.
pub(super) struct Context {
    asker: Asker,
    pub(super) telemetry: Arc<Telemetry>,
    /// When the endpoint was opened, which is about when the process began.
    pub(super) opened: Instant,
}

impl Context {
    pub(super) fn new(asker: Asker, telemetry: Arc<Telemetry>) -> Arc<Self> {
        Arc::new(Self {
            asker,
            telemetry,
            opened: Instant::now(),
        })
    }

    /// Asks the control task; the error is the reply to give.
    pub(super) async fn ask<T>(
        &self,
        question: impl FnOnce(tokio::sync::oneshot::Sender<T>) -> Question,
    ) -> Result<T, Reply> {
        let answer = self.asker.ask(question).await;
        answer.ok_or_else(ended)
    }

    /// What explains calls.
    pub(super) async fn known(&self) -> Result<Known, Reply> {
        Known::ask(&self.asker).await.ok_or_else(ended)
    }
}

fn ended() -> Reply {
    Reply::error(StatusCode::SERVICE_UNAVAILABLE, ENDED)
}

/// What is said once there is nobody left to ask.
pub(super) const ENDED: &str = "the mesh of this process has ended";

/// What stands behind the question mark.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    /// Whether a browser asks.
    pub(super) wants_html: bool,
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let parts = query.unwrap_or_default().split('&');
        let parts = parts.filter(|part| !part.is_empty());
        let pairs = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (plain(name), plain(value))
        });
        Self {
            pairs: pairs.collect(),
            wants_html: false,
        }
    }

    /// The parameter's value; of several the last.
    pub(super) fn one(&self, name: &'static str) -> Option<&str> {
        self.all(name).last()
    }

    /// All values of the parameter.
    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let pairs = self.pairs.iter().filter(move |(key, _)| key == name);
        pairs.map(|(_, value)| value.as_str())
    }

    /// Whether JSON is wanted where text is the default.
    pub(super) fn wants_json(&self) -> bool {
        self.one("format") == Some("json")
    }
}

fn plain(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn text(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    pub(super) fn json(value: &Value) -> Self {
        Self {
            content_type: "application/json",
            ..Self::text(format!("{value:#}\n"))
        }
    }

    pub(super) fn html(body: String) -> Self {
        Self {
            content_type: "text/html; charset=utf-8",
            ..Self::text(body)
        }
    }

    pub(super) fn error(status: StatusCode, text: impl AsRef<str>) -> Self {
        Self::text(format!("{}\n", text.as_ref())).with_status(status)
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

/// Works away from the threads on which calls run: a large mesh takes a while.
pub(super) fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

/// Renders a page [`off_thread`].
pub(super) async fn render(
    work: impl FnOnce() -> Result<Reply, Reply> + Send + 'static,
) -> Result<Reply, Reply> {
    let done = off_thread(work).await;
    done.unwrap_or_else(|failed| {
        let text = format!("the page could not be made: {failed}");
        Err(Reply::error(StatusCode::INTERNAL_SERVER_ERROR, text))
    })
}

/// A page's answer out of an ordinary function with early returns.
pub(super) fn answer(
    work: impl Future<Output = Result<Reply, Reply>> + Send + 'static,
) -> BoxFuture<'static, Reply> {
    Box::pin(async { work.await.unwrap_or_else(|refusal| refusal) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("a=1&header=x%3A1&header=y:+2&format=json&&flag"));
        assert_eq!(query.one("a"), Some("1"));
        assert_eq!(query.all("header").collect::<Vec<_>>(), ["x:1", "y: 2"]);
        assert_eq!(query.one("flag"), Some(""));
        assert!(query.wants_json());
        assert_eq!(Query::parse(None).one("a"), None);
    }
}
