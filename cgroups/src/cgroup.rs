//! The handle to a cgroup and its verbs.

use std::iter;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::apply::Skipped;
use crate::controller::Version;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::kill;
use crate::member::Member;
use crate::stat;
use crate::wait;

/// A cgroup, held by fds: one directory, or on a hybrid machine one in each hierarchy used.
///
/// One that [`Hierarchy::create`](crate::Hierarchy::create) made is removed when dropped, with all cgroups inside it,
/// if it has no process then: Drop does not kill. After [`Cgroup::kill`] it waits for the killed to be gone, up to one
/// second. What stays behind is found by [`Hierarchy::find`](crate::Hierarchy::find). [`Cgroup::remove`] tells how it
/// went, [`Cgroup::persist`] keeps the cgroup.
#[derive(Debug)]
#[must_use = "dropping a Cgroup removes it"]
pub struct Cgroup {
    /// In v2 if the machine has it.
    main: Member,
    others: Vec<Member>,
    armed: bool,
    killed: AtomicBool,
    skipped: Vec<Skipped>,
}

/// How long [`Cgroup::remove`] waits for processes to end.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);
/// How long a drop waits for processes that were killed.
const DROP_WITHIN: Duration = Duration::from_secs(1);

impl Cgroup {
    /// One that this process made: removed by Drop.
    pub(crate) fn made(main: Member) -> Self {
        let mut cgroup = Cgroup::found(main);
        cgroup.armed = true;
        cgroup
    }

    /// One that existed: left by Drop.
    pub(crate) fn found(main: Member) -> Self {
        Cgroup {
            main,
            others: Vec::new(),
            armed: false,
            killed: AtomicBool::new(false),
            skipped: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, member: Member) -> &Member {
        let at = self.others.len();
        self.others.push(member);
        &self.others[at]
    }

    pub(crate) fn main(&self) -> &Member {
        &self.main
    }

    pub(crate) fn leave_out(&mut self, skipped: Vec<Skipped>) {
        self.skipped = skipped;
    }

    /// What [`Limits::best_effort`](crate::Limits::best_effort) left out when it was made. Empty without that, and for
    /// a cgroup that was opened.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Its directory: the v2 one if the machine has v2.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.main.dir.path()
    }

