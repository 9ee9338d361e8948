//! Files that tell when they change.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::OFlags;

use crate::cgroup::Cgroup;
use crate::controller::Version;
use crate::error::{Error, Result};
use crate::stats::file::{self, File, alive};
use crate::stats::scan::{self, Scanned};
use crate::stats::{MemoryEvents, max_events};
use crate::wait::{self, Deadline};

/// A file of a cgroup that tells when it changes: [`Cgroup::watch_state`] and the like. No thread, no inotify.
///
/// [`Watch::wait`] waits here. Any event loop can wait too: ask poll(2) or epoll(7) for `POLLPRI` of the fd, then call
/// [`Watch::read`], after which the kernel tells of what changes from then on. `POLLERR` comes with it and says nothing.
///
/// The kernel tells at most once in 10 ms, so a change may be told that much later; none is lost.
#[derive(Debug)]
pub struct Watch<T> {
    file: File,
    buffer: Vec<u8>,
    last: T,
}

/// What a [`Watch`] can be of.
pub trait Watched: Copy + PartialEq + sealed::Parse {}

/// What the processes of a cgroup are doing, those of cgroups inside it included: `cgroup.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// There are some. Zombies do not count.
    pub populated: bool,
    /// All are frozen. Since Linux 5.2.
    pub frozen: bool,
}

/// What happened for lack of processes: `pids.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PidsEvents {
    /// How often fork(2) or clone(2) failed because of `pids.max`.
    pub max: u64,
}

pub(crate) mod sealed {
    /// From the text of the file.
    #[expect(unnameable_types, reason = "nobody else is to implement it")]
    pub trait Parse: Sized {
        /// `Err` is the line that is not understood.
        fn parse(text: &[u8]) -> Result<Self, &[u8]>;
    }
}

/// The kernel may tell 10 ms late what a read sees at once.
const AGAIN: Duration = Duration::from_millis(1);
/// A file whose cgroup is removed does not wake who waits for it on all kernels: look now and then.
const LOOK: Duration = Duration::from_millis(500);

impl Cgroup {
    /// Watches whether it has processes, and whether they are frozen: `cgroup.events` of v2.
    ///
    /// # Errors
    /// `Unsupported` on a machine without v2, `NotFound` if the cgroup is gone, `PermissionDenied`.
    pub fn watch_state(&self) -> Result<Watch<State>> {
        self.watch(&[Version::V2], "cgroup.events", "it takes cgroup v2")
    }

    /// Watches what happens for lack of memory, in it and in cgroups inside it: `memory.events` of v2.
    ///
    /// # Errors
    /// `Unsupported` without the memory controller, and where that is on v1, which has no such file; `NotFound` if the
    /// cgroup is gone; `PermissionDenied`.
    pub fn watch_memory(&self) -> Result<Watch<MemoryEvents>> {
        self.watch(&[Version::V2], "memory.events", MEMORY)
    }

    /// As [`Cgroup::watch_memory`], without cgroups inside it: `memory.events.local` (Linux 5.2).
    ///
    /// # Errors
    /// As [`Cgroup::watch_memory`].
    pub fn watch_memory_local(&self) -> Result<Watch<MemoryEvents>> {
        self.watch(&[Version::V2], "memory.events.local", MEMORY)
    }

    /// Watches how often its limit on processes was hit: `pids.events`, of v1 too.
    ///
    /// # Errors
    /// `Unsupported` without the pids controller, `NotFound` if the cgroup is gone, `PermissionDenied`.
    pub fn watch_pids(&self) -> Result<Watch<PidsEvents>> {
        let both = [Version::V2, Version::V1];
        self.watch(&both, "pids.events", "it takes the pids controller")
    }

    fn watch<T: Watched>(
        &self,
        versions: &[Version],
        name: &str,
        reason: &'static str,
    ) -> Result<Watch<T>> {
        for member in self.members() {
            if !versions.contains(&member.version) {
                continue;
            }
            if let Some(file) = File::open(&member.dir, name, OFlags::RDONLY)? {
                return Watch::new(file);
            }
        }
        self.members().try_for_each(|member| alive(&member.dir))?;
        Err(Error::lacks("watch", self.path().join(name), reason))
    }
}

