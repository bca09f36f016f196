//! Servers on real loopback sockets (or in-memory pipes where time is virtual), and clients that
//! speak HTTP/2 to them.

mod calls;
mod certificates;
mod client;
mod drain;
mod echo;
mod hostile;
mod kit;
mod mode;
mod pipes;
mod routes;
mod tls;
