//! Hierarchies that the caller names, and where in them the caller is.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::controller::{Controller, Version};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::hierarchy::{self, Hierarchy};
use crate::mount::Mount;
use crate::mountinfo::{self, Membership, Mounted};

impl Hierarchy {
    /// The hierarchy of the cgroup directory at `path`, and nothing above it: a mount that
    /// [`Hierarchy::detect`] would not choose, or a directory below one, such as one delegated to this process.
    ///
    /// New cgroups become its children. Paths given to [`Hierarchy::create_in`] begin at it.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `Unsupported` if fstatfs(2) says that it is no cgroup filesystem, or if it is a v1
    /// hierarchy and `/proc/thread-self/mountinfo` does not say of which controllers.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::sys("open", path, errno))?;
        Self::of(fd, path)
    }

    /// As [`Hierarchy::at`], of an open directory: of a mount that has no path here, or not yet. Messages name it as
    /// `/proc/thread-self/fd` does.
    ///
    /// # Errors
    /// As [`Hierarchy::at`]; `Os` with `ENOTDIR` if it is no directory.
    pub fn at_fd(dir: impl AsFd) -> Result<Self> {
        let path = path_of(dir.as_fd()).unwrap_or_else(|| PathBuf::from("(directory fd)"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, ".", flags, Mode::empty())
            .map_err(|errno| Error::sys("open", &path, errno))?;
        Self::of(fd, &path)
    }

    /// The v2 cgroup that the calling thread is in now, by `/proc/thread-self/cgroup`, as a path of the filesystem.
    ///
    /// # Errors
    /// `Unsupported` without cgroup v2, and where the own cgroup cannot be seen: it lies outside of the root of the
    /// cgroup namespace (`/../..`), or of every cgroup2 mount.
    pub fn own(&self) -> Result<PathBuf> {
        Ok(self.own_dir()?.path().to_owned())
    }

    pub(crate) fn own_dir(&self) -> Result<Arc<Dir>> {
        let v2 = self.v2.as_ref().ok_or_else(Error::no_v2)?;
        let device = v2.root.device()?;
        let memberships = hierarchy::memberships()?;
        let mounts = hierarchy::mounts()?.into_iter();
        for mount in mounts.filter(|mount| mount.device == device) {
            if let Some(dir) = own_through(&mount, &memberships)? {
                return Ok(Arc::new(dir));
            }
        }
        let own = memberships.iter().find_map(Membership::in_v2);
        Err(Error::out_of_sight(own.unwrap_or(Path::new("/"))))
    }

    /// Says more of an error where there is more to know.
    pub(crate) fn explained(&self, error: Error) -> Error {
        let Some(path) = error.file() else {
            return self.of_delegation(error);
        };
        let errno = error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error);
        let more = match errno {
            Some(rustix::io::Errno::ROFS) => self.read_only(path),
            Some(rustix::io::Errno::ACCESS) => owner(path),
            Some(rustix::io::Errno::AGAIN) => self.full(path),
            _ => None,
        };
        match more {
            Some(more) => error.explained(more),
            None => error,
        }
    }

    fn of(fd: OwnedFd, path: &Path) -> Result<Self> {
        let path = path_of(fd.as_fd()).unwrap_or_else(|| path.to_owned());
        let dir = Dir::of(fd, path);
        let version = dir.version()?;
        let controllers = match version {
            Version::V2 => Vec::new(),
            Version::V1 => controllers(&dir)?,
        };
        let mount = Arc::new(Mount::at(version, controllers, Arc::new(dir))?);
        Ok(match version {
            Version::V2 => Hierarchy {
                v2: Some(mount),
                v1: Vec::new(),
            },
            Version::V1 => Hierarchy {
                v2: None,
                v1: vec![mount],
            },
        })
    }

    fn read_only(&self, path: &Path) -> Option<String> {
        let mounts = self.mounts().filter(|mount| mount.below(path).is_some());
        let mount = mounts.max_by_key(|mount| mount.root.path().as_os_str().len())?;
        Some(format!(
            ": {} is mounted read-only, as in an unprivileged container; mount a cgroup2 of this namespace that is \
             writable, and give it to Hierarchy::at",
            mount.root.path().display()
        ))
    }

    /// Which of the levels above takes no more.
    fn full(&self, path: &Path) -> Option<String> {
        let v2 = self.v2.as_ref()?;
        let mut level = v2.below(path)?.parent()?;
        for depth in 0_u64.. {
            let dir = v2.root.open(level).ok()?;
            let max = |file| Some(dir.read(file).ok()??.trim().parse::<u64>());
            let stat = dir.read("cgroup.stat").ok()??;
            let used = crate::stat::keyed(dir.path(), &stat, "nr_descendants").ok()?;
            for (file, used) in [
                ("cgroup.max.depth", depth),
                ("cgroup.max.descendants", used),
            ] {
                if let Some(Ok(max)) =
                    max(file).filter(|max| max.as_ref().is_ok_and(|max| used >= *max))
                {
                    return Some(format!("; {} is {max}", dir.file_path(file).display()));
                }
            }
            level = level.parent()?;
        }
        None
    }

    fn of_delegation(&self, error: Error) -> Error {
        let root = rustix::process::geteuid().is_root();
        if root || !error.is_not_passed_on() {
            return error;
        }
        error.explained(
            "; for a service of systemd those of its Delegate=, for a user's slice those of user@.service (by default \
             cpu, memory and pids)"
                .to_owned(),
        )
    }
}

