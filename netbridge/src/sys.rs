//! The raw calls.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::os::fd::BorrowedFd;

use rustix::io;
use rustix::ioctl::{Ioctl, Opcode, opcode};
use rustix::thread::UnshareFlags;

/// unshare(2) with `CLONE_NEWNET`: the calling thread, and only it, moves to a fresh network namespace.
///
/// For threads that are thrown away.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: only CLONE_FILES breaks an invariant of safe code (fds shared between threads); it is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}

/// ioctl(2) `NS_GET_NSTYPE`: the `CLONE_NEW*` flag of a namespace's file, which the caller knows to be of nsfs.
pub(crate) fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: the request takes no argument and writes to no memory of ours.
    unsafe { rustix::ioctl::ioctl(fd, NsGetNsType) }
}

/// A request whose answer is what the call returns.
struct NsGetNsType;

// SAFETY: the opcode is that of the request, which takes no pointer and writes nothing; its answer is the return value.
unsafe impl Ioctl for NsGetNsType {
    type Output = i32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xb7, 0x3)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        answer: rustix::ioctl::IoctlOutput,
        _argument: *mut std::ffi::c_void,
    ) -> io::Result<i32> {
        Ok(answer)
    }
}

/// Hands a socket to Tokio. Only inside a runtime with I/O enabled.
#[cfg(feature = "tokio")]
pub(crate) fn tokio_socket(socket: netlink_sys::Socket) -> rtnetlink::sys::TokioSocket {
    use std::os::fd::{FromRawFd as _, IntoRawFd as _};
    // SAFETY: `into_raw_fd` gives up the only owner of the fd, which is a netlink socket.
    unsafe { rtnetlink::sys::TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}
