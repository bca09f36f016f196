//! The Grafana dashboard, in the classic JSON model: what can be said of it without a Grafana.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;
use serde_json::Value;

use crate::codegen::root;

/// The kinds of panels in use, all of Grafana's core.
const KINDS: [&str; 4] = ["row", "timeseries", "stat", "table"];
/// A dashboard is so many columns wide.
const COLUMNS: u64 = 24;
/// The data source, which the reader of the dashboard chooses.
const SOURCE: &str = "${datasource}";

/// The dashboard of `ops/grafana`.
pub(crate) struct Dashboard(Value);

/// Reads it.
pub(crate) fn read() -> Result<Dashboard> {
    let text = fs::read_to_string(root().join("ops/grafana/sidestep.json"))?;
    Ok(Dashboard(serde_json::from_str(&text)?))
}

impl Dashboard {
    /// All queries of panels, with the panel's title, as Grafana would send them with every
    /// variable on "All".
    pub(crate) fn queries(&self) -> Vec<(String, String)> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in array(&panel["targets"]) {
                let query = text(&target["expr"]);
                queries.push((text(&panel["title"]).to_owned(), self.filled_in(query)));
            }
        }
        queries
    }

    /// What Grafana would stumble over, or a reader.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for key in ["title", "uid", "schemaVersion", "time", "templating"] {
            if self.0[key].is_null() {
                faults.push(format!("the dashboard has no {key}"));
            }
        }
        let mut ids = BTreeSet::new();
        for panel in self.panels() {
            let title = text(&panel["title"]);
            let mut fault = |what: &str| faults.push(format!("panel {title:?}: {what}"));
            if !ids.insert(panel["id"].as_u64()) || panel["id"].is_null() {
                fault("its id is missing or not its own");
            }
            if !KINDS.contains(&text(&panel["type"])) {
                fault("its type is not one of those in use");
            }
            if text(&panel["type"]) == "row" {
                continue;
            }
            if text(&panel["description"]).is_empty() {
                fault("no description");
            }
            if array(&panel["targets"]).is_empty() {
                fault("no query");
            }
            for target in array(&panel["targets"]) {
                if text(&target["datasource"]["uid"]) != SOURCE {
                    fault("a query does not ask the chosen data source");
                }
                if text(&target["expr"]).is_empty() || text(&target["refId"]).is_empty() {
                    fault("a query lacks expr or refId");
                }
            }
        }
        faults.extend(self.misplaced());
        faults.extend(self.unknown_variables());
        faults
    }

    fn panels(&self) -> &[Value] {
        array(&self.0["panels"])
    }

    fn variables(&self) -> Vec<&str> {
        let list = array(&self.0["templating"]["list"]).iter();
        list.map(|variable| text(&variable["name"])).collect()
    }

    fn filled_in(&self, query: &str) -> String {
        let mut query = query.replace("$__rate_interval", "1m");
        for variable in self.variables() {
            query = query.replace(&format!("${variable}"), ".*");
        }
        query
    }

    /// Panels that overlap or leave the grid.
    fn misplaced(&self) -> Vec<String> {
        let mut taken = BTreeSet::new();
        let mut faults = Vec::new();
        for panel in self.panels() {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap_or(COLUMNS + 1);
            let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
            let cells = (y..y + h).flat_map(|row| (x..x + w).map(move |column| (row, column)));
            let free = cells.filter(|cell| !taken.insert(*cell)).count() == 0;
            if x + w > COLUMNS || !free {
                faults.push(format!("panel {} lies badly", panel["title"]));
            }
        }
        faults
    }

    fn unknown_variables(&self) -> Vec<String> {
        let left = |(_, query): &(String, String)| query.contains('$');
        let left = self.queries().into_iter().filter(left);
        left.map(|(panel, query)| format!("panel {panel:?}: a variable is not known in {query}"))
            .collect()
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_are_found() {
        let panel = |x: u64, id: u64, query: &str| {
            json!({
                "id": id, "type": "stat", "title": "t", "description": "d",
                "gridPos": {"x": x, "y": 0, "w": 12, "h": 4},
                "targets": [{"refId": "A", "expr": query, "datasource": {"uid": SOURCE}}],
            })
        };
        let with = |panels: Vec<Value>| {
            let variables = json!({"list": [{"name": "job"}]});
            let board = json!({
                "title": "t", "uid": "u", "schemaVersion": 39, "time": {},
                "templating": variables, "panels": panels,
            });
            Dashboard(board).faults()
        };
        assert!(with(vec![panel(0, 1, "a{b=~\"$job\"}"), panel(12, 2, "a")]).is_empty());
        assert_eq!(with(vec![panel(0, 1, "a"), panel(13, 2, "a")]).len(), 1);
        assert_eq!(with(vec![panel(0, 1, "a"), panel(11, 2, "a")]).len(), 1);
        assert_eq!(with(vec![panel(0, 1, "a"), panel(12, 1, "a")]).len(), 1);
        assert_eq!(with(vec![panel(0, 1, "$nobody")]).len(), 1);
        assert_eq!(with(vec![panel(0, 1, "")]).len(), 1);
    }
}
