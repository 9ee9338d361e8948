//! One cgroup directory, held by fd. Every access is relative to it and cannot leave it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::controller::Version;
use crate::error::{Error, Result};
use crate::mountinfo::Mounted;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC`.
const MAGIC_V1: u64 = 0x0027_e0eb;
const MAGIC_V2: u64 = 0x6367_7270;

#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    /// `cgroup.subtree_control`, once it was read: whoever makes one cgroup in here makes more.
    subtree_control: OnceLock<OwnedFd>,
}

impl Dir {
    fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Dir {
            fd,
            path,
            subtree_control: OnceLock::new(),
        }
    }

    /// Opens the top of a mount and checks that it is the one meant, not something mounted over it.
    pub(crate) fn open_mount(mounted: &Mounted) -> Result<Self> {
        let path = &mounted.target;
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|errno| Error::sys("open", path, errno))?;
        let found = Found::of(&fd).map_err(|errno| Error::sys("stat", path, errno))?;
        if !found.is(mounted) {
            return Err(Error::not_cgroupfs(path));
        }
        let path = path.to_owned();
        Ok(Dir::new(fd, path))
    }

    /// One that the caller opened.
    pub(crate) fn of(fd: OwnedFd, path: PathBuf) -> Self {
        Dir::new(fd, path)
    }

    /// Which interface it speaks, by fstatfs(2).
    pub(crate) fn version(&self) -> Result<Version> {
        let found =
            rustix::fs::fstatfs(&self.fd).map_err(|errno| Error::sys("stat", &self.path, errno))?;
        match found.f_type as u64 {
            MAGIC_V1 => Ok(Version::V1),
            MAGIC_V2 => Ok(Version::V2),
            _ => Err(Error::no_cgroup(&self.path)),
        }
    }

    /// Major and minor number: the same for every directory of one hierarchy.
    pub(crate) fn device(&self) -> Result<(u32, u32)> {
        let stat =
            rustix::fs::fstat(&self.fd).map_err(|errno| Error::sys("stat", &self.path, errno))?;
        let device = stat.st_dev;
        Ok((rustix::fs::major(device), rustix::fs::minor(device)))
    }

    /// Opens a directory below this one. `below` may be empty, for this one itself.
    pub(crate) fn open(&self, below: &Path) -> Result<Self> {
        let path = self.path.join(below);
        match beneath(self.fd.as_fd(), below, DIRECTORY) {
            Ok(fd) => Ok(Dir::new(fd, path)),
            Err(errno) => Err(Error::sys("open", &path, errno)),
        }
    }

    /// Makes a child directory and opens it. A failure leaves none.
    pub(crate) fn make(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| Error::sys("mkdir", &path, errno))?;
        self.open(Path::new(name)).inspect_err(|_| {
            // The first error is the one to tell.
            let _removed = rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).is_ok();
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file_path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// Opens one of the kernel's files in here.
    pub(crate) fn open_file(&self, file: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        beneath(self.fd.as_fd(), Path::new(file), flags | OFlags::CLOEXEC)
    }

    /// Reads a file; `None` if there is none, or if the cgroup is gone.
    pub(crate) fn read(&self, file: &str) -> Result<Option<String>> {
        self.read_by(read_whole, file)
    }

    /// Reads `cgroup.procs`, which the kernel gives in pieces.
    pub(crate) fn read_procs(&self) -> Result<Option<String>> {
        self.read_by(read_pieces, "cgroup.procs")
    }

    fn read_by(
        &self,
        read: fn(BorrowedFd<'_>) -> rustix::io::Result<String>,
        file: &str,
    ) -> Result<Option<String>> {
        let text = self
            .open_file(file, OFlags::RDONLY)
            .and_then(|fd| read(fd.as_fd()));
        match text {
            Ok(text) => Ok(Some(text)),
            Err(Errno::NOENT | Errno::NODEV) => Ok(None),
            Err(errno) => Err(Error::sys("read", &self.file_path(file), errno)),
        }
    }

    /// Reads a file that every cgroup has.
    pub(crate) fn read_required(&self, file: &str) -> Result<String> {
        self.read(file)?
            .ok_or_else(|| Error::sys("read", &self.file_path(file), Errno::NOENT))
    }

    /// Opens what [`Dir::read_subtree_control`] reads; where that fails it will say so.
    pub(crate) fn keep_subtree_control(&self) {
        let _read = self.read_subtree_control().is_ok();
    }

    /// Reads what it passes on to its children.
    pub(crate) fn read_subtree_control(&self) -> Result<String> {
        let file = "cgroup.subtree_control";
        let read = match self.subtree_control.get() {
            Some(fd) => read_whole(fd.as_fd()),
            None => self.open_file(file, OFlags::RDONLY).and_then(|fd| {
                let text = read_whole(fd.as_fd());
                // Another thread's is as good.
                let _kept = self.subtree_control.set(fd).is_ok();
                text
            }),
        };
        read.map_err(|errno| match errno {
            // Of a cgroup that is gone.
            Errno::NODEV => Error::sys("read", &self.file_path(file), Errno::NOENT),
            errno => Error::sys("read", &self.file_path(file), errno),
        })
    }

    /// Writes a file in one write(2).
    pub(crate) fn write(&self, file: &str, value: &str) -> rustix::io::Result<()> {
        let fd = self.open_file(file, OFlags::WRONLY)?;
        write_all(fd.as_fd(), value)
    }

    /// The names of the child cgroups, sorted; empty if this one is gone.
    ///
    /// Where others are removed meanwhile, one listing may name a child twice or leave one out: kernfs takes up an
    /// interrupted listing beside the place where it was. So it is the union of two.
    pub(crate) fn children(&self) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        for _ in 0..2 {
            match list_children(self.fd.as_fd(), &mut names) {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => return Err(Error::sys("read", &self.path, errno)),
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Removes the child `name` if it still is `made`: another of the same name is not ours. Gone already is success.
    pub(crate) fn remove(&self, name: &OsStr, made: &Dir) -> rustix::io::Result<()> {
        let ours = rustix::fs::fstat(&made.fd)?;
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino) => {
                rmdir(self.fd.as_fd(), name)
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Removes all that is below, deepest first. Holds two fds however deep it goes.
    pub(crate) fn remove_children(&self) -> rustix::io::Result<()> {
        let mut names: Vec<OsString> = Vec::new();
        let mut here = beneath(self.fd.as_fd(), Path::new(""), DIRECTORY)?;
        loop {
            if let Some(name) = first_child(here.as_fd())? {
                match beneath(here.as_fd(), Path::new(&name), DIRECTORY) {
                    Ok(fd) => {
                        here = fd;
                        names.push(name);
                    }
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
                continue;
            }
            let Some(name) = names.pop() else {
                return Ok(());
            };
            here = rustix::fs::openat(&here, "..", DIRECTORY, Mode::empty())?;
            rmdir(here.as_fd(), &name)?;
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What really is where a mount should be.
struct Found {
    magic: u64,
    device: (u32, u32),
    /// `None` before Linux 5.8.
    mount_id: Option<u64>,
}

impl Found {
    fn of(fd: &OwnedFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        let mount_id = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .ok()
            .filter(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0)
            .map(|stat| stat.stx_mnt_id);
        Ok(Found {
            magic: rustix::fs::fstatfs(fd)?.f_type as u64,
            device: (
                rustix::fs::major(stat.st_dev),
                rustix::fs::minor(stat.st_dev),
            ),
            mount_id,
        })
    }

    fn is(&self, mounted: &Mounted) -> bool {
        let magic = match mounted.version {
            Version::V1 => MAGIC_V1,
            Version::V2 => MAGIC_V2,
        };
        self.magic == magic
            && self.device == mounted.device
            && self.mount_id.is_none_or(|id| id == mounted.id)
    }
}

/// Reads a file that the kernel prints at once: what is shorter than the buffer is all.
pub(crate) fn read_whole(fd: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let mut buffer = [0; 4096];
    let n = rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut buffer, 0))?;
    if n == buffer.len() {
        return read_pieces(fd);
    }
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

fn read_pieces(fd: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let mut bytes = Vec::with_capacity(4096);
    let mut buffer = [0; 4096];
    loop {
        let at = bytes.len() as u64;
        match rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut buffer, at))? {
            0 => break,
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(crate) fn write_all(fd: BorrowedFd<'_>, value: &str) -> rustix::io::Result<()> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(fd, value.as_bytes()))?;
    // The kernel takes such a value whole or not at all.
    if written == value.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

/// Opens `below` without leaving `dir`: no `..`, no symlink, no other filesystem mounted in between.
fn beneath(dir: BorrowedFd<'_>, below: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let below = if below.as_os_str().is_empty() {
        Path::new(".")
    } else {
        below
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(dir, below, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or under a seccomp filter that is older than the call.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(dir, below, flags),
        opened => opened,
    }
}

/// The same for kernels without openat2(2): one openat(2) a component.
fn step_by_step(dir: BorrowedFd<'_>, below: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let device = rustix::fs::fstat(dir)?.st_dev;
    let mut here: Option<OwnedFd> = None;
    let mut parts = below.components().peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() {
            DIRECTORY
        } else {
            flags
        };
        let name = match part {
            Component::Normal(name) => name,
            Component::CurDir => OsStr::new("."),
            _ => return Err(Errno::XDEV),
        };
        let from = here.as_ref().map_or(dir, AsFd::as_fd);
        let fd = rustix::fs::openat(from, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_dev != device {
            return Err(Errno::XDEV);
        }
        // With O_PATH, O_NOFOLLOW opens the symlink itself.
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        here = Some(fd);
    }
    here.ok_or(Errno::NOENT)
}

fn rmdir(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

fn listing(dir: BorrowedFd<'_>) -> rustix::io::Result<rustix::fs::Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::Dir::new(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

fn list_children(dir: BorrowedFd<'_>, names: &mut Vec<OsString>) -> rustix::io::Result<()> {
    for entry in listing(dir)? {
        names.extend(child(&entry?));
    }
    Ok(())
}

fn first_child(dir: BorrowedFd<'_>) -> rustix::io::Result<Option<OsString>> {
    for entry in listing(dir)? {
        if let Some(name) = child(&entry?) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn child(entry: &rustix::fs::DirEntry) -> Option<OsString> {
    let name = entry.file_name().to_bytes();
    let directory = entry.file_type() == FileType::Directory;
    (directory && name != b"." && name != b"..").then(|| OsStr::from_bytes(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_over_a_hierarchy_is_not_taken_for_it() {
        let mounted = Mounted {
            id: 7,
            version: Version::V2,
            controllers: Vec::new(),
            device: (0, 38),
            root: "/".into(),
            target: "/sys/fs/cgroup".into(),
        };
        let found = |magic, minor, mount_id| Found {
            magic,
            device: (0, minor),
            mount_id,
        };
        assert!(found(MAGIC_V2, 38, Some(7)).is(&mounted));
        assert!(found(MAGIC_V2, 38, None).is(&mounted));
        assert!(!found(MAGIC_V1, 38, None).is(&mounted));
        assert!(!found(MAGIC_V2, 39, None).is(&mounted));
        assert!(!found(MAGIC_V2, 38, Some(8)).is(&mounted));
    }

    #[test]
    fn nothing_opens_outside_of_the_directory() {
        let root = std::fs::File::open("/proc/self").unwrap();
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        // `root` and `exe` are symlinks, `/` leaves, `..` goes up.
        for outside in [
            "../uptime",
            "/etc",
            "root",
            "exe",
            "root/etc",
            "task/../../uptime",
        ] {
            for open in [beneath, step_by_step] {
                let error = open(root.as_fd(), Path::new(outside), flags).unwrap_err();
                assert!(
                    matches!(error, Errno::XDEV | Errno::LOOP | Errno::NOTDIR),
                    "{outside}: {error}"
                );
            }
        }
    }

    #[test]
    fn what_is_inside_opens_with_and_without_openat2() {
        let root = std::fs::File::open("/proc/self").unwrap();
        for inside in [".", "status", "task", "net/dev"] {
            for open in [beneath, step_by_step] {
                assert!(open(root.as_fd(), Path::new(inside), OFlags::RDONLY).is_ok());
            }
        }
    }
}
