//! More programs in a container that runs.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{ExitStatus, Output};
use std::time::Duration;

use cofferdam_namespaces::{Capabilities, Command, Spawned, Stdio, Terminal, User};

use crate::error::{Error, Result, Subject};
use crate::running::{Running, enter};

/// A program to be run in a container that runs, as [`Running::exec`] began it. It reads like [`std::process::Command`].
///
/// It has the container's namespaces, root and cgroup, and unless told otherwise the environment, directory, user and
/// capabilities of the container's own program. In a container that was [attached](Running::attach) to, it has the
/// defaults of a new one instead.
///
/// ```no_run
/// # use cofferdam::Stdio;
/// # let web = cofferdam::Container::builder().command("/app").start()?;
/// let listing = web.exec("ls").args(["-l", "/data"]).workdir("/").output()?;
/// let mut shell = web.exec("sh").terminal(24, 80).env("TERM", "xterm").spawn()?;
/// let terminal = shell.take_terminal();
/// # Ok::<(), cofferdam::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "an Exec does nothing until output, status or spawn"]
pub struct Exec<'r> {
    running: &'r Running,
    command: Command,
}

impl<'r> Exec<'r> {
    pub(crate) fn new(running: &'r Running, command: Command) -> Self {
        Exec { running, command }
    }

    /// One more argument.
    pub fn arg(self, arg: impl Into<OsString>) -> Self {
        self.with(|command| command.arg(arg))
    }

    /// More arguments.
    pub fn args(self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.with(|command| command.args(args))
    }

    /// Sets an environment variable, beside those of the container.
    pub fn env(self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.with(|command| command.env(name, value))
    }

    /// The directory it starts in.
    pub fn workdir(self, path: impl Into<PathBuf>) -> Self {
        self.with(|command| command.workdir(path))
    }

    /// Who it runs as.
    pub fn user(self, user: User) -> Self {
        self.with(|command| command.user(user))
    }

    /// The capabilities it can ever have.
    pub fn capabilities(self, capabilities: Capabilities) -> Self {
        self.with(|command| command.capabilities(capabilities))
    }

    /// Its standard input: `/dev/null` unless set.
    pub fn stdin(self, stdio: impl Into<Stdio>) -> Self {
        self.with(|command| command.stdin(stdio))
    }

    /// Its standard output: `/dev/null` unless set.
    pub fn stdout(self, stdio: impl Into<Stdio>) -> Self {
        self.with(|command| command.stdout(stdio))
    }

    /// Its standard error: `/dev/null` unless set.
    pub fn stderr(self, stdio: impl Into<Stdio>) -> Self {
        self.with(|command| command.stderr(stdio))
    }

    /// A pseudoterminal of the container's, of this size, where its streams lead that are not led elsewhere:
    /// [`Process::take_terminal`] is the other end. It needs a container with a root.
    pub fn terminal(self, rows: u16, columns: u16) -> Self {
        self.with(|command| command.terminal(rows, columns))
    }

    /// Starts it, and returns once it runs.
    ///
    /// # Errors
    /// `NotFound` if there is no such program, or the container has ended; `Busy` if the container is paused; else what
    /// [`Container::start`](crate::Container::start) says of a program.
    pub fn spawn(self) -> Result<Process> {
        let running = self.running;
        let subject = running.subject();
        if running.try_wait()?.is_some() {
            return Err(Error::gone(subject, "its program has ended"));
        }
        let mut command = self.command;
        if let Some(cgroup) = running.cgroup() {
            // It would be born frozen, and never get to run.
            if running.is_paused()? {
                return Err(Error::busy(subject, "it is paused"));
            }
            command = enter(subject, command, cgroup)?;
        }
        let spawned = command.enter(running);
        let spawned = spawned.map_err(subject.failed("start another program"));
        let spawned = spawned.map_err(|error| running.or_gone(error))?;
        let subject = subject.clone();
        Ok(Process { subject, spawned })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn) and [`Process::wait`].
    pub fn status(self) -> Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Runs it to its end, and gives what it wrote.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn) and [`Process::output`].
    pub fn output(self) -> Result<Output> {
        self.piped().spawn()?.output()
    }

    pub(crate) fn piped(self) -> Self {
        self.stdout(Stdio::piped()).stderr(Stdio::piped())
    }

    fn with(mut self, change: impl FnOnce(Command) -> Command) -> Self {
        self.command = change(self.command);
        self
    }
}

/// A program that [`Exec::spawn`] started beside a container's own. It ends with the container at the latest.
///
/// Dropping it kills it, though not what it has started; [`persist`](Self::persist) does not. As an [`AsFd`] it is a pidfd,
/// readable once it has ended.
///
/// ```no_run
/// # use std::time::Duration;
/// # let web = cofferdam::Container::builder().command("/app").start()?;
/// let backup = web.exec("/app/backup").spawn()?;
/// if backup.wait_timeout(Duration::from_secs(60))?.is_none() {
///     backup.kill()?;
/// }
/// # Ok::<(), cofferdam::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a Process kills it"]
pub struct Process {
    pub(crate) subject: Subject,
    pub(crate) spawned: Spawned,
}

impl Process {
    /// Its pid, as the caller counts.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.spawned.pid()
    }

    /// Closes its standard input and waits for its end.
    ///
    /// # Errors
    /// `StatusLost` if another part of this process took the status.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.spawned.wait().map_err(self.subject.failed("wait"))
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.spawned.try_wait().map_err(self.subject.failed("wait"))
    }

    /// Waits at most this long for its end. `None`: it still runs.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let waited = self.spawned.wait_timeout(timeout);
        waited.map_err(self.subject.failed("wait"))
    }

    /// Closes its standard input, reads the others to their ends where they are pipes, and waits.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), or if a pipe cannot be read.
    pub fn output(mut self) -> Result<Output> {
        let output = self.spawned.output();
        output.map_err(self.subject.failed("read its output"))
    }

    /// Sends it the signal with this number.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let sent = self.spawned.signal(signal);
        sent.map_err(self.subject.failed("send a signal"))
    }

    /// Kills it with `SIGKILL`.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub fn kill(&self) -> Result<()> {
        let killed = self.spawned.kill();
        killed.map_err(self.subject.failed("kill a program"))
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

    /// The caller's end of its terminal, if it has one and nobody took it.
    pub fn take_terminal(&mut self) -> Option<Terminal> {
        self.spawned.terminal.take()
    }

    /// Lets it run on, until it or the container ends.
    pub fn persist(self) {
        self.spawned.persist();
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.spawned.as_fd()
    }
}
