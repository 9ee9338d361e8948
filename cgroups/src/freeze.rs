//! Holding all processes of a cgroup still.

use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Version;
use crate::error::{Error, Result};
use crate::member::Member;
use crate::stats::file::alive;
use crate::wait::Deadline;

/// Between two looks at a v1 freezer, which tells nobody.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(20);

impl Cgroup {
    /// Stops every process in it and in cgroups inside it, by `cgroup.freeze`, and returns when all have stopped: when
    /// `cgroup.events` says `frozen 1`. On v1 by `freezer.state`, when that says `FROZEN`.
    ///
    /// The caller is not to be in it, or it stops itself. They stay stopped until [`Cgroup::thaw`]; [`Cgroup::kill`] works all the same. New ones start stopped. Most stop
    /// within a few milliseconds; one in an uninterruptible wait, such as for a disk, stops when that is over. One that
    /// is frozen is frozen already.
    ///
    /// # Errors
    /// `Busy` if not all have stopped within `timeout`: then it is thawed again, unless it was being frozen before.
    /// `Unsupported` before Linux 5.2, and on v1 for a cgroup that is not in the freezer hierarchy; `NotFound` if the
    /// cgroup is gone; `PermissionDenied`.
    pub fn freeze(&self, timeout: Duration) -> Result<()> {
        let freezer = self.freezer()?;
        let before = freezer.asked()?;
        let deadline = Deadline::after(timeout);
        let frozen = match freezer {
            Freezer::V2(_) => self.freeze_v2(freezer, &deadline),
            Freezer::V1(_) => freezer.freeze_v1(&deadline),
        };
        let waited = deadline.waited();
        if !before && !matches!(frozen, Ok(true)) {
            let thawed = freezer.write(false);
            // The first error is the one to tell.
            frozen.as_ref().map_or(Ok(()), |_| thawed)?;
        }
        match frozen? {
            true => Ok(()),
            false => Err(Error::unfrozen(
                freezer.member().dir.path(),
                waited,
                !before,
            )),
        }
    }

    /// Lets its processes go on, by `cgroup.freeze`, on v1 by `freezer.state`. They stay still as long as a cgroup above
    /// is frozen.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`], without `Busy`.
    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.write(false)
    }

    /// Whether all of its processes are stopped, because of it or of a cgroup above: `frozen` of `cgroup.events`; on v1
    /// `freezer.state`.
    ///
    /// # Errors
    /// As [`Cgroup::thaw`].
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer()? {
            Freezer::V2(_) => Ok(self.watch_state()?.last().frozen),
            freezer @ Freezer::V1(_) => freezer.frozen_v1(),
        }
    }

    fn freeze_v2(&self, freezer: Freezer<'_>, deadline: &Deadline) -> Result<bool> {
        // What can fail for lack of fds fails before the write.
        let mut watch = self.watch_state()?;
        freezer.write(true)?;
        let frozen = watch.wait_for(deadline.left(), |state| state.frozen)?;
        Ok(frozen.is_some())
    }

    fn freezer(&self) -> Result<Freezer<'_>> {
        let with = |version, file| {
            let mut members = self.members();
            members.find(|member| {
                member.version == version && member.dir.open_file(file, OFlags::PATH).is_ok()
            })
        };
        if let Some(member) = with(Version::V2, FREEZE) {
            return Ok(Freezer::V2(member));
        }
        if let Some(member) = with(Version::V1, STATE) {
            return Ok(Freezer::V1(member));
        }
        self.members().try_for_each(|member| alive(&member.dir))?;
        let reason = "it takes cgroup v2 of Linux 5.2, or to be in the freezer hierarchy of v1";
        Err(Error::lacks("freeze", self.path().to_owned(), reason))
    }
}

const FREEZE: &str = "cgroup.freeze";
const STATE: &str = "freezer.state";

/// Where it is frozen.
#[derive(Clone, Copy, Debug)]
enum Freezer<'c> {
    V2(&'c Member),
    V1(&'c Member),
}

impl<'c> Freezer<'c> {
    fn member(self) -> &'c Member {
        match self {
            Freezer::V2(member) | Freezer::V1(member) => member,
        }
    }

    /// Whether somebody asked for it before.
    fn asked(self) -> Result<bool> {
        match self {
            Freezer::V2(_) => Ok(self.read(FREEZE)?.trim_end() == "1"),
            Freezer::V1(_) => Ok(self.read(STATE)?.trim_end() != "THAWED"),
        }
    }

    fn write(self, freeze: bool) -> Result<()> {
        let dir = &self.member().dir;
        let (file, value) = match (self, freeze) {
            (Freezer::V2(_), true) => (FREEZE, "1"),
            (Freezer::V2(_), false) => (FREEZE, "0"),
            (Freezer::V1(_), true) => (STATE, "FROZEN"),
            (Freezer::V1(_), false) => (STATE, "THAWED"),
        };
        match dir.write(file, value) {
            Ok(()) => Ok(()),
            Err(Errno::NODEV | Errno::NOENT) => Err(Error::gone(dir.path())),
            Err(errno) => Err(Error::write(dir.file_path(file), value, errno)),
        }
    }

    fn read(self, file: &str) -> Result<String> {
        let dir = &self.member().dir;
        dir.read(file)?.ok_or_else(|| Error::gone(dir.path()))
    }

    fn frozen_v1(self) -> Result<bool> {
        match self.read(STATE)?.trim_end() {
            "FROZEN" => Ok(true),
            "FREEZING" | "THAWED" => Ok(false),
            other => {
                let path = self.member().dir.file_path(STATE);
                Err(Error::parse(&path, other.as_bytes()))
            }
        }
    }

    /// Asks again as long as it says `FREEZING`: a process that forked meanwhile is not caught by the first time.
    fn freeze_v1(self, deadline: &Deadline) -> Result<bool> {
        let mut pause = SHORTEST;
        loop {
            self.write(true)?;
            if self.frozen_v1()? {
                return Ok(true);
            }
            let left = deadline.left();
            if left.is_zero() {
                return Ok(false);
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST);
        }
    }
}
