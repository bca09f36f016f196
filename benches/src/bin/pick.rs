//! What a pick costs by policy and number of endpoints, and what reading their resource costs.
//!
//! Each run does the same work a given number of times, so that the difference of two runs under
//! valgrind is the work alone. What it sees itself goes out as a line of JSON: allocations, bytes
//! and nanoseconds of the work.

use std::alloc::System;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use http::HeaderMap;
use serde_json::{Value, json};
use sidestep::balancer::{self, Connectivity, Endpoint, Pick, Picker, SubchannelId};
use sidestep::routing::{Call, Criteria};
use sidestep_proto::codec::{self, Context as CodecContext};
use sidestep_proto::resource::{
    self, Address, EndpointAssignment, Health, Labels, LbPolicy, Locality, LocalityEndpoints,
    Resource, ResourceType, SubsetSelector, Subsets,
};
use sidestep_proto::wire::Any;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Parser)]
#[command(about = "What a pick, and the resource behind it, costs")]
struct Flags {
    #[command(subcommand)]
    work: Work,
    /// How many endpoints, all of them connected; in three localities.
    #[arg(long, default_value_t = 10, global = true)]
    endpoints: u32,
    /// How often the work is done.
    #[arg(long, default_value_t = 1, global = true)]
    times: u32,
}

#[derive(Subcommand)]
enum Work {
    /// Picks of a policy.
    Policy(PolicyFlags),
    /// The resource of the endpoints: each time one of its copies is decoded.
    Decode,
    /// The resource of the endpoints: each time it is compared with an equal one.
    Compare,
}