/// `None` if this mount does not show it.
fn own_through(mounted: &Mounted, memberships: &[Membership]) -> Result<Option<Dir>> {
    let Some(below) = mounted.own(memberships) else {
        return Ok(None);
    };
    match Dir::open_mount(mounted).and_then(|root| root.open(&below)) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.is_shortage() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Which user a directory belongs to that this one may not write.
fn owner(path: &Path) -> Option<String> {
    let above = path.parent()?;
    let [file, dir] = [path, above].map(|path| rustix::fs::stat(path).ok());
    let (path, stat) = file
        .map(|stat| (path, stat))
        .or(dir.map(|stat| (above, stat)))?;
    let user = rustix::process::geteuid().as_raw();
    (user != stat.st_uid).then(|| {
        format!(
            ": {} belongs to uid {}, this process is {user}",
            path.display(),
            stat.st_uid
        )
    })
}

/// Of a v1 directory, by the other mounts of its hierarchy.
fn controllers(dir: &Dir) -> Result<Vec<Controller>> {
    let device = dir.device()?;
    let mut mounts = hierarchy::mounts()?.into_iter();
    let found = mounts.find(|mount| mount.device == device);
    found
        .map(|mount| mount.controllers)
        .ok_or_else(|| Error::not_cgroupfs(dir.path()))
}

/// The path of an open directory in this mount namespace.
fn path_of(fd: impl AsFd) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/thread-self/fd/{}", fd.as_fd().as_raw_fd());
    std::fs::read_link(link)
        .ok()
        .filter(|path| path.is_absolute())
}

/// A process that could not be moved into `dir`: what the errno means there.
pub(crate) fn not_moved(dir: &Dir, pid: &str, errno: rustix::io::Errno) -> Error {
    use rustix::io::Errno as E;
    let path = dir.file_path("cgroup.procs");
    let exists = |file| dir.read(file).is_ok_and(|text| text.is_some());
    let more = match errno {
        E::ACCESS => format!(
            "; the process is in {}, and to move it the cgroup.procs of the lowest cgroup above both has to be writable \
             as well",
            whereabouts(pid)
        ),
        E::NOENT if exists("cgroup.procs") => {
            "; the process or the cgroup is outside of this cgroup namespace, which nsdelegate keeps closed".to_owned()
        }
        E::BUSY => "; it passes controllers on, so only cgroups inside it take processes".to_owned(),
        E::NOSPC => "; its cpuset.cpus or cpuset.mems is empty, with which v1 takes no process".to_owned(),
        E::OPNOTSUPP => {
            let kind = dir.read("cgroup.type").ok().flatten().unwrap_or_default();
            format!("; its cgroup.type is {:?}, which takes no processes", kind.trim_end())
        }
        _ => String::new(),
    };
    let error = Error::write(path, pid, errno);
    if more.is_empty() {
        error
    } else {
        error.explained(more)
    }
}

fn whereabouts(pid: &str) -> String {
    let path = format!("/proc/{pid}/cgroup");
    let memberships = hierarchy::read(&path)
        .and_then(|text| mountinfo::memberships(Path::new(&path), &text))
        .unwrap_or_default();
    let own = memberships.iter().find_map(Membership::in_v2);
    own.map_or("another cgroup".to_owned(), |path| {
        path.display().to_string()
    })
}
