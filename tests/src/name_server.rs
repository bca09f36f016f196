//! A name server on a loopback port, by hand: UDP, and TCP for what UDP cannot carry.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidestep::resolver::Dns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longer answers go over TCP.
const UDP_LIMIT: usize = 1200;

/// What is asked for.
const A: u16 = 1;
const AAAA: u16 = 28;

/// Answers for the names it was told of; others do not exist. Ends when it is dropped.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    zone: Arc<Zone>,
    _tasks: JoinSet<()>,
}

struct Zone {
    names: Mutex<HashMap<String, Records>>,
    /// Counts the questions.
    asked: watch::Sender<u64>,
    is_mute: watch::Sender<bool>,
}

#[derive(Clone)]
struct Records {
    ttl: u32,
    addresses: Vec<IpAddr>,
}

impl NameServer {
    /// Starts, and knows nothing.
    ///
    /// # Panics
    /// If there is no free loopback port.
    pub async fn start() -> Self {
        let zone = Arc::new(Zone {
            names: Mutex::default(),
            asked: watch::Sender::default(),
            is_mute: watch::Sender::default(),
        });
        let (udp, tcp) = bind().await;
        let address = udp.local_addr().expect("it is bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&zone)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&zone)));
        Self {
            address,
            zone,
            _tasks: tasks,
        }
    }

    /// A resolver that asks it.
    #[must_use]
    pub fn resolver(&self) -> Arc<Dns> {
        Arc::new(Dns::at(self.address))
    }

    /// Replaces all addresses of a name, which may be none.
    ///
    /// # Panics
    /// If one of them is no IP address.
    pub fn set(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let addresses = addresses
            .iter()
            .map(|ip| ip.parse().expect("an IP address"));
        let addresses = addresses.collect();
        let records = Records { ttl, addresses };
        self.zone.names().insert(name.to_owned(), records);
    }

    /// The name does not exist any more.
    pub fn remove(&self, name: &str) {
        self.zone.names().remove(name);
    }

    /// From now on questions are counted and not answered.
    pub fn mute(&self) {
        self.zone.is_mute.send_replace(true);
    }

    /// Questions so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        *self.zone.asked.borrow()
    }

    /// Waits until so many more questions were asked.
    pub async fn further(&self, questions: u64) {
        let mut asked = self.zone.asked.subscribe();
        let goal = *asked.borrow() + questions;
        // The sender lives as long as this.
        let _ = asked.wait_for(|asked| *asked >= goal).await;
    }
}

impl Zone {
    fn names(&self) -> MutexGuard<'_, HashMap<String, Records>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> bool {
        self.asked.send_modify(|asked| *asked += 1);
        !*self.is_mute.borrow()
    }

    /// Without `records`: truncated, so that it is asked for over TCP.
    fn answer(&self, query: &[u8], records: bool) -> Option<Vec<u8>> {
        let (name, end) = name_at(query)?;
        let question = query.get(12..end + 4)?;
        let kind = u16::from_be_bytes([query[end], query[end + 1]]);
        let known = self.names().get(&name).cloned();
        let found = known.iter().flat_map(|known| &known.addresses);
        let found: Vec<IpAddr> = found
            .copied()
            .filter(|ip| records && kind == if ip.is_ipv4() { A } else { AAAA })
            .collect();
        // A response, recursion wanted and had; truncated; the name does not exist.
        let truncated = if records { 0 } else { 0x0200 };
        let flags = 0x8180 | truncated | if known.is_some() { 0 } else { 3 };
        let count = u16::try_from(found.len()).ok()?;
        let mut out = query[..2].to_vec();
        for number in [flags, 1, count, 0, 0] {
            out.extend(u16::to_be_bytes(number));
        }
        out.extend(question);
        let ttl = known.map_or(0, |known| known.ttl);
        for ip in found {
            // The name is the question's.
            out.extend([0xc0, 12]);
            out.extend(kind.to_be_bytes());
            out.extend(1_u16.to_be_bytes());
            out.extend(ttl.to_be_bytes());
            match ip {
                IpAddr::V4(ip) => {
                    out.extend(4_u16.to_be_bytes());
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.extend(16_u16.to_be_bytes());
                    out.extend(ip.octets());
                }
            }
        }
        Some(out)
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

async fn serve_udp(socket: UdpSocket, zone: Arc<Zone>) {
    let mut query = [0; 2048];
    while let Ok((length, peer)) = socket.recv_from(&mut query).await {
        let query = &query[..length];
        if !zone.take() {
            continue;
        }
        let whole = zone.answer(query, true);
        let fits = whole.filter(|answer| answer.len() <= UDP_LIMIT);
        if let Some(answer) = fits.or_else(|| zone.answer(query, false)) {
            // Who asked may have gone.
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>) {
    let mut conversations = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        conversations.spawn(converse(socket, Arc::clone(&zone)));
    }
}

async fn converse(mut socket: TcpStream, zone: Arc<Zone>) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; socket.read_u16().await?.into()];
        socket.read_exact(&mut query).await?;
        let answer = zone.answer(&query, true).filter(|_| zone.take());
        let Some(answer) = answer else {
            continue;
        };
        let length = u16::try_from(answer.len()).expect("the test's answers fit");
        socket.write_u16(length).await?;
        socket.write_all(&answer).await?;
    }
}

/// The name that is asked for, in lower case, and where it ends.
fn name_at(message: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            return Some((labels.join("."), at + 1));
        }
        let label = message.get(at + 1..=at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length + 1;
    }
}
