//! Opening what is below a directory, and nowhere else.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::path::Arg;

/// By openat2(2): no symlink is followed, no mount below is entered, and nothing outside of `root` reached, whatever
/// others do to the directories meanwhile.
pub(crate) fn open(root: impl AsFd, path: impl Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    create(root, path, flags, Mode::empty())
}

/// The same with a mode, where `flags` create the file.
pub(crate) fn create(
    root: impl AsFd,
    path: impl Arg,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    openat2(root, path, flags, mode, resolve)
}
