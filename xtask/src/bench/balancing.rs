//! What a pick costs by policy and number of endpoints, and what reading a list of endpoints
//! costs: `pick` under callgrind, and what it sees itself.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{number_after, per_time, program};

/// A policy, and the most that a pick among the most endpoints may cost, of one among the fewest:
/// flat for all but rings, which search (log n of their entries, 1,024 at least).
const POLICIES: [(&str, f64); 10] = [
    ("round_robin", FLAT),
    ("least_request", FLAT),
    ("random", FLAT),
    ("pick_first", FLAT),
    ("ring_hash", LOGARITHMIC),
    ("maglev", FLAT),
    ("weighted_round_robin", FLAT),
    ("peak_ewma", FLAT),
    ("by_locality", FLAT),
    ("subset", FLAT),
];
const FLAT: f64 = 1.5;
const LOGARITHMIC: f64 = 2.5;

/// Numbers of endpoints; the short version takes the first and the last.
const ENDPOINTS: [u32; 3] = [10, 1_000, 100_000];
/// Of a resource; the short version takes the first and the second.
const LISTED: [u32; 3] = [1_000, 10_000, 100_000];
/// An endpoint of a long list may cost so much more than one of a short list.
const LINEAR: f64 = 1.5;

/// Runs whose difference is taken.
const PICKS: (u32, u32) = (1_000, 21_000);
const READS: (u32, u32) = (1, 4);

/// What everything about balancing costs.
pub(super) struct Costs {
    picks: Vec<PickCost>,
    lists: Vec<ListCost>,
}

struct PickCost {
    policy: &'static str,
    /// By number of endpoints.
    instructions: Vec<(u32, f64)>,
    /// Of a pick, at the worst.
    allocations: f64,
}

/// Of one endpoint of a resource.
struct ListCost {
    endpoints: u32,
    decode: f64,
    compare: f64,
    /// In memory, once decoded.
    bytes: f64,
    /// On the wire.
    encoded: f64,
    /// To decode it and to compare it, by the clock.
    nanoseconds: f64,
}

impl Costs {
    pub(super) fn measure(short: bool) -> Result<Self> {
        let [few, some, many] = ENDPOINTS;
        let sizes = if short {
            vec![few, many]
        } else {
            vec![few, some, many]
        };
        let listed = if short { &LISTED[..2] } else { &LISTED[..] };
        let picks = POLICIES.iter().map(|(policy, _)| pick_cost(policy, &sizes));
        let lists = listed.iter().map(|endpoints| list_cost(*endpoints));
        Ok(Self {
            picks: picks.collect::<Result<_>>()?,
            lists: lists.collect::<Result<_>>()?,
        })
    }

    /// Gates that do not hold.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (cost, (policy, most)) in self.picks.iter().zip(POLICIES) {
            let growth = cost.growth();
            if growth > most {
                faults.push(format!(
                    "a pick of {policy} grows {growth:.2} times with the endpoints, the bar is {most}"
                ));
            }
            if cost.allocations > 0.0 {
                faults.push(format!("{policy} allocates {} a pick", cost.allocations));
            }
        }
        for (what, of) in [
            ("decode", (|cost| cost.decode) as fn(&ListCost) -> f64),
            ("compare", |cost| cost.compare),
        ] {
            let growth = growth(self.lists.iter().map(of));
            if growth > LINEAR {
                faults.push(format!(
                    "to {what} an endpoint grows {growth:.2} times with their number, the bar is {LINEAR}"
                ));
            }
        }
        faults
    }

    pub(super) fn report(&self) -> Value {
        let picks = self.picks.iter().map(|cost| {
            let sizes = cost.instructions.iter();
            let instructions = sizes.map(|(n, cost)| (n.to_string(), json!(cost)));
            json!({
                "policy": cost.policy,
                "instructions": instructions.collect::<serde_json::Map<_, _>>(),
                "allocations": cost.allocations,
            })
        });
        let lists = self.lists.iter().map(|cost| {
            json!({
                "endpoints": cost.endpoints,
                "decode_instructions": cost.decode,
                "compare_instructions": cost.compare,
                "bytes_in_memory": cost.bytes,
                "bytes_on_the_wire": cost.encoded,
                "nanoseconds": cost.nanoseconds,
            })
        });
        json!({"picks": picks.collect::<Vec<_>>(), "endpoint_lists": lists.collect::<Vec<_>>()})
    }

    pub(super) fn print(&self) {
        println!("\ninstructions of a pick, all endpoints connected, by their number");
        let sizes = self.picks.first().map(|cost| cost.instructions.as_slice());
        let sizes = sizes.unwrap_or_default().iter();
        let head: String = sizes.map(|(n, _)| format!("{n:>10}")).collect();
        println!(
            "{:<22}{head}{:>10}{:>8}{:>13}",
            "", "growth", "bar", "allocations"
        );
        for (cost, (_, bar)) in self.picks.iter().zip(POLICIES) {
            let row: String = cost
                .instructions
                .iter()
                .map(|(_, i)| format!("{i:>10.0}"))
                .collect();
            let (growth, allocations) = (cost.growth(), cost.allocations);
            println!(
                "{:<22}{row}{growth:>10.2}{bar:>8}{allocations:>13}",
                cost.policy
            );
        }
        println!("\none endpoint of an EDS resource, by their number");
        println!(
            "{:<14}{:>10}{:>10}{:>16}{:>14}{:>8}",
            "", "decode", "compare", "bytes in memory", "on the wire", "ns"
        );
        for cost in &self.lists {
            println!(
                "{:<14}{:>10.0}{:>10.0}{:>16.0}{:>14.0}{:>8.0}",
                cost.endpoints,
                cost.decode,
                cost.compare,
                cost.bytes,
                cost.encoded,
                cost.nanoseconds
            );
        }
    }
}

