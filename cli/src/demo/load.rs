//! Two groups of callers with the same load: one through the mesh, one over tonic's own channel.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sidestep::CallInfo;
use tokio::time::MissedTickBehavior;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use super::certificates::{Issued, host};
use super::hello::greeter_client::GreeterClient;
use super::hello::{HelloReply, HelloRequest};
use super::tally::{Outcome, Tally};

/// The header that tells backends which group a call is of.
pub(super) const MESHED: &str = "x-demo-meshed";

/// How long a call may take in either group.
const DEADLINE: Duration = Duration::from_secs(5);

/// How a group calls.
#[derive(Debug, Clone)]
pub(super) enum Client {
    /// The one under test.
    Mesh(GreeterClient<sidestep::Channel>),
    /// The control group: what one has without a mesh.
    Plain(GreeterClient<tonic::transport::Channel>),
}

impl Client {
    /// Calls through the mesh.
    pub(super) fn mesh(channel: sidestep::Channel) -> Self {
        Self::Mesh(GreeterClient::new(channel))
    }

    /// Calls over tonic's balanced channel, with static addresses and tonic's own TLS. It dials
    /// when it is first used.
    pub(super) fn plain(
        addresses: impl Iterator<Item = std::net::SocketAddr>,
        root: &str,
        identity: &Issued,
    ) -> anyhow::Result<Self> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(root))
            .identity(Identity::from_pem(&identity.chain, &identity.key))
            .domain_name(host("greeter"));
        let endpoints: Result<Vec<_>, tonic::transport::Error> = addresses
            .map(|address| {
                Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls.clone())
            })
            .collect();
        let channel = tonic::transport::Channel::balance_list(endpoints?.into_iter());
        Ok(Self::Plain(GreeterClient::new(channel)))
    }

    async fn call(&self) -> Result<Response<HelloReply>, Status> {
        let mut request = Request::new(HelloRequest {
            name: "demo".to_owned(),
        });
        request.set_timeout(DEADLINE);
        match self {
            Self::Mesh(client) => {
                request
                    .metadata_mut()
                    .insert(MESHED, MetadataValue::from_static("1"));
                client.clone().say_hello(request).await
            }
            Self::Plain(client) => client.clone().say_hello(request).await,
        }
    }
}

/// One group of callers.
#[derive(Debug)]
pub(super) struct Group {
    client: Client,
    /// Everything since the start.
    pub(super) total: Arc<Tally>,
    /// Of the scene in play.
    scene: Mutex<Arc<Tally>>,
}

impl Group {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            total: Arc::default(),
            scene: Mutex::default(),
        }
    }

    /// The calls of the scene in play.
    pub(super) fn scene(&self) -> Arc<Tally> {
        Arc::clone(&self.scene.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a new tally: a call counts for the scene in which it began. Answers the old one, in
    /// which calls may still be open.
    pub(super) fn next_scene(&self) -> Arc<Tally> {
        let mut scene = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *scene)
    }

    /// Makes one call and counts it.
    fn call_once(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let group = Arc::clone(self);
        let tallies = [group.total.begin(), group.scene().begin()];
        async move {
            let started = Instant::now();
            let result = group.client.call().await;
            let latency = started.elapsed();
            let outcome = outcome(result);
            for open in tallies {
                open.end(outcome.clone(), latency);
            }
        }
    }
}

fn outcome(result: Result<Response<HelloReply>, Status>) -> Outcome {
    match result {
        Ok(response) => Outcome::Answered {
            attempts: response
                .extensions()
                .get::<CallInfo>()
                .map_or(1, |info| info.attempts),
            by: response.into_inner().server,
        },
        Err(status) => Outcome::Failed {
            code: code_name(status.code()),
            message: status.message().to_owned(),
        },
    }
}

/// `DeadlineExceeded` as gRPC writes it: `DEADLINE_EXCEEDED`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for (index, letter) in format!("{code:?}").chars().enumerate() {
        if index > 0 && letter.is_uppercase() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

/// Calls at a steady pace, whether or not earlier calls have ended: a slow answer must not hide
/// the calls that would have come meanwhile. Ends when it is dropped, with the task.
pub(super) async fn drive(group: Arc<Group>, calls_per_second: u32, paused: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / calls_per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if !paused.load(Ordering::Relaxed) {
            tokio::spawn(group.call_once());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_in_grpc() {
        assert_eq!(code_name(Code::DeadlineExceeded), "DEADLINE_EXCEEDED");
        assert_eq!(code_name(Code::Unavailable), "UNAVAILABLE");
    }
}
