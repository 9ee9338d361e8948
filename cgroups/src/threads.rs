//! Threaded cgroups, and moving what is not to be moved yet.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::apply::{self, Skipped};
use crate::cgroup::Cgroup;
use crate::controller::{Controller, Version};
use crate::devices::Filter;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::hierarchy::Hierarchy;
use crate::level;
use crate::limits::Limits;
use crate::member::Member;
use crate::name::CgroupName;
use crate::place;

/// `PF_KTHREAD` of the kernel's task flags.
const KERNEL_THREAD: u64 = 0x0020_0000;
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

impl Cgroup {
    /// Moves one thread of a process into it, by writing `cgroup.threads`; on v1 `tasks`.
    ///
    /// In v2 both the cgroup where it is and this one have to be in the same threaded subtree:
    /// [`Hierarchy::create_threaded_in`].
    ///
    /// # Errors
    /// `NotFound` if there is no such thread, `InvalidInput` for 0 and for kernel threads, `Unsupported` naming the
    /// `cgroup.type` if this cgroup does not hold threads of that process, `PermissionDenied`.
    pub fn add_thread(&self, tid: u32) -> Result<()> {
        if tid == 0 {
            let path = self.main().dir.file_path("cgroup.threads");
            return Err(Error::write(path, "0", Errno::INVAL));
        }
        self.members().try_for_each(|member| {
            let file = match member.version {
                Version::V2 => "cgroup.threads",
                Version::V1 => "tasks",
            };
            enter(&member.dir, file, tid)
        })
    }

    /// Makes it threaded, by writing `cgroup.type`: it holds threads of the processes of the cgroup above, which
    /// becomes the domain of both. It cannot be undone. On v1 there is nothing to do.
    ///
    /// # Errors
    /// `Unsupported` naming the `cgroup.type` if the cgroup above passes controllers of domains on (memory, io), or
    /// this one has processes; `PermissionDenied`.
    pub fn set_threaded(&self) -> Result<()> {
        self.members().try_for_each(set_threaded)
    }
}

impl Hierarchy {
    /// Makes a threaded cgroup as child of the cgroup `parent`, which becomes the domain: its processes' threads can be
    /// distributed over its threaded children with [`Cgroup::add_thread`].
    ///
    /// `parent` is a path as of [`Hierarchy::create_in`]. It may have processes. The limits can be those of CPUs,
    /// cpusets and pids: these controllers are enabled in `parent` itself, not above it.
    ///
    /// # Errors
    /// As [`Hierarchy::create_in`]; `Unsupported` on a machine without v2, for limits of other controllers, and where
    /// the cgroup above passes controllers of domains on.
    pub fn create_threaded_in(
        &self,
        parent: impl AsRef<Path>,
        name: &CgroupName,
        limits: &Limits,
    ) -> Result<Cgroup> {
        self.create_threaded_below(parent.as_ref(), name, limits)
            .map_err(|error| self.explained(error))
    }

    fn create_threaded_below(
        &self,
        parent: &Path,
        name: &CgroupName,
        limits: &Limits,
    ) -> Result<Cgroup> {
        limits.validate()?;
        let mut skipped = Vec::new();
        let needed = tells_threads_apart(limits, &mut skipped)?;
        let mount = self.v2.as_ref().ok_or_else(|| {
            Error::unsayable("cgroup.type", "threaded cgroups take a cgroup v2 mount")
        })?;
        let dir = mount.below_root(parent)?;
        let mut cgroup = Cgroup::made(Member::make(Version::V2, &dir, name)?);
        // Before the limits: it makes the parent a domain that may have processes and pass controllers on.
        set_threaded(cgroup.main())?;
        if let Some(devices) = limits.device_policy() {
            Filter::prepare(devices, Some(dir.path()), false)?
                .apply_to(Version::V2, &cgroup.main().dir)?;
        }
        for controller in needed {
            if let Err(error) = level::enable_threaded(&dir, controller) {
                let path = Some(dir.path());
                apply::skip_controller(limits, &mut skipped, controller, path, error)?;
                continue;
            }
            let settings = limits.render(controller, Version::V2).settings;
            skipped.extend(cgroup.main().apply(&settings, limits.is_best_effort())?);
        }
        cgroup.leave_out(skipped);
        Ok(cgroup)
    }
}

/// The controllers the limits need, all of those that threaded cgroups can have.
fn tells_threads_apart(limits: &Limits, skipped: &mut Vec<Skipped>) -> Result<Vec<Controller>> {
    let reason = "its controller does not tell threads of one process apart";
    let refused = |limit| Error::unsayable(limit, reason);
    let (threaded, others): (Vec<_>, Vec<_>) =
        limits.controllers().into_iter().partition(is_threaded);
    for controller in others {
        apply::skip_all(limits, skipped, controller, None, refused)?;
    }
    Ok(threaded)
}

fn is_threaded(controller: &Controller) -> bool {
    use Controller::{Cpu, Cpuset, Pids};
    matches!(controller, Cpu | Cpuset | Pids)
}

fn set_threaded(member: &Member) -> Result<()> {
    if member.version == Version::V1 {
        return Ok(());
    }
    member
        .dir
        .write("cgroup.type", "threaded")
        .map_err(|errno| {
            let op = "write \"threaded\" to".to_owned();
            of_type(&member.dir, op, "cgroup.type", "threaded", errno)
        })
}

/// Moves a process or a thread. A task that has not run yet cannot be moved, and the kernel gives no other errno for it
/// than for one that never can: it is tried again, for as long as a new task may take.
pub(crate) fn enter(dir: &Dir, file: &str, id: u32) -> Result<()> {
    let value = id.to_string();
    let mut tries = TRIES;
    loop {
        match dir.write(file, &value) {
            Ok(()) => return Ok(()),
            Err(Errno::INVAL) if is_kernel_thread(id) => {
                return Err(Error::kernel_thread(dir.path().to_owned(), id));
            }
            Err(Errno::INVAL) if tries > 0 => thread::sleep(PAUSE),
            Err(errno) if file == "cgroup.procs" && errno != Errno::OPNOTSUPP => {
                return Err(place::not_moved(dir, &value, errno));
            }
            Err(errno) => {
                let op = format!("write {value:?} to");
                return Err(of_type(dir, op, file, &value, errno));
            }
        }
        tries -= 1;
    }
}

/// The errno, with the type of the cgroup where that is the reason.
fn of_type(dir: &Dir, op: String, file: &str, value: &str, errno: Errno) -> Error {
    let path = dir.file_path(file);
    if errno != Errno::OPNOTSUPP {
        return Error::write(path, value, errno);
    }
    match dir.read("cgroup.type") {
        Ok(Some(kind)) => Error::of_type(op, path, kind.trim_end().to_owned(), errno),
        _ => Error::write(path, value, errno),
    }
}

fn is_kernel_thread(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    flags(&stat).is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

/// The ninth field. The second, the name, may have spaces and parentheses in it.
fn flags(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_threads_are_told_by_their_flags() {
        let thread = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0";
        assert_eq!(
            flags(thread).map(|flags| flags & KERNEL_THREAD),
            Some(KERNEL_THREAD)
        );
        let process = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 2";
        assert_eq!(flags(process), Some(4_194_560));
        assert_eq!(flags(""), None);
        assert!(!is_kernel_thread(std::process::id()));
    }
}