impl PickCost {
    fn growth(&self) -> f64 {
        growth(self.instructions.iter().map(|(_, cost)| *cost))
    }
}

/// The greatest of the later ones, of the first.
pub(super) fn growth(mut costs: impl Iterator<Item = f64>) -> f64 {
    let first = costs.next().unwrap_or(1.0);
    costs.fold(0.0, f64::max) / first
}

fn pick_cost(policy: &'static str, sizes: &[u32]) -> Result<PickCost> {
    let mut cost = PickCost {
        policy,
        instructions: Vec::new(),
        allocations: 0.0,
    };
    for endpoints in sizes {
        let work = ["policy", "--policy", policy];
        let per_pick = per_time(PICKS, |times| instructions(&work, *endpoints, times))?;
        cost.instructions.push((*endpoints, per_pick));
        let seen = seen(&work, *endpoints, PICKS.1)?;
        let allocations = number(&seen, "allocations")? / f64::from(PICKS.1);
        cost.allocations = cost.allocations.max(allocations);
    }
    Ok(cost)
}

fn list_cost(endpoints: u32) -> Result<ListCost> {
    let each = f64::from(endpoints);
    let per_endpoint = |work: &str| -> Result<f64> {
        Ok(per_time(READS, |times| instructions(&[work], endpoints, times))? / each)
    };
    let decoded = seen(&["decode"], endpoints, 1)?;
    let compared = seen(&["compare"], endpoints, 1)?;
    let nanoseconds = number(&decoded, "nanoseconds")? + number(&compared, "nanoseconds")?;
    Ok(ListCost {
        endpoints,
        decode: per_endpoint("decode")?,
        compare: per_endpoint("compare")?,
        bytes: number(&decoded, "bytes_kept")? / each,
        encoded: number(&decoded, "bytes_on_the_wire")? / each,
        nanoseconds: nanoseconds / each,
    })
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| key.to_owned())
}

/// Callgrind's count of a whole run.
fn instructions(work: &[&str], endpoints: u32, times: u32) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let (_, said) = output(valgrind.arg(program("pick")), work, endpoints, times)?;
    number_after(&said, "Collected :")
}

/// What a run sees of itself.
fn seen(work: &[&str], endpoints: u32, times: u32) -> Result<Value> {
    let (line, _) = output(&mut Command::new(program("pick")), work, endpoints, times)?;
    Ok(serde_json::from_str(&line)?)
}

/// What a run prints, and what is said of it.
fn output(
    command: &mut Command,
    work: &[&str],
    endpoints: u32,
    times: u32,
) -> Result<(String, String)> {
    command
        .args(work)
        .arg("--endpoints")
        .arg(endpoints.to_string());
    let output = command.arg("--times").arg(times.to_string()).output();
    let output = output.context("valgrind or pick (are they there?)")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stderr);
    ensure!(
        output.status.success(),
        "{work:?}, {endpoints} endpoints: {said}"
    );
    Ok((text(&output.stdout), said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(growth: f64, allocations: f64, decode: f64) -> Costs {
        let pick = |(policy, _): (&'static str, f64)| PickCost {
            policy,
            instructions: vec![(10, 100.0), (1_000, 100.0 * growth), (100_000, 100.0)],
            allocations,
        };
        let list = |endpoints, decode| ListCost {
            endpoints,
            decode,
            compare: 10.0,
            bytes: 1.0,
            encoded: 1.0,
            nanoseconds: 1.0,
        };
        Costs {
            picks: POLICIES.map(pick).into(),
            lists: vec![list(1_000, 100.0), list(10_000, decode)],
        }
    }

    #[test]
    fn growth_and_allocations_are_faults() {
        assert!(costs(1.2, 0.0, 110.0).faults().is_empty());
        // All but the ring.
        assert_eq!(costs(2.0, 0.0, 110.0).faults().len(), POLICIES.len() - 1);
        assert_eq!(costs(3.0, 0.0, 110.0).faults().len(), POLICIES.len());
        assert_eq!(costs(1.0, 0.01, 110.0).faults().len(), POLICIES.len());
        assert_eq!(costs(1.0, 0.0, 200.0).faults().len(), 1);
    }
}
