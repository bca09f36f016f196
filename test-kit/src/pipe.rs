//! A network in memory: addresses are names, connections are pipes.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use sidestep::subchannel::{Connector, Io};
use sidestep_proto::resource::Address;
use tokio::io::duplex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Bytes that may be under way in one direction of a pipe.
const BUFFER: usize = 64 * 1024;

/// The first port that is given out; there is no meaning in it.
const FIRST_PORT: u16 = 10_001;

type Door = mpsc::UnboundedSender<Box<dyn Io>>;

/// All who listen, by address.
#[derive(Clone, Default)]
pub(crate) struct Pipes(Arc<Mutex<BTreeMap<SocketAddr, Door>>>);

impl Pipes {
    /// An address that nobody has had.
    pub(crate) fn address(&self) -> SocketAddr {
        let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = doors.last_key_value().map(|(address, _)| address.port());
        let port = last.map_or(FIRST_PORT, |port| port.saturating_add(1));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Taken, and nobody listens.
        doors.insert(address, mpsc::unbounded_channel().0);
        address
    }

    /// Listens; whoever listened there before does not any more.
    pub(crate) fn listen(&self, address: SocketAddr) -> UnboundedReceiverStream<Box<dyn Io>> {
        let (door, pipes) = mpsc::unbounded_channel();
        let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doors.insert(address, door);
        UnboundedReceiverStream::new(pipes)
    }

    /// Connects to whoever listens.
    pub(crate) fn connector(&self) -> Connector {
        let pipes = self.clone();
        Arc::new(move |address| {
            let connected = pipes.connect(&address);
            Box::pin(async move { connected })
        })
    }

    fn connect(&self, address: &Address) -> io::Result<Box<dyn Io>> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let Address::Tcp(address) = address else {
            return Err(refused());
        };
        let doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let door = doors.get(address).ok_or_else(refused)?;
        let (near, far) = duplex(BUFFER);
        door.send(Box::new(far)).map_err(|_| refused())?;
        Ok(Box::new(near))
    }
}
