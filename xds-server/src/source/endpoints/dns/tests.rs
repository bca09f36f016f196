use std::time::Duration;

use super::super::fake_dns::{Data, FakeDns};
use super::*;

#[test]
fn what_may_be_written() {
    let addresses = |name: &str, port| Ok(Question::Addresses(name.to_owned(), port));
    assert_eq!(
        parse("greeter.prod:50051"),
        addresses("greeter.prod", 50051)
    );
    assert_eq!(parse("greeter.prod.:1"), addresses("greeter.prod.", 1));
    let services = Ok(Question::Services("_grpc._tcp.greeter.prod".to_owned()));
    assert_eq!(parse("_grpc._tcp.greeter.prod"), services);
    for (written, message) in [
        ("greeter", "\"greeter\" has no port"),
        ("greeter:0", "\"0\" is not a port from 1 to 65535"),
        ("greeter:http", "\"http\" is not a port from 1 to 65535"),
        ("greeter:65536", "\"65536\" is not a port from 1 to 65535"),
        (":80", "\"\" cannot be a DNS name"),
        ("a..b:80", "\"a..b\" cannot be a DNS name"),
        ("gr eeter:80", "\"gr eeter\" cannot be a DNS name"),
        ("-a:80", "\"-a\" cannot be a DNS name"),
        ("http://a:80", "\"http://a\" cannot be a DNS name"),
        ("10.0.0.1:80", "\"10.0.0.1:80\" is an address, not a name"),
        ("[::1]:80", "\"[::1]:80\" is an address, not a name"),
        (
            "_grpc._tcp.a:80",
            "\"_grpc._tcp.a:80\" has a port, but SRV records tell their own",
        ),
        ("_grpc.a", "\"_grpc.a\" is not the name of an SRV record"),
        (
            "_grpc._tcp",
            "\"_grpc._tcp\" is not the name of an SRV record",
        ),
    ] {
        let misspelt = parse(written).expect_err(written);
        assert_eq!(misspelt.message, message);
    }
    let long = format!("{}:80", "a".repeat(64));
    assert!(parse(&long).is_err());
}

fn options(server: &FakeDns) -> LookOptions {
    LookOptions {
        name_server: Some(server.address),
        ..LookOptions::default()
    }
}

fn port_80(ips: &[&str]) -> Vec<ResolvedEndpoint> {
    let parsed = ips.iter().map(|ip| ip.parse().expect("an IP address"));
    parsed.map(|ip| endpoint(ip, 80, 0, 1)).collect()
}

/// How long the source would wait now before it asks again.
fn pause(dns: &mut Dns) -> Duration {
    let due = dns.due.take().expect("it has been asked");
    due.saturating_duration_since(Instant::now())
}

fn about(seconds: u64) -> std::ops::RangeInclusive<Duration> {
    let expected = Duration::from_secs(seconds);
    expected.mul_f64(0.5)..=expected
}

#[tokio::test]
async fn all_addresses_count_for_their_ttl_within_bounds() {
    let server = FakeDns::start().await;
    let mut dns = Dns::new("greeter.test.:80", &options(&server));
    for (ttl, expected) in [(3600, 300), (30, 30), (0, 1)] {
        let ips = ["10.0.0.2", "10.0.0.1", "fd00::1"];
        let [b, a, c] = ips.map(Data::address);
        server.set("greeter.test", ttl, &[b, a, c]);
        let list = dns.look().await.expect("resolves");
        assert_eq!(list, port_80(&["10.0.0.1", "10.0.0.2", "fd00::1"]));
        let pause = pause(&mut dns);
        assert!(about(expected).contains(&pause), "TTL {ttl}: {pause:?}");
    }
}

#[tokio::test]
async fn a_changed_answer_is_seen_once_its_ttl_is_over() {
    let server = FakeDns::start().await;
    let short = Duration::from_millis(10);
    let options = LookOptions {
        ttl: (short, short),
        ..options(&server)
    };
    let mut dns = Dns::new("greeter.test.:80", &options);
    server.set("greeter.test", 5, &[Data::address("10.0.0.1")]);
    assert_eq!(dns.next().await, Ok(port_80(&["10.0.0.1"])));
    server.set("greeter.test", 5, &[Data::address("10.0.0.2")]);
    assert_eq!(dns.next().await, Ok(port_80(&["10.0.0.2"])));
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_asked_for_ever_more_rarely() {
    let server = FakeDns::start().await;
    let mut dns = Dns::new("nobody.test.:80", &options(&server));
    let expected = LookError::NoSuchName {
        name: "nobody.test.".to_owned(),
    };
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(dns.look().await, Err(expected.clone()));
        let pause = pause(&mut dns);
        assert!(about(seconds).contains(&pause), "{pause:?}");
    }
    server.set("nobody.test", 60, &[Data::address("10.0.0.1")]);
    dns.look().await.expect("it exists now");
    assert!(about(60).contains(&pause(&mut dns)));
}

#[tokio::test]
async fn a_name_without_addresses_is_an_empty_list() {
    let server = FakeDns::start().await;
    server.set("greeter.test", 60, &[]);
    let mut dns = Dns::new("greeter.test.:80", &options(&server));
    assert_eq!(dns.look().await, Ok(Vec::new()));
    assert!(about(1).contains(&pause(&mut dns)), "asked again soon");
}

#[tokio::test]
async fn a_mute_name_server_is_not_waited_for_long() {
    let mute = tokio::net::UdpSocket::bind("127.0.0.1:0").await;
    let mute = mute.expect("a free port");
    let patience = Duration::from_millis(50);
    let options = LookOptions {
        name_server: mute.local_addr().ok(),
        patience,
        ..LookOptions::default()
    };
    let mut dns = Dns::new("greeter.test.:80", &options);
    assert_eq!(
        dns.look().await,
        Err(LookError::TooSlow { after: patience })
    );
}

#[tokio::test]
async fn srv_records_tell_port_priority_and_weight() {
    let server = FakeDns::start().await;
    let srv = Data::srv;
    let records = [
        srv(20, 0, 81, "b.test"),
        srv(10, 7, 80, "a.test"),
        srv(10, 1, 80, "gone.test"),
    ];
    server.set("_grpc._tcp.greeter.test", 60, &records);
    server.set("a.test", 30, &[Data::address("10.0.0.1")]);
    server.set("b.test", 90, &[Data::address("10.0.0.2")]);
    let mut dns = Dns::new("_grpc._tcp.greeter.test.", &options(&server));
    let at = |ip: &str| ip.parse().expect("an IP address");
    let expected = vec![
        endpoint(at("10.0.0.1"), 80, 10, 7),
        endpoint(at("10.0.0.2"), 81, 20, 1),
    ];
    assert_eq!(dns.look().await, Ok(expected));
}

/// One DNS message holds four thousand addresses, over TCP.
#[tokio::test]
async fn ten_thousand_addresses() {
    let server = FakeDns::start().await;
    let mut records = Vec::new();
    for part in 0..4_u8 {
        let name = format!("part{part}.test");
        records.push(Data::srv(0, 1, 80, &name));
        let ips =
            (0..2500_u32).map(|n| Data::address(&format!("10.{part}.{}.{}", n / 250, n % 250)));
        server.set(&name, 60, &ips.collect::<Vec<_>>());
    }
    server.set("_grpc._tcp.big.test", 60, &records);
    let mut dns = Dns::new("_grpc._tcp.big.test.", &options(&server));
    let list = dns.look().await.expect("resolves");
    assert_eq!(list.len(), 10_000);
}
