//! The bars: what a call, a push and a process may cost. A bar is a line in [`BARS`].
//!
//! The numbers are those of the table that the project set itself; a bar that is a ratio is formed
//! within rounds, so that what disturbs the machine disturbs both sides.

use serde_json::Value;

use super::data::{Data, PushRound, Round};
use super::statistics::{Estimate, Verdict};

/// One row of the table.
pub(super) struct Bar {
    pub(super) number: u8,
    pub(super) what: &'static str,
    /// Of the control plane rather than of a service.
    pub(super) is_control_plane: bool,
    readings: fn(&Data) -> Vec<Reading>,
}

/// A bar in one place: at so many calls in flight, under this protocol.
pub(super) struct Reading {
    pub(super) place: String,
    /// `None`: not measured in this run.
    pub(super) measured: Option<Estimate>,
    pub(super) unit: Unit,
    pub(super) bar: f64,
    pub(super) moonshot: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Of the other's.
    Ratio,
    Instructions,
    Allocations,
    Kib,
}

pub(super) const BARS: [Bar; 21] = [
    bar(
        1,
        "Meshed unary call, 3 endpoints, weighted route with a time-out: client's instructions",
        |data| {
            vec![counted(
                data,
                "",
                &["sidestep"],
                "instructions",
                Unit::Instructions,
                41_000.0,
                37_000.0,
            )]
        },
    ),
    bar(
        2,
        "The same with retries, outlier detection, circuit breaking, a deadline and metrics on",
        |data| {
            vec![counted(
                data,
                "",
                &["full"],
                "instructions",
                Unit::Instructions,
                48_000.0,
                43_000.0,
            )]
        },
    ),
    bar(3, "Allocations of the call of bar 1", |data| {
        vec![counted(
            data,
            "",
            &["sidestep"],
            "allocations",
            Unit::Allocations,
            24.0,
            20.0,
        )]
    }),
    bar(4, "Client CPU, of three plain tonic Channels'", |data| {
        [(16, 0.90), (64, 0.80)]
            .map(|(in_flight, most)| {
                calls(data, "plaintext", in_flight, "tonic-x3", |r| {
                    r.cpu_us.client
                })
                .under(most, 0.75)
            })
            .into()
    }),
    bar(
        5,
        "Total CPU beside Envoy on both sides: the share that it is of Envoy's, of the share that plain tonic is",
        |data| {
            ["plaintext", "mtls"]
                .map(|security| {
                    // The share of Envoy's is divided by tonic's of the same round: Envoy falls out.
                    calls(data, security, 64, "tonic-x3", |r| r.cpu_us.total()).under(0.95, 0.85)
                })
                .into()
        },
    ),
    bar(
        6,
        "Total CPU, of a call's with Envoy on the client's side alone",
        |data| {
            [16, 64]
                .map(|in_flight| {
                    calls(data, "plaintext", in_flight, "envoy-client", |r| {
                        r.cpu_us.total()
                    })
                    .under(0.30, 0.25)
                })
                .into()
        },
    ),
    bar(
        7,
        "Median latency, of that with Envoy on both sides",
        |data| vec![calls(data, "plaintext", 1, "envoy-both", |r| r.p50_us).under(0.27, 0.23)],
    ),
    bar(8, "Client CPU, of grpc-go's xDS client's", |data| {
        [16, 64]
            .map(|in_flight| {
                calls(data, "plaintext", in_flight, "grpc-go-xds", |r| {
                    r.cpu_us.client
                })
                .under(0.55, 0.45)
            })
            .into()
    }),
    bar(
        9,
        "16 KiB: client's instructions, of three plain tonic Channels'",
        |data| {
            vec![counted_ratio(
                data,
                "",
                &["16k"],
                &["tonic-16k"],
                0.90,
                0.80,
            )]
        },
    ),
    bar(
        10,
        "Mutual TLS: total CPU of plain tonic without TLS; client's instructions of tonic's with mutual TLS",
        |data| {
            let mut readings: Vec<_> = [16, 64].map(|in_flight| secured(data, in_flight)).into();
            readings.push(counted_ratio(
                data,
                "instructions",
                &["mtls"],
                &["tonic-mtls"],
                0.80,
                0.72,
            ));
            readings
        },
    ),
    pushed(
        11,
        "Push of one change, 100 clusters of 10: server's CPU for each client, of LinearCache's",
        |data| {
            each_protocol(&[1_000, 5_000], |protocol, streams| {
                pushes(data, protocol, streams, (100, 10), |r| r.push_cpu_us).under(0.25, 0.15)
            })
        },
    ),
    pushed(
        12,
        "The same: p99 from the change until a client has it, of LinearCache's",
        |data| {
            each_protocol(&[5_000], |protocol, streams| {
                pushes(data, protocol, streams, (100, 10), |r| r.p99_ms).under(0.30, 0.20)
            })
        },
    ),
    pushed(
        13,
        "Push of one change, 1 cluster of 10,000: server's CPU for each client, of LinearCache's",
        |data| {
            each_protocol(&[1_000], |protocol, streams| Reading {
                moonshot: None,
                ..pushes(data, protocol, streams, (1, 10_000), |r| r.push_cpu_us).under(0.80, 0.0)
            })
        },
    ),
    pushed(
        14,
        "First sync, 100 clusters of 10: server's CPU, of LinearCache's",
        |data| {
            each_protocol(&[1_000], |protocol, streams| {
                pushes(data, protocol, streams, (100, 10), |r| r.sync_cpu_us).under(0.40, 0.25)
            })
        },
    ),
    pushed(
        15,
        "Server's memory for each stream, 100 clusters of 10",
        |data| {
            each_protocol(&[1_000, 5_000], |protocol, streams| {
                rss(data, protocol, streams)
            })
        },
    ),
    bar(16, "Client's memory for each connected endpoint", |data| {
        vec![connected(data)]
    }),
    bar(
        17,
        "Server side of a call, authorization and identity included: instructions",
        |data| {
            vec![counted(
                data,
                "",
                &["server"],
                "instructions",
                Unit::Instructions,
                51_600.0,
                42_000.0,
            )]
        },
    ),
    bar(
        18,
        "Pick among 10 to 100,000 endpoints, route match in 20 to 10,000: growth and allocations",
        flat,
    ),
    bar(
        19,
        "One of 10,000 endpoints changes: client's CPU, of others'",
        |data| {
            ["tonic-xds", "grpc-go"]
                .map(|peer| change(data, peer))
                .into()
        },
    ),
    bar(
        20,
        "Fixed rate, tail latency, of three plain tonic Channels'",
        |data| {
            let mut readings = Vec::new();
            for share in [0.5, 0.8] {
                readings.push(at_rate(data, share, "p99", |r| r.p99_us));
                readings.push(at_rate(data, share, "p99.9", |r| r.p999_us));
            }
            readings
        },
    ),
    bar(
        21,
        "Memory that the mesh adds at 300 clusters of 10 endpoints, of one Envoy's",
        |data| vec![beside_envoy(data)],
    ),
];