const MEMORY: &str =
    "it takes the memory controller on v2; on v1 Cgroup::oom_kills can be read, but does not tell";

impl<T: Watched> Watch<T> {
    fn new(file: File) -> Result<Self> {
        let mut buffer = vec![0; file::USUAL / 8];
        let last = parse(&file, &mut buffer)?;
        Ok(Watch { file, buffer, last })
    }

    /// Reads it as it is now, by pread(2). No allocation.
    ///
    /// # Errors
    /// `NotFound` if the cgroup is gone, `Malformed` if the kernel's text is not understood.
    pub fn read(&mut self) -> Result<T> {
        self.last = parse(&self.file, &mut self.buffer)?;
        Ok(self.last)
    }

    /// What the last read gave, or at first what it was when the watch was made.
    #[must_use]
    pub fn last(&self) -> T {
        self.last
    }

    /// Waits until it is other than [`Watch::last`], by poll(2) and at most for `timeout`. `None` is that it has not
    /// changed.
    ///
    /// # Errors
    /// As [`Watch::read`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<T>> {
        let last = self.last;
        self.wait_for(timeout, |now| now != last)
    }

    /// Waits until it is as wanted, as [`Watch::wait`]. What it is now may do.
    ///
    /// # Errors
    /// As [`Watch::read`].
    pub fn wait_for(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(T) -> bool,
    ) -> Result<Option<T>> {
        let deadline = Deadline::after(timeout);
        let mut slice = AGAIN;
        loop {
            let now = self.read()?;
            if wanted(now) {
                return Ok(Some(now));
            }
            let left = deadline.left();
            if left.is_zero() {
                return Ok(None);
            }
            let told = wait::poll(&*self, slice.min(left))
                .map_err(|errno| self.file.failed("poll", errno))?;
            slice = if told.contains(PollFlags::PRI) {
                AGAIN
            } else {
                LOOK
            };
        }
    }
}

impl<T> AsFd for Watch<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.fd().as_fd()
    }
}

fn parse<T: Watched>(file: &File, buffer: &mut Vec<u8>) -> Result<T> {
    T::parse(file.read(buffer)?).map_err(|line| file.malformed(line))
}

impl Watched for State {}
impl Watched for MemoryEvents {}
impl Watched for PidsEvents {}

impl sealed::Parse for State {
    fn parse(text: &[u8]) -> Scanned<'_, Self> {
        let mut state = State::default();
        let mut known = false;
        for line in scan::keyed(text) {
            let line = line?;
            match line.key {
                b"populated" => (state.populated, known) = (line.number()? != 0, true),
                b"frozen" => state.frozen = line.number()? != 0,
                _ => {}
            }
        }
        if known { Ok(state) } else { Err(text) }
    }
}

impl sealed::Parse for MemoryEvents {
    fn parse(text: &[u8]) -> Scanned<'_, Self> {
        let mut events = MemoryEvents::default();
        events.scan(text)?;
        Ok(events)
    }
}

impl sealed::Parse for PidsEvents {
    fn parse(text: &[u8]) -> Scanned<'_, Self> {
        max_events(text).map(|max| PidsEvents { max })
    }
}

#[cfg(test)]
mod tests {
    use super::sealed::Parse;
    use super::*;

    #[test]
    fn the_state_as_captured() {
        let state = State::parse(include_bytes!("../tests/data/v2/cgroup.events")).unwrap();
        assert!(state.populated && !state.frozen);
        assert!(State::parse(b"populated 0\nfrozen 1\n").unwrap().frozen);
        assert_eq!(State::parse(b"frozen 1\n"), Err(&b"frozen 1\n"[..]));
        assert_eq!(State::parse(b"populated x\n"), Err(&b"populated x"[..]));
    }

    #[test]
    fn no_text_ends_the_program() {
        let seeds: [&[u8]; 2] = [
            include_bytes!("../tests/data/v2/cgroup.events"),
            include_bytes!("../tests/data/v2/pids.events"),
        ];
        let mut understood = 0;
        crate::stats::fuzz::texts(&seeds, 4000, |text| {
            understood += usize::from(State::parse(text).is_ok());
            understood += usize::from(PidsEvents::parse(text).is_ok());
        });
        assert!(understood > 0);
    }
}
