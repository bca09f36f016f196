//! One connection, from the first try to its end: the task behind it. Rim.

use tokio::sync::oneshot;

use super::{Input, WeakInbox};
use crate::balancer::SubchannelId;
use crate::snapshot::ClusterId;
use crate::subchannel::{
    self, Closed, ConnectError, ConnectTarget, Connection, Connector, Disconnect,
};

/// Names one try to connect: what an overtaken one still says is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptId(pub(super) u64);

/// Whose connection it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(super) cluster: ClusterId,
    pub(super) endpoint: SubchannelId,
    pub(super) attempt: AttemptId,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Calls can be sent.
    Connected(Connection),
    /// It could not be made, and why.
    Failed(ConnectError),
    /// It takes no new calls, and why. Those in flight go on.
    Lost(Closed),
}

/// A claim on the connection. Dropped, it stops a try that is under way, and lets go of a
/// connection that was made: it closes when the calls in flight have ended.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) attempt: AttemptId,
    _held: oneshot::Sender<()>,
}

/// Starts a try.
pub(super) fn start(
    inbox: WeakInbox,
    connector: Connector,
    owner: Owner,
    target: ConnectTarget,
) -> Claim {
    let (held, released) = oneshot::channel();
    let report = Report { inbox, owner };
    tokio::spawn(run(report, connector, target, released));
    Claim {
        attempt: owner.attempt,
        _held: held,
    }
}

struct Report {
    inbox: WeakInbox,
    owner: Owner,
}

impl Report {
    fn send(&self, outcome: Outcome) {
        if let Some(inbox) = self.inbox.upgrade() {
            // Nobody needs an outcome after the control task has ended.
            let _ = inbox.send(Input::Connection {
                owner: self.owner,
                outcome,
            });
        }
    }
}

async fn run(
    report: Report,
    connector: Connector,
    target: ConnectTarget,
    mut released: oneshot::Receiver<()>,
) {
    // Boxed, and with all it needs in it: neither those that have not begun nor the connection that
    // comes of it hold the state of a try.
    let trying = Box::pin(async move { subchannel::connect(&connector, &target).await });
    let made = tokio::select! {
        biased;
        _ = &mut released => return,
        made = trying => made,
    };
    let (connection, mut driver) = match made {
        Ok(made) => made,
        Err(error) => return report.send(Outcome::Failed(error)),
    };
    report.send(Outcome::Connected(connection.clone()));
    tokio::select! {
        biased;
        _ = &mut released => {}
        closed = &mut driver => return report.send(Outcome::Lost(closed)),
        () = connection.closed_or_draining() => {
            report.send(Outcome::Lost(closed(&connection)));
        }
    }
    // Kept, this handle would keep the connection open for ever.
    drop(connection);
    driver.await;
}

fn closed(connection: &Connection) -> Closed {
    let closed = connection.closed().cloned();
    closed.unwrap_or_else(|| Closed {
        reason: "the server is going away".to_owned(),
        disconnect: Disconnect::Unknown,
    })
}
