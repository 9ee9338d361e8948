//! The raw calls rustix has no safe form of.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

pub(crate) const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// Gives the calling thread a mount namespace (and with it a working directory) of its own, by unshare(2).
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: without CLONE_FILES the thread keeps sharing its fds with the others.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}

/// mount_setattr(2) of the one mount behind `mount`.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let namespace = namespace.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
    let attr = [set, 0, 0, namespace];
    // SAFETY: the path is a NUL-terminated string; `attr` is a struct mount_attr of the size given, outlives the call and
    // is only read.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    if done == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&errno).unwrap_or(Errno::INVAL))
}
