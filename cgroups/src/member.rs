//! One directory of a cgroup, in one hierarchy.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::apply::{Skipped, Writer};
use crate::controller::Version;
use crate::dir::{self, Dir};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Setting;
use crate::name::CgroupName;
use crate::stat;
use crate::threads;
use crate::wait;

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) version: Version,
    pub(crate) dir: Dir,
    /// Of v1: `tasks`, open for writing.
    pub(crate) tasks: Option<OwnedFd>,
    parent: Arc<Dir>,
    name: OsString,
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Member {
    /// Makes the directory. A failure leaves none.
    pub(crate) fn make(version: Version, parent: &Arc<Dir>, name: &CgroupName) -> Result<Self> {
        let dir = parent.make(name.as_str())?;
        let mut member = Member {
            version,
            dir,
            tasks: None,
            parent: Arc::clone(parent),
            name: name.as_str().into(),
        };
        member.open_tasks().inspect_err(|_| {
            // The first error is the one to tell.
            let _removed = member.try_remove().is_ok();
        })?;
        Ok(member)
    }

    /// Opens one that exists, `below` the top of its mount.
    pub(crate) fn open(version: Version, root: &Arc<Dir>, below: &Path) -> Result<Self> {
        let path = root.path().join(below);
        let name = below
            .file_name()
            .ok_or_else(|| Error::path(&path, "is not a cgroup below the top of its mount"))?;
        let parent = match below.parent().filter(|above| !above.as_os_str().is_empty()) {
            Some(above) => Arc::new(root.open(above)?),
            None => Arc::clone(root),
        };
        let mut member = Member {
            version,
            dir: parent.open(Path::new(name))?,
            tasks: None,
            name: name.to_owned(),
            parent,
        };
        member.open_tasks()?;
        Ok(member)
    }

    /// Writes limits, and tells what best effort left out.
    pub(crate) fn apply(&self, settings: &[Setting], best_effort: bool) -> Result<Vec<Skipped>> {
        let mut writer = Writer::new(&self.dir, best_effort);
        writer.write_all(settings)?;
        Ok(writer.skipped)
    }

    /// Of v1: gives it the CPUs and memory nodes of its parent where it has none, for it can have no process without.
    pub(crate) fn inherit_cpuset(&self) -> Result<()> {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if !self.dir.read_required(file)?.trim_end().is_empty() {
                continue;
            }
            let above = self.parent.read_required(file)?;
            self.dir
                .write(file, &above)
                .map_err(|errno| Error::write(self.dir.file_path(file), &above, errno))?;
        }
        Ok(())
    }

    /// The processes of this cgroup, without those of cgroups inside it.
    pub(crate) fn procs(&self) -> Result<Vec<u32>> {
        procs(&self.dir)
    }

    /// The processes of this cgroup and of those inside it.
    pub(crate) fn all_procs(&self) -> Result<Vec<u32>> {
        let mut all = procs(&self.dir)?;
        let mut left = self.dir.children()?;
        while let Some(below) = left.pop() {
            let dir = match self.dir.open(Path::new(&below)) {
                Ok(dir) => dir,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            all.extend(procs(&dir)?);
            for name in dir.children()? {
                left.push(Path::new(&below).join(name).into_os_string());
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Whether a process is in it or in a cgroup inside it.
    pub(crate) fn populated(&self) -> Result<bool> {
        match self.version {
            Version::V1 => Ok(!self.all_procs()?.is_empty()),
            Version::V2 => match self.dir.read("cgroup.events")? {
                Some(text) => self.populated_in(&text),
                None => Ok(false),
            },
        }
    }

    /// Moves a process, all its threads, into it.
    pub(crate) fn add(&self, pid: u32) -> Result<()> {
        threads::enter(&self.dir, "cgroup.procs", pid)
    }

    /// Removes it and all inside it, waiting for its processes to end.
    pub(crate) fn remove(&self, start: Instant, deadline: Instant) -> Result<()> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            match self.try_remove() {
                Ok(()) => return Ok(()),
                Err(Errno::BUSY) => {}
                Err(errno) => return Err(Error::sys("rmdir", self.dir.path(), errno)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::remaining(self.dir.path(), start.elapsed()));
            }
            self.wait(pause.min(left))?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Removes it and all inside it, unless it has processes: then nothing changes.
    pub(crate) fn try_remove(&self) -> rustix::io::Result<()> {
        match self.parent.remove(&self.name, &self.dir) {
            Err(Errno::BUSY) => {}
            done => return done,
        }
        if self.populated().unwrap_or(true) {
            return Err(Errno::BUSY);
        }
        self.dir.remove_children()?;
        self.parent.remove(&self.name, &self.dir)
    }

    /// Waits until it may have become empty, but not longer than `pause`.
    fn wait(&self, pause: Duration) -> Result<()> {
        let events = match self.version {
            Version::V1 => None,
            Version::V2 => self.dir.open_file("cgroup.events", OFlags::RDONLY).ok(),
        };
        if let Some(events) = events {
            // The kernel compares with what this fd has read: a change after the read is not missed.
            let text = dir::read_whole(events.as_fd()).unwrap_or_default();
            if !text.is_empty() && self.populated_in(&text)? {
                let path = self.dir.file_path("cgroup.events");
                let told = wait::poll(&events, pause).map(drop);
                return told.map_err(|errno| Error::sys("poll", &path, errno));
            }
        }
        thread::sleep(pause);
        Ok(())
    }

    fn populated_in(&self, text: &str) -> Result<bool> {
        let path = self.dir.file_path("cgroup.events");
        Ok(stat::keyed(&path, text, "populated")? != 0)
    }

    fn open_tasks(&mut self) -> Result<()> {
        if self.version == Version::V1 {
            let failed = |errno| Error::sys("open", &self.dir.file_path("tasks"), errno);
            let fd = self.dir.open_file("tasks", OFlags::WRONLY);
            self.tasks = Some(fd.map_err(failed)?);
        }
        Ok(())
    }
}

fn procs(dir: &Dir) -> Result<Vec<u32>> {
    match dir.read_procs()? {
        Some(text) => stat::pids(&dir.file_path("cgroup.procs"), &text),
        None => Ok(Vec::new()),
    }
}
