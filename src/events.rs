//! What happens to a container.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use cofferdam_cgroups::{self as cgroups, MemoryEvents, PidsEvents, State, Watch};
use rustix::event::{Timespec, epoll};

use crate::error::Result;
use crate::running::Running;

/// How long it waits for the kernel to tell before it looks by itself.
const SLICE: Duration = Duration::from_millis(500);
const MOMENT: Duration = Duration::from_millis(1);

/// Something that happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// So many processes of it were killed for lack of memory since the last event of this kind.
    OomKilled(u64),
    /// So many times since the last event of this kind it could not have one more process, for its limit.
    PidsLimited(u64),
    /// All its processes are held still: [`Running::pause`].
    Paused,
    /// They go on, or are being killed.
    Resumed,
    /// Its program has ended. The last event.
    Exited(ExitStatus),
}

/// What happens to a container from the moment on that [`Running::events`] was called.
///
/// As an [`AsFd`] it is an epoll(7) fd, readable when [`next`](Self::next) has something to say, for any event loop. The kernel
/// tells at most once in 10 ms: what comes and goes within is one event, or none. Where it does not tell of a kind, as cgroup v1
/// does not of OOM kills, those before the end are told at the end.
///
/// ```no_run
/// use cofferdam::Event;
/// use std::time::Duration;
///
/// # let web = cofferdam::Container::builder().command("/app").start()?;
/// let mut events = web.events()?;
/// while let Some(event) = events.next(Duration::from_secs(60))? {
///     println!("{event:?}");
///     if let Event::Exited(_) = event {
///         break;
///     }
/// }
/// # Ok::<(), cofferdam::Error>(())
/// ```
#[derive(Debug)]
pub struct Events<'r> {
    running: &'r Running,
    epoll: OwnedFd,
    state: Option<Watch<State>>,
    memory: Option<Watch<MemoryEvents>>,
    pids: Option<Watch<PidsEvents>>,
    frozen: bool,
    oom_kills: u64,
    pids_limited: u64,
    exited: bool,
    pending: VecDeque<Event>,
}

/// # What happens to it
impl Running {
    /// Watches what happens to it. No thread: a few fds.
    ///
    /// # Errors
    /// If they cannot be opened.
    pub fn events(&self) -> Result<Events<'_>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
        let epoll =
            epoll.map_err(|errno| self.subject().failed("watch it")(io::Error::from(errno)))?;
        let mut events = Events {
            running: self,
            epoll,
            state: self.watch(cgroups::Cgroup::watch_state)?,
            memory: self.watch(cgroups::Cgroup::watch_memory)?,
            pids: self.watch(cgroups::Cgroup::watch_pids)?,
            frozen: false,
            oom_kills: self.oom_kills()?,
            pids_limited: 0,
            exited: false,
            pending: VecDeque::new(),
        };
        let told = |watch: &Watch<PidsEvents>| watch.last().max;
        events.pids_limited = events.pids.as_ref().map_or(0, told);
        events.frozen = events
            .state
            .as_ref()
            .is_some_and(|watch| watch.last().frozen);
        events.register()?;
        Ok(events)
    }

    /// `None` where the machine has no such file.
    fn watch<T>(
        &self,
        watch: impl FnOnce(&cgroups::Cgroup) -> cgroups::Result<Watch<T>>,
    ) -> Result<Option<Watch<T>>> {
        match self.cgroup().map(watch) {
            None => Ok(None),
            Some(Err(error)) if error.kind() == cgroups::ErrorKind::Unsupported => Ok(None),
            Some(watch) => watch.map(Some).map_err(self.subject().failed("watch it")),
        }
    }
}

impl Events<'_> {
    /// Waits at most this long for the next event. `None`: nothing happened.
    ///
    /// # Errors
    /// If the kernel's files cannot be read. After [`Event::Exited`] there is `None` for ever, at once.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.look()?;
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if self.exited || left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            let timeout = Timespec::try_from(slice).ok();
            let mut ready = [const { std::mem::MaybeUninit::uninit() }; 4];
            match epoll::wait(&self.epoll, &mut ready, timeout.as_ref()) {
                // Nobody may be waiting for it otherwise, and it takes that to reap what keeps it from being gone.
                Ok(([], _)) => drop(self.running.wait_timeout(MOMENT)?),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(self.running.subject().failed("watch it")(io::Error::from(
                        errno,
                    )));
                }
            }
        }
    }

    /// What is other than it was.
    fn look(&mut self) -> Result<()> {
        if self.exited {
            return Ok(());
        }
        // First, so that what happened before the end is told before it.
        let ended = self.running.try_wait()?;
        let failed = || self.running.subject().failed("watch it");
        if let Some(state) = &mut self.state {
            let frozen = state.read().map_err(failed())?.frozen;
            if frozen != std::mem::replace(&mut self.frozen, frozen) && ended.is_none() {
                let event = if frozen {
                    Event::Paused
                } else {
                    Event::Resumed
                };
                self.pending.push_back(event);
            }
        }
        if let Some(memory) = &mut self.memory {
            memory.read().map_err(failed())?;
        }
        if self.memory.is_some() || ended.is_some() {
            let kills = self.running.oom_kills()?;
            if let new @ 1.. = kills.saturating_sub(self.oom_kills) {
                self.pending.push_back(Event::OomKilled(new));
            }
            self.oom_kills = kills;
        }
        if let Some(pids) = &mut self.pids {
            let limited = pids.read().map_err(failed())?.max;
            if let new @ 1.. = limited.saturating_sub(self.pids_limited) {
                self.pending.push_back(Event::PidsLimited(new));
            }
            self.pids_limited = limited;
        }
        if let Some(status) = ended {
            self.exited = true;
            self.pending.push_back(Event::Exited(status));
        }
        Ok(())
    }

    fn register(&self) -> Result<()> {
        let (end, change) = (epoll::EventFlags::IN, epoll::EventFlags::PRI);
        self.add(self.running, end)?;
        self.state
            .as_ref()
            .map_or(Ok(()), |fd| self.add(fd, change))?;
        self.memory
            .as_ref()
            .map_or(Ok(()), |fd| self.add(fd, change))?;
        self.pids.as_ref().map_or(Ok(()), |fd| self.add(fd, change))
    }

    fn add(&self, fd: impl AsFd, flags: epoll::EventFlags) -> Result<()> {
        let added = epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), flags);
        added.map_err(|errno| self.running.subject().failed("watch it")(io::Error::from(errno)))
    }
}

impl AsFd for Events<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