    /// All its directories, [`Cgroup::path`] first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.members().map(|member| member.dir.path())
    }

    /// How a new process gets into it: see [`Entry`].
    #[must_use]
    pub fn entry(&self) -> Entry<'_> {
        let v2 = self.members().find(|member| member.version == Version::V2);
        Entry {
            dir: v2.map(|member| member.dir.as_fd()),
            tasks: self
                .members()
                .filter_map(|member| member.tasks.as_ref())
                .map(AsFd::as_fd)
                .collect(),
        }
    }

    /// Moves a running process, with all its threads, into it, by writing `cgroup.procs` in each hierarchy.
    ///
    /// Memory it has stays charged to where it was. Costs about 10 ms: a process started by way of [`Cgroup::entry`]
    /// is faster.
    ///
    /// # Errors
    /// `NotFound` if there is no such process (any more), `InvalidInput` for 0 and for kernel threads, `Busy` if this
    /// cgroup passes controllers on, `Unsupported` naming the `cgroup.type` if it can hold threads alone,
    /// `PermissionDenied` if the process or the cgroup above both is not the caller's. If a later hierarchy fails, the
    /// process stays in the earlier ones.
    pub fn add(&self, pid: u32) -> Result<()> {
        if pid == 0 {
            let path = self.main.dir.file_path("cgroup.procs");
            return Err(Error::write(path, "0", Errno::INVAL));
        }
        self.members().try_for_each(|member| member.add(pid))
    }

    /// The processes in it, without those of cgroups inside it and those of an outer pid namespace.
    ///
    /// # Errors
    /// `PermissionDenied`; `Malformed` if the kernel's text is not understood. One that is gone has no processes.
    pub fn procs(&self) -> Result<Vec<u32>> {
        self.main.procs()
    }

    /// Whether it or a cgroup inside it has a process, from `cgroup.events`. Zombies do not count.
    ///
    /// # Errors
    /// As [`Cgroup::procs`].
    pub fn populated(&self) -> Result<bool> {
        self.main.populated()
    }

    /// Memory in use, in bytes: `memory.current`, on v1 `memory.usage_in_bytes`.
    ///
    /// # Errors
    /// `Unsupported` if it was created without a memory limit, `NotFound` if it is gone.
    pub fn memory_current(&self) -> Result<u64> {
        let (path, text) = self.read_memory("memory.current", "memory.usage_in_bytes")?;
        stat::number(&path, &text)
    }

    /// How many processes the OOM killer ended because of its limit: `oom_kill` of `memory.events`, with those of
    /// cgroups inside it; on v1 of `memory.oom_control`, without.
    ///
    /// # Errors
    /// `Unsupported` if it was created without a memory limit, `NotFound` if it is gone.
    pub fn oom_kills(&self) -> Result<u64> {
        let (path, text) = self.read_memory("memory.events", "memory.oom_control")?;
        stat::keyed(&path, &text, "oom_kill")
    }

    /// Kills every process in it and in cgroups inside it, by `cgroup.kill`; before Linux 5.14, and without v2, by
    /// freezing and signalling each. Does not wait for them to be gone. No process is success, and so is a cgroup that
    /// is gone.
    ///
    /// Make a new cgroup for what is to run afterwards: since some version between 6.1 and 6.18 the kernel also kills
    /// each process that is later started into this one by `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// `PermissionDenied`; `Unsupported` for a threaded cgroup; `Busy` if a kernel without freezer lets processes fork faster than they are killed.
    pub fn kill(&self) -> Result<()> {
        self.killed.store(true, Ordering::Relaxed);
        if self.main.version == Version::V1 {
            return self.kill_each();
        }
        match self.main.dir.write("cgroup.kill", "1") {
            Ok(()) | Err(Errno::NODEV) => Ok(()),
            Err(Errno::NOENT) => self.kill_each(),
            Err(Errno::OPNOTSUPP) => {
                let reason = "it holds threads alone, and processes are killed in the domain above";
                Err(Error::lacks("kill", self.path().to_owned(), reason))
            }
            Err(errno) => {
                let path = self.main.dir.file_path("cgroup.kill");
                Err(Error::write(path, "1", errno))
            }
        }
    }

    /// Removes it with all cgroups inside it, in every hierarchy. Waits up to five seconds, by poll(2) on
    /// `cgroup.events`, for its processes to end; it does not kill. Gone already is success.
    ///
    /// # Errors
    /// `Busy` if processes remain, `PermissionDenied`. The first error is told; the other hierarchies are done all the
    /// same. What could not be removed stays.
    pub fn remove(self) -> Result<()> {
        self.remove_within(REMOVE_WITHIN)
    }

    /// As [`Cgroup::remove`], but waits up to `time` in all. With no time it tries once.
    ///
    /// # Errors
    /// As [`Cgroup::remove`].
    pub fn remove_within(mut self, time: Duration) -> Result<()> {
        self.armed = false;
        self.remove_all(time)
    }

    /// Keeps the cgroup and gives its directories, [`Cgroup::path`] first, for
    /// [`Hierarchy::open`](crate::Hierarchy::open).
    pub fn persist(mut self) -> Vec<PathBuf> {
        self.armed = false;
        self.paths().map(Path::to_owned).collect()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        iter::once(&self.main).chain(&self.others)
    }

    fn remove_all(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        let deadline = wait::end(start, time);
        let mut first = Ok(());
        for member in self.members() {
            let removed = member.remove(start, deadline);
            first = first.and(removed);
        }
        first
    }

    fn kill_each(&self) -> Result<()> {
        let freezer = self.members().find(|member| match member.version {
            Version::V2 => true,
            Version::V1 => member.dir.open_file("freezer.state", OFlags::PATH).is_ok(),
        });
        kill::kill(freezer.unwrap_or(&self.main), freezer)
    }

    /// The text of a memory file, from the hierarchy that has it.
    fn read_memory(&self, v2: &str, v1: &str) -> Result<(PathBuf, String)> {
        for member in self.members() {
            let file = match member.version {
                Version::V2 => v2,
                Version::V1 => v1,
            };
            if let Some(text) = member.dir.read(file)? {
                return Ok((member.dir.file_path(file), text));
            }
        }
        // No such file, or no such cgroup any more.
        self.main.dir.read_required("cgroup.procs")?;
        Err(Error::no_memory(self.path()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let time = if self.killed.load(Ordering::Relaxed) {
            DROP_WITHIN
        } else {
            Duration::ZERO
        };
        let _removed = self.remove_all(time).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{self, Command, Stdio};
    use std::thread;

    use cofferdam_testkit::{Need, have};

    use super::*;
    use crate::{CgroupName, Hierarchy, Limits};

    #[test]
    fn every_handle_can_be_shared_by_threads() {
        fn shared<T: Send + Sync + std::fmt::Debug>() {}
        shared::<Cgroup>();
        shared::<Hierarchy>();
        shared::<Entry<'_>>();
        shared::<crate::Stats>();
        shared::<crate::Watch<crate::State>>();
        shared::<crate::PressureTrigger>();
        shared::<crate::Peak>();
        shared::<crate::OwnSubtree>();
        shared::<crate::Error>();
        #[cfg(feature = "systemd")]
        shared::<crate::systemd::Scope>();
    }

    const ASLEEP: &str = "COFFERDAM_CGROUPS_ASLEEP";

    #[test]
    fn without_cgroup_kill_frozen_processes_are_signalled_and_thawed() {
        if env::var_os(ASLEEP).is_some() {
            thread::sleep(Duration::from_secs(60));
            return;
        }
        if !have(&[Need::Root, Need::Cgroup2]) {
            return;
        }
        let name = format!("cofferdam-cgroups-unit-{}", process::id());
        let hierarchy = Hierarchy::detect().unwrap();
        let cgroup = hierarchy.create(&CgroupName::new(name).unwrap(), &Limits::new());
        let cgroup = cgroup.unwrap();
        let test = "cgroup::tests::without_cgroup_kill_frozen_processes_are_signalled_and_thawed";
        let mut children: Vec<_> = (0..3)
            .map(|_| {
                let mut command = Command::new(env::current_exe().unwrap());
                command.args(["--exact", test]).env(ASLEEP, "1");
                command.stdout(Stdio::null()).spawn().unwrap()
            })
            .collect();
        for child in &children {
            cgroup.add(child.id()).unwrap();
        }
        cgroup.kill_each().unwrap();
        for child in &mut children {
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }
        let freeze = cgroup.main.dir.read_required("cgroup.freeze").unwrap();
        assert_eq!(freeze, "0\n");
        cgroup.remove().unwrap();
    }
}
