//! The same waits as futures, on the event loop of tokio.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::{ExitStatus, Output};
use std::task::Poll;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::Spawned;
use crate::error::{Error, Result};

#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
impl Spawned {
    /// Waits for its end without a thread: the pidfd is one more fd of tokio's event loop.
    ///
    /// Cancel-safe: whoever waits next, in either way, finds the status. Any number of tasks can wait at once. Its standard
    /// input stays open, unlike with [`wait`](Self::wait), which has the handle to itself.
    ///
    /// The streams are pipes that tokio can take as they are:
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use cofferdam_namespaces::{Command, Stdio};
    /// use tokio::net::unix::pipe;
    ///
    /// let mut child = Command::new("/bin/app").stdout(Stdio::piped()).spawn()?;
    /// let stdout = child.stdout.take().map(pipe::Receiver::from_file).transpose()?;
    /// // ... read it, and meanwhile or after that:
    /// let status = child.wait_async().await?;
    /// # drop((stdout, status));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without its I/O driver.
    pub async fn wait_async(&self) -> Result<ExitStatus> {
        if let Some(status) = self.process.reap()? {
            return Ok(status);
        }
        let pidfd = self.process.pidfd.try_clone();
        let pidfd = watch(pidfd.map_err(Error::sys("duplicate the pidfd"))?)?;
        let timer = watch(timer().map_err(Error::sys("timerfd_create"))?)?;
        loop {
            let ended = either(&pidfd, &timer).await;
            if let Some(status) = self.process.reap()? {
                return Ok(status);
            }
            if !ended.map_err(Error::sys("epoll_wait"))? {
                self.process.clear_the_way();
            }
        }
    }

    /// Closes its standard input, reads the other two streams to their ends where they are pipes, and waits: as
    /// [`output`](Self::output) does, without a thread.
    ///
    /// Not cancel-safe: what was read by then is gone with the future. The program runs on.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), or if a pipe cannot be read.
    ///
    /// # Panics
    /// As [`wait_async`](Self::wait_async).
    pub async fn output_async(&mut self) -> Result<Output> {
        self.stdin = None;
        let out = read_to_end(self.stdout.take());
        let err = read_to_end(self.stderr.take());
        let (stdout, stderr) = both(out, err).await;
        let read = Error::sys("read a stream of the program");
        let (stdout, stderr) = stdout
            .and_then(|stdout| Ok((stdout, stderr?)))
            .map_err(read)?;
        let status = self.wait_async().await?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }
}

#[allow(
    deprecated,
    reason = "sound for what owns its fd; its unsafe successor is missing in most releases of tokio 1"
)]
fn watch(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE).map_err(Error::sys("epoll_ctl"))
}

/// One that fires again and again.
fn timer() -> rustix::io::Result<OwnedFd> {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    };
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let half_a_second = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 500_000_000,
    };
    let again = Itimerspec {
        it_interval: half_a_second,
        it_value: half_a_second,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &again)?;
    Ok(timer)
}

/// Whether it was the first that became readable, rather than the timer.
async fn either(pidfd: &AsyncFd<OwnedFd>, timer: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    poll_fn(|context| {
        if let Poll::Ready(ready) = pidfd.poll_read_ready(context) {
            ready?.clear_ready();
            return Poll::Ready(Ok(true));
        }
        if let Poll::Ready(ready) = timer.poll_read_ready(context) {
            let _count = rustix::io::read(timer.get_ref(), &mut [0; 8]).is_ok();
            ready?.clear_ready();
            return Poll::Ready(Ok(false));
        }
        Poll::Pending
    })
    .await
}

async fn read_to_end(stream: Option<File>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let Some(stream) = stream else {
        return Ok(all);
    };
    let stream = pipe::Receiver::from_file(stream)?;
    let mut bytes = vec![0; 16 << 10];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut bytes) {
            Ok(0) => return Ok(all),
            Ok(count) => all.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Runs two futures on this task until both are done.
async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    poll_fn(|context| {
        if of_a.is_none() {
            if let Poll::Ready(value) = a.as_mut().poll(context) {
                of_a = Some(value);
            }
        }
        if of_b.is_none() {
            if let Poll::Ready(value) = b.as_mut().poll(context) {
                of_b = Some(value);
            }
        }
        match (of_a.take(), of_b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (first, second) => {
                (of_a, of_b) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}
