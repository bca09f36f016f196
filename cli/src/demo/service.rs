//! The greeter that the backends run, and what can go wrong in it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidestep::PeerIdentity;
use tonic::codegen::tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::certificates::generation_of;
use super::hello::greeter_server::Greeter;
use super::hello::{HelloReply, HelloRequest};

/// The shortest and longest time that a call takes, in ms: so that there always are calls in
/// flight when something happens to the backend.
const WORK_MS: std::ops::RangeInclusive<u64> = 4..=20;

/// Greets, and says which backend it is.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    pub(super) name: &'static str,
    pub(super) dials: Arc<Dials>,
}

/// What a scene can turn, and read, at a backend while it serves.
#[derive(Debug)]
pub(super) struct Dials {
    fail_percent: AtomicU32,
    /// No call is answered.
    hangs: AtomicBool,
    /// The newest generation of client certificate seen.
    newest_client: AtomicU32,
    /// Calls of the mesh group that are being worked on.
    open: AtomicU32,
    random: Mutex<fastrand::Rng>,
}

/// A call that is being worked on, until it is dropped: also when its connection dies.
struct OpenCall<'a>(&'a AtomicU32);

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dials {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            fail_percent: AtomicU32::new(0),
            hangs: AtomicBool::new(false),
            newest_client: AtomicU32::new(0),
            open: AtomicU32::new(0),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
        }
    }

    /// From now on this share of calls fails with `UNAVAILABLE`.
    pub(super) fn fail(&self, percent: u32) {
        self.fail_percent.store(percent, Ordering::Relaxed);
    }

    /// Whether calls that come from now on are taken and never answered.
    pub(super) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    pub(super) fn newest_client(&self) -> u32 {
        self.newest_client.load(Ordering::Relaxed)
    }

    /// How many calls of the mesh group are being worked on.
    pub(super) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    fn begin(&self) -> OpenCall<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenCall(&self.open)
    }

    /// How long the next call takes, and whether it fails.
    fn draw(&self) -> (Duration, bool) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let work = Duration::from_millis(random.u64(WORK_MS));
        (
            work,
            random.u32(0..100) < self.fail_percent.load(Ordering::Relaxed),
        )
    }

    fn saw(&self, client: &PeerIdentity) {
        let newest = client
            .dns_sans
            .iter()
            .filter_map(|name| generation_of(name));
        if let Some(generation) = newest.max() {
            self.newest_client.fetch_max(generation, Ordering::Relaxed);
        }
    }
}

impl Greeting {
    fn greet(&self, request: &HelloRequest) -> HelloReply {
        HelloReply {
            message: format!("hello, {}", request.name),
            server: self.name.to_owned(),
        }
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Greeting {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        // The control group's certificates never change: only the mesh's are looked at.
        let meshed = request.metadata().contains_key(super::load::MESHED);
        let _open = meshed.then(|| self.dials.begin());
        if let Some(client) = request
            .extensions()
            .get::<PeerIdentity>()
            .filter(|_| meshed)
        {
            self.dials.saw(client);
        }
        if self.dials.hangs.load(Ordering::Relaxed) {
            // Until its caller gives up.
            std::future::pending::<()>().await;
        }
        let (work, fails) = self.dials.draw();
        tokio::time::sleep(work).await;
        if fails {
            return Err(Status::unavailable("out of order, by the demo's wish"));
        }
        Ok(Response::new(self.greet(request.get_ref())))
    }

    type ChatStream = Replies;

    async fn chat(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let greeting = self.clone();
        let names = request.into_inner();
        let replies = names.map(move |name| name.map(|name| greeting.greet(&name)));
        Ok(Response::new(Box::pin(replies)))
    }
}
