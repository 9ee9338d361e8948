//! A container that runs.

use std::ffi::OsString;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ExitStatus, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_cgroups::{Cgroup, Limits, Skipped};
use cofferdam_namespaces::{Command, Spawned, Terminal};
use cofferdam_overlay::VolumeRef;
use rustix::io::Errno;

use crate::error::{Error, Result, Subject};
use crate::exec::Exec;
use crate::network::{Attached, Pasta};
use crate::rootfs::Written;
use crate::runtime::Record;
use crate::stats::Sources;

/// How long [`Running::remove`] waits for a killed program.
const DEATH: Duration = Duration::from_secs(10);
/// How long Drop does.
const SUDDEN_DEATH: Duration = Duration::from_secs(1);
/// How long [`Running::pause`] waits for all processes to stand still.
const STILL: Duration = Duration::from_secs(10);
/// How long it may take from then on that no more can be started in it to its end.
const ENDING: Duration = Duration::from_millis(100);
const SIGTERM: i32 = 15;
/// How long a program has to install its handlers.
const GROWN_UP: Duration = Duration::from_secs(1);

/// A container that [`Container::start`](crate::Container::start) started.
///
/// Dropping it kills all its processes and removes what was made for it, which takes some tens of milliseconds, and at most
/// about two seconds; [`remove`](Self::remove) and [`stop`](Self::stop) tell how that went, and [`detach`](Self::detach) lets it
/// live on. It does not stop by itself when its program ends: limits, network and ports are there until then. Where its process
/// is killed it runs on, until somebody calls [`reap`](crate::reap), unless it is to
/// [die with it](crate::ContainerBuilder::die_with_embedder).
///
/// What takes `&self` can be called from any thread at once. As an [`AsFd`] it is a pidfd, readable once the program has ended.
///
/// ```no_run
/// use std::time::Duration;
/// use cofferdam::{Container, Rootfs};
///
/// let web = Container::builder().rootfs(Rootfs::layers(["/srv/debian"])).command("/app/serve").start()?;
/// println!("{} is {}", web.name(), web.pid());
/// web.pause()?;
/// web.resume()?;
/// let status = web.stop(Duration::from_secs(10))?; // SIGTERM, then SIGKILL; nothing of it is left
/// # Ok::<(), cofferdam::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a Running kills the container"]
pub struct Running {
    pub(crate) subject: Subject,
    name: String,
    started: Instant,
    /// What its program was started by, where this process did.
    command: Option<Command>,
    sources: Mutex<Option<Sources>>,
    /// Who has it decides whether its processes stand still.
    freezer: Mutex<()>,
    parts: Parts,
    /// None once it is taken apart, or not ours any more.
    record: Option<Record>,
}

/// What there is of it, in the order in which it has to go.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) spawned: Spawned,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) attached: Option<Attached>,
    pub(crate) pasta: Option<Pasta>,
    pub(crate) held: Held,
}

/// What is held as long as it runs: the upper it writes to, and named volumes.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) written: Option<Written>,
    #[expect(dead_code, reason = "held, not read")]
    pub(crate) volumes: Vec<VolumeRef>,
}

impl Running {
    pub(crate) fn new(
        subject: Subject,
        name: String,
        command: Option<Command>,
        parts: Parts,
        record: Record,
    ) -> Self {
        Running {
            subject,
            name,
            started: Instant::now(),
            command,
            sources: Mutex::new(None),
            freezer: Mutex::new(()),
            parts,
            record: Some(record),
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
        self.parts.spawned.pid()
    }

    /// Its address in its network; in several, the one that published ports lead to.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let pasta = || self.pasta().map(|_| Pasta::address());
        self.attached().map_or_else(pasta, Attached::address)
    }

    pub(crate) fn dies_with_embedder(&self) -> bool {
        self.parts.spawned.dies_with_caller()
    }

    pub(crate) fn pasta(&self) -> Option<&Pasta> {
        self.parts.pasta.as_ref()
    }

    pub(crate) fn attached(&self) -> Option<&Attached> {
        self.parts.attached.as_ref()
    }

    /// How many of its processes were killed for lack of memory. 0 without a limit on it.
    ///
    /// # Errors
    /// If the cgroup cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        use cofferdam_cgroups::ErrorKind::Unsupported;
        match self.cgroup().map(Cgroup::oom_kills) {
            None => Ok(0),
            // It was made without the memory controller.
            Some(Err(error)) if error.kind() == Unsupported => Ok(0),
            Some(kills) => kills.map_err(self.subject.failed("read the cgroup")),
        }
    }
}

/// # Its streams
impl Running {
    /// The caller's end of its standard input, if it is a pipe and nobody took it.
    pub fn take_stdin(&mut self) -> Option<File> {
        self.parts.spawned.stdin.take()
    }

