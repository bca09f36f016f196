//! What single steps cost, counted: to find a route, to take in a resource, to carry out a change.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{number_after, per_time, program};

/// A kind of route, and the most that one among the most may cost, of one among the fewest; `None`
/// is shown and does not gate: patterns are tried one after another, and so are the headers of
/// routes that share a path.
const ROUTES: [(&str, Option<f64>); 5] = [
    ("exact", Some(FLAT)),
    ("service", Some(FLAT)),
    ("prefix", Some(FLAT)),
    ("header", None),
    ("regex", None),
];
const FLAT: f64 = 1.5;

/// Numbers of routes; the short version takes the first and the last.
const SIZES: [u32; 3] = [20, 1_000, 10_000];
/// Calls whose difference is taken: of those that gate, and of those that take long.
const FINDS: (u32, u32) = (1_000, 21_000);
const LONG_FINDS: (u32, u32) = (10, 60);

/// Numbers of clusters in a response.
const CLUSTERS: [u32; 4] = [1, 1_000, 10_000, 100_000];
/// Of which one changes, on a stream.
const SUBSCRIBED: u32 = 100;
const STEPS: (u32, u32) = (100, 1_100);
const LONG_STEPS: (u32, u32) = (1, 3);

/// Endpoints that come up: N, 2N, 4N.
const UP: u32 = 1_000;
/// Endpoints of which one changes.
const CHANGE: [u32; 3] = [100, 1_000, 10_000];
const CHANGES: (u32, u32) = (2, 6);

/// What it costs to find a route.
pub(super) struct Routes(Vec<RouteCost>);

struct RouteCost {
    kind: &'static str,
    /// By number of routes.
    instructions: Vec<(u32, f64)>,
    /// Of a call, at the worst.
    allocations: f64,
    bar: Option<f64>,
}

impl Routes {
    /// Those that gate at the least and at most routes if it is short, else all.
    pub(super) fn measure(short: bool) -> Result<Self> {
        let kinds = ROUTES.iter().filter(|(_, bar)| bar.is_some() || !short);
        let sizes: Vec<u32> = if short {
            vec![SIZES[0], SIZES[2]]
        } else {
            SIZES.into()
        };
        let costs = kinds.map(|(kind, bar)| route_cost(kind, *bar, &sizes));
        Ok(Self(costs.collect::<Result<_>>()?))
    }

    /// Gates that do not hold.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for cost in &self.0 {
            let (kind, growth) = (cost.kind, cost.growth());
            if let Some(bar) = cost.bar.filter(|bar| growth > *bar) {
                faults.push(format!(
                    "to find a route by {kind} grows {growth:.2} times with their number, the bar is {bar}"
                ));
            }
            if cost.allocations > 0.0 {
                faults.push(format!(
                    "a route by {kind} allocates {} a call",
                    cost.allocations
                ));
            }
        }
        faults
    }

    pub(super) fn report(&self) -> Value {
        let routes = self.0.iter().map(|cost| {
            json!({
                "kind": cost.kind,
                "instructions": by_number(&cost.instructions),
                "growth": cost.growth(),
                "bar": cost.bar,
                "allocations": cost.allocations,
            })
        });
        routes.collect()
    }

    pub(super) fn print(&self) {
        println!("\ninstructions to find a route, by the number of routes");
        let sizes = self.0.first().map(|cost| cost.instructions.as_slice());
        let sizes = sizes.unwrap_or_default().iter();
        let head: String = sizes.map(|(n, _)| format!("{n:>12}")).collect();
        println!(
            "{:<12}{head}{:>10}{:>8}{:>13}",
            "", "growth", "bar", "allocations"
        );
        for cost in &self.0 {
            let row: String = cost
                .instructions
                .iter()
                .map(|(_, i)| format!("{i:>12.0}"))
                .collect();
            let bar = cost
                .bar
                .map_or_else(|| "-".to_owned(), |bar| bar.to_string());
            let (kind, growth, allocations) = (cost.kind, cost.growth(), cost.allocations);
            println!("{kind:<12}{row}{growth:>10.2}{bar:>8}{allocations:>13}");
        }
    }
}

impl RouteCost {
    /// From the fewest to the most expensive of the others.
    fn growth(&self) -> f64 {
        super::balancing::growth(self.instructions.iter().map(|(_, cost)| *cost))
    }
}

/// Everything that is counted of single steps, for the report.
pub(super) fn report(short: bool) -> Result<Value> {
    let routes = Routes::measure(short)?;
    let clusters = if short { &CLUSTERS[..2] } else { &CLUSTERS[..] };
    let changes = if short { &CHANGE[..2] } else { &CHANGE[..] };
    let grown = [UP, 2 * UP, 4 * UP];
    Ok(json!({
        "routes": routes.report(),
        "clusters": clusters.iter().map(|n| state(*n)).collect::<Result<Vec<_>>>()?,
        "streams": streams()?,
        "endpoints_that_come_up": grown.iter().map(|n| up(*n)).collect::<Result<Vec<_>>>()?,
        "one_endpoint_changes": changes.iter().map(|n| change(*n)).collect::<Result<Vec<_>>>()?,
    }))
}