const fn bar(number: u8, what: &'static str, readings: fn(&Data) -> Vec<Reading>) -> Bar {
    Bar {
        number,
        what,
        is_control_plane: false,
        readings,
    }
}

const fn pushed(number: u8, what: &'static str, readings: fn(&Data) -> Vec<Reading>) -> Bar {
    Bar {
        is_control_plane: true,
        ..bar(number, what, readings)
    }
}

impl Bar {
    pub(super) fn readings(&self, data: &Data) -> Vec<Reading> {
        (self.readings)(data)
    }
}

impl Reading {
    /// A ratio in one place, without its bar.
    fn ratio(place: impl Into<String>, measured: Option<Estimate>) -> Self {
        Self {
            place: place.into(),
            measured,
            unit: Unit::Ratio,
            bar: f64::NAN,
            moonshot: None,
        }
    }

    fn under(self, bar: f64, moonshot: f64) -> Self {
        Self {
            bar,
            moonshot: Some(moonshot),
            ..self
        }
    }

    /// `None`: not measured.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        Some(self.measured?.verdict(self.bar, self.moonshot))
    }
}

/// What ours is of a peer's in a closed loop of 128 bytes.
fn calls(
    data: &Data,
    security: &str,
    in_flight: u64,
    peer: &str,
    of: impl Fn(&Round) -> f64,
) -> Reading {
    let set = data
        .rpc
        .as_ref()
        .and_then(|rpc| rpc.closed(security, 128, in_flight));
    let measured = set.and_then(|set| set.ratio("sidestep-x3", peer, of));
    let security = if security == "mtls" {
        "mutual TLS, "
    } else {
        ""
    };
    Reading::ratio(format!("{security}{in_flight} in flight"), measured)
}

/// Ours with mutual TLS beside tonic without, wherever both were measured in the same rounds.
fn secured(data: &Data, in_flight: u64) -> Reading {
    let total = |round: &Round| round.cpu_us.total();
    let measured = data.rpc.as_ref().and_then(|rpc| {
        let secure = rpc.closed("mtls", 128, in_flight)?;
        let plain = rpc.closed("plaintext", 128, in_flight)?;
        let base = secure
            .case("tonic-x3-plaintext")
            .or_else(|| plain.case("tonic-x3"))?;
        Estimate::ratio(&secure.case("sidestep-x3")?.each(total), &base.each(total))
    });
    Reading::ratio(format!("CPU, {in_flight} in flight"), measured).under(1.0, 0.85)
}

