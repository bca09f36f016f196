//! The target forms that other gRPC clients take: `host:port`, `dns:[///]host[:port]`,
//! `ipv4:addr[:port],…`, `ipv6:[addr][:port],…`, `unix:path`, `unix:///absolute/path`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use sidestep_proto::resource::{Address, LbPolicy};

use super::{DirectTarget, Place, Transport};

/// Used where a target names no port, as gRPC does.
const DEFAULT_PORT: u16 = 443;

/// A target that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("target {target:?}: {reason}")]
pub struct TargetError {
    /// As dialled.
    pub target: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl DirectTarget {
    /// Reads a target without a control plane's scheme, to be spread by pick-first as in other
    /// gRPC clients. An `http://` before a host is taken as the host alone.
    ///
    /// # Errors
    /// The scheme is unknown, or what follows it is not what it demands.
    pub fn parse(target: &str) -> Result<Self, TargetError> {
        let place = parse(target).map_err(|reason| TargetError {
            target: target.into(),
            reason,
        })?;
        Ok(Self {
            authority: authority(target, &place),
            place,
            lb_policy: LbPolicy::PickFirst { shuffle: false },
            transport: Transport::Unsaid,
        })
    }

    /// Reads what a channel falls back to: `http://host[:port]` (plaintext, port 80) or
    /// `https://host[:port]` (TLS, port 443), without a path. All addresses of the host are used
    /// in turn.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse_url(url: &str) -> Result<Self, TargetError> {
        let bad = |reason| TargetError {
            target: url.into(),
            reason,
        };
        let (transport, rest, port) =
            match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
                (Some(rest), _) => (Transport::Plaintext, rest, 80),
                (_, Some(rest)) => (Transport::Tls, rest, DEFAULT_PORT),
                _ => return Err(bad("expected http://host:port or https://host:port")),
            };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let place = name(rest, port).map_err(bad)?;
        Ok(Self {
            authority: rest.to_owned(),
            place,
            lb_policy: LbPolicy::RoundRobin,
            transport,
        })
    }
}

/// The target without its scheme, which is how people wrote the name; the first address of a list.
fn authority(target: &str, place: &Place) -> String {
    match place {
        Place::Addresses(addresses) => match addresses.first() {
            Some(Address::Tcp(address)) => address.to_string(),
            Some(Address::Unix(_)) | None => "localhost".into(),
        },
        Place::Name { .. } => {
            let path = target.rsplit('/').find(|part| !part.is_empty());
            let path = path.unwrap_or(target);
            path.strip_prefix("dns:").unwrap_or(path).into()
        }
    }
}

fn parse(target: &str) -> Result<Place, &'static str> {
    if let Some(rest) = target.strip_prefix("unix:") {
        return unix(rest);
    }
    if let Some(rest) = target.strip_prefix("ipv4:") {
        return list(rest, |one| ip_v4(one).map(Into::into));
    }
    if let Some(rest) = target.strip_prefix("ipv6:") {
        return list(rest, |one| ip_v6(one).map(Into::into));
    }
    if let Some(rest) = target.strip_prefix("dns:") {
        return dns(rest);
    }
    if let Some(rest) = target.strip_prefix("http://") {
        return name(rest.trim_end_matches('/'), 80);
    }
    if target.contains("://") {
        return Err("unknown scheme; expected xds, dns, ipv4, ipv6 or unix");
    }
    name(target, DEFAULT_PORT)
}

/// `unix:relative`, `unix:/absolute` and `unix:///absolute`.
fn unix(rest: &str) -> Result<Place, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return Err("unix:// takes no authority, only an absolute path"),
        None => rest,
    };
    if path.is_empty() {
        return Err("unix: needs a path");
    }
    Ok(Place::Addresses(vec![Address::Unix(path.into())]))
}

/// `dns:host`, `dns:///host`. A DNS server of one's own (`dns://server/host`) is not asked.
fn dns(rest: &str) -> Result<Place, &'static str> {
    let host = match rest.strip_prefix("//") {
        Some(path) => path
            .strip_prefix('/')
            .ok_or("dns:// with a DNS server is not supported; use dns:///host:port")?,
        None => rest,
    };
    name(host, DEFAULT_PORT)
}

