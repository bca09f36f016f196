//! `/` and `/help`: what there is.

use std::fmt::Write as _;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::PAGES;
use super::page::{Context, Page, Query, Reply};

/// The index.
pub(super) const PAGE: Page = Page {
    path: "/",
    about: "this index",
    parameters: &[],
    answer: index,
};

/// The same, as text for everybody.
pub(super) const HELP: Page = Page {
    path: "/help",
    about: "all pages with their parameters, as text",
    parameters: &[],
    answer: help,
};

fn index(_: Arc<Context>, query: Query) -> BoxFuture<'static, Reply> {
    Box::pin(async move {
        match query.wants_html {
            true => Reply::html(html()),
            false => Reply::text(text()),
        }
    })
}

fn help(_: Arc<Context>, _: Query) -> BoxFuture<'static, Reply> {
    Box::pin(async { Reply::text(text()) })
}

fn text() -> String {
    let mut out = "sidestep admin (read-only)\n".to_owned();
    for page in PAGES {
        // Cannot fail: the target is a string.
        let _ = writeln!(out, "  {:<17} {}", page.path, page.about);
        for (name, about) in page.parameters {
            let _ = writeln!(out, "  {:<17}   ?{name}= {about}", "");
        }
    }
    out.push_str("  gRPC              envoy.service.status.v3.ClientStatusDiscoveryService\n");
    out
}

fn html() -> String {
    let mut rows = String::new();
    for page in PAGES {
        let Page { path, about, .. } = page;
        let _ = write!(
            rows,
            "<tr><td><a href=\"{path}\">{path}</a></td><td>{about}"
        );
        for (name, about) in page.parameters {
            let _ = write!(rows, "<br><small>?{name}= {about}</small>");
        }
        rows.push_str("</td></tr>\n");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>sidestep admin</title>\n\
         <style>body{{font-family:sans-serif;margin:2em}}td{{padding:.3em 1em .3em 0;\
         vertical-align:top}}</style></head>\n\
         <body><h1>sidestep admin</h1><p>Read-only.</p><table>\n{rows}</table></body></html>\n"
    )
}
