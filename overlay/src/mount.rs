//! An overlay that is mounted: detached, or at a place.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use crate::directory::{self, by_fd};
use crate::effective::Effective;
use crate::error::{Error, ErrorKind, Inner, Result};
use crate::lock::{self, UpperLock};

/// A mounted overlay that is attached to no directory. The fd is its root directory: `openat` and the like work from
/// it, and move_mount(2) attaches it. It is gone, with a scratch upper, once this fd and all files opened in it are closed.
#[derive(Debug)]
#[must_use = "dropping the OverlayMount unmounts it"]
pub struct OverlayMount {
    fd: OwnedFd,
    applied: Applied,
    effective: Option<Effective>,
    /// After the mount, which it is to outlive.
    lock: Option<UpperLock>,
    upper: Option<ScratchUpper>,
}

/// What a way to mount has to show.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) fd: OwnedFd,
    pub(crate) applied: Applied,
    /// Where it was read already, because it cannot be later.
    pub(crate) effective: Option<Effective>,
    pub(crate) lock: Option<UpperLock>,
    /// Of a scratch upper.
    pub(crate) upper: Option<ScratchUpper>,
}

/// The upper of a [scratch](crate::Overlay::scratch) mount, which no path leads to. Its memory is free once this and the mount
/// are gone.
#[derive(Debug)]
pub struct ScratchUpper {
    pub(crate) directory: OwnedFd,
    /// The detached mount it is on, where that would be taken apart without.
    #[expect(dead_code, reason = "held, not read")]
    pub(crate) tmpfs: Option<OwnedFd>,
}

impl ScratchUpper {
    /// What this process can open it by as long as this value lives: for [`Diff::of`](crate::Diff::of) and
    /// [`LayerStore::commit`](crate::LayerStore::commit).
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.directory.as_raw_fd()).into()
    }
}

/// How a mount was made, which depends on the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Applied {
    /// overlayfs by fsopen(2), every directory handed over as an fd.
    Native,
    /// overlayfs by mount(2) in the mount namespace of a thread that was thrown away, for kernels before 6.15.
    Classic,
    /// No overlay: the layers were copied into a directory, as [`Overlay::copy_fallback`](crate::Overlay::copy_fallback) asked.
    Copied,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Applied::Native => "fsmount",
            Applied::Classic => "mount",
            Applied::Copied => "copied",
        })
    }
}

impl OverlayMount {
    pub(crate) fn new(made: Made) -> Self {
        OverlayMount {
            fd: made.fd,
            applied: made.applied,
            effective: made.effective,
            lock: made.lock,
            upper: made.upper,
        }
    }

    /// How it was made.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// What the kernel made of the options: it leaves out some in user namespaces, on filesystems without file handles, and
    /// beside others. An option that was asked for and left out is an error of the mount; this tells of all. It is read from the
    /// mount table of a thread that ends, unless it was while mounting.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN`; `NotFound` without a `/proc`; `InvalidInput` where it is no overlay, as
    /// [`Applied::Copied`] says.
    pub fn effective(&self) -> Result<Effective> {
        match &self.effective {
            Some(effective) => Ok(effective.clone()),
            None if self.applied == Applied::Copied => Err(Inner::NoOverlay.into()),
            None => Effective::of(self.fd.as_fd(), Path::new("overlay")),
        }
    }

    /// The fd alone, to be passed to another namespace or process. The mount lives as long as it. The lock of an
    /// [`upperdir`](crate::Overlay::upperdir) ends here: see [`take_lock`](OverlayMount::take_lock).
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The lock of an [`upperdir`](crate::Overlay::upperdir), for who keeps the mount beyond this value to keep as long.
    pub fn take_lock(&mut self) -> Option<UpperLock> {
        self.lock.take()
    }

