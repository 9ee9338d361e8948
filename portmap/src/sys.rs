//! The raw calls that rustix has no function for.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Has the kernel drop everything that comes in for this socket, by setsockopt(`SO_ATTACH_FILTER`).
pub(crate) fn drop_all(socket: impl AsFd) -> io::Result<()> {
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let filter = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` points to the one instruction of `program`; both outlive the call, the length is that of
    // `filter`, and the kernel copies from them without writing.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes that back, by setsockopt(`SO_DETACH_FILTER`).
pub(crate) fn drop_nothing(socket: impl AsFd) -> io::Result<()> {
    let unused: libc::c_int = 0;
    // SAFETY: the kernel wants a c_int and reads it; it outlives the call, and its length is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const unused).cast(),
            size_of_val(&unused) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
