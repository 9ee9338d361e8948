//! What the layers below hold, read as overlayfs would merge them.

use std::cell::OnceCell;
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
use crate::roots::Roots;

/// Tells what is below, which may take until others have made it.
pub(crate) type Below<'a> = &'a dyn Fn() -> Result<Vec<PathBuf>>;

/// The layers below, the top one first; none given is not the same as given none.
pub(crate) struct Lowers<'a> {
    below: Option<Below<'a>>,
    /// Those told, once something was to be known of them.
    told: OnceCell<Roots>,
    marks: Marks,
}

/// Something that a layer below holds, opened with `O_PATH`.
#[derive(Debug)]
pub(crate) struct Lower {
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
}

impl Lower {
    fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Lower { fd, stat })
    }

    fn is_whiteout(&self) -> bool {
        let device = self.stat.st_rdev;
        is_whiteout(self.kind(), major(device), minor(device))
    }

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

impl<'a> Lowers<'a> {
    /// Asks nothing yet.
    pub(crate) fn new(below: Option<Below<'a>>, marks: Marks) -> Self {
        Lowers {
            below,
            told: OnceCell::new(),
            marks,
        }
    }

    /// Whether it is known what is below.
    pub(crate) fn known(&self) -> bool {
        self.below.is_some()
    }

    /// Opens the layers; what is not there is found out.
    pub(crate) fn layers(&self) -> Result<Option<&Roots>> {
        let Some(below) = self.below else {
            return Ok(None);
        };
        if self.told.get().is_none() {
            let roots = Roots::open("open lower layer", &below()?, OFlags::PATH)?;
            // Nobody else could have set it.
            let _set = self.told.set(roots).is_ok();
        }
        Ok(self.told.get())
    }

    /// The directory that all the layers are.
    pub(crate) fn root(&self) -> Result<Option<Lower>> {
        let Some(layers) = self.layers()?.filter(|layers| layers.len() > 0) else {
            return Ok(None);
        };
        let failed = |errno| Error::sys("open", Path::new("lower layer"))(errno);
        let root = layers.fd(0).map_err(failed)?;
        let fd = openat(&root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        Lower::new(fd.map_err(failed)?).map_err(failed).map(Some)
    }

    /// What an overlay of the layers shows at `path`; its last symlink is not followed, and no other is there.
    pub(crate) fn find(&self, path: &[Vec<u8>]) -> Result<Option<Lower>> {
        let Some(layers) = self.layers()? else {
            return Ok(None);
        };
        let failed = |errno| {
            let path = super::path_of(&path.join(&b'/'));
            Error::sys("look up in lower layers", &path)(errno)
        };
        for layer in 0..layers.len() {
            match self.find_in(layers, layer, path).map_err(failed)? {
                Found::Shown(lower) => return Ok(Some(lower)),
                Found::Hidden => return Ok(None),
                Found::Nothing => {}
            }
        }
        Ok(None)
    }

    /// One layer after the other, so that few directories are open, however many layers and levels there are.
    fn find_in(&self, layers: &Roots, layer: usize, path: &[Vec<u8>]) -> Result<Found, Errno> {
        let mut hides = false;
        let mut here: Option<Lower> = None;
        for (depth, name) in path.iter().enumerate() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = match &here {
                Some(above) => openat(&above.fd, name.as_slice(), flags, Mode::empty()),
                None => openat(layers.fd(layer)?, name.as_slice(), flags, Mode::empty()),
            };
            let lower = match opened {
                Ok(fd) => Lower::new(fd)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) if hides => {
                    return Ok(Found::Hidden);
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {
                    return Ok(Found::Nothing);
                }
                Err(errno) => return Err(errno),
            };
            if lower.is_whiteout() {
                return Ok(Found::Hidden);
            }
            if depth + 1 == path.len() {
                return Ok(Found::Shown(lower));
            }
            // A file hides directories of layers below, and is hidden by those of layers above: neither has what is looked for.
            if !lower.is_directory() {
                return Ok(Found::Hidden);
            }
            hides |= lower.is_opaque(self.marks);
            here = Some(lower);
        }
        Ok(Found::Nothing)
    }
}

/// What one layer says of a path.
enum Found {
    Shown(Lower),
    /// Neither it nor layers below show anything there.
    Hidden,
    /// Layers below may.
    Nothing,
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
