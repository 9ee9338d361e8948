//! Where writes go.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, StatVfsMountFlags, Statx, StatxFlags, fstatvfs,
    getxattr, openat, statx,
};
use rustix::io::Errno;

use crate::error::{Error, Inner, Result};
use crate::mount::ScratchUpper;
use crate::{directory, scratch};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    Directories { upper: PathBuf, work: PathBuf },
    Scratch { size: u64 },
}

/// The opened directories, both on one mount.
#[derive(Debug)]
pub(crate) struct Directories {
    pub(crate) upper: OwnedFd,
    pub(crate) work: OwnedFd,
    /// A detached mount they are on. Closing it takes the mount apart: it must be open until overlayfs has a copy of its own.
    pub(crate) mount: Option<OwnedFd>,
}

impl Directories {
    pub(crate) fn open(upper: &Path, work: &Path) -> Result<Self> {
        Ok(Directories {
            upper: directory::open_as("open upperdir", upper)?,
            work: directory::open_as("open workdir", work)?,
            mount: None,
        })
    }

    /// What there is to keep of a scratch upper on a detached mount.
    pub(crate) fn scratch(self) -> Option<ScratchUpper> {
        let tmpfs = Some(self.mount?);
        let directory = self.upper;
        Some(ScratchUpper { directory, tmpfs })
    }

    /// Whether one of two directories is inside of the other, or the same.
    pub(crate) fn overlap(one: &Path, other: &Path) -> Result<bool> {
        let open = |path| directory::open_as("open", path);
        let (first, second) = (open(one)?, open(other)?);
        let (above, below) = (place(&first, one)?, place(&second, other)?);
        Ok(is_within(&second, &above)? || is_within(&first, &below)?)
    }

    /// Where overlayfs would refuse the two with a bare errno.
    pub(crate) fn check_places(&self, upper: &Path, work: &Path) -> Result<()> {
        let (above, below) = (place(&self.upper, upper)?, place(&self.work, work)?);
        if above.stx_mnt_id != below.stx_mnt_id || !same_device(&above, &below) {
            let (upper, work) = (upper.to_owned(), work.to_owned());
            return Err(Inner::SplitUpper { upper, work }.into());
        }
        if !are_siblings(&self.upper, &self.work, &above, &below)?
            && (is_within(&self.work, &above)? || is_within(&self.upper, &below)?)
        {
            let (upper, work) = (upper.to_owned(), work.to_owned());
            return Err(Inner::NestedWork { upper, work }.into());
        }
        Ok(())
    }
}

/// What overlayfs would take, and then do badly. `upper` is opened for reading.
pub(crate) fn check_filesystem(upper: BorrowedFd<'_>, path: &Path, read_only: bool) -> Result<()> {
    if !read_only {
        check_writable(upper, path)?;
    }
    check_types(upper, path)
}

fn place(directory: &OwnedFd, path: &Path) -> Result<Statx> {
    let asked = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    statx(directory, c"", AtFlags::EMPTY_PATH, asked).map_err(Error::sys("statx", path))
}

fn same_device(one: &Statx, other: &Statx) -> bool {
    (one.stx_dev_major, one.stx_dev_minor) == (other.stx_dev_major, other.stx_dev_minor)
}

/// The usual place for an upper and its workdir, where neither can be in the other.
fn are_siblings(one: &OwnedFd, other: &OwnedFd, above: &Statx, below: &Statx) -> Result<bool> {
    let up = Path::new("..");
    let parent = |directory| {
        let flags = StatxFlags::BASIC_STATS;
        statx(directory, c"..", AtFlags::empty(), flags).map_err(Error::sys("statx", up))
    };
    let (first, second) = (parent(one)?, parent(other)?);
    let is = |one: &Statx, other: &Statx| one.stx_ino == other.stx_ino && same_device(one, other);
    Ok(is(&first, &second) && !is(above, below) && !is(&first, above) && !is(&first, below))
}

/// Whether `directory` is `outer` or below it. The way up ends at the filesystem's root, or at the namespace's.
fn is_within(directory: &OwnedFd, outer: &Statx) -> Result<bool> {
    let up = Path::new("..");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = openat(directory, c".", flags, Mode::empty()).map_err(Error::sys("open", up))?;
    loop {
        let found = place(&here, up)?;
        if found.stx_ino == outer.stx_ino && same_device(&found, outer) {
            return Ok(true);
        }
        let parent = openat(&here, c"..", flags, Mode::empty()).map_err(Error::sys("open", up))?;
        let above = place(&parent, up)?;
        if !same_device(&above, &found) || above.stx_ino == found.stx_ino {
            return Ok(false);
        }
        here = parent;
    }
}

fn check_writable(upper: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let state = fstatvfs(upper).map_err(Error::sys("statvfs", path))?;
    if state.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let path = path.to_owned();
        return Err(Inner::ReadOnlyUpper { path }.into());
    }
    Ok(())
}

/// A filesystem that does not say in its listings what a file is: overlayfs takes it with a warning to its log, and shows
/// whiteouts as files.
fn check_types(upper: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(upper, &mut buffer);
    match entries.next() {
        Some(Ok(entry)) if entry.file_type() == FileType::Unknown => {
            let path = path.to_owned();
            Err(Inner::NoFileTypes { path }.into())
        }
        Some(Err(errno)) => Err(Error::sys("getdents", path)(errno)),
        _ => Ok(()),
    }
}

impl Upper {
    /// What errors call the upper and the work directory.
    pub(crate) fn names(&self) -> (&Path, &Path) {
        match self {
            Upper::Directories { upper, work } => (upper, work),
            Upper::Scratch { .. } => (Path::new(scratch::NAME), Path::new(scratch::NAME)),
        }
    }

    pub(crate) fn is_scratch(&self) -> bool {
        matches!(self, Upper::Scratch { .. })
    }

    /// With `userxattr` an upper must take `user.*` xattrs. Where it does not, overlayfs mounts all the same, but fails
    /// with `EIO` as soon as a directory of a layer is removed and made again.
    pub(crate) fn check_user_xattrs(&self, opened: BorrowedFd<'_>) -> Result<()> {
        match getxattr(directory::by_fd(opened), "user.overlay.opaque", &mut [0; 1]) {
            Err(errno @ Errno::OPNOTSUPP) => Err(Error::from(Inner::NoUserXattrs {
                path: self.names().0.to_owned(),
                errno: errno.into(),
            })),
            _ => Ok(()),
        }
    }
}
