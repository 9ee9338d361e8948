//! A program that runs.

mod adopt;
mod lost;
mod process;
#[cfg(feature = "tokio")]
mod tokio;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::WaitIdStatus;

use crate::applied::Applied;
use crate::error::{Error, Result};
use crate::sys;
use crate::terminal::Terminal;

use process::Process;

/// A program that [`Command::spawn`](crate::Command::spawn) started, held by its pidfd.
///
/// What takes `&self` can be used from any thread at once. Dropping it kills the program with `SIGKILL`, and with it all processes
/// of its pid namespace, and waits for that at most a second; [`persist`](Self::persist) lets it live on. As an
/// [`AsFd`] it is readable once the program has ended, for any event loop.
#[derive(Debug)]
#[must_use = "dropping a Spawned kills the program"]
pub struct Spawned {
    process: Arc<Process>,
    /// Whether Drop kills.
    armed: bool,
    /// The caller's end of standard input, where it is a pipe.
    pub stdin: Option<File>,
    /// The caller's end of standard output, where it is a pipe.
    pub stdout: Option<File>,
    /// The caller's end of standard error, where it is a pipe.
    pub stderr: Option<File>,
    /// The caller's end of its [`Command::terminal`](crate::Command::terminal).
    pub terminal: Option<Terminal>,
    applied: Applied,
    /// Whether its process is an init, which takes every signal.
    pub(crate) has_init: bool,
    /// What ends with this process, and the program with it.
    pub(crate) lifeline: Option<OwnedFd>,
}

impl Spawned {
    pub(crate) fn new(
        pid: u32,
        pidfd: OwnedFd,
        streams: [Option<File>; 3],
        applied: Applied,
    ) -> Self {
        Self::of(Process::new(pid, pidfd), streams, applied)
    }

    fn of(process: Arc<Process>, streams: [Option<File>; 3], applied: Applied) -> Self {
        let [stdin, stdout, stderr] = streams;
        Spawned {
            process,
            armed: true,
            stdin,
            stdout,
            stderr,
            terminal: None,
            applied,
            has_init: false,
            lifeline: None,
        }
    }

    /// Which of several ways its start took.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Whether it [dies with this process](crate::Command::die_with_caller).
    #[must_use]
    pub fn dies_with_caller(&self) -> bool {
        self.lifeline.is_some()
    }

    /// Lets it live on without this handle, unreaped; no longer than this process where it is to
    /// [die with it](crate::Command::die_with_caller). Returns its pid.
    ///
    /// One that [entered](crate::Command::enter) another's pid namespace stands in the way of that one's end until it is reaped:
    /// it is, once it has ended, when others are started there or waited for.
    pub fn persist(mut self) -> u32 {
        self.keep();
        self.process.pid
    }

    /// As [`persist`](Self::persist), for who goes on using the handle: from now on Drop does not kill.
    pub fn keep(&mut self) {
        self.armed = false;
    }

    /// As [`keep`](Self::keep), and once it has ended it is reaped by this process, when others are started or waited for: it stays
    /// no zombie. Until then [`adopt`](Self::adopt) gives the same handle again, status and all.
    pub fn leave(&mut self) {
        self.armed = false;
        self.process.reaped_later.store(true, Ordering::Relaxed);
    }

