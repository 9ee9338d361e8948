//! What the layers below hold, read as overlayfs would merge them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, getxattr, major, minor, open, openat, readlinkat,
    statat,
};
use rustix::io::Errno;

use crate::beneath;
use crate::error::{Error, Result};
use crate::marks::{Marks, is_whiteout};

/// The layers below, the top one first; none given is not the same as given none.
#[derive(Debug)]
pub(crate) struct Lowers {
    layers: Option<Vec<OwnedFd>>,
    marks: Marks,
}

/// Something that a layer below holds, opened with `O_PATH`.
#[derive(Debug)]
pub(crate) struct Lower {
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
}

impl Lower {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// What a symlink points to.
    pub(crate) fn target(&self) -> Result<Vec<u8>, Errno> {
        readlinkat(&self.fd, "", Vec::new()).map(std::ffi::CString::into_bytes)
    }

    fn is_opaque(&self, marks: Marks) -> bool {
        let mut value = [0; 1];
        getxattr(proc_path(self.fd.as_fd()), marks.opaque(), &mut value) == Ok(1) && value == *b"y"
    }
}

/// The path of what is open, for calls that take no `O_PATH` fd.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

impl Lowers {
    pub(crate) fn open(layers: Option<&[PathBuf]>, marks: Marks) -> Result<Self> {
        let open = |path: &PathBuf| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            open(path, flags, Mode::empty()).map_err(Error::sys("open lower layer", path))
        };
        let layers = layers
            .map(|layers| layers.iter().map(open).collect())
            .transpose()?;
        Ok(Lowers { layers, marks })
    }

    /// Whether it is known what is below.
    pub(crate) fn known(&self) -> bool {
        self.layers.is_some()
    }

    /// The directory that all the layers are.
    pub(crate) fn root(&self) -> Result<Option<Lower>> {
        let Some(layer) = self.layers.iter().flatten().next() else {
            return Ok(None);
        };
        let fd = layer
            .try_clone()
            .map_err(Error::sys("dup", Path::new("lower layer")))?;
        let stat = fstat(&fd).map_err(Error::sys("stat", Path::new("lower layer")))?;
        Ok(Some(Lower { fd, stat }))
    }

    /// What an overlay of the layers shows at `path`; its last symlink is not followed, and no other is there.
    pub(crate) fn find(&self, path: &[Vec<u8>]) -> Result<Option<Lower>> {
        let failed = |errno| {
            Error::sys(
                "look up in lower layers",
                &super::path_of(&path.join(&b'/')),
            )(errno)
        };
        let mut above: Vec<Lower> = Vec::new();
        for (depth, name) in path.iter().enumerate() {
            let found = match depth {
                0 => self.merged(self.layers.iter().flatten(), name),
                _ => self.merged(above.iter().map(|lower| &lower.fd), name),
            };
            let mut found = found.map_err(failed)?;
            let first_is_directory = found.first().is_some_and(Lower::is_directory);
            if depth + 1 == path.len() {
                return Ok((!found.is_empty()).then(|| found.swap_remove(0)));
            }
            if !first_is_directory {
                return Ok(None);
            }
            above = found;
        }
        Ok(None)
    }

    /// What makes up `name` in directories that lie on each other: one thing, or directories.
    fn merged<'a>(
        &self,
        directories: impl Iterator<Item = &'a OwnedFd>,
        name: &[u8],
    ) -> Result<Vec<Lower>, Errno> {
        let mut found = Vec::new();
        for directory in directories {
            let fd = match openat(
                directory,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            ) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => continue,
                Err(errno) => return Err(errno),
            };
            let stat = fstat(&fd)?;
            let lower = Lower { fd, stat };
            if is_whiteout(lower.kind(), major(stat.st_rdev), minor(stat.st_rdev)) {
                break;
            }
            if !lower.is_directory() {
                // A file below a directory is hidden by it.
                if found.is_empty() {
                    found.push(lower);
                }
                break;
            }
            let last = lower.is_opaque(self.marks);
            found.push(lower);
            if last {
                break;
            }
        }
        Ok(found)
    }
}

/// Opens a regular file of a lower layer to read it. What is none is never opened: a fifo would wait, a device act.
pub(crate) fn reopen(lower: &Lower) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(proc_path(lower.fd.as_fd()), flags, Mode::empty())
}

/// What `name` is, itself.
pub(crate) fn stat_of(directory: impl AsFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A directory below `root`, to be read and written in.
pub(crate) fn open_directory(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    beneath::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}
