//! `/server_info`: what runs here, and since when.

use std::sync::Arc;

use serde_json::{Value, json};
use sidestep_proto::wire::core::Node;
use sidestep_proto::wire::{Any, json as messages};

use super::page::{Context, Page, Query, Reply, answer};
use super::ready;
use crate::control::Question;

/// The page.
pub(super) const PAGE: Page = Page {
    path: "/server_info",
    about: "version, state, uptime and node, as JSON",
    parameters: &[],
    answer: |context, query| answer(server_info(context, query)),
};

async fn server_info(context: Arc<Context>, _: Query) -> Result<Reply, Reply> {
    let process = context.ask(Question::Process).await?;
    let uptime = format!("{}s", context.opened.elapsed().as_secs());
    Ok(Reply::json(&json!({
        "version": concat!("sidestep/", env!("CARGO_PKG_VERSION")),
        "state": ready::state(&process),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "node": process.node.as_ref().map(node),
    })))
}

/// The node as messages are shown, without its type.
pub(super) fn node(node: &Node) -> Value {
    let mut value = messages::render(&Any::pack(node)).json;
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove("@type");
    }
    value
}