    /// Its pid, as the caller's pid namespace counts. Good for messages: once it is reaped, the number can mean another.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Sends it the signal with this number, by pidfd_send_signal(2). After its end that does nothing.
    ///
    /// The first process of a pid namespace ignores signals it has no handler for, but for `SIGKILL` and `SIGSTOP`.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal, `PermissionDenied` if it became another user.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid("signal", signal, "is none that can be sent"));
        }
        match sys::send_signal(self.process.pidfd.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(Error::sys("pidfd_send_signal")(errno)),
        }
    }

    /// Whether the signal would pass it by: it is the first process of a pid namespace, and neither handles nor blocks it. As
    /// `/proc/<pid>/status` says at this moment; false where that cannot be read.
    #[must_use]
    pub fn is_deaf_to(&self, signal: i32) -> bool {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.process.pid)).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|rest| rest.trim_start_matches(':').trim())
        };
        let set = |name| field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let first = field("NSpid").is_some_and(|pids| pids.ends_with("\t1"));
        let (Some(caught), Some(blocked)) = (set("SigCgt"), set("SigBlk")) else {
            return false;
        };
        let bit = u32::try_from(signal).ok();
        let bit = bit
            .and_then(|signal| signal.checked_sub(1))
            .and_then(|shift| 1u64.checked_shl(shift));
        !self.has_init && first && bit.is_some_and(|bit| (caught | blocked) & bit == 0)
    }

    /// Sends `SIGKILL`. [`wait`](Self::wait) tells when it has ended.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Waits for its end, by waitid(2) on the pidfd. Closes the caller's end of its standard input first, where nobody
    /// took it.
    ///
    /// A process that ignores `SIGCHLD`, or in which something else waits for all children, loses the status. The kernel
    /// still knows it since Linux 6.15, and is asked; then a program with threads may seem to have left no core dump.
    ///
    /// # Errors
    /// `StatusLost` if the kernel is older. That it has ended is known all the same.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.stdin = None;
        self.wait_until(None)?
            .ok_or_else(|| Error::sys("waitid")(Errno::CHILD))
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.process.reap()
    }

    /// Waits at most this long for its end. `None`: it still runs.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// Closes its standard input, reads the other two streams to their ends where they are pipes, and waits.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), or if a pipe cannot be read.
    pub fn output(&mut self) -> Result<Output> {
        self.stdin = None;
        let (out, err) = (self.stdout.take(), self.stderr.take());
        let read = Error::sys("read a stream of the program");
        let (stdout, stderr) = read_both(out, err).map_err(read)?;
        let status = self.wait()?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        let mut look_again = Duration::from_millis(20);
        loop {
            if let Some(status) = self.process.reap()? {
                return Ok(Some(status));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let pause = left.map_or(look_again, |left| left.min(look_again));
            let timeout = Timespec::try_from(pause).ok();
            let mut pollfd = [PollFd::new(&self.process.pidfd, PollFlags::IN)];
            match poll(&mut pollfd, timeout.as_ref()) {
                Ok(0) => {
                    self.process.clear_the_way();
                    look_again = (look_again * 2).min(Duration::from_secs(1));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::sys("poll")(errno)),
            }
        }
    }

    /// It is in a pid namespace that was there before it.
    pub(crate) fn is_in_another(&self) {
        self.process.is_in_another();
    }
}

impl AsFd for Spawned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.armed && self.process.known().is_none() {
            let _gone = self.kill().is_ok();
            let _reaped = self.wait_timeout(Duration::from_secs(1)).is_ok();
        }
        let lifeline = self.lifeline.take().filter(|_| !self.armed);
        if let (Some(lifeline), Ok(None)) = (lifeline, self.try_wait()) {
            // It lives on, and so does this, for as long as the process.
            let _open = lifeline.into_raw_fd();
        }
        self.process.leave(self.armed);
    }
}

/// As wait(2) puts it into one number.
fn exit_status(ended: &WaitIdStatus) -> ExitStatus {
    const CORE: i32 = 0x80;
    let raw = match (ended.exit_status(), ended.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal | if ended.dumped() { CORE } else { 0 },
        (None, None) => 0,
    };
    ExitStatus::from_raw(raw)
}

/// Reads two streams to their ends, one of them on a thread, so that neither blocks the other.
fn read_both(out: Option<File>, err: Option<File>) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let all = |stream: Option<File>| {
        let mut bytes = Vec::new();
        stream
            .map_or(Ok(0), |mut stream| stream.read_to_end(&mut bytes))
            .map(|_| bytes)
    };
    std::thread::scope(|scope| {
        let err = std::thread::Builder::new().spawn_scoped(scope, move || all(err))?;
        let out = all(out)?;
        let err = err
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((out, err))
    })
}