#[derive(Args)]
struct PolicyFlags {
    #[arg(long)]
    policy: Policy,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Policy {
    RoundRobin,
    LeastRequest,
    Random,
    PickFirst,
    RingHash,
    Maglev,
    /// Before anything was reported.
    WeightedRoundRobin,
    PeakEwma,
    /// Round robin in each of three localities, chosen by weight.
    ByLocality,
    /// Round robin in subsets of ten endpoints; calls ask for one of the first sixteen.
    Subset,
}

impl Policy {
    fn configuration(self) -> LbPolicy {
        match self {
            Self::RoundRobin => LbPolicy::RoundRobin,
            Self::LeastRequest => LbPolicy::LeastRequest { choice_count: 2 },
            Self::Random => LbPolicy::Random,
            Self::PickFirst => LbPolicy::PickFirst { shuffle: false },
            // The defaults of the wire.
            Self::RingHash => LbPolicy::RingHash {
                min_ring_size: 1024,
                max_ring_size: 8 << 20,
            },
            // Each endpoint needs places; a prime that has several for each of 100,000.
            Self::Maglev => LbPolicy::Maglev {
                table_size: 1_000_003,
            },
            Self::WeightedRoundRobin => LbPolicy::WeightedRoundRobin(Default::default()),
            Self::PeakEwma => LbPolicy::PeakEwma(Default::default()),
            Self::ByLocality => LbPolicy::RoundRobin.by_locality(),
            Self::Subset => LbPolicy::Subsets(Box::new(Subsets::new(
                LbPolicy::RoundRobin,
                vec![SubsetSelector::by(&["shard"])],
            ))),
        }
    }
}

fn main() -> Result<()> {
    let Flags {
        work,
        endpoints,
        times,
    } = Flags::parse();
    let seen = match work {
        Work::Policy(flags) => picks(
            &*picker(flags.policy, endpoints)?,
            &asked(flags.policy, endpoints),
            times,
        )?,
        Work::Decode => decode(&resource(endpoints), times)?,
        Work::Compare => compare(&resource(endpoints), times)?,
    };
    println!("{seen}");
    Ok(())
}

/// The picker of a policy whose endpoints are all connected.
fn picker(policy: Policy, endpoints: u32) -> Result<Arc<dyn Picker>> {
    let now = Instant::now();
    let localities = ["a", "b", "c"].map(|zone| {
        Arc::new(Locality {
            zone: zone.to_owned(),
            ..Locality::default()
        })
    });
    let endpoint = |id: u32| Endpoint {
        locality: Arc::clone(&localities[id as usize % 3]),
        locality_weight: 1 + id % 3,
        weight: 1 + id % 7,
        labels: match policy {
            Policy::Subset => shard(id / 10),
            _ => Labels::default(),
        },
        ..Endpoint::new(SubchannelId(id), address(id).to_string())
    };
    let endpoints: Vec<Endpoint> = (0..endpoints).map(endpoint).collect();
    let mut balancer = balancer::build(&policy.configuration(), 1);
    let mut out = Vec::new();
    balancer.update(now, &endpoints, None, &mut out);
    // One that wants a single connection gets no more.
    let wanted = if matches!(policy, Policy::PickFirst) {
        1
    } else {
        endpoints.len()
    };
    for endpoint in &endpoints[..wanted] {
        balancer.subchannel_changed(now, endpoint.id, &Connectivity::Ready, &mut out);
        // Carried out, as by the control task.
        out.clear();
    }
    ensure!(balancer.connectivity() == Connectivity::Ready, "not ready");
    Ok(balancer.picker())
}

fn address(id: u32) -> Address {
    let [a, b, c, d] = (0x0a00_0000 + id).to_be_bytes();
    Address::Tcp(([a, b, c, d], 443).into())
}

fn shard(number: u32) -> Labels {
    [("shard", &*number.to_string())].into_iter().collect()
}

/// What calls ask for, one after the other; empty: for nothing.
fn asked(policy: Policy, endpoints: u32) -> Vec<Criteria> {
    let subsets = match policy {
        Policy::Subset => endpoints.div_ceil(10).min(16),
        _ => 0,
    };
    let asked = (0..subsets).map(|number| Criteria::compile(&shard(number)));
    asked.flatten().collect()
}

fn picks(picker: &dyn Picker, asked: &[Criteria], times: u32) -> Result<Value> {
    let headers = HeaderMap::new();
    let (mut random, mut ready) = (0x9E37_79B9_7F4A_7C15_u64, 0);
    let region = Region::new(ALLOCATOR);
    let start = Instant::now();
    let mut asked = asked.iter().cycle();
    for _ in 0..times {
        // A draw of two instructions, so that picks go everywhere.
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let call = Call {
            authority: "a",
            path: "/a.A/M",
            headers: &headers,
            random,
            hash: random,
            session: None,
            subset: asked.next(),
        };
        ready += u32::from(matches!(black_box(picker.pick(&call)), Pick::Ready(_)));
    }
    let seen = seen(start, &region);
    ensure!(ready == times, "{ready} of {times} picks met an endpoint");
    Ok(seen)
}

/// The resource of so many endpoints in three localities.
fn resource(endpoints: u32) -> Any {
    let locality = |zone: u32| LocalityEndpoints {
        locality: Locality {
            zone: format!("zone-{zone}"),
            ..Locality::default()
        },
        priority: 0,
        weight: 1 + zone,
        endpoints: (zone..endpoints).step_by(3).map(endpoint).collect(),
    };
    codec::encode(&Resource::EndpointAssignment(Arc::new(
        EndpointAssignment {
            cluster: "cluster".to_owned(),
            localities: (0..3).map(locality).collect(),
            drops: Vec::new(),
        },
    )))
}

fn endpoint(id: u32) -> resource::Endpoint {
    resource::Endpoint {
        addresses: vec![address(id)],
        hostname: String::new(),
        weight: 1 + id % 7,
        health: Health::Healthy,
        hash_key: None,
        labels: Labels::default(),
    }
}

fn decoded(any: &Any) -> Result<Resource> {
    let decoded = codec::decode(
        ResourceType::EndpointAssignment,
        any,
        &CodecContext::default(),
    )?;
    decoded.result.ok().context("the resource is good")
}

fn decode(any: &Any, times: u32) -> Result<Value> {
    let region = Region::new(ALLOCATOR);
    let start = Instant::now();
    let mut kept = Vec::with_capacity(1);
    for _ in 0..times {
        kept.clear();
        kept.push(decoded(black_box(any))?);
    }
    let mut seen = seen(start, &region);
    seen["bytes_on_the_wire"] = any.value.len().into();
    drop(black_box(kept));
    Ok(seen)
}

fn compare(any: &Any, times: u32) -> Result<Value> {
    let (a, b) = (decoded(any)?, decoded(any)?);
    let region = Region::new(ALLOCATOR);
    let start = Instant::now();
    let equal = (0..times)
        .filter(|_| black_box(&a) == black_box(&b))
        .count();
    let seen = seen(start, &region);
    ensure!(equal == times as usize, "equal resources differ");
    Ok(seen)
}

/// What the work up to now has cost, as far as it can be seen from inside.
fn seen(start: Instant, region: &Region<'_, System>) -> Value {
    let nanoseconds = start.elapsed().as_nanos();
    let change = region.change();
    // What a reallocation adds or gives back is in these.
    let kept = change.bytes_allocated as i64 - change.bytes_deallocated as i64;
    json!({
        "nanoseconds": u64::try_from(nanoseconds).unwrap_or(u64::MAX),
        "allocations": change.allocations + change.reallocations,
        "bytes_kept": kept,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alone in its program: the counter is the allocator of the whole process.
    #[test]
    fn picks_allocate_nothing_whatever_the_number_of_endpoints() {
        for policy in Policy::value_variants() {
            for endpoints in [10, 1_000, 100_000] {
                let picker = picker(*policy, endpoints).unwrap();
                let seen = picks(&*picker, &asked(*policy, endpoints), 1_000).unwrap();
                let name = policy.to_possible_value();
                assert_eq!(seen["allocations"], 0, "{name:?}, {endpoints}: {seen}");
            }
        }
    }
}
