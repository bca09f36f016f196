//! Which filter chain takes a connection (gRFC A36, after Envoy's algorithm). Pure.
//!
//! Stage by stage the most specific candidates stay and the others leave for good: a chain that
//! won an early stage and then does not match is *not* replaced by one that lost there.

use std::net::{IpAddr, SocketAddr};

use sidestep_proto::resource::{
    CidrRange, FilterChain, FilterChainMatch, ServerListener, SourceType, TransportProtocol,
};

/// What a connection is, before a byte of it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Local and peer address; `None` for a Unix socket, which counts as the same host.
    pub(super) addresses: Option<(SocketAddr, SocketAddr)>,
    /// What its first bytes are. Where they are not looked at, gRPC says raw bytes.
    pub(super) transport: Transport,
}

/// What the first bytes of a connection were found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    RawBuffer,
    Tls,
}

/// The position of the chain for `arrival`: an index into `filter_chains`, or their number for
/// the default chain. `None`: the connection is to be closed without a byte.
pub(super) fn find(listener: &ServerListener, arrival: &Arrival) -> Option<usize> {
    let mut left: Vec<usize> = (0..listener.filter_chains.len()).collect();
    for stage in STAGES {
        let rank = |&i: &usize| stage(&listener.filter_chains[i].matches, arrival);
        let best = left.iter().filter_map(rank).max();
        left.retain(|i| best.is_some() && rank(i) == best);
    }
    let default = listener.default_filter_chain.as_ref();
    left.first()
        .copied()
        .or_else(|| default.map(|_| listener.filter_chains.len()))
}

/// All chains, the default one last: the order of positions.
pub(super) fn chains(listener: &ServerListener) -> impl Iterator<Item = &FilterChain> {
    listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain)
}

/// Whether the first bytes decide: some chain wants TLS told from plaintext. Without such a
/// chain nothing is read ahead, as in every gRPC server.
pub(super) fn looks_at_first_bytes(listener: &ServerListener) -> bool {
    listener
        .filter_chains
        .iter()
        .any(|chain| chain.matches.transport_protocol == TransportProtocol::Tls)
}

/// How specific a match is; `None` is no match.
type Stage = fn(&FilterChainMatch, &Arrival) -> Option<u16>;

const STAGES: [Stage; 8] = [
    destination_port,
    local_prefix,
    server_names,
    transport_protocol,
    application_protocols,
    source_type,
    source_prefix,
    source_port,
];

fn destination_port(matches: &FilterChainMatch, _: &Arrival) -> Option<u16> {
    matches.destination_port.is_none().then_some(0)
}

fn local_prefix(matches: &FilterChainMatch, arrival: &Arrival) -> Option<u16> {
    let local = arrival.addresses.map(|(local, _)| local.ip());
    longest(&matches.prefix_ranges, local)
}

fn server_names(matches: &FilterChainMatch, _: &Arrival) -> Option<u16> {
    matches.server_names.is_empty().then_some(0)
}

fn transport_protocol(matches: &FilterChainMatch, arrival: &Arrival) -> Option<u16> {
    match (&matches.transport_protocol, arrival.transport) {
        (TransportProtocol::Any, _) => Some(0),
        (TransportProtocol::RawBuffer, Transport::RawBuffer)
        | (TransportProtocol::Tls, Transport::Tls) => Some(1),
        _ => None,
    }
}

fn application_protocols(matches: &FilterChainMatch, _: &Arrival) -> Option<u16> {
    matches.application_protocols.is_empty().then_some(0)
}

fn source_type(matches: &FilterChainMatch, arrival: &Arrival) -> Option<u16> {
    match matches.source_type {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => same_host(arrival).then_some(1),
        SourceType::External => (!same_host(arrival)).then_some(1),
    }
}

fn source_prefix(matches: &FilterChainMatch, arrival: &Arrival) -> Option<u16> {
    let peer = arrival.addresses.map(|(_, peer)| peer.ip());
    longest(&matches.source_prefix_ranges, peer)
}

