//! A small run as the parts write it, for tests.

use std::fs;

use serde_json::{Value, json};

use super::data::Data;

/// The files of the sample, by name.
pub(super) fn files() -> [(&'static str, Value); 6] {
    [
        ("rpc.json", rpc()),
        ("counts.json", counts()),
        ("push.json", push()),
        ("micro.json", micro()),
        ("memory.json", memory()),
        ("footprint.json", footprint()),
    ]
}

/// The sample, read as a run is.
pub(super) fn data() -> Data {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in files() {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    Data::read(folder.path()).unwrap()
}

fn rpc() -> Value {
    let closed = |name: &str, security: &str, tls: f64| {
        json!({
            "name": name, "security": security, "payload": 128, "shape": "unary", "in_flight": 16,
            "threads": 1, "load": "closed",
            "cases": [
                case("sidestep-x3", 300.0, (12.0 * tls, 0.0, 13.0)),
                case("tonic-x3", 334.0, (15.0 * tls, 0.0, 14.0)),
                case("tonic-xds", 457.0, (28.6 * tls, 0.0, 25.3)),
                case("grpc-go-xds", 449.0, (32.0 * tls, 0.0, 25.2)),
                case("envoy-client", 1844.0, (22.0, 88.4, 32.6)),
                case("envoy-both", 2871.0, (23.2, 189.0, 31.9)),
            ],
        })
    };
    let mut open = closed("plaintext-128-open-50", "plaintext", 1.0);
    open["load"] = json!({"open": {"rate": 20_000, "of_saturation": 0.5}});
    json!({
        "machine": {"cores": 2, "cpu": "a processor", "kernel": "6.18"},
        "versions": {"sidestep": "0.1.0", "tonic": "0.14.9"},
        "rounds": 5,
        "sets": [
            closed("plaintext-128-unary-16", "plaintext", 1.0),
            closed("mtls-128-unary-16", "mtls", 1.1),
            open,
        ],
    })
}

/// Five rounds that differ by a few per cent, all cases alike in each.
fn case(name: &str, p50: f64, (client, proxy, server): (f64, f64, f64)) -> Value {
    let rounds = [1.0, 1.08, 0.95, 1.02, 1.2].map(|noise| {
        json!({
            "calls": 12_000, "failed": 0, "seconds": 0.4 * noise,
            "p50_us": p50 * noise, "p99_us": p50 * 2.4 * noise, "p999_us": p50 * 4.0 * noise,
            "cpu_us": {"client": client * noise, "proxy": proxy * noise, "server": server * noise},
            "curve": [
                [50.0, p50 * noise], [90.0, p50 * 1.5 * noise], [99.0, p50 * 2.4 * noise],
                [99.9, p50 * 4.0 * noise], [99.99, p50 * 9.0 * noise],
            ],
        })
    });
    json!({"name": name, "rounds": rounds, "memory_per_connection_bytes": null})
}

fn counts() -> Value {
    let case = |name: &str, instructions: f64, allocations: f64| json!({"case": name, "instructions": instructions, "allocations": allocations});
    json!({
        "cases": [case("sidestep", 43_582.0, 23.0), case("tonic", 54_373.0, 33.0)],
        "faults": [],
        "balancing": {
            "picks": [
                {"policy": "round_robin", "instructions": {"10": 91.0, "100000": 90.0}, "allocations": 0.0},
                {"policy": "ring_hash", "instructions": {"10": 252.0, "100000": 274.0}, "allocations": 0.0},
            ],
            "lists": [],
        },
    })
}

fn push() -> Value {
    let server = |name: &str, scale: f64| {
        let rounds = [1.0, 1.1, 0.9].map(|noise| {
            json!({
                "sync_cpu_us": 540.0 * scale * noise, "push_cpu_us": 139.0 * scale * noise,
                "p50_ms": 57.0 * scale * noise, "p99_ms": 91.0 * scale * noise,
                "bytes": 427.0, "rss_kib": 370.0 * scale,
            })
        });
        json!({"name": name, "rounds": rounds})
    };
    json!({
        "versions": {"go-control-plane": "0.14.0"},
        "sets": [{
            "protocol": "delta", "streams": 1000, "clusters": 100, "endpoints": 10,
            "servers": [server("sidestep", 0.4), server("linear", 1.0), server("snapshot", 1.3)],
        }],
    })
}

fn micro() -> Value {
    json!({
        "routes": [{
            "kind": "exact", "instructions": {"20": 300.0, "1000": 330.0, "10000": 360.0},
            "growth": 1.2, "allocations": 0.0, "bar": 1.5,
        }],
        "change": {"sidestep": [100.0, 110.0], "grpc-go": [1000.0, 1100.0]},
    })
}

fn memory() -> Value {
    json!({
        "clusters_10000": {"sidestep_mib": 40.0, "grpc_go_mib": 160.0, "ratio": 0.25, "bar": 0.5},
        "per_connected_endpoint": [
            {"endpoints": 1000, "sidestep_kib": 26.1, "grpc_go_kib": 72.0},
            {"endpoints": 5000, "sidestep_kib": 24.5, "grpc_go_kib": 70.0},
        ],
    })
}

fn footprint() -> Value {
    json!({
        "figures": [{"what": "packages", "plain": 77.0, "meshed": 176.0, "added": 99.0, "bar": 105.0}],
        "memory": {"plain_mib": 5.4, "states": [{"what": "configured", "added_of_envoy": 0.244}]},
        "faults": [],
    })
}
