//! The raw calls.
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

/// Hands a socket to Tokio. Only inside a runtime with I/O enabled.
#[cfg(feature = "tokio")]
pub(crate) fn tokio_socket(socket: netlink_sys::Socket) -> rtnetlink::sys::TokioSocket {
    use std::os::fd::{FromRawFd as _, IntoRawFd as _};
    // SAFETY: `into_raw_fd` gives up the only owner of the fd, which is a netlink socket.
    unsafe { rtnetlink::sys::TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}
