//! The calls: a closed loop, in which a caller begins its next call once the last is answered, and
//! an open one, which begins calls at a fixed rate.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use tokio::task::JoinSet;

use crate::outcome::Calls;
use crate::pace::Pace;
use crate::transport::{Conversation, Transport};

/// Calls of an open loop that may be under way. Those beyond have failed: the load is too much.
const MOST_OPEN: usize = 10_000;

/// How the load looks.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Bytes in each message.
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// What a call is.
    #[arg(long, value_enum, default_value = "unary")]
    pub shape: Shape,
    /// Calls at a time, of a closed loop.
    #[arg(long, default_value_t = 16)]
    pub in_flight: usize,
    /// Calls that count.
    #[arg(long, default_value_t = 10_000)]
    pub calls: u32,
    /// Calls before them.
    #[arg(long, default_value_t = 2_000)]
    pub warm_up: u32,
    /// Calls begun in a second whether others are answered or not: an open loop.
    #[arg(long)]
    pub rate: Option<f64>,
}

/// What a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// A unary call.
    Unary,
    /// A message on a stream that stays open, and its answer.
    Stream,
}

/// Makes one call after the other.
pub struct Caller<T> {
    transports: Vec<T>,
    next: usize,
    shape: Shape,
    payload: Bytes,
    open: Option<Conversation>,
}

impl Load {
    /// As many callers as there may be calls in flight. Calls go to the transports in turn; streams
    /// stay where they were opened.
    pub fn callers<T: Transport>(&self, transports: &[T]) -> Vec<Caller<T>> {
        let payload = Bytes::from(vec![7; self.payload]);
        let caller = |number| Caller {
            transports: transports.to_vec(),
            next: number,
            shape: self.shape,
            payload: payload.clone(),
            open: None,
        };
        (0..self.in_flight).map(caller).collect()
    }
}

impl<T: Transport> Caller<T> {
    async fn call(&mut self) -> Result<()> {
        let length = match self.shape {
            Shape::Unary => self.unary().await,
            Shape::Stream => self.exchange().await,
        }?;
        ensure!(length == self.payload.len(), "an answer of {length} bytes");
        Ok(())
    }

    async fn unary(&mut self) -> Result<usize> {
        self.next = self.next.wrapping_add(1);
        let turn = self.next % self.transports.len();
        self.transports[turn].unary(self.payload.clone()).await
    }

    async fn exchange(&mut self) -> Result<usize> {
        let mut conversation = match self.open.take() {
            Some(open) => open,
            None => {
                let turn = self.next % self.transports.len();
                self.transports[turn].open().await?
            }
        };
        // One that failed is not used again.
        let length = conversation.exchange(self.payload.clone()).await?;
        self.open = Some(conversation);
        Ok(length)
    }
}

/// Makes so many calls, each caller one at a time, and gives the callers back.
///
/// # Errors
/// A task panicked.
pub async fn closed<T: Transport>(
    callers: Vec<Caller<T>>,
    calls: u32,
) -> Result<(Calls, Vec<Caller<T>>)> {
    let left = Arc::new(AtomicI64::new(i64::from(calls)));
    let each = calls as usize / callers.len().max(1) + 1;
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        let left = Arc::clone(&left);
        // With room for more than its share: nothing shall be moved while it is measured.
        let mut done = Calls::with_capacity(2 * each);
        tasks.spawn(async move {
            while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                let begun = Instant::now();
                done.add(begun, caller.call().await);
            }
            (done, caller)
        });
    }
    let (mut all, mut callers) = (Calls::default(), Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (done, caller) = ended.context("a caller")?;
        all.append(done);
        callers.push(caller);
    }
    Ok((all, callers))
}

/// Begins calls at this rate. A call's time counts from when it was due, so that calls that a slow
/// one holds up count as slow too.
///
/// # Errors
/// The kernel's timer fails, or a task panicked.
pub async fn open<T: Transport>(transports: &[T], load: &Load, rate: f64) -> Result<Calls> {
    ensure!(rate.is_finite() && rate > 0.0, "--rate: {rate}");
    ensure!(load.shape == Shape::Unary, "--rate is of unary calls");
    let payload = Bytes::from(vec![7; load.payload]);
    let done = Arc::new(Mutex::new(Calls::with_capacity(load.calls as usize)));
    let under_way = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let pace = Pace::new(rate)?;
    for number in 0..load.calls {
        let due = pace.due(number);
        pace.wait(due).await?;
        while let Some(ended) = tasks.try_join_next() {
            ended.context("a call")?;
        }
        if under_way.load(Ordering::Relaxed) >= MOST_OPEN {
            let fault = anyhow::anyhow!("more than {MOST_OPEN} calls are open");
            add(&done, due, Err(fault));
            continue;
        }
        under_way.fetch_add(1, Ordering::Relaxed);
        let mut caller = Caller {
            transports: vec![transports[number as usize % transports.len()].clone()],
            next: 0,
            shape: load.shape,
            payload: payload.clone(),
            open: None,
        };
        let (done, under_way) = (Arc::clone(&done), Arc::clone(&under_way));
        tasks.spawn(async move {
            let result = caller.call().await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            add(&done, due, result);
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a call")?;
    }
    let mut done = done.lock().unwrap_or_else(|broken| broken.into_inner());
    Ok(std::mem::take(&mut *done))
}

fn add(done: &Mutex<Calls>, begun: Instant, result: Result<()>) {
    let mut done = done.lock().unwrap_or_else(|broken| broken.into_inner());
    done.add(begun, result);
}
