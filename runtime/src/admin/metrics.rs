//! `/metrics`: everything that is counted, for Prometheus.

use std::sync::Arc;

use super::page::{Context, Page, Query, Reply, answer, render};
use crate::telemetry::Telemetry;

/// The page.
pub(super) const PAGE: Page = Page {
    path: "/metrics",
    about: "metrics for Prometheus (OpenMetrics text)",
    parameters: &[],
    answer: |context, query| answer(metrics(context, query)),
};

/// Where Envoy has them.
pub(super) const ENVOYS_NAME: Page = Page {
    path: "/stats/prometheus",
    about: "the same as /metrics",
    ..PAGE
};

async fn metrics(context: Arc<Context>, _: Query) -> Result<Reply, Reply> {
    render(move || {
        Ok(Reply {
            content_type: Telemetry::PROMETHEUS_CONTENT_TYPE,
            ..Reply::text(context.telemetry.prometheus_text())
        })
    })
    .await
}