fn source_port(matches: &FilterChainMatch, arrival: &Arrival) -> Option<u16> {
    if matches.source_ports.is_empty() {
        return Some(0);
    }
    let (_, peer) = arrival.addresses?;
    matches.source_ports.contains(&peer.port()).then_some(1)
}

/// Length of the longest range around `ip`, plus one so that `/0` beats *unset*.
fn longest(ranges: &[CidrRange], ip: Option<IpAddr>) -> Option<u16> {
    if ranges.is_empty() {
        return Some(0);
    }
    // A socket for both families shows IPv4 peers as mapped IPv6 addresses.
    let ip = ip?.to_canonical();
    let around = ranges.iter().filter(|range| range.contains(ip));
    around.map(|range| u16::from(range.len) + 1).max()
}

fn same_host(arrival: &Arrival) -> bool {
    arrival.addresses.is_none_or(|(local, peer)| {
        let peer = peer.ip().to_canonical();
        peer.is_loopback() || peer == local.ip().to_canonical()
    })
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::{HttpConnectionManager, RouteSource};

    use super::*;

    fn chain_of(name: &str, matches: FilterChainMatch) -> FilterChain {
        FilterChain {
            name: name.into(),
            matches,
            tls: None,
            http: HttpConnectionManager {
                routes: RouteSource::Named("r".into()),
                max_stream_duration: None,
                filters: Vec::new(),
            },
        }
    }

    fn listener(matches: Vec<FilterChainMatch>, default: bool) -> ServerListener {
        ServerListener {
            address: "0.0.0.0:50051".parse().unwrap(),
            filter_chains: matches.into_iter().map(|m| chain_of("", m)).collect(),
            default_filter_chain: default.then(|| chain_of("default", FilterChainMatch::default())),
        }
    }

    fn arrival(local: &str, peer: &str) -> Arrival {
        Arrival {
            addresses: Some((local.parse().unwrap(), peer.parse().unwrap())),
            transport: Transport::RawBuffer,
        }
    }

    fn range(text: &str) -> CidrRange {
        let (ip, len) = text.split_once('/').unwrap();
        CidrRange::new(ip.parse().unwrap(), len.parse().unwrap())
    }

    fn local(ranges: &[&str]) -> FilterChainMatch {
        FilterChainMatch {
            prefix_ranges: ranges.iter().map(|r| range(r)).collect(),
            ..Default::default()
        }
    }

    fn source(ranges: &[&str]) -> FilterChainMatch {
        FilterChainMatch {
            source_prefix_ranges: ranges.iter().map(|r| range(r)).collect(),
            ..Default::default()
        }
    }

    fn protocol(transport_protocol: TransportProtocol) -> FilterChainMatch {
        FilterChainMatch {
            transport_protocol,
            ..Default::default()
        }
    }

    const PLAIN: (&str, &str) = ("10.0.0.1:50051", "10.9.9.9:4000");

    #[test]
    fn fields_that_a_grpc_server_cannot_see_never_match() {
        let never = [
            FilterChainMatch {
                destination_port: Some(50051),
                ..Default::default()
            },
            FilterChainMatch {
                server_names: vec!["a".into()],
                ..Default::default()
            },
            FilterChainMatch {
                application_protocols: vec!["h2".into()],
                ..Default::default()
            },
            protocol(TransportProtocol::Other("quic".into())),
            protocol(TransportProtocol::Tls),
        ];
        for matches in never {
            let arrival = arrival(PLAIN.0, PLAIN.1);
            let text = format!("{matches:?}");
            assert_eq!(
                find(&listener(vec![matches.clone()], false), &arrival),
                None,
                "{text}"
            );
            assert_eq!(
                find(&listener(vec![matches], true), &arrival),
                Some(1),
                "{text}"
            );
        }
    }

    #[test]
    fn longest_local_prefix_wins_and_slash_zero_beats_unset() {
        let chains = || {
            vec![
                local(&[]),
                local(&["0.0.0.0/0"]),
                local(&["10.0.0.0/8"]),
                local(&["192.168.0.0/16", "10.0.0.0/16"]),
            ]
        };
        let found = |at: &str| find(&listener(chains(), false), &arrival(at, PLAIN.1));
        assert_eq!(found("10.0.0.1:1"), Some(3));
        assert_eq!(found("10.7.0.1:1"), Some(2));
        assert_eq!(found("11.0.0.1:1"), Some(1));
        assert_eq!(found("[::ffff:11.0.0.1]:1"), Some(1), "mapped IPv4");
        assert_eq!(found("[fd00::1]:1"), Some(0), "/0 is of one family");
    }

    #[test]
    fn an_early_stage_is_not_taken_back() {
        let narrow = FilterChainMatch {
            source_ports: vec![1],
            ..local(&["10.0.0.0/24"])
        };
        let at = arrival(PLAIN.0, PLAIN.1);
        assert_eq!(
            find(&listener(vec![local(&[]), narrow.clone()], false), &at),
            None
        );
        assert_eq!(
            find(&listener(vec![local(&[]), narrow], true), &at),
            Some(2)
        );
    }

    #[test]
    fn transport_protocol_tells_tls_from_plaintext() {
        let both = listener(
            vec![
                protocol(TransportProtocol::Any),
                protocol(TransportProtocol::Tls),
                protocol(TransportProtocol::RawBuffer),
            ],
            false,
        );
        let mut at = arrival(PLAIN.0, PLAIN.1);
        assert_eq!(find(&both, &at), Some(2));
        at.transport = Transport::Tls;
        assert_eq!(find(&both, &at), Some(1));
        assert!(looks_at_first_bytes(&both));
        let raw = listener(vec![protocol(TransportProtocol::RawBuffer)], true);
        assert!(!looks_at_first_bytes(&raw));
        assert_eq!(
            find(&raw, &arrival(PLAIN.0, PLAIN.1)),
            Some(0),
            "gRPC: raw bytes"
        );
    }

    #[test]
    fn source_type_knows_loopback_same_address_and_unix() {
        let of = |source_type| FilterChainMatch {
            source_type,
            ..Default::default()
        };
        let three = listener(
            vec![
                of(SourceType::Any),
                of(SourceType::SameIpOrLoopback),
                of(SourceType::External),
            ],
            false,
        );
        let cases = [
            ("10.0.0.1:1", "127.0.0.9:2", 1),
            ("10.0.0.1:1", "10.0.0.1:2", 1),
            ("[::ffff:10.0.0.1]:1", "[::ffff:127.0.0.1]:2", 1),
            ("10.0.0.1:1", "10.0.0.2:2", 2),
        ];
        for (here, there, expected) in cases {
            assert_eq!(
                find(&three, &arrival(here, there)),
                Some(expected),
                "{there}"
            );
        }
        let unix = Arrival {
            addresses: None,
            transport: Transport::RawBuffer,
        };
        assert_eq!(find(&three, &unix), Some(1));
        assert_eq!(
            find(&listener(vec![source(&["0.0.0.0/0"])], false), &unix),
            None
        );
    }

    #[test]
    fn source_prefix_then_source_port() {
        let port = FilterChainMatch {
            source_ports: vec![4000, 4001],
            ..source(&["10.9.0.0/16"])
        };
        let three = listener(
            vec![source(&["10.0.0.0/8"]), source(&["10.9.0.0/16"]), port],
            true,
        );
        let found = |peer: &str| find(&three, &arrival(PLAIN.0, peer));
        assert_eq!(found("10.1.1.1:4000"), Some(0));
        assert_eq!(found("10.9.1.1:4000"), Some(2));
        assert_eq!(found("10.9.1.1:5000"), Some(1));
        assert_eq!(found("11.1.1.1:4000"), Some(3));
        assert_eq!(chains(&three).nth(3).unwrap().name, "default");
        assert_eq!(chains(&three).count(), 4);
    }
}
