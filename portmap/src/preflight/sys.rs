//! The question to ip_tables that rustix has no function for.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// getsockopt(2) with `buffer`, in which what is asked for is named; returns how much of it was filled.
pub(super) fn ask(
    socket: impl AsFd,
    level: i32,
    option: i32,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: `buffer` and `length`, which is its size, outlive the call; the kernel writes at most so much of it.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match done {
        0 => Ok(length as usize),
        _ => Err(io::Error::last_os_error()),
    }
}