    /// The upper of a [scratch](crate::Overlay::scratch) mount, for who wants to compare or commit it. None of another, of one that
    /// was copied, and of one that was taken.
    pub fn take_upper(&mut self) -> Option<ScratchUpper> {
        self.upper.take()
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

    /// What the kernel made of the options, from this thread's mount table: see [`OverlayMount::effective`].
    ///
    /// # Errors
    /// `Malformed` where it is not in the table: unmounted, or of another mount namespace. `NotFound` without a `/proc`.
    pub fn effective(&self) -> Result<Effective> {
        match &self.mount {
            Some(mount) => Effective::of_attached(mount.fd.as_fd(), &self.target),
            None => Err(Inner::NotInTable {
                path: self.target.clone(),
            }
            .into()),
        }
    }

    /// Unmounts it, as by umount2(2), if nobody uses it. Unmounted already is success. When it returns, an upper is free.
    ///
    /// It is looked up by its path, since an fd of it would keep it in use: whoever mounts something over it at that very
    /// moment, and may, loses that instead.
    ///
    /// # Errors
    /// `Busy`: files in it are open, a process works in it, or something is mounted in it or over it, still so after an eighth
    /// of a second. It stays as it was, and
    /// can be tried again or taken away by [`unmount_lazy`](MountedOverlay::unmount_lazy). `InvalidInput` from a thread in another
    /// mount namespace than the one it was attached in, `PermissionDenied` without `CAP_SYS_ADMIN`; `NotFound` without a `/proc`.
    pub fn unmount(&mut self) -> Result<()> {
        let Some(mount) = &self.mount else {
            return Ok(());
        };
        // With our fd open it is in use, so this never unmounts: it tells whether it is here.
        let here = unmount(by_fd(mount), UnmountFlags::EXPIRE);
        match here {
            Err(Errno::BUSY | Errno::AGAIN) => self.unmount_by_path(),
            done => self.ended(done),
        }
    }

    /// Unmounts it as dropping it does, and tells how that went: at once out of the mount table, while files that are open stay
    /// usable, and keep an upper in use. Unmounted already is success.
    ///
    /// # Errors
    /// As [`unmount`](MountedOverlay::unmount), but never `Busy`. Then it stays mounted.
    pub fn unmount_lazy(mut self) -> Result<()> {
        self.detach()
    }

    /// The lock of an [`upperdir`](crate::Overlay::upperdir), for who keeps the mount beyond this value to keep as long.
    pub fn take_lock(&mut self) -> Option<UpperLock> {
        self.mount.as_mut().and_then(OverlayMount::take_lock)
    }

    /// Leaves it mounted for others to unmount, and returns where. The lock of an [`upperdir`](crate::Overlay::upperdir) ends here,
    /// unless it was [taken](MountedOverlay::take_lock).
    #[must_use]
    pub fn persist(mut self) -> PathBuf {
        self.mount = None;
        std::mem::take(&mut self.target)
    }

    /// By its path, without an fd of ours that would keep it in use. Not by the target: that may be a symlink to it, or be
    /// relative to what was the working directory, and directories on the way may have been renamed.
    fn unmount_by_path(&mut self) -> Result<()> {
        let Some(mount) = self.mount.take() else {
            return Ok(());
        };
        let error = Error::sys("umount", &self.target);
        let id = mount_id(&mount.fd, Path::new(""));
        let path = fs::read_link(by_fd(&mount)).unwrap_or_else(|_unknown| self.target.clone());
        if mount_id(CWD, &path) != id {
            self.mount = Some(mount);
            return Err(error(Errno::BUSY).because("something is mounted over it"));
        }
        let OverlayMount {
            fd,
            applied,
            effective,
            lock,
            upper,
        } = mount;
        drop(fd);
        // A process that another thread is just starting has copies of all fds, of this mount too, for a moment.
        let done = lock::patiently(|| {
            if mount_id(CWD, &path) != id {
                let error = Error::sys("umount", &self.target)(Errno::BUSY);
                return Err(error.because("something is mounted over it"));
            }
            unmount(&path, UnmountFlags::NOFOLLOW).map_err(Error::sys("umount", &self.target))
        });
        let Err(error) = done else {
            return Ok(());
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let again = open(&path, flags, Mode::empty()).ok();
        self.mount = again
            .filter(|fd| mount_id(fd, Path::new("")) == id)
            .map(|fd| OverlayMount {
                fd,
                applied,
                effective,
                lock,
                upper,
            });
        Err(match error.kind() {
            ErrorKind::Busy => error.because("files in it are open, or something is mounted in it"),
            _ => error,
        })
    }

    fn detach(&mut self) -> Result<()> {
        // By the fd and not by the path, on which something else may be mounted by now.
        let done = match &self.mount {
            Some(mount) => unmount(by_fd(mount), UnmountFlags::DETACH),
            None => return Ok(()),
        };
        let ended = self.ended(done);
        self.mount = None;
        ended
    }

    fn ended(&mut self, done: Result<(), Errno>) -> Result<()> {
        match done {
            Ok(()) => {}
            // It is in this namespace's table no more, or never was.
            Err(Errno::INVAL) if mount_namespace()? == self.namespace => {}
            Err(errno @ Errno::INVAL) => {
                return Err(Error::sys("umount", &self.target)(errno)
                    .because("attached in another mount namespace than this thread's"));
            }
            Err(errno) => return Err(Error::sys("umount", &self.target)(errno)),
        }
        self.mount = None;
        Ok(())
    }
}

fn mount_id(at: impl AsFd, path: &Path) -> Option<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = statx(at, path, flags, StatxFlags::MNT_ID).ok()?;
    Some(found.stx_mnt_id)
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
