//! Directories by fd, and what can be learnt of them when a mount was refused.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FsWord, Mode, OFlags, fstatfs, open, readlink};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, Inner, Result};
use crate::overlay::Overlay;
use crate::support::Support;
use crate::upper::{Directories, Upper};

/// What an error calls the step in which overlayfs looks at it all.
pub(crate) const MOUNT: &str = "mount";
const OVERLAYFS: FsWord = 0x794c_7630;

/// Opens `path` with `O_PATH`; `what` says in the error what it was to be.
pub(crate) fn open_as(what: &'static str, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(Error::sys(what, path))
}

/// The path of what is open, whatever it is, for calls that take no `O_PATH` fd.
pub(crate) fn by_fd(file: impl AsFd) -> String {
    format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd())
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
    if !refused.is_of(MOUNT) || overlay.is_trial() {
        return refused;
    }
    let reason = match refused.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => match overlapping(overlay) {
            Some(error) => return error,
            None => "the same directory twice, or an upperdir or workdir inside another",
        },
        Some(Errno::BUSY) => "the upperdir or workdir is in use by another overlay",
        Some(Errno::INVAL | Errno::PERM | Errno::XDEV) => {
            return unclonable_layer(overlay)
                .or_else(|| unsupported(overlay))
                .or_else(|| stacked_upper(overlay, &refused))
                .unwrap_or_else(|| refused.because("the kernel's log tells why"));
        }
        _ => return refused,
    };
    refused.because(reason)
}

/// The first of an upperdir or workdir that is inside of a layer or the other way round.
fn overlapping(overlay: &Overlay) -> Option<Error> {
    let Some(Upper::Directories { upper, work }) = overlay.upper() else {
        return None;
    };
    overlay.layers().iter().find_map(|layer| {
        let overlaps = |path: &Path| Directories::overlap(path, layer).unwrap_or(false);
        let (what, path) = match (overlaps(upper), overlaps(work)) {
            (true, _) => ("upperdir", upper.clone()),
            (false, true) => ("workdir", work.clone()),
            (false, false) => return None,
        };
        let layer = layer.clone();
        Some(Inner::Overlapping { what, path, layer }.into())
    })
}

/// The first of what was asked for that no overlay on this kernel can have.
fn unsupported(overlay: &Overlay) -> Option<Error> {
    let userxattr = overlay.needs_userxattr().ok()?;
    let support = Support::probed();
    let missing = |feature, since| {
        let path = overlay.name();
        Some(Error::from(Inner::Unsupported {
            feature,
            path,
            since,
            errno: None,
        }))
    };
    if !overlay.data().is_empty() && !support.data_layers {
        return missing("data-only layers", "6.5");
    }
    let options = overlay.options(userxattr).asked();
    let lacking = options.iter().find(|asked| !support.has(asked.key))?;
    missing(lacking.key, lacking.since)
}

fn stacked_upper(overlay: &Overlay, refused: &Error) -> Option<Error> {
    let Some(Upper::Directories { upper, .. }) = overlay.upper() else {
        return None;
    };
    let opened = open_as("open upperdir", upper).ok()?;
    let errno = Errno::from_raw_os_error(refused.raw_os_error()?);
    (fstatfs(&opened).ok()?.f_type == OVERLAYFS)
        .then(|| Error::sys(MOUNT, upper)(errno).because("the upperdir is on an overlay itself"))
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
