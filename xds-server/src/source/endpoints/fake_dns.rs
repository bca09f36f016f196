//! A name server for tests, on a loopback port: UDP, and TCP for what UDP cannot carry.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// Longer answers go over TCP.
const UDP_LIMIT: usize = 1200;

/// A record's type and content.
#[derive(Debug, Clone)]
pub(super) struct Data(u16, Vec<u8>);

impl Data {
    /// A or AAAA.
    pub(super) fn address(text: &str) -> Self {
        match text.parse().expect("an IP address") {
            IpAddr::V4(ip) => Self(1, ip.octets().to_vec()),
            IpAddr::V6(ip) => Self(28, ip.octets().to_vec()),
        }
    }

    /// SRV.
    pub(super) fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Self {
        let numbers = [priority, weight, port];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        for label in target.split('.') {
            bytes.push(u8::try_from(label.len()).expect("a short label"));
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        Self(33, bytes)
    }
}

/// Names with the TTL and the records that each has.
type Zone = Arc<Mutex<HashMap<String, (u32, Vec<Data>)>>>;

/// Ends when it is dropped. What it was not told of does not exist.
pub(super) struct FakeDns {
    pub(super) address: SocketAddr,
    zone: Zone,
    tasks: [JoinHandle<()>; 2],
}

impl FakeDns {
    pub(super) async fn start() -> Self {
        let zone = Zone::default();
        let (udp, tcp) = bind().await;
        Self {
            address: udp.local_addr().expect("it is bound"),
            tasks: [
                tokio::spawn(serve_udp(udp, Arc::clone(&zone))),
                tokio::spawn(serve_tcp(tcp, Arc::clone(&zone))),
            ],
            zone,
        }
    }

    /// Replaces all records of a name.
    pub(super) fn set(&self, name: &str, ttl: u32, records: &[Data]) {
        let mut zone = self.zone.lock().expect("no panic");
        zone.insert(name.to_owned(), (ttl, records.to_vec()));
    }
}

impl Drop for FakeDns {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Both at one port, which somebody else may have for one of them.
async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = udp.local_addr().expect("it is bound");
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both");
}

async fn serve_udp(socket: UdpSocket, zone: Zone) {
    let mut query = [0; 2048];
    while let Ok((length, peer)) = socket.recv_from(&mut query).await {
        let mut answer = answer(&query[..length], &zone, true);
        if answer.len() > UDP_LIMIT {
            answer = self::answer(&query[..length], &zone, false);
        }
        let _ = socket.send_to(&answer, peer).await;
    }
}

async fn serve_tcp(listener: TcpListener, zone: Zone) {
    while let Ok((socket, _)) = listener.accept().await {
        let zone = Arc::clone(&zone);
        tokio::spawn(converse(socket, zone));
    }
}

async fn converse(mut socket: TcpStream, zone: Zone) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; socket.read_u16().await?.into()];
        socket.read_exact(&mut query).await?;
        let answer = answer(&query, &zone, true);
        let length = u16::try_from(answer.len()).expect("the test's answers fit");
        socket.write_u16(length).await?;
        socket.write_all(&answer).await?;
    }
}

/// Without `records`: truncated, so that it is asked for over TCP.
fn answer(query: &[u8], zone: &Zone, records: bool) -> Vec<u8> {
    let (name, end) = name_at(query, 12);
    let question = &query[12..end + 4];
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let zone = zone.lock().expect("no panic");
    let known = zone.get(&name);
    let (ttl, all) = known.cloned().unwrap_or_default();
    let found: Vec<Data> = all.into_iter().filter(|data| data.0 == kind).collect();
    let found = if records { found } else { Vec::new() };
    // A response, recursion wanted and had; truncated; the name does not exist.
    let flags = 0x8180 | if records { 0 } else { 0x0200 } | if known.is_some() { 0 } else { 3 };
    let count = u16::try_from(found.len()).expect("the test's answers fit");
    let mut out = query[..2].to_vec();
    for number in [flags, 1, count, 0, 0] {
        out.extend(u16::to_be_bytes(number));
    }
    out.extend(question);
    for Data(kind, content) in found {
        // The name is the question's.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend(1_u16.to_be_bytes());
        out.extend(ttl.to_be_bytes());
        out.extend(u16::try_from(content.len()).expect("short").to_be_bytes());
        out.extend(content);
    }
    out
}

/// The name at this place, in lower case, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> (String, usize) {
    let mut labels = Vec::new();
    while message[at] != 0 {
        let length = usize::from(message[at]);
        let label = &message[at + 1..=at + length];
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length + 1;
    }
    (labels.join("."), at + 1)
}
