//! When calls of an open loop are due. tokio's own timers are good to a millisecond, in which dozens
//! of calls may be due; the kernel's are good to some microseconds.

use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

/// A fixed rate, from its making on.
pub struct Pace {
    start: Instant,
    rate: f64,
    timer: AsyncFd<Timer>,
}

/// Known to tokio by its descriptor.
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Pace {
    /// So many times a second, the first at once.
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub fn new(rate: f64) -> Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; this descriptor is open for as long as it is known"
        )]
        let timer = AsyncFd::new(Timer(timer))?;
        Ok(Self {
            timer,
            start: Instant::now(),
            rate,
        })
    }

    /// When the `number`th is due; the first is number 0.
    #[must_use]
    pub fn due(&self, number: u32) -> Instant {
        self.start + Duration::from_secs_f64(f64::from(number) / self.rate)
    }

    /// Waits for that time.
    ///
    /// # Errors
    /// The timer fails.
    pub async fn wait(&self, due: Instant) -> Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let once = Expiration::OneShot(TimeSpec::from_duration(left));
        let timer = &self.timer.get_ref().0;
        timer.set(once, TimerSetTimeFlags::empty())?;
        loop {
            let mut readable = self.timer.readable().await?;
            let expired = timer.wait();
            readable.clear_ready();
            match expired {
                // Told too early.
                Err(Errno::EAGAIN) => {}
                expired => return Ok(expired?),
            }
        }
    }
}
