//! A container that runs.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use cofferdam_cgroups::Cgroup;
use cofferdam_namespaces::Spawned;

use crate::error::{Result, Subject};
use crate::network::Attached;

/// How long [`Running::remove`] waits for a killed program.
const DEATH: Duration = Duration::from_secs(10);
const SIGTERM: i32 = 15;
/// How long a program has to install its handlers.
const GROWN_UP: Duration = Duration::from_secs(1);

/// A container that [`Container::start`](crate::Container::start) started.
///
/// Dropping it kills all its processes and removes what was made for it, which takes some tens of milliseconds;
/// [`remove`](Self::remove) and [`stop`](Self::stop) tell how that went. It does not stop by itself when its program
/// ends: limits, network and ports are there until then. As an [`AsFd`] it is a pidfd, readable once the program has ended.
#[derive(Debug)]
#[must_use = "dropping a Running kills the container"]
pub struct Running {
    subject: Subject,
    name: String,
    started: Instant,
    // In the order in which they have to go.
    spawned: Spawned,
    cgroup: Option<Cgroup>,
    attached: Option<Attached>,
}

impl Running {
    pub(crate) fn new(
        subject: Subject,
        name: String,
        spawned: Spawned,
        cgroup: Option<Cgroup>,
        attached: Option<Attached>,
    ) -> Self {
        Running {
            subject,
            name,
            started: Instant::now(),
            spawned,
            cgroup,
            attached,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pid of its program, as the caller counts.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.spawned.pid()
    }

    /// Its address in its network; in several, the one that published ports lead to.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.attached.as_ref().and_then(Attached::address)
    }

    pub(crate) fn attached(&self) -> Option<&Attached> {
        self.attached.as_ref()
    }

    /// How many of its processes were killed for lack of memory. 0 without limits.
    ///
    /// # Errors
    /// If the cgroup cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(0);
        };
        cgroup
            .oom_kills()
            .map_err(self.subject.failed("read the cgroup"))
    }

    /// The caller's end of its standard input, if it is a pipe and nobody took it.
    pub fn take_stdin(&mut self) -> Option<File> {
        self.spawned.stdin.take()
    }

    /// The caller's end of its standard output, if it is a pipe and nobody took it.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.spawned.stdout.take()
    }

    /// The caller's end of its standard error, if it is a pipe and nobody took it.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.spawned.stderr.take()
    }

    /// Waits for the end of its program.
    ///
    /// # Errors
    /// `NotFound` if another part of this process took the status.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.spawned.wait().map_err(self.subject.failed("wait"))
    }

    /// The status of its program, if it has ended.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.spawned.try_wait().map_err(self.subject.failed("wait"))
    }

    /// Waits at most this long for the end of its program. `None`: it still runs.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.spawned
            .wait_timeout(timeout)
            .map_err(self.subject.failed("wait"))
    }

    /// Sends its program the signal with this number.
    ///
    /// The program is pid 1 of its namespace: signals it has no handler for pass it by, but for `SIGKILL`.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.spawned
            .signal(signal)
            .map_err(self.subject.failed("send a signal"))
    }

    /// Kills all its processes with `SIGKILL`. [`wait`](Self::wait) tells when they have ended.
    ///
    /// # Errors
    /// If the cgroup cannot be killed; the program is killed all the same.
    pub fn kill(&self) -> Result<()> {
        let program = self
            .spawned
            .kill()
            .map_err(self.subject.failed("kill the program"));
        let cgroup = self.cgroup.as_ref().map_or(Ok(()), Cgroup::kill);
        program.and(cgroup.map_err(self.subject.failed("kill the cgroup")))
    }

    /// Sends `SIGTERM`, waits this long, kills what is left, and removes the container. Returns the status of its program.
    ///
    /// A program that has no handler for `SIGTERM` when it is a second old is not waited for: as pid 1 it would never notice.
    ///
    /// # Errors
    /// As [`wait`](Self::wait) and [`remove`](Self::remove).
    pub fn stop(self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now().checked_add(timeout);
        let over = |now| deadline.is_some_and(|deadline| now >= deadline);
        while self.try_wait()?.is_none() {
            if !self.spawned.is_deaf_to(SIGTERM) {
                self.signal(SIGTERM)?;
                let left =
                    deadline.map_or(timeout, |at| at.saturating_duration_since(Instant::now()));
                self.wait_timeout(left)?;
                break;
            }
            if self.started.elapsed() >= GROWN_UP || over(Instant::now()) {
                break;
            }
            self.wait_timeout(Duration::from_millis(5))?;
        }
        self.remove()
    }

    /// Kills what is left of it and removes what was made for it: cgroup, ports, names, network namespace. Returns the status
    /// of its program.
    ///
    /// # Errors
    /// The first step that failed, after all others were tried.
    pub fn remove(self) -> Result<ExitStatus> {
        let killed = self.kill();
        let status = self
            .spawned
            .wait_timeout(DEATH)
            .map_err(self.subject.failed("wait"));
        let Running {
            subject,
            spawned,
            cgroup,
            attached,
            ..
        } = self;
        drop(spawned);
        let cgroup = cgroup.map_or(Ok(()), Cgroup::remove);
        let cgroup = cgroup.map_err(subject.failed("remove the cgroup"));
        let attached = attached.map_or(Ok(()), |attached| attached.remove(&subject));
        killed.and(cgroup).and(attached)?;
        status?.ok_or_else(|| crate::Error::busy(&subject, "it does not end, though killed"))
    }

    /// Reads its standard output and error to their ends, waits for its program, and removes it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait) and [`remove`](Self::remove), or if a pipe cannot be read.
    pub fn output(mut self) -> Result<Output> {
        let output = self
            .spawned
            .output()
            .map_err(self.subject.failed("read its output"))?;
        self.remove()?;
        Ok(output)
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.spawned.as_fd()
    }
}
