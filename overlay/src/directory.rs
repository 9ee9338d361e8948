//! Directories by fd, and what can be learnt of them when a mount was refused.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, readlink, statx};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, Inner, Result};
use crate::overlay::Overlay;
use crate::upper::Upper;

/// What an error calls the step in which overlayfs looks at it all.
pub(crate) const MOUNT: &str = "mount";

/// Opens `path` with `O_PATH`; `what` says in the error what it was to be.
pub(crate) fn open_as(what: &'static str, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(Error::sys(what, path))
}

/// A detached copy of the mount that `directory` is on, with this directory as its root and without what is mounted
/// below it, by open_tree(2).
pub(crate) fn clone_mount(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(directory, "", flags)
}

/// Whether overlayfs must keep its xattrs in `user.overlay.*`: with `trusted.*` it mounts in a user namespace too, but
/// fails with `EIO` as soon as a removed directory is made again.
pub(crate) fn in_user_namespace() -> Result<bool> {
    /// The initial one has the inode `USER_NS_INIT_INO` on every kernel.
    const INITIAL: &CStr = c"user:[4026531837]";
    let path = "/proc/thread-self/ns/user";
    let name = readlink(path, Vec::new()).map_err(Error::sys("readlink", Path::new(path)))?;
    Ok(name.as_c_str() != INITIAL)
}

/// A better error than `refused`, where it is that of mounting the overlay: what the kernel minds then, it tells its log
/// only.
pub(crate) fn diagnose(overlay: &Overlay, refused: Error) -> Error {
    if !refused.is_of(MOUNT) {
        return refused;
    }
    let reason = match refused.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => "the same directory twice, or an upperdir or workdir inside another",
        Some(Errno::BUSY) => "the upperdir or workdir is in use by another overlay",
        Some(Errno::INVAL | Errno::PERM | Errno::XDEV) => {
            return split_upper(overlay)
                .or_else(|| unclonable_layer(overlay))
                .unwrap_or_else(|| refused.because("the kernel's log tells why"));
        }
        _ => return refused,
    };
    refused.because(reason)
}

fn split_upper(overlay: &Overlay) -> Option<Error> {
    let Some(Upper::Directories { upper, work }) = overlay.upper() else {
        return None;
    };
    let mount = |path: &Path| {
        statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
            .ok()
            .map(|found| (found.stx_dev_major, found.stx_dev_minor, found.stx_mnt_id))
    };
    if mount(upper)? == mount(work)? {
        return None;
    }
    let (upper, work) = (upper.clone(), work.clone());
    Some(Inner::SplitUpper { upper, work }.into())
}

/// open_tree(2) and overlayfs refuse the same layers: with mounts below them that a user namespace may not uncover.
fn unclonable_layer(overlay: &Overlay) -> Option<Error> {
    overlay.layers().iter().find_map(|path| {
        let layer = open_as("open layer", path).ok()?;
        let errno = clone_mount(layer.as_fd()).err()?.into();
        let path = path.clone();
        Some(Inner::UnclonableLayer { path, errno }.into())
    })
}
