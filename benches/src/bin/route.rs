//! What it costs to find the route of a call, by kind and number of routes.
//!
//! Each run finds routes a given number of times, so that the difference of two runs under valgrind
//! is the finding alone. What it sees itself goes out as a line of JSON: allocations and
//! nanoseconds.

use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use sidestep::routing::{Call, ClusterIndex, RouteTable};
use sidestep_proto::resource::{
    Forward, HeaderCondition, HeaderMatcher, PathMatcher, Pattern, Route, RouteAction,
    RouteConfiguration, RouteMatch, StringMatcher, Text, VirtualHost, WeightedCluster,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Different calls; a power of two.
const CALLS: usize = 1024;

#[derive(Parser)]
#[command(about = "What it costs to find the route of a call")]
struct Flags {
    #[arg(long)]
    kind: Kind,
    /// How many routes, all of them in one virtual host.
    #[arg(long, default_value_t = 20)]
    routes: u32,
    /// How many calls.
    #[arg(long, default_value_t = 1)]
    times: u32,
}

/// What the routes look at.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    /// The whole path, another one for each route.
    Exact,
    /// A service, another one for each route.
    Service,
    /// A part of a service's name, another one for each route.
    Prefix,
    /// One service for all, and another value of a header for each route.
    Header,
    /// A pattern of the path, another one for each route.
    Regex,
}

/// The routes of a kind, and the calls that they take.
struct Setting {
    table: RouteTable,
    paths: Vec<String>,
    headers: Vec<HeaderMap>,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let setting = Setting::new(flags.kind, flags.routes)?;
    println!("{}", setting.find(flags.times)?);
    Ok(())
}

impl Kind {
    fn matches(self, number: u32) -> Result<RouteMatch> {
        let service = format!("/shop.v1.Service{number:05}/");
        let path = match self {
            Self::Exact => PathMatcher::Exact(Text::exact(format!("{service}Get"))),
            Self::Service => PathMatcher::Prefix(Text::exact(service)),
            Self::Prefix => {
                PathMatcher::Prefix(Text::exact(format!("/shop.v1.Service{number:05}")))
            }
            Self::Header => PathMatcher::Prefix(Text::exact("/shop.v1.Cart/")),
            Self::Regex => PathMatcher::Regex(
                Pattern::new(&format!("{service}(Get|Put)")).map_err(anyhow::Error::msg)?,
            ),
        };
        let headers = match self {
            Self::Header => vec![HeaderMatcher {
                name: "x-tenant".to_owned(),
                condition: HeaderCondition::Value(StringMatcher::Exact(Text::exact(tenant(
                    number,
                )))),
                invert: false,
            }],
            _ => Vec::new(),
        };
        Ok(RouteMatch {
            path,
            headers,
            fraction: None,
        })
    }

    fn path(self, number: u32) -> String {
        match self {
            Self::Header => "/shop.v1.Cart/Get".to_owned(),
            _ => format!("/shop.v1.Service{number:05}/Get"),
        }
    }
}

fn tenant(number: u32) -> String {
    format!("tenant-{number:05}")
}

impl Setting {
    fn new(kind: Kind, routes: u32) -> Result<Self> {
        let all = (0..routes).map(|number| {
            Ok(Route {
                name: number.to_string(),
                matches: kind.matches(number)?,
                action: action(),
            })
        });
        let config = RouteConfiguration {
            name: "shop".to_owned(),
            virtual_hosts: vec![VirtualHost {
                name: "shop".to_owned(),
                domains: vec!["shop".to_owned()],
                routes: all.collect::<Result<_>>()?,
            }],
        };
        // Calls for all the routes, or for so many of them, evenly.
        let taken = |call: usize| u32::try_from(call * routes as usize / CALLS);
        let mut paths = Vec::new();
        let mut headers = Vec::new();
        for call in 0..CALLS {
            let number = taken(call)?;
            paths.push(kind.path(number));
            let value = HeaderValue::try_from(tenant(number))?;
            headers.push(HeaderMap::from_iter([(
                http::HeaderName::from_static("x-tenant"),
                value,
            )]));
        }
        Ok(Self {
            table: RouteTable::compile(&config, |_| ClusterIndex(0), None),
            paths,
            headers,
        })
    }

    fn find(&self, times: u32) -> Result<Value> {
        let mut at = 0;
        let region = Region::new(ALLOCATOR);
        let start = Instant::now();
        for _ in 0..times {
            // Goes everywhere, and is not a multiple of anything.
            at = (at + 389) % CALLS;
            let call = Call {
                authority: "shop",
                path: &self.paths[at],
                headers: &self.headers[at],
                random: 0,
                hash: 0,
                session: None,
                subset: None,
            };
            let found = black_box(self.table.find(&call));
            ensure!(found.is_some(), "no route for {}", call.path);
        }
        let nanoseconds = start.elapsed().as_nanos();
        let change = region.change();
        Ok(json!({
            "nanoseconds": u64::try_from(nanoseconds).ok().context("a short time")?,
            "allocations": change.allocations + change.reallocations,
        }))
    }
}

fn action() -> RouteAction {
    RouteAction::Forward(Forward {
        clusters: vec![WeightedCluster::new("shop", 1)],
        max_stream_duration: None,
        grpc_timeout_header_max: None,
        retry: None,
        hash_policies: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alone in its program: the counter is the allocator of the whole process.
    #[test]
    fn finding_a_route_allocates_nothing_whatever_the_number_of_routes() {
        for kind in Kind::value_variants() {
            for routes in [20, 1_000] {
                let setting = Setting::new(*kind, routes).unwrap();
                // A pattern makes its working memory on first use.
                setting.find(1_024).unwrap();
                let seen = setting.find(1_024).unwrap();
                let name = kind.to_possible_value();
                assert_eq!(seen["allocations"], 0, "{name:?}, {routes}: {seen}");
            }
        }
    }
}
