//! An overlay that is mounted: detached, or at a place.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use crate::directory;
use crate::error::{Error, Result};

/// A mounted overlay that is attached to no directory. The fd is its root directory: `openat` and the like work from
/// it, and move_mount(2) attaches it. It is gone, with a scratch upper, once this fd and all files opened in it are closed.
#[derive(Debug)]
#[must_use = "dropping the OverlayMount unmounts it"]
pub struct OverlayMount {
    fd: OwnedFd,
    applied: Applied,
}

/// How a mount was made, which depends on the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Applied {
    /// overlayfs by fsopen(2), every directory handed over as an fd.
    Native,
    /// overlayfs by mount(2) in the mount namespace of a thread that was thrown away, for kernels before 6.15.
    Classic,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Applied::Native => "fsmount",
            Applied::Classic => "mount",
        })
    }
}

impl OverlayMount {
    pub(crate) fn new(fd: OwnedFd, applied: Applied) -> Self {
        OverlayMount { fd, applied }
    }

    /// How it was made.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The fd alone, to be passed to another namespace or process. The mount lives as long as it.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Attaches it to the directory `target`, as by move_mount(2).
    ///
    /// # Errors
    /// `NotFound` or `InvalidInput` (`ENOTDIR`) for the target; `PermissionDenied` without `CAP_SYS_ADMIN`; `NotFound` without
    /// a `/proc`.
    pub fn attach(self, target: impl AsRef<Path>) -> Result<MountedOverlay> {
        let target = target.as_ref();
        let place = directory::open_as("open target", target)?;
        self.attach_to(place.as_fd(), target)
    }

    pub(crate) fn attach_to(self, place: BorrowedFd<'_>, target: &Path) -> Result<MountedOverlay> {
        let namespace = mount_namespace()?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.fd, "", place, "", flags).map_err(Error::sys("move_mount to", target))?;
        Ok(MountedOverlay {
            mount: Some(self),
            target: target.to_owned(),
            namespace,
        })
    }
}

impl AsFd for OverlayMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OverlayMount> for OwnedFd {
    fn from(mount: OverlayMount) -> Self {
        mount.into_fd()
    }
}

/// An overlay attached to a directory. Dropping it unmounts it, by umount2(2) with `MNT_DETACH`: at once out of the
/// mount table, also where files in it are open; these stay usable. It is exactly this mount that goes, whatever was
/// mounted or renamed since. It does not wait. Where that fails the mount stays.
///
/// To be dropped by a thread in the mount namespace it was attached in: from another one it cannot be seen, and stays.
#[derive(Debug)]
#[must_use = "dropping the MountedOverlay unmounts it"]
pub struct MountedOverlay {
    /// None once it is unmounted or persists.
    mount: Option<OverlayMount>,
    target: PathBuf,
    /// Where it was attached. Not by an fd, which would keep that namespace alive.
    namespace: (u64, u64),
}

impl MountedOverlay {
    /// Where it was attached.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Unmounts it as dropping it does, and tells how that went. Unmounted already is success.
    ///
    /// # Errors
    /// `InvalidInput` from a thread in another mount namespace than the one it was attached in, `PermissionDenied` without
    /// `CAP_SYS_ADMIN`; `NotFound` without a `/proc`. Then it stays mounted.
    pub fn unmount(mut self) -> Result<()> {
        self.detach()
    }

    /// Leaves it mounted for others to unmount, and returns where.
    #[must_use]
    pub fn persist(mut self) -> PathBuf {
        self.mount = None;
        std::mem::take(&mut self.target)
    }

    fn detach(&mut self) -> Result<()> {
        let Some(mount) = self.mount.take() else {
            return Ok(());
        };
        // By the fd and not by the path, on which something else may be mounted by now.
        let path = format!("/proc/thread-self/fd/{}", mount.fd.as_raw_fd());
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) => Ok(()),
            // It is in this namespace's table no more, or never was.
            Err(Errno::INVAL) if mount_namespace()? == self.namespace => Ok(()),
            Err(errno @ Errno::INVAL) => Err(Error::sys("umount", &self.target)(errno)
                .because("attached in another mount namespace than this thread's")),
            Err(errno) => Err(Error::sys("umount", &self.target)(errno)),
        }
    }
}

/// Device and inode of the calling thread's mount namespace.
fn mount_namespace() -> Result<(u64, u64)> {
    let path = Path::new("/proc/thread-self/ns/mnt");
    let found = fs::metadata(path).map_err(Error::sys("stat", path))?;
    Ok((found.dev(), found.ino()))
}

impl Drop for MountedOverlay {
    fn drop(&mut self) {
        let _unused = self.detach().is_ok();
    }
}