fn route_cost(kind: &'static str, bar: Option<f64>, sizes: &[u32]) -> Result<RouteCost> {
    let mut cost = RouteCost {
        kind,
        instructions: Vec::new(),
        allocations: 0.0,
        bar,
    };
    let finds = if bar.is_some() { FINDS } else { LONG_FINDS };
    for routes in sizes {
        let work = |times: u32| {
            let [routes, times] = [*routes, times].map(|number| number.to_string());
            ["--kind", kind, "--routes", &routes, "--times", &times].map(str::to_owned)
        };
        let per_call = per_time(finds, |times| instructions("route", &work(times)))?;
        cost.instructions.push((*routes, per_call));
        let seen = seen("route", &work(finds.1))?;
        let allocations = seen["allocations"].as_f64().context("allocations")?;
        cost.allocations = cost.allocations.max(allocations / f64::from(finds.1));
    }
    Ok(cost)
}

/// A response in which so many clusters have changed is taken in.
fn state(clusters: u32) -> Result<Value> {
    let steps = if clusters < 100 { STEPS } else { LONG_STEPS };
    let each = per_time(steps, |times| ads("client-all", "sotw", clusters, times))?;
    Ok(json!({
        "clusters": clusters,
        "instructions_each": each / f64::from(clusters),
    }))
}

/// A step of either end in which one resource has changed.
fn streams() -> Result<Vec<Value>> {
    let ends = ["client", "server"].into_iter();
    let steps = ends.flat_map(|end| ["sotw", "delta"].map(|variant| (end, variant)));
    let measured = steps.map(|(end, variant)| {
        let cost = per_time(STEPS, |times| ads(end, variant, SUBSCRIBED, times))?;
        Ok(json!({
            "end": end, "protocol": variant, "subscribed": SUBSCRIBED, "instructions": cost,
        }))
    });
    measured.collect()
}

fn ads(step: &str, variant: &str, resources: u32, times: u32) -> Result<u64> {
    let [resources, times] = [resources, times].map(|number| number.to_string());
    instructions(
        "ads",
        &[
            step,
            "--variant",
            variant,
            "--resources",
            &resources,
            "--times",
            &times,
        ],
    )
}

fn up(endpoints: u32) -> Result<Value> {
    let number = endpoints.to_string();
    let all = instructions("reconcile", &["up", "--endpoints", &number])?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let each = all as f64 / f64::from(endpoints);
    Ok(json!({ "endpoints": endpoints, "instructions_each": each }))
}

fn change(endpoints: u32) -> Result<Value> {
    let cost = per_time(CHANGES, |times| {
        let [endpoints, times] = [endpoints, times].map(|number| number.to_string());
        instructions(
            "reconcile",
            &["change", "--endpoints", &endpoints, "--times", &times],
        )
    })?;
    Ok(json!({
        "endpoints": endpoints,
        "instructions": cost,
        "instructions_each": cost / f64::from(endpoints),
    }))
}

fn by_number(costs: &[(u32, f64)]) -> Value {
    let costs = costs.iter().map(|(n, cost)| (n.to_string(), json!(cost)));
    Value::Object(costs.collect())
}

/// Callgrind's count of a whole run.
fn instructions(name: &str, arguments: &[impl AsRef<str>]) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let (_, said) = output(valgrind.arg(program(name)), arguments)?;
    number_after(&said, "Collected :")
}

/// What a run sees of itself.
fn seen(name: &str, arguments: &[impl AsRef<str>]) -> Result<Value> {
    let (line, _) = output(&mut Command::new(program(name)), arguments)?;
    Ok(serde_json::from_str(&line)?)
}

/// What a run prints, and what is said of it.
fn output(command: &mut Command, arguments: &[impl AsRef<str>]) -> Result<(String, String)> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let output = command.args(&arguments).output();
    let output = output.context("valgrind or a bench (are they there?)")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok((text(&output.stdout), said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_and_allocations_of_routes_are_faults() {
        let routes = |kind, last, allocations, bar| {
            Routes(vec![RouteCost {
                kind,
                instructions: vec![(20, 100.0), (10_000, last)],
                allocations,
                bar,
            }])
        };
        assert!(routes("exact", 150.0, 0.0, Some(FLAT)).faults().is_empty());
        assert_eq!(routes("exact", 151.0, 0.0, Some(FLAT)).faults().len(), 1);
        assert_eq!(routes("exact", 100.0, 0.1, Some(FLAT)).faults().len(), 1);
        assert!(routes("regex", 9_000.0, 0.0, None).faults().is_empty());
        let report = routes("exact", 150.0, 0.0, Some(FLAT)).report();
        assert_eq!(report[0]["growth"], 1.5);
        assert_eq!(report[0]["instructions"]["10000"], 150.0);
    }
}
