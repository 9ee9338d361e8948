//! A kernel file that is kept open and read again and again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Error, Result};

/// What every file of statistics fits into, as a rule.
pub(crate) const USUAL: usize = 4096;
/// More than any of them can sensibly have.
const MOST: usize = 16 << 20;
/// How much of a line that is not understood an error shows.
const SHOWN: usize = 120;

#[derive(Debug)]
pub(crate) struct File {
    fd: OwnedFd,
    path: PathBuf,
}

impl File {
    /// Opens it; `None` where there is no such file, or no such cgroup any more: see [`alive`].
    pub(crate) fn open(dir: &Dir, name: &str, flags: OFlags) -> Result<Option<Self>> {
        let path = dir.file_path(name);
        match dir.open_file(name, flags) {
            Ok(fd) => Ok(Some(File { fd, path })),
            Err(Errno::NOENT | Errno::NODEV) => Ok(None),
            Err(errno) => Err(Error::sys("open", &path, errno)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Its text as of now. The buffer grows where that is longer.
    pub(crate) fn read<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        match self.fill(buffer) {
            Ok(n) => Ok(&buffer[..n]),
            Err(errno) => Err(self.failed("read", errno)),
        }
    }

    /// The error of a call on it. The kernel says `ENODEV` for ever once the cgroup is removed, and for no other reason.
    pub(crate) fn failed(&self, op: &'static str, errno: Errno) -> Error {
        match errno {
            Errno::NODEV => Error::gone(self.path.parent().unwrap_or(&self.path)),
            errno => Error::sys(op, &self.path, errno),
        }
    }

    /// The error of a line that is not understood.
    pub(crate) fn malformed(&self, line: &[u8]) -> Error {
        Error::parse(&self.path, &line[..line.len().min(SHOWN)])
    }

    fn fill(&self, buffer: &mut Vec<u8>) -> rustix::io::Result<usize> {
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                if filled >= MOST {
                    return Err(Errno::FBIG);
                }
                buffer.resize((2 * filled).max(USUAL), 0);
            }
            let rest = &mut buffer[filled..];
            let fd = self.fd.as_fd();
            match rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *rest, filled as u64))? {
                0 => return Ok(filled),
                n => filled += n,
            }
            // What leaves room was all, as the kernel prints such a file at once.
            if filled < buffer.len() {
                return Ok(filled);
            }
        }
    }
}

/// That the cgroup still exists, where a file of it does not.
pub(crate) fn alive(dir: &Dir) -> Result<()> {
    match dir.open_file("cgroup.procs", OFlags::PATH) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT | Errno::NODEV) => Err(Error::gone(dir.path())),
        Err(errno) => Err(Error::sys("open", &dir.file_path("cgroup.procs"), errno)),
    }
}
