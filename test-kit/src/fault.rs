//! Faults in front of a service that knows nothing of them.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;

/// What a backend does wrong on purpose, changed while it runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug)]
struct Plan {
    hang: bool,
    delay: Duration,
    /// Of calls to fail, 0 to 1.
    share: f64,
    /// How much of a failure is owed; at 1 the next call fails.
    owed: f64,
    code: Code,
    calls: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            hang: false,
            delay: Duration::ZERO,
            share: 0.0,
            owed: 0.0,
            code: Code::Unavailable,
            calls: 0,
        }
    }
}

/// What becomes of one call.
struct Fate {
    hang: bool,
    delay: Duration,
    fail: Option<Code>,
}

impl Faults {
    pub(crate) fn hang(&self) {
        self.plan().hang = true;
    }

    pub(crate) fn slow(&self, delay: Duration) {
        self.plan().delay = delay;
    }

    pub(crate) fn fail(&self, share: f64, code: Code) {
        let mut plan = self.plan();
        plan.share = share.clamp(0.0, 1.0);
        plan.owed = 0.0;
        plan.code = code;
    }

    pub(crate) fn heal(&self) {
        let mut plan = self.plan();
        *plan = Plan {
            calls: plan.calls,
            ..Plan::default()
        };
    }

    pub(crate) fn calls(&self) -> u64 {
        self.plan().calls
    }

    /// Failures are spread evenly, not drawn: of ten calls at 0.2 exactly two fail, always.
    fn next(&self) -> Fate {
        let mut plan = self.plan();
        plan.calls += 1;
        plan.owed += plan.share;
        // Sums of shares such as 0.2 miss whole numbers by a hair.
        let fails = plan.owed > 1.0 - 1e-9;
        if fails {
            plan.owed -= 1.0;
        }
        Fate {
            hang: plan.hang,
            delay: plan.delay,
            fail: fails.then_some(plan.code),
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty {
            faults: self.clone(),
            inner,
        }
    }
}

/// A service behind [`Faults`].
#[derive(Debug, Clone)]
pub(crate) struct Faulty<S> {
    faults: Faults,
    inner: S,
}

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let fate = self.faults.next();
        // The service hears nothing of a call that hangs or fails.
        let answer = (!fate.hang && fate.fail.is_none()).then(|| self.inner.call(request));
        Box::pin(async move {
            if fate.hang {
                return pending().await;
            }
            if !fate.delay.is_zero() {
                tokio::time::sleep(fate.delay).await;
            }
            match (answer, fate.fail) {
                (Some(answer), _) => answer.await,
                (None, code) => {
                    let code = code.unwrap_or(Code::Unavailable);
                    Ok(Status::new(code, "fails on purpose (sidestep-test)").into_http())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_spread_evenly() {
        for (share, expected) in [(0.0, 0), (0.2, 20), (0.5, 50), (0.1, 10), (1.0, 100)] {
            let faults = Faults::default();
            faults.fail(share, Code::Internal);
            let fates = (0..100).map(|_| faults.next());
            let failed = fates.filter(|fate| fate.fail == Some(Code::Internal));
            assert_eq!(failed.count(), expected, "{share}");
        }
    }

    #[test]
    fn healing_ends_every_fault_and_keeps_the_count() {
        let faults = Faults::default();
        faults.hang();
        faults.slow(Duration::from_secs(1));
        faults.fail(1.0, Code::Internal);
        assert!(faults.next().hang);
        faults.heal();
        let fate = faults.next();
        assert!(!fate.hang && fate.delay.is_zero() && fate.fail.is_none());
        assert_eq!(faults.calls(), 2);
    }
}
