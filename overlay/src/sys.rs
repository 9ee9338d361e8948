//! The raw calls rustix has no safe form of.
#![expect(unsafe_code, reason = "raw syscalls")]

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

/// Gives the calling thread a mount namespace (and with it a working directory) of its own, by unshare(2).
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: without CLONE_FILES the thread keeps sharing its fds with the others.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}