    /// The caller's end of its standard output, if it is a pipe and nobody took it.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.parts.spawned.stdout.take()
    }

    /// The caller's end of its standard error, if it is a pipe and nobody took it.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.parts.spawned.stderr.take()
    }

    /// The caller's end of its [terminal](crate::ContainerBuilder::terminal), if it has one and nobody took it.
    pub fn take_terminal(&mut self) -> Option<Terminal> {
        self.parts.spawned.terminal.take()
    }
}

/// # Its end, signals, limits and other programs
impl Running {
    /// Waits for the end of its program.
    ///
    /// # Errors
    /// `StatusLost` if another part of this process took the status, or if it is not this one's child, on a kernel before 6.15.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let waited = self.parts.spawned.wait();
        waited.map_err(self.subject.failed("wait"))
    }

    /// The status of its program, if it has ended.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        let status = self.parts.spawned.try_wait();
        status.map_err(self.subject.failed("wait"))
    }

    /// Waits at most this long for the end of its program. `None`: it still runs.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let waited = self.parts.spawned.wait_timeout(timeout);
        waited.map_err(self.subject.failed("wait"))
    }

    /// Sends its program the signal with this number.
    ///
    /// The program is pid 1 of its namespace: signals it has no handler for pass it by, but for `SIGKILL`.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let sent = self.parts.spawned.signal(signal);
        sent.map_err(self.subject.failed("send a signal"))
    }

    /// Kills all its processes with `SIGKILL`, paused or not. [`wait`](Self::wait) tells when they have ended.
    ///
    /// # Errors
    /// If the cgroup cannot be killed; the program is killed all the same.
    pub fn kill(&self) -> Result<()> {
        let program = self.parts.spawned.kill();
        let program = program.map_err(self.subject.failed("kill the program"));
        let cgroup = self.cgroup().map_or(Ok(()), Cgroup::kill);
        program.and(cgroup.map_err(self.subject.failed("kill the cgroup")))
    }

    /// Holds all its processes still, and returns when they are. [`resume`](Self::resume) lets them go on.
    ///
    /// # Errors
    /// `Busy` if one does not stop within 10 s, `Unsupported` for a container without a cgroup, `NotFound` once it has ended.
    #[doc(alias = "cgroup.freeze")]
    pub fn pause(&self) -> Result<()> {
        let _turn = self.freezer();
        self.needs_program()?;
        let frozen = self.needs_cgroup()?.freeze(STILL);
        frozen.map_err(self.subject.failed("pause"))
    }

    /// Lets its processes go on. That they do is success. Where another thread [commits](Self::commit) or pauses it at this moment,
    /// it waits for that.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        let _turn = self.freezer();
        let thawed = self.needs_cgroup()?.thaw();
        thawed.map_err(self.subject.failed("resume"))
    }

    /// Whether its processes are held still.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn is_paused(&self) -> Result<bool> {
        let frozen = self.needs_cgroup()?.is_frozen();
        frozen.map_err(self.subject.failed("look whether it is paused"))
    }

    /// Changes limits while it runs: those that are set in `limits`, the others stay. Returns what was left out by
    /// [`Limits::best_effort`].
    ///
    /// # Errors
    /// `InvalidInput` for a limit that cannot be; `Unsupported` for one that the machine cannot apply, on cgroup v1 also one of
    /// a controller that the container was started without a limit of.
    pub fn update(&self, limits: &Limits) -> Result<Vec<Skipped>> {
        let updated = self.needs_cgroup()?.update(limits);
        updated.map_err(self.subject.failed("update the limits"))
    }

    /// Another program in it: what `docker exec` does. [`Exec::output`], [`Exec::status`] and [`Exec::spawn`] run it.
    ///
    /// ```no_run
    /// # let web = cofferdam::Container::builder().command("/app").start()?;
    /// let who = web.exec("id").arg("-u").output()?;
    /// # Ok::<(), cofferdam::Error>(())
    /// ```
    pub fn exec(&self, program: impl Into<OsString>) -> Exec<'_> {
        let command = match &self.command {
            Some(command) => command.beside(program),
            None => Command::new(program),
        };
        Exec::new(self, command)
    }

    /// [`stop_with`](Self::stop_with) `SIGTERM`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait) and [`remove`](Self::remove).
    pub fn stop(self, timeout: Duration) -> Result<ExitStatus> {
        self.stop_with(SIGTERM, timeout)
    }

    /// Sends its program this signal, waits this long, kills what is left, and removes the container. Returns the status of
    /// its program. One that is paused is resumed first.
    ///
    /// A program that has no handler for the signal when it is a second old is not waited for: as pid 1 it would never notice.
    ///
    /// # Errors
    /// As [`wait`](Self::wait) and [`remove`](Self::remove), and `InvalidInput` for a number that is no signal: it is removed
    /// all the same.
    pub fn stop_with(self, signal: i32, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now().checked_add(timeout);
        let over = |now| deadline.is_some_and(|deadline| now >= deadline);
        if let Some(cgroup) = self.cgroup() {
            // Where there is no freezer it cannot be paused.
            let _thawed = cgroup.thaw().is_ok();
        }
        while self.try_wait()?.is_none() {
            if !self.parts.spawned.is_deaf_to(signal) {
                self.signal(signal)?;
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
    /// The first step that failed, after all others were tried. What is left then, [`reap`](crate::reap) finds.
    pub fn remove(mut self) -> Result<ExitStatus> {
        let status = self.take_apart(DEATH)?;
        status.ok_or_else(|| Error::busy(&self.subject, "it does not end, though killed"))
    }

    /// Reads its standard output and error to their ends, waits for its program, and removes it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait) and [`remove`](Self::remove), or if a pipe cannot be read.
    pub fn output(mut self) -> Result<Output> {
        let output = self.parts.spawned.output();
        let output = output.map_err(self.subject.failed("read its output"))?;
        self.remove()?;
        Ok(output)
    }

    /// All of it, at most once. `None`: the program has not ended in time.
    fn take_apart(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        let Some(record) = self.record.take() else {
            return Ok(None);
        };
        // Its socket keeps the network namespace.
        *self.sources() = None;
        let subject = self.subject.clone();
        let killed = self.kill();
        let status = self.parts.spawned.wait_timeout(time);
        let status = status.map_err(subject.failed("wait"));
        let cgroup = self.parts.cgroup.take();
        let cgroup = cgroup.map_or(Ok(()), |cgroup| cgroup.remove_within(time));
        let cgroup = cgroup.map_err(subject.failed("remove the cgroup"));
        let attached = self.parts.attached.take();
        let attached = attached.map_or(Ok(()), |attached| attached.remove(&subject));
        let pasta = self.parts.pasta.take();
        let pasta = pasta.map_or(Ok(()), |pasta| pasta.remove(&subject, time));
        let ended = matches!(status, Ok(Some(_)) | Err(_));
        killed.and(cgroup).and(attached).and(pasta)?;
        if ended {
            // A record that is left is one for `reap`.
            let removed = record.remove();
            removed.map_err(subject.failed("remove its record"))?;
        }
        status
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(crate) fn written_upper(&self) -> Option<&Written> {
        self.parts.held.written.as_ref()
    }

    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.parts.cgroup.as_ref()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn spawned(&mut self) -> &mut Spawned {
        &mut self.parts.spawned
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn ended(&self) -> Result<ExitStatus> {
        let ended = self.parts.spawned.wait_async().await;
        ended.map_err(self.subject.failed("wait"))
    }

    pub(crate) fn needs_cgroup(&self) -> Result<&Cgroup> {
        let reason = "it was started where it could have none";
        let lacks = || Error::lacks(&self.subject, "it takes a cgroup", reason);
        self.cgroup().ok_or_else(lacks)
    }

    pub(crate) fn needs_program(&self) -> Result<()> {
        match self.try_wait()? {
            None => Ok(()),
            Some(_) => Err(Error::gone(&self.subject, "its program has ended")),
        }
    }

    /// What is to be told of a failure: that it has ended, if it has, since that explains any.
    pub(crate) fn or_gone(&self, error: Error) -> Error {
        // The kernel knows a moment before: nothing can be found, or made, in namespaces whose first process ends.
        let ends = [Errno::SRCH, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
        if ends.contains(&error.raw_os_error()) {
            let _ended = self.wait_timeout(ENDING).is_ok();
        }
        self.needs_program().err().unwrap_or(error)
    }

    pub(crate) fn start_time(&self) -> Result<u64> {
        let started = self.parts.spawned.start_time();
        started.map_err(self.subject.failed("look at the program"))
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// From here on, nobody else stops its processes or lets them go on.
    pub(crate) fn freezer(&self) -> MutexGuard<'_, ()> {
        self.freezer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sources(&self) -> MutexGuard<'_, Option<Sources>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps all of it, though nobody holds it any more.
    pub(crate) fn let_go(mut self) {
        self.record = None;
        // Its end in the network is this process's, until that ends.
        std::mem::forget(self.parts.attached.take());
        if let Some(cgroup) = self.parts.cgroup.take() {
            cgroup.persist();
        }
        if let Some(pasta) = &mut self.parts.pasta {
            pasta.keep();
        }
        self.parts.spawned.leave();
    }
}

/// Has a program start inside a cgroup.
pub(crate) fn enter(subject: &Subject, mut command: Command, cgroup: &Cgroup) -> Result<Command> {
    let failed = || subject.failed("duplicate a cgroup's file descriptor");
    let entry = cgroup.entry();
    if let Some(dir) = entry.dir {
        command = command.cgroup(dir.try_clone_to_owned().map_err(failed())?);
    }
    for tasks in entry.tasks {
        command = command.cgroup_procs(tasks.try_clone_to_owned().map_err(failed())?);
    }
    Ok(command)
}

impl Drop for Running {
    fn drop(&mut self) {
        let _told_to_nobody = self.take_apart(SUDDEN_DEATH).is_ok();
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.parts.spawned.as_fd()
    }
}
