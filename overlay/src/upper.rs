//! Where writes go.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::getxattr;
use rustix::io::Errno;

use crate::error::{Error, Inner, Result};
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
    #[expect(dead_code, reason = "held, not read")]
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
        let path = format!("/proc/thread-self/fd/{}", opened.as_fd().as_raw_fd());
        match getxattr(path, "user.overlay.opaque", &mut [0; 1]) {
            Err(errno @ Errno::OPNOTSUPP) => Err(Error::from(Inner::NoUserXattrs {
                path: self.names().0.to_owned(),
                errno: errno.into(),
            })),
            _ => Ok(()),
        }
    }
}
