//! ptrace(2), for which rustix has no functions.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::io;
use std::ptr::null_mut;

/// What became of a thread that was let go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// At the beginning or end of a system call.
    Syscall,
    /// Elsewhere, such as by the interrupt that it was asked for.
    Other,
    Ended,
}

/// Makes the calling thread the tracer of that one, and stops it.
pub(crate) fn seize(thread: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_SEIZE, thread, libc::PTRACE_O_TRACESYSGOOD)?;
    ptrace(libc::PTRACE_INTERRUPT, thread, 0)
}

/// Lets a stopped thread go on to the next beginning or end of a system call.
pub(crate) fn go_on(thread: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_SYSCALL, thread, 0)
}

/// Waits for the thread to stop.
pub(crate) fn wait(thread: i32) -> io::Result<Stop> {
    let mut status = 0;
    // SAFETY: the kernel writes only `status`, which outlives the call.
    let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
    match waited {
        -1 => Err(io::Error::last_os_error()),
        _ if !libc::WIFSTOPPED(status) => Ok(Stop::Ended),
        _ if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 => Ok(Stop::Syscall),
        _ => Ok(Stop::Other),
    }
}

fn ptrace(request: libc::c_uint, thread: i32, data: i32) -> io::Result<()> {
    let address: *mut libc::c_void = null_mut();
    // SAFETY: none of these requests has the kernel write to or read from our memory: the address is not used, and data is a
    // number.
    let done = unsafe { libc::ptrace(request, thread, address, libc::c_long::from(data)) };
    match done {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
