//! Waiting for the kernel to say that a file has changed.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// When a wait ends. What is too far away for the clock never comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    start: Instant,
    end: Option<Instant>,
}

/// Where a caller's time is too long for the clock.
const LONGEST: Duration = Duration::from_secs(1 << 32);

/// When a wait ends that began at `start`.
pub(crate) fn end(start: Instant, time: Duration) -> Instant {
    start.checked_add(time).unwrap_or(start + LONGEST)
}

impl Deadline {
    pub(crate) fn after(time: Duration) -> Self {
        let start = Instant::now();
        Deadline {
            start,
            end: start.checked_add(time),
        }
    }

    /// The time until then; zero once it has come.
    pub(crate) fn left(&self) -> Duration {
        match self.end {
            Some(end) => end.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        }
    }

    pub(crate) fn waited(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Waits for `POLLPRI` by poll(2), at most for `time`; a signal ends it early. Gives what there is.
pub(crate) fn poll(fd: impl AsFd, time: Duration) -> rustix::io::Result<PollFlags> {
    let timeout = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(&fd, PollFlags::PRI)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(fds[0].revents()),
        Err(Errno::INTR) => Ok(PollFlags::empty()),
        Err(errno) => Err(errno),
    }
}
