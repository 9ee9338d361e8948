//! The one raw call.
#![expect(unsafe_code, reason = "raw syscalls")]

use rustix::io;
use rustix::thread::UnshareFlags;

/// unshare(2) with `CLONE_NEWNET`: the calling thread, and only it, moves to a fresh network namespace.
///
/// For threads that are thrown away.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: only CLONE_FILES breaks an invariant of safe code (fds shared between threads); it is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}