/// Ours of tonic's at this share of tonic's saturation.
fn at_rate(data: &Data, share: f64, what: &str, of: impl Fn(&Round) -> f64) -> Reading {
    let set = data.rpc.as_ref().and_then(|rpc| rpc.open(share));
    let measured = set.and_then(|set| set.ratio("sidestep-x3", "tonic-x3", of));
    Reading::ratio(format!("{what} at {:.0} %", share * 100.0), measured).under(1.0, 0.9)
}

/// A number of a case of `cargo xtask bench`; the first of these names that there is.
fn count(data: &Data, names: &[&str], what: &str) -> Option<f64> {
    let cases = data.counts.as_ref()?["cases"].as_array()?;
    let mut named = names
        .iter()
        .filter_map(|name| cases.iter().find(|case| case["case"] == **name));
    named.next()?[what].as_f64()
}

fn counted(
    data: &Data,
    place: &str,
    names: &[&str],
    what: &str,
    unit: Unit,
    bar: f64,
    moonshot: f64,
) -> Reading {
    Reading {
        place: place.to_owned(),
        measured: count(data, names, what).map(Estimate::counted),
        unit,
        bar,
        moonshot: Some(moonshot),
    }
}

fn counted_ratio(
    data: &Data,
    place: &str,
    ours: &[&str],
    theirs: &[&str],
    bar: f64,
    moonshot: f64,
) -> Reading {
    let instructions = |names| count(data, names, "instructions");
    let ratio = instructions(ours)
        .zip(instructions(theirs))
        .map(|(a, b)| a / b);
    Reading::ratio(place, ratio.map(Estimate::counted)).under(bar, moonshot)
}

/// One reading for each protocol and number of streams.
fn each_protocol(streams: &[u64], reading: impl Fn(&str, u64) -> Reading) -> Vec<Reading> {
    let places = streams
        .iter()
        .flat_map(|streams| ["sotw", "delta"].map(|p| (p, *streams)));
    places
        .map(|(protocol, streams)| reading(protocol, streams))
        .collect()
}

fn pushes(
    data: &Data,
    protocol: &str,
    streams: u64,
    shape: (u64, u64),
    of: impl Fn(&PushRound) -> f64,
) -> Reading {
    let set = data
        .push
        .as_ref()
        .and_then(|push| push.set(protocol, streams, shape));
    let measured = set.and_then(|set| set.ratio("sidestep", "linear", of));
    Reading::ratio(format!("{streams} streams, {protocol}"), measured)
}

fn rss(data: &Data, protocol: &str, streams: u64) -> Reading {
    let set = data
        .push
        .as_ref()
        .and_then(|push| push.set(protocol, streams, (100, 10)));
    let ours = set.and_then(|set| set.server("sidestep"));
    Reading {
        unit: Unit::Kib,
        ..Reading::ratio(
            format!("{streams} streams, {protocol}"),
            ours.and_then(|server| Estimate::of(&server.each(|round| round.rss_kib))),
        )
        .under(40.0, 16.0)
    }
}

/// Where the most endpoints are connected.
fn connected(data: &Data) -> Reading {
    let sizes = data
        .memory
        .as_ref()
        .map(|memory| &memory["per_connected_endpoint"]);
    let sizes = sizes.and_then(Value::as_array).into_iter().flatten();
    let most = sizes.max_by_key(|size| size["endpoints"].as_u64());
    let place = most.map_or_else(String::new, |size| format!("of {}", size["endpoints"]));
    let kib = most.and_then(|size| size["sidestep_kib"].as_f64());
    Reading {
        unit: Unit::Kib,
        ..Reading::ratio(place, kib.map(Estimate::counted)).under(30.0, 20.0)
    }
}

/// What is the same with and without connections is in the first of the states.
fn beside_envoy(data: &Data) -> Reading {
    let states = data
        .footprint
        .as_ref()
        .map(|footprint| &footprint["memory"]["states"]);
    let share = states.and_then(|states| states[0]["added_of_envoy"].as_f64());
    Reading::ratio("no connection", share.map(Estimate::counted)).under(0.1, 0.05)
}

/// What one update costs our client of what it costs a peer.
fn change(data: &Data, peer: &str) -> Reading {
    let clients = data.micro.as_ref().map(|micro| &micro["change"]);
    let cpu = |name: &str| -> Option<Vec<f64>> {
        let rounds = clients?[name].as_array()?.iter();
        rounds.map(Value::as_f64).collect()
    };
    let measured = cpu("sidestep").zip(cpu(peer));
    let measured = measured.and_then(|(ours, theirs)| Estimate::ratio(&ours, &theirs));
    Reading {
        moonshot: None,
        ..Reading::ratio(format!("of {peer}'s"), measured).under(0.2, 0.0)
    }
}

