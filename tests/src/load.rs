//! Calls without a pause, counted: what users of a mesh would notice of a change under them.

use std::collections::BTreeMap;

use sidestep::{CallInfo, Channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;

use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;

pub use sidestep_test::PATIENCE;

/// What became of the calls of a [`Load`].
#[derive(Debug, Default)]
pub struct Tally {
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that needed more than one attempt.
    pub retried: u64,
    /// The failures, whole.
    pub failed: Vec<Status>,
    /// Answers by the server's id.
    pub by_server: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts one outcome.
    pub fn count(&mut self, outcome: Result<Answer, Status>) {
        match outcome {
            Ok(answer) => {
                self.answered += 1;
                self.retried += u64::from(answer.attempts > 1);
                *self.by_server.entry(answer.server).or_default() += 1;
            }
            Err(status) => self.failed.push(status),
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.answered += other.answered;
        self.retried += other.retried;
        self.failed.extend(other.failed);
        for (server, calls) in other.by_server {
            *self.by_server.entry(server).or_default() += calls;
        }
        self
    }

    /// # Panics
    /// If a call failed: the first failure is shown.
    pub fn assert_none_failed(&self) {
        let n = self.failed.len();
        assert!(
            n == 0,
            "{n} of {} calls failed: {}",
            self.answered,
            self.failed[0]
        );
    }
}

/// What one answered call says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The server's id.
    pub server: String,
    /// Address of the endpoint that answered.
    pub endpoint: String,
    /// Attempts made.
    pub attempts: u32,
}

/// Makes one unary call.
///
/// # Errors
/// The call's status.
pub async fn call(client: &mut TestServiceClient<Channel>) -> Result<Answer, Status> {
    let response = client.unary_call(SimpleRequest::default()).await?;
    Ok(answer(&response))
}

/// What a response says of its call.
///
/// # Panics
/// If the channel left out its [`CallInfo`].
#[must_use]
pub fn answer(response: &tonic::Response<sidestep_interop::testing::SimpleResponse>) -> Answer {
    let info = response.extensions().get::<CallInfo>();
    let info = info.expect("every answer carries it");
    Answer {
        server: response.get_ref().hostname.clone(),
        endpoint: info.endpoint.to_string(),
        attempts: info.attempts,
    }
}

/// Calls until one is as wanted, and returns that one's outcome.
///
/// # Panics
/// If that takes longer than [`PATIENCE`]; the last outcome is shown.
pub async fn until(
    client: &mut TestServiceClient<Channel>,
    wanted: impl Fn(&Result<Answer, Status>) -> bool,
) -> Result<Answer, Status> {
    let mut last = None;
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let outcome = call(client).await;
            if wanted(&outcome) {
                return outcome;
            }
            last = Some(outcome);
            // A failure is quick: let the others do their work.
            tokio::task::yield_now().await;
        }
    });
    let found = found.await;
    found.unwrap_or_else(|_| panic!("it never came; the last call: {last:?}"))
}

/// Calls without a pause from several tasks.
pub struct Load {
    done: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Tally>,
}

impl Load {
    /// Starts `tasks` tasks, each with a clone of `client`, once a first call was answered: a
    /// server does not listen before the control plane has given it its Listener.
    ///
    /// # Panics
    /// If no call is answered within [`PATIENCE`].
    pub async fn start(client: &TestServiceClient<Channel>, tasks: usize) -> Self {
        let first = until(&mut client.clone(), Result::is_ok).await;
        first.expect("only an answer ends the wait");
        let done = watch::Sender::new(0);
        let stop = watch::Sender::new(false);
        let mut set = JoinSet::new();
        for _ in 0..tasks {
            set.spawn(run(client.clone(), done.clone(), stop.subscribe()));
        }
        Self {
            done,
            stop,
            tasks: set,
        }
    }

    /// Waits until `calls` more calls have ended.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub async fn further(&self, calls: u64) {
        let mut done = self.done.subscribe();
        let goal = *done.borrow() + calls;
        let reached = tokio::time::timeout(PATIENCE, done.wait_for(|done| *done >= goal));
        let reached = reached.await.expect("calls go on").map(|_| ());
        reached.expect("the load runs");
    }

    /// Ends the load after the calls under way, and counts.
    ///
    /// # Panics
    /// If a call hangs.
    pub async fn stop(self) -> Tally {
        self.stop.send_replace(true);
        let all = tokio::time::timeout(PATIENCE, self.tasks.join_all());
        let all = all.await.expect("every call ends");
        all.into_iter().fold(Tally::default(), Tally::merge)
    }
}

async fn run(
    mut client: TestServiceClient<Channel>,
    done: watch::Sender<u64>,
    stop: watch::Receiver<bool>,
) -> Tally {
    let mut tally = Tally::default();
    while !*stop.borrow() {
        tally.count(call(&mut client).await);
        done.send_modify(|done| *done += 1);
        // Loopback calls may never have to wait: other tasks of the thread must get their turn.
        tokio::task::yield_now().await;
    }
    tally
}