fn list(
    rest: &str,
    one: impl Fn(&str) -> Result<SocketAddr, &'static str>,
) -> Result<Place, &'static str> {
    let addresses: Result<Vec<_>, _> = rest.split(',').map(|s| one(s).map(Address::Tcp)).collect();
    Ok(Place::Addresses(addresses?))
}

fn ip_v4(one: &str) -> Result<SocketAddrV4, &'static str> {
    if let Ok(address) = one.parse() {
        return Ok(address);
    }
    let ip: Ipv4Addr = one.parse().map_err(|_| "not an IPv4 address with a port")?;
    Ok(SocketAddrV4::new(ip, DEFAULT_PORT))
}

fn ip_v6(one: &str) -> Result<SocketAddrV6, &'static str> {
    if let Ok(address) = one.parse() {
        return Ok(address);
    }
    let bare = one
        .strip_prefix('[')
        .map_or(one, |s| s.trim_end_matches(']'));
    let ip: Ipv6Addr = bare
        .parse()
        .map_err(|_| "not an IPv6 address with a port")?;
    Ok(SocketAddrV6::new(ip, DEFAULT_PORT, 0, 0))
}

/// `host`, `host:port`, `1.2.3.4:80`, `[::1]:80`.
fn name(text: &str, default_port: u16) -> Result<Place, &'static str> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Place::Addresses(vec![Address::Tcp(address)]));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let address = SocketAddr::new(ip, default_port);
        return Ok(Place::Addresses(vec![Address::Tcp(address)]));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| "not a port number")?),
        None => (text, default_port),
    };
    if host.is_empty() || host.contains([':', '/', '[', ']', ' ']) {
        return Err("not a host name");
    }
    Ok(Place::Name {
        host: host.into(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Address {
        Address::Tcp(address.parse().expect("a socket address"))
    }

    #[test]
    fn the_forms() {
        let unix = |path: &str| Place::Addresses(vec![Address::Unix(path.into())]);
        let addresses = |list: &[&str]| Place::Addresses(list.iter().map(|a| tcp(a)).collect());
        let host = |host: &str, port| Place::Name {
            host: host.into(),
            port,
        };
        for (text, place) in [
            ("localhost:50051", host("localhost", 50051)),
            ("dns:///greeter.local:80", host("greeter.local", 80)),
            ("dns:greeter", host("greeter", 443)),
            ("http://greeter:8080/", host("greeter", 8080)),
            ("http://greeter", host("greeter", 80)),
            ("127.0.0.1:80", addresses(&["127.0.0.1:80"])),
            ("dns:///127.0.0.1:80", addresses(&["127.0.0.1:80"])),
            ("[::1]:80", addresses(&["[::1]:80"])),
            ("::1", addresses(&["[::1]:443"])),
            (
                "ipv4:1.2.3.4:1,1.2.3.4",
                addresses(&["1.2.3.4:1", "1.2.3.4:443"]),
            ),
            (
                "ipv6:[::1]:1,[::2],::3",
                addresses(&["[::1]:1", "[::2]:443", "[::3]:443"]),
            ),
            ("unix:a/b", unix("a/b")),
            ("unix:/a/b", unix("/a/b")),
            ("unix:///a/b", unix("/a/b")),
        ] {
            let parsed = DirectTarget::parse(text);
            assert_eq!(parsed.map(|t| t.place), Ok(place), "{text}");
        }
    }

    #[test]
    fn the_authority_is_the_name_as_dialled() {
        for (target, authority) in [
            ("greeter:80", "greeter:80"),
            ("dns:///greeter", "greeter"),
            ("dns:greeter:1", "greeter:1"),
            ("http://greeter:8080/", "greeter:8080"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("ipv6:[::1]:1,[::2]:1", "[::1]:1"),
            ("unix:/a", "localhost"),
        ] {
            let parsed = DirectTarget::parse(target).expect(target);
            assert_eq!(parsed.authority(), authority, "{target}");
        }
    }

    #[test]
    fn what_is_not_a_target() {
        for text in [
            "",
            ":80",
            "host:port",
            "host:70000",
            "a b:1",
            "ftp://host",
            "dns://8.8.8.8/host",
            "unix:",
            "unix://host/path",
            "ipv4:",
            "ipv4:1.2.3.4:1,",
            "ipv4:[::1]:1",
            "ipv6:1.2.3.4:1",
        ] {
            let parsed = DirectTarget::parse(text);
            let error = parsed.expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