/// Flatness of route match, then of picks, each at the worst of its kinds.
fn flat(data: &Data) -> Vec<Reading> {
    let growth = |place: &str, bar, value: Option<f64>| Reading {
        bar,
        ..Reading::ratio(place, value.map(Estimate::counted))
    };
    let routes = data.micro.as_ref().map(|micro| &micro["routes"]);
    let route = |kind: &str| {
        let kinds = routes?.as_array()?;
        kinds.iter().find(|route| route["kind"] == kind)?["growth"].as_f64()
    };
    let picks = data
        .counts
        .as_ref()
        .map(|counts| &counts["balancing"]["picks"]);
    let picks = picks.and_then(Value::as_array);
    let worst = |is_ring: bool| {
        let picks = picks?
            .iter()
            .filter(|pick| (pick["policy"] == "ring_hash") == is_ring);
        picks.filter_map(pick_growth).reduce(f64::max)
    };
    let allocations = [routes.and_then(Value::as_array), picks];
    let allocations = allocations.into_iter().flatten().flatten();
    let most = allocations
        .filter_map(|of| of["allocations"].as_f64())
        .reduce(f64::max);
    vec![
        growth("routes by exact path, growth", 1.5, route("exact")),
        growth("routes by service, growth", 1.5, route("service")),
        growth("routes by prefix, growth", 1.5, route("prefix")),
        growth("picks, growth", 1.5, worst(false)),
        growth("picks of a ring (log n), growth", 2.5, worst(true)),
        Reading {
            unit: Unit::Allocations,
            ..growth("allocations", 0.0, most)
        },
    ]
}

/// The cost among the most endpoints, of that among the fewest.
fn pick_growth(pick: &Value) -> Option<f64> {
    let sizes = pick["instructions"].as_object()?;
    let mut sizes: Vec<(u64, f64)> = sizes
        .iter()
        .filter_map(|(n, cost)| Some((n.parse().ok()?, cost.as_f64()?)))
        .collect();
    sizes.sort_by_key(|(n, _)| *n);
    let (first, last) = (sizes.first()?, sizes.last()?);
    Some(last.1 / first.1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::sample;
    use super::*;

    fn reading(data: &Data, number: u8, place: &str) -> Reading {
        let bar = BARS.iter().find(|bar| bar.number == number).unwrap();
        let mut readings = bar.readings(data).into_iter();
        readings.find(|reading| reading.place == place).unwrap()
    }

    #[test]
    fn every_row_is_there_once_and_nothing_is_measured_by_nothing() {
        let numbers: Vec<u8> = BARS.iter().map(|bar| bar.number).collect();
        assert_eq!(numbers, (1..=21).collect::<Vec<_>>());
        for bar in &BARS {
            let readings = bar.readings(&Data::default());
            assert!(!readings.is_empty(), "{}", bar.number);
            assert_eq!(bar.is_control_plane, (11..=15).contains(&bar.number));
            for reading in readings {
                assert!(reading.verdict().is_none(), "{}", bar.number);
                assert!(reading.bar.is_finite(), "{}", bar.number);
            }
        }
    }

    #[test]
    fn bars_are_judged_by_what_was_measured() {
        let data = sample::data();
        // Ours takes 12 of tonic's 15 us at 16 in flight in the sample.
        let client = reading(&data, 4, "16 in flight");
        assert!((client.measured.unwrap().median - 0.8).abs() < 0.02);
        assert_eq!(client.verdict(), Some(Verdict::Met));
        assert!(reading(&data, 4, "64 in flight").verdict().is_none());
        assert_eq!(reading(&data, 7, "1 in flight").measured, None);
        let secured = reading(&data, 10, "CPU, 16 in flight");
        assert!(secured.measured.is_some());
        assert!(reading(&data, 20, "p99 at 50 %").measured.is_some());
        let push = reading(&data, 11, "1000 streams, delta");
        assert!(matches!(push.verdict(), Some(Verdict::Missed(_))));
        assert_eq!(
            reading(&data, 1, "").verdict().unwrap().to_string(),
            "missed by 6 %"
        );
        assert_eq!(
            reading(&data, 18, "picks, growth").verdict(),
            Some(Verdict::Met)
        );
        assert_eq!(
            reading(&data, 18, "allocations").verdict(),
            Some(Verdict::Met)
        );
    }

    #[test]
    fn growth_is_that_from_the_fewest_to_the_most() {
        let pick = json!({"instructions": {"100000": 150.0, "10": 100.0, "1000": 400.0}});
        assert_eq!(pick_growth(&pick), Some(1.5));
        assert_eq!(pick_growth(&json!({})), None);
    }
}
